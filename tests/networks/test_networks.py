"""Target layers: every network of torchvision is known, others are told what to choose, and score_maps takes both."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_grad_cam as package
import torch
import torchvision
from small_networks import NETWORKS, at_input_size, by_package, pictures, vit
from torch import nn

from wsolkit.methods.maps import score_maps
from wsolkit.networks.models import build_model
from wsolkit.networks.split import HookedModel, SplitModel, find_layer, network_for, nhwc, split, target_layer, tokens

LABELS = [3, 5]


@pytest.fixture(scope="module")
def network():
    made = {}
    return lambda name: made.setdefault(name, NETWORKS[name]())


def every_classifier():
    return torchvision.models.list_models(module=torchvision.models)


@pytest.mark.slow
def test_the_target_layer_of_every_classifier_of_torchvision():
    assert len(every_classifier()) >= 75
    for name in every_classifier():
        if name.startswith("regnet") and name != "regnet_y_400mf":  # one code; the large ones take gigabytes
            continue
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        with torch.device(
            "cpu" if name.startswith("regnet") else "meta"
        ):  # meta: no memory, no time for random weights
            net = torchvision.models.get_model(name, weights=None, **options)
        assert find_layer(net, target_layer(net)), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layer", [("vgg11", "features.19"), ("vgg16_bn", "features.42"), ("alexnet", "features.11")]
)
def test_the_last_relu_before_the_last_max_pooling(name, layer):
    net = torchvision.models.get_model(name, weights=None, num_classes=2)
    assert target_layer(net) == layer and isinstance(net.get_submodule(layer), nn.ReLU)
    assert isinstance(net.features[-1], nn.MaxPool2d)


@pytest.mark.parametrize("method, cls", [("grad_cam", package.GradCAM), ("layer_cam", package.LayerCAM)])
@pytest.mark.parametrize("name", NETWORKS)
def test_score_maps_of_a_plain_network(network, name, method, cls):
    net, images = network(name), pictures()
    found = network_for(net)
    assert isinstance(found, HookedModel if name == "vit" else SplitModel) and found.num_classes == 7
    layer, reshape = target_layer(net), {"vit": tokens, "swin": nhwc}.get(name)
    maps = score_maps(net, images, LABELS, method)
    theirs, _ = by_package(cls, net, layer, images, LABELS, reshape)
    assert theirs.max() > 0.9
    if name != "densenet121":  # there the package's activations are spoilt by an in-place ReLU: see test_split
        np.testing.assert_allclose(at_input_size(maps), theirs, atol=1e-4)
    for other in (
        score_maps(found, images, LABELS, method),
        score_maps(net, images, LABELS, method, layer=layer),
        score_maps(net, images, LABELS, [method, "eigen_cam"], layer=net.get_submodule(layer))[method],
    ):
        assert torch.allclose(maps, other, atol=1e-7)
    if reshape is not None:
        assert torch.allclose(score_maps(net, images, LABELS, method, layer=layer, reshape=reshape), maps, atol=1e-6)


@pytest.mark.parametrize("smooth", ["eigen", "aug", ("eigen", "aug")])
@pytest.mark.parametrize("name", ["vit", "mobilenet_v2"])
def test_smoothing_on_any_network(network, name, smooth):
    maps = score_maps(network(name), pictures(), LABELS, ["grad_cam", "layer_cam"], smooth=smooth)
    assert all(m.shape == ((2, 4, 4) if name == "vit" else (2, 2, 2)) and m.isfinite().all() for m in maps.values())
    alone = score_maps(network(name), pictures()[1:], LABELS[1:], "layer_cam", smooth=smooth)
    assert torch.allclose(maps["layer_cam"][1:], alone, atol=1e-5)


@pytest.mark.parametrize("method", ["score_cam", "ablation_cam", "finer_cam", "shapley_cam", "sess", "full_grad"])
def test_methods_that_look_again(network, method):
    options = {"num_scales": 1} if method == "sess" else {}
    maps = score_maps(network("vit"), pictures(3), [3, 5, 0], method, chunk=5, **options)
    assert maps.shape == (3, 4, 4) and maps.isfinite().all() and maps.any()
    alone = score_maps(network("vit"), pictures(3)[2:], [0], method, chunk=3, **options)
    assert torch.allclose(maps[2:], alone, atol=1e-4 * float(alone.abs().max())), "each row belongs to its own image"


def test_score_cam_on_tokens_as_in_the_package(network):
    net, images = network("vit"), pictures()
    maps = score_maps(net, images, LABELS, "score_cam")
    theirs, _ = by_package(package.ScoreCAM, net, target_layer(net), images, LABELS, tokens)
    assert theirs.max() > 0.9
    np.testing.assert_allclose(at_input_size(maps), theirs, atol=1e-4)


def test_ablation_cam_on_tokens_by_hand(network):
    net, images, layer = network("vit"), pictures(), network("vit").get_submodule(target_layer(network("vit")))

    def scores(channel):
        def without(_layer, _inputs, output):
            output = output.clone()
            output[:, 1:, channel] = 0
            return output

        handle = layer.register_forward_hook(without)
        logits = net(images).detach()
        handle.remove()
        return logits[[0, 1], LABELS]

    whole = net(images).detach()[[0, 1], LABELS]
    weights = torch.stack([(whole - scores(channel)) / whole for channel in range(16)], dim=1)
    features = network_for(net).body(images).detach()
    expected = torch.einsum("bc,bchw->bhw", weights, features).clamp(min=0)
    assert expected.any()
    assert torch.allclose(score_maps(net, images, LABELS, "ablation_cam", chunk=5), expected, atol=1e-4)


def test_a_network_with_a_body_is_taken_as_it_is():
    model = build_model("resnet18", 4, weights="none", width=0.1)
    assert network_for(model) is model
    images = pictures(2)
    earlier = score_maps(model, images, [0, 3], "cam", layer="body.layer4")
    assert torch.allclose(earlier, score_maps(model, images, [0, 3], "cam"), atol=1e-6)
    assert score_maps(model, images, [0, 3], "grad_cam", layer="body.layer2").shape == (2, 8, 8)
    with pytest.raises(ValueError, match="cam is not defined on WSOLModel"):
        score_maps(model, images, [0, 3], "cam", layer="body.layer3")
    with pytest.raises(ValueError, match=r"already SplitModel at layer 'body.layer3'"):
        score_maps(split(model, "body.layer3"), images, [0, 3], "grad_cam", layer="body.layer2")


def test_an_unknown_network_is_told_its_candidates():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU())
            self.last = nn.Conv2d(4, 8, 3, stride=2, padding=1)
            self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

        def forward(self, x):
            return self.fc(self.pool(self.last(self.stem(x))).flatten(1))

    net = Own().train()
    message = (
        r"no target layer is known for Own: give layer=.* are 'stem.0' .*; 'stem.1' .*; "
        r"'stem' \(1, 4, 8, 8\); 'last' \(1, 8, 4, 4\)$"
    )
    with pytest.raises(ValueError, match=message):
        score_maps(net, pictures(2, 16), [0, 1], "grad_cam")
    assert net.training and not any(m._forward_hooks for m in net.modules())
    assert score_maps(net, pictures(2, 16), [0, 1], "cam", layer="last").shape == (2, 4, 4)


def test_a_gradient_that_is_zero_everywhere_is_an_error(network):
    images = pictures()
    for layer in ("encoder.layers.encoder_layer_2", "encoder.ln", "encoder"):
        with pytest.raises(ValueError, match=r"zero everywhere, for every image.*class token.*ln_1"):
            score_maps(network("vit"), images, LABELS, "grad_cam", layer=layer)
        assert score_maps(network("vit"), images, LABELS, "eigen_cam", layer=layer).any()
    untrained = vit()
    nn.init.zeros_(untrained.heads.head.weight)
    with pytest.raises(ValueError, match=r"zero everywhere, for every image.*untrained"):
        score_maps(untrained, images, LABELS, "layer_cam")


def test_features_alone_do_not_do_for_a_hooked_network(network):
    found = network_for(network("vit"))
    features = found.body(pictures())
    maps = score_maps(found, pictures(), LABELS, "grad_cam", features=features)
    assert torch.allclose(maps, score_maps(found, pictures(), LABELS, "grad_cam"))
    with pytest.raises(ValueError, match=r"needs? images, not only features"):
        score_maps(found, None, LABELS, "grad_cam", features=features)


def test_labels_and_images_are_checked_on_any_network(network):
    with pytest.raises(ValueError, match=r"label 7 is outside 0\.\.6"):
        score_maps(network("resnet18"), pictures(), [0, 7], "grad_cam")
    with pytest.raises(ValueError, match="float tensor with 4 axes"):
        score_maps(network("resnet18"), pictures()[0], [0], "grad_cam")


class _Wrapped(nn.Module):
    """A network of an architecture that is not known, as those of other libraries."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_channels_that_come_last_are_found_where_nobody_says_so(size):
    net, images = NETWORKS["swin"](), torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))
    expected = score_maps(net, images, [1, 4], "grad_cam", layer="norm", reshape="nhwc")
    for asked in ({}, {"reshape": "nhwc"}):
        assert torch.equal(score_maps(_Wrapped(net), images, [1, 4], "grad_cam", layer="net.norm", **asked), expected)
    plain = NETWORKS["resnet18"]()
    expected = score_maps(plain, images, [1, 4], "grad_cam", layer="layer3")
    assert torch.equal(score_maps(_Wrapped(plain), images, [1, 4], "grad_cam", layer="net.layer3"), expected)
