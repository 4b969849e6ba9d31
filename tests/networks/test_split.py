"""Any network cut at a layer: the same maps as the grad-cam package on the whole, nothing copied, clear refusals."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import pytorch_grad_cam as package
import torch
import torch.nn.functional as F
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from small_networks import NETWORKS, SIZE, at_input_size, by_package, pictures
from torch import nn

from wsolkit.methods.maps import feature_map, score_maps
from wsolkit.methods.registry import is_defined
from wsolkit.networks.split import CannotSplit, HookedModel, hooked, network_for, nhwc, split, tokens

BY_CLASS = {"grad_cam": package.GradCAM, "grad_cam++": package.GradCAMPlusPlus, "layer_cam": package.LayerCAM}
LABELS = [3, 5]

# network, layer, reshape: boundaries, layers that an in-place ReLU follows, and the output of an in-place ReLU
CUTS = [
    ("resnet18", "layer4", None),
    ("resnet18", "layer3", None),
    ("resnet18", "bn1", None),  # relu(inplace=True) comes next
    ("vgg11", "features.19", None),
    ("vgg11", "features.13", None),  # a convolution, then relu(inplace=True)
    ("mobilenet_v2", "features.18", None),
    ("mobilenet_v2", "features.18.1", None),
    ("densenet121", "features", None),  # F.relu(features, inplace=True) comes next
    ("densenet121", "features.denseblock3", None),
    ("swin", "norm", "nhwc"),
    ("swin", "features.1", "nhwc"),
    ("swin", "permute", None),
]


@pytest.fixture(scope="module")
def network():
    made = {}
    return lambda name: made.setdefault(name, NETWORKS[name]())


def check_against_the_package(network, cut_at, layer, reshape, method):
    """`cut_at(net)` gives the package's own maps: exactly in float64, and nearly so in float32.

    In float32 a ReLU may be given a value that rounding alone puts above or below 0 (for "bn1" of resnet18 one value of
    5e-6), and every way to sum in another order then has another map.
    """
    move = {"nhwc": nhwc, "tokens": tokens}.get(reshape, reshape)
    single, net, images = network, copy.deepcopy(network).double(), pictures().double()
    features = output_of(net, layer, images)
    features = features if move is None else move(features)
    cut, cut_single = cut_at(net), cut_at(single)
    assert torch.allclose(feature_map(cut, images), features, atol=1e-10 * float(features.abs().max()))
    rounded = feature_map(cut_single, pictures())
    assert torch.allclose(rounded, features.float(), atol=1e-4 * float(features.abs().max()))
    ours = score_maps(cut, images, LABELS, method)
    assert ours.shape == (2, *features.shape[2:])
    in_single = score_maps(cut_single, pictures(), LABELS, method)
    assert np.corrcoef(in_single.flatten(), ours.flatten())[0, 1] > 0.99
    if method == "eigen_cam":
        theirs, plain = get_2d_projection(features.numpy()), features.sum(1).numpy()
        for mine, other, reference in zip(ours.numpy(), theirs, plain, strict=True):
            sign = np.sign((other * (reference - reference.mean())).sum())
            np.testing.assert_allclose(mine, np.maximum(sign * other, 0), atol=1e-6 * np.abs(other).max())
        return
    theirs, seen = by_package(BY_CLASS[method], net, layer, images, LABELS, move)
    assert theirs.max() > 0.9, "the comparison needs a map that is not flat"
    if not torch.allclose(seen, features):  # the package keeps no copy, so an in-place operation spoils what it saw
        net = out_of_place(net)
        theirs, seen = by_package(BY_CLASS[method], net, layer, images, LABELS, move)
        assert torch.allclose(seen, features)
    np.testing.assert_allclose(at_input_size(ours), theirs, atol=3e-5)  # grad_cam++ has an epsilon in its quotient


def output_of(net, layer, images):
    """The layer's output, copied before anything works on it in place."""
    outputs = []
    layer = net.get_submodule(layer)
    handle = layer.register_forward_hook(lambda _m, _i, output: outputs.append(output.detach().clone()))
    net(images)
    handle.remove()
    return outputs[0]


def out_of_place(net):
    """A copy of the network whose layers copy what they are given to change."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    if type(net).__name__ == "DenseNet":
        net.forward = lambda x: net.classifier(F.relu(net.features(x)).mean((2, 3)))
    return net


@pytest.mark.parametrize("method", [*BY_CLASS, "eigen_cam"])
@pytest.mark.parametrize("name, layer, reshape", CUTS)
def test_maps_as_of_the_package_on_the_whole_network(network, name, layer, reshape, method):
    def cut_at(net):
        return split(net, layer, reshape, pictures(1).to(next(net.parameters())))

    check_against_the_package(network(name), cut_at, layer, reshape, method)


@pytest.mark.parametrize("method", [*BY_CLASS, "eigen_cam"])
@pytest.mark.parametrize(
    "name, layer, reshape",
    [
        ("mobilenet_v2", "features.16.conv.3", None),  # inside a block with a skip connection
        ("vgg11", "features.13", None),
        ("vit", "conv_proj", None),  # the size of the grid passes beside it
        ("vit", "encoder.layers.encoder_layer_2.ln_1", "tokens"),
        ("vit", "encoder.layers.encoder_layer_1", tokens),
        ("swin", "features.3.1.norm1", "nhwc"),
    ],
)
def test_hooked_maps_as_of_the_package(network, name, layer, reshape, method):
    check_against_the_package(network(name), lambda net: hooked(net, layer, reshape), layer, reshape, method)


@pytest.mark.parametrize("method", ["score_cam", "ablation_cam", "shapley_cam", "finer_cam", "full_grad", "xgrad_cam"])
def test_split_and_hooked_agree(network, method):
    net, images = network("mobilenet_v2"), pictures(2)
    by_cut = score_maps(split(net, "features.4"), images, LABELS, method, chunk=5)
    by_hook = score_maps(hooked(net, "features.4"), images, LABELS, method, chunk=5)
    scale = by_cut.abs().max()
    assert scale > 0 and torch.allclose(by_cut, by_hook, atol=1e-4 * scale)


@pytest.mark.parametrize("name, layer", [("resnet18", "layer3"), ("vgg11", "features.13"), ("densenet121", "features")])
def test_the_parts_are_the_users_own_modules(network, name, layer):
    net = network(name)
    cut = split(net, layer)
    theirs = {id(p) for p in net.parameters()}
    assert {id(p) for p in cut.parameters()} == theirs and cut.num_classes == 7
    images = pictures()
    assert torch.equal(cut(images), net(images))
    features = cut.body(images)
    kept = features.clone()
    cut.rest(features)
    assert torch.equal(features, kept), "the rest works on a copy"
    weight = net.get_submodule("fc" if name == "resnet18" else "classifier")
    weight = weight[-1].weight if isinstance(weight, nn.Sequential) else weight.weight
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(cut(images), net(images))
    with torch.no_grad():
        weight.div_(2)


def test_other_image_sizes_and_batches(network):
    cut = split(network("resnet18"), "layer3", example=pictures(1, SIZE))
    images = pictures(3, 96)
    assert torch.equal(cut(images), network("resnet18")(images)) and cut.body(images).shape[2:] == (6, 6)


def test_the_head_is_known_where_it_is_one(network):
    net, images = network("resnet18"), pictures()
    cut = split(net, "layer4")
    assert cut.has_cam and cut.head is net.fc and is_defined("cam", cut)[0]
    expected = torch.einsum("bc,bchw->bhw", net.fc.weight[LABELS], cut.body(images)).detach()
    assert torch.allclose(score_maps(cut, images, LABELS, "cam"), expected, atol=1e-5)
    for name, layer in (("vgg11", "features.19"), ("densenet121", "features"), ("resnet18", "layer3")):
        cut = split(network(name), layer)
        assert not cut.has_cam and not hasattr(cut, "head") and not hasattr(cut, "pool")
        with pytest.raises(ValueError, match="cam is not defined on"):
            score_maps(cut, images, LABELS, "cam")


# ---------------------------------------------------------------- forward methods of every kind


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.fc = nn.ReLU(), nn.Linear(4, 5)

    def classify(self, x):
        return self.fc(x.mean((2, 3)))


class BatchSizeAtTheTop(Toy):
    def forward(self, x):
        n, _, _, _ = x.shape
        rows = x.size(0)
        x = self.second(self.first(x))
        x = x[..., : x.shape[-1]].reshape(n, 4, -1).mean(2)
        return self.fc(x.view(rows, 4))


class OptionalArguments(Toy):
    def forward(self, x, mask=None, scale=2.0, twice=False):
        x = self.first(x)
        if mask is not None:
            x = x * mask
        if twice:
            x = self.first(x)
        return self.classify(self.second(x) * scale)


class ConstantsInForward(Toy):
    def forward(self, x):
        return self.classify(self.second(self.first(x)) * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1))


class InPlaceWithoutAName(Toy):
    def forward(self, x):
        x = self.second(self.first(x))
        x.mul_(2)
        F.relu(x, inplace=True)
        return self.classify(x)


class DropoutByFunction(Toy):
    def forward(self, x):
        return self.classify(F.dropout(self.second(self.first(x)), 0.5, self.training))


class Branches(Toy):
    def forward(self, x):
        skip = self.first(x)
        return self.classify(self.relu(self.second(skip)) + skip)


class LooksAtValues(Toy):
    def forward(self, x):
        x = self.second(self.first(x))
        return self.classify(x if x.mean() > 0 else -x)


class LooksAtTypes(Toy):
    def forward(self, x):
        x = self.second(self.first(x))
        return self.classify(x * 2 if isinstance(x, torch.Tensor) else x)


class TwiceThrough(Toy):
    def forward(self, x):
        return self.classify(self.relu(self.second(self.relu(self.first(x)))))


class Never(Toy):
    def forward(self, x):
        return self.classify(self.first(x))


class Noisy(Toy):
    def forward(self, x):
        return self.classify(self.second(self.first(x)) + torch.rand_like(x[:, :1]))


class InADict(Toy):
    def forward(self, x):
        return {"logits": self.classify(self.second(self.first(x)))}


@pytest.mark.parametrize("kind", [OptionalArguments, ConstantsInForward, InPlaceWithoutAName, DropoutByFunction])
def test_what_can_be_cut(kind):
    net, images = kind(), pictures(3, 12)
    before = set(vars(net))
    for layer in ("first", "second"):
        cut = split(net, layer, example=images)
        assert set(vars(net)) == before and net.training
        assert torch.equal(cut(images), kind().eval()(images)), "as in evaluation mode"
        by_hook = score_maps(hooked(net, layer, None, images), images, [0, 1, 4], "grad_cam")
        assert torch.allclose(score_maps(cut, images, [0, 1, 4], "grad_cam"), by_hook, atol=1e-5)


@pytest.mark.parametrize(
    "kind, layer, message",
    [
        (Branches, "second", "the output of 'first' passes beside it"),
        (LooksAtValues, "second", "cannot be traced"),
        (LooksAtTypes, "second", "other logits than the whole"),
        (Noisy, "second", "the network's input passes beside it"),
        (BatchSizeAtTheTop, "second", "passes beside it"),
        (TwiceThrough, "relu", "it runs 2 times"),
        (Never, "second", "it runs 0 times"),
    ],
)
def test_what_cannot_be_cut_is_said(kind, layer, message):
    net, images = kind(), pictures(2, 12)
    before = set(vars(net))
    with pytest.raises(
        CannotSplit, match=rf"{kind.__name__} cannot be split at layer '{layer}': .*{message}.*hooked\("
    ):
        split(net, layer, example=images)
    assert set(vars(net)) == before and net.training and all(m.training for m in net.modules())
    if kind in (TwiceThrough, Never):
        with pytest.raises(ValueError, match=r"runs \d times in a forward pass.*choose a layer that runs once"):
            network_for(net, layer, example=images)
        return
    by_hook = network_for(net, layer, example=images)
    assert isinstance(by_hook, HookedModel) and message in by_hook.reason
    assert score_maps(by_hook, images, [0, 1], "grad_cam").shape == (2, 12, 12)


def test_a_crossing_value_is_named(network):
    with pytest.raises(CannotSplit, match=r"ResNet .* 'layer4.0.bn2'.*'layer3.1.relu'|layer3.*passes beside"):
        split(network("resnet18"), "layer4.0.bn2")
    with pytest.raises(CannotSplit, match="'tokens' cannot be undone"):
        split(network("vit"), "encoder", "tokens")


@pytest.mark.parametrize(
    "layer, message",
    [
        ("layer5", "ResNet has no layer 'layer5'; nearest are: layer"),
        ("layer4.2", "nearest are: layer4"),
        ("zzz", "at the top are: conv1, bn1, relu"),
        ("", "is ResNet itself"),
        (nn.ReLU(), "the given layer ReLU is no part of ResNet"),
    ],
)
def test_a_layer_that_is_not_there(network, layer, message):
    for function in (split, hooked, network_for):
        with pytest.raises(CannotSplit, match=message):
            function(network("resnet18"), layer)


def test_a_layer_by_itself_or_by_name(network):
    net = network("resnet18")
    assert split(net, net.layer4[1]).layer == "layer4.1" and hooked(net, net.layer3).layer == "layer3"


def test_outputs_that_are_no_feature_maps(network):
    with pytest.raises(ValueError, match=r"'avgpool'|\(1, 512, 1, 1\)|feature map"):
        split(network("resnet18"), "fc")
    with pytest.raises(ValueError, match=r"layer 'encoder' must give a feature map .*\(1, 17, 16\).*tokens"):
        hooked(network("vit"), "encoder")
    with pytest.raises(ValueError, match="returns a tuple, not a tensor"):
        hooked(network("vit"), "encoder.layers.encoder_layer_1.self_attention")
    with pytest.raises(ValueError, match="unknown reshape 'chw'; valid are tokens, nhwc"):
        split(network("swin"), "norm", "chw")
    with pytest.raises(ValueError, match="changes values; it may only permute or drop"):
        hooked(network("vit"), "encoder", lambda output: 2 * tokens(output))
    with pytest.raises(ValueError, match="must return logits"):
        split(InADict(), "second", example=pictures(1, 12))
    with pytest.raises(ValueError, match="gives dict with logits: give score_maps a target="):
        split(InADict(), "second")
    with pytest.raises(ValueError, match=r"fails for a random image of 3 channels .*give example=images"):
        split(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(5, 5)), "0")


def test_a_detached_layer_has_no_gradient_map_but_an_eigen_map():
    class Detached(Toy):
        def forward(self, x):
            return self.classify(self.second(self.first(x).detach()))

    class DetachedBehind(Toy):
        def forward(self, x):
            return self.classify(self.second(self.first(x)).detach())

    images = pictures(2, 12)
    assert score_maps(split(Detached(), "first"), images, [0, 1], "eigen_cam").any()
    for make in (split, hooked):
        with pytest.raises(ValueError, match="no gradient reaches the feature map"):
            score_maps(make(DetachedBehind(), "second"), images, [0, 1], "grad_cam")


def test_a_forward_method_that_keeps_its_input_finds_no_traced_values():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.c1, self.c2, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6, 5)
            self.last = None

        def forward(self, x):
            self.last = x
            return self.fc(self.c2(self.c1(x).relu()).relu().mean((2, 3)))

    model = Keeps()
    split(model, "c2")
    assert not isinstance(model.last, torch.fx.Proxy)
    copy.deepcopy(model)
