"""Networks as people have them: the map of a few lines of autograd, or one error that says what to do."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision import models

import wsolkit as wk
from wsolkit.common.errors import WsolkitError
from wsolkit.evaluation.faithfulness import faithfulness
from wsolkit.networks.split import HookedModel, SplitModel, target_layer

LABELS = [3, 1]
METHODS = ["grad_cam", "layer_cam"]


def pictures(channels=3, height=17, width=30):
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Batch norm with statistics, dropout, and a rest whose gradient differs from position to position."""

    def __init__(self, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 6, 3, padding=1),
        )
        nn.init.uniform_(self.features[1].running_mean)
        nn.init.uniform_(self.features[1].running_var, 0.5, 2)
        self.dropout, self.first, self.fc = nn.Dropout(0.5), nn.Linear(6, 8), nn.Linear(8, 5)

    def pool(self, x):
        return x.mean((2, 3)) + x.square().mean((2, 3))

    def forward(self, x):
        x = self.pool(F.relu(self.features(x), inplace=True))
        return self.fc(self.dropout(self.first(x).tanh()))


def reference(net, images, score, layer="features"):
    """Grad-CAM and LayerCAM by a hook on the whole network."""
    net, kept = net.eval().requires_grad_(True), []
    # the rest goes on with a copy, as it may work in place
    handle = net.get_submodule(layer).register_forward_hook(lambda _m, _i, out: (kept.append(out), out.clone())[1])
    scores = score(net(images.clone()))
    handle.remove()
    features = kept[0]
    (gradient,) = torch.autograd.grad(scores.sum(), features)
    by_channel = (gradient.mean((2, 3), keepdim=True) * features).sum(1).clamp(min=0)
    by_position = (gradient.clamp(min=0) * features).sum(1).clamp(min=0)
    return {"grad_cam": by_channel.detach(), "layer_cam": by_position.detach()}


def of_labels(logits):
    return logits[[0, 1], LABELS]


def state(net):
    """What a call may not change: modes, hooks, gradients, and weights, which stay the same tensors."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return (
        [module.training for module in net.modules()],
        [[len(module._forward_hooks), len(module._forward_pre_hooks)] for module in net.modules()],
        [(name, id(t), t.dtype, t.device, t.requires_grad, t.grad is None, t.tolist()) for name, t in tensors.items()],
    )


def check(given, plain, images, layer="features", can_be_cut=True, tolerance=1e-5):
    """All ways to a map give that of the plain network in float32, and leave what they were given as it was."""
    expected = reference(plain, images.float(), of_labels, str(layer))
    assert any(maps.any() for maps in expected.values()), "the comparison needs a map"
    before, kept = state(given), images.clone()
    makers = [lambda *_: given, wk.hooked, wk.split][: 2 + can_be_cut]
    for make in makers:
        network, where = make(given, layer, None, images), layer if make is makers[0] else None
        maps = wk.score_maps(network, images, LABELS, METHODS, layer=where)
        for name, made in maps.items():
            assert made.dtype == torch.float32
            torch.testing.assert_close(
                made, expected[name], rtol=tolerance, atol=tolerance * float(expected[name].max())
            )
        many = wk.score_maps(network, images, LABELS, ["score_cam", "ablation_cam", "shapley_cam"], layer=where)
        assert all(made.isfinite().all() for made in many.values())
    assert state(given) == before and torch.equal(images, kept)


# ---------------------------------------------------------------- dtypes, layouts, wrappers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("of_images", ["float32", "as the weights"])
def test_other_dtypes(dtype, of_images):
    given = Net().to(dtype).train()
    images = pictures().to(dtype if of_images == "as the weights" else torch.float32)
    check(given, Net().to(dtype).float(), images)
    whole = wk.feature_map(given, images, layer="features")
    assert torch.allclose(whole.float(), Net().to(dtype).float().eval().features(images.float()), atol=1e-5)


def test_gradients_that_half_precision_cannot_hold():
    def small(net):
        net.fc.weight.data.mul_(1e-6)
        return net.half()

    check(small(Net()), small(Net()).float(), pictures())


def test_a_network_that_casts_to_half_precision_by_itself():
    class Casts(Net):
        def forward(self, x):
            return super().forward(x.half())

    with pytest.raises(WsolkitError, match=r"Casts itself fails .* to the dtype of its weights, not by \.half\(\)"):
        wk.score_maps(Casts().half(), pictures(), LABELS, "grad_cam", layer="features")


def test_made_in_inference_mode():
    with torch.inference_mode():
        given = Net()
    check(given, Net(), pictures())
    assert next(given.parameters()).is_inference()
    given.kept = (image for image in ())  # which cannot be copied
    with pytest.raises(WsolkitError, match=r"Net was made in inference mode and cannot be copied \(.*generator"):
        wk.score_maps(given, pictures(), LABELS, "grad_cam", layer="features")


def test_frozen_and_channels_last_and_shared_weights():
    def shared(net):
        net.features[3] = nn.Conv2d(8, 8, 3, padding=1)
        net.features.extend([nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1)])
        net.features[4].weight = net.features[3].weight
        return net

    check(Net().requires_grad_(False), Net(), pictures())
    check(Net().to(memory_format=torch.channels_last), Net(), pictures().contiguous(memory_format=torch.channels_last))
    torch.manual_seed(1)
    tied = shared(Net())
    check(tied, copy.deepcopy(tied), pictures())


@pytest.mark.parametrize("compiled", [False, True])
def test_data_parallel(compiled):
    net = Net()
    given = nn.DataParallel(torch.compile(net, backend="eager") if compiled else net).train()
    for layer in ("features", "module.features", "module._orig_mod.features")[: 2 + compiled]:
        maps = wk.score_maps(given, pictures(), LABELS, METHODS, layer=layer)
        for name, expected in reference(Net(), pictures(), of_labels).items():
            torch.testing.assert_close(maps[name], expected)
    assert wk.score_maps(given, pictures(), LABELS, "grad_cam", layer=net.features[3]).any()
    assert given.training and net.training
    resnet = models.resnet18(num_classes=5)
    assert wk.network_for(nn.DataParallel(resnet)).head is resnet.fc, "its target layer is known"


def test_one_channel():
    check(Net(1), Net(1), pictures(1))
    for images, layer in ((pictures(3), "features"), (pictures(4), "first")):
        with pytest.raises(
            WsolkitError,
            match=rf"Net fails for an image of {images.shape[1]} channels, and its first convolution takes 1: .*preprocess=",
        ):
            wk.score_maps(Net(1), images, LABELS, "grad_cam", layer=layer)

    own = wk.build_model("resnet18", 5, weights="none", width=0.125)
    with pytest.raises(WsolkitError, match=r"images must have 3 channels.*got .2, 1, .*preprocess="):
        wk.score_maps(own, pictures(1), LABELS, "cam")


def test_what_is_no_network():
    for model in ("resnet18", lambda images: images.mean((2, 3))):
        with pytest.raises(WsolkitError, match=r"a network must be a torch\.nn\.Module, but this is (str|function)"):
            wk.score_maps(model, pictures(), LABELS, "cam")


def test_layers_that_are_not_made_yet():
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(5))
    assert wk.score_maps(net, pictures(), LABELS, "grad_cam", layer="1").shape == (2, 15, 28)


def test_images_that_depend_on_one_another_are_said():
    net = Net()
    net.features[1] = nn.BatchNorm2d(8, track_running_stats=False)
    with pytest.warns(
        RuntimeWarning, match="Net has batch norms without running statistics.* one by one, with chunk=1"
    ):
        maps = wk.score_maps(net, pictures(), LABELS, METHODS, layer="features")
    torch.testing.assert_close(maps["grad_cam"], reference(net, pictures(), of_labels)["grad_cam"])


def test_an_error_of_the_network_itself_says_for_which_image():
    class Fixed(Net):
        def pool(self, x):
            return x.flatten(1)[:, :6] if x.shape[2] == 8 else x.new_zeros(2, 3)

    said = r"Fixed itself fails for images of shape \(1, 3, 20, 20\), float32 \(.*cannot be multiplied.*preprocess="
    with pytest.raises(WsolkitError, match=said) as caught:
        wk.score_maps(Fixed(), pictures(3, 20, 20), LABELS, "grad_cam", layer="features")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_images_that_are_too_small_for_a_network():
    net = models.alexnet(num_classes=5)
    net.classifier = nn.Sequential(nn.Flatten(), nn.Linear(9216, 5))
    with pytest.raises(
        WsolkitError, match=r"AlexNet itself fails for images of shape \(1, 3, 20, 20\), float32 \(.*small"
    ):
        wk.score_maps(net, pictures(3, 20, 20), LABELS, "grad_cam")


class ByKeyword(Net):
    def forward(self, *, pixel_values):
        return super().forward(pixel_values)


class Two(Net):
    def forward(self, images, boxes):
        return super().forward(images) + boxes


@pytest.mark.parametrize(
    "make, reason", [(ByKeyword, "too many positional"), (Two, "missing a required argument: 'boxes'")]
)
def test_forward_methods_that_do_not_take_images_alone(make, reason):
    for options in ({"labels": LABELS}, {"target": lambda logits: logits[:, 0]}):
        with pytest.raises(
            WsolkitError, match=rf"the forward method of {make.__name__} does not take .*{reason}.*wrap"
        ):
            wk.score_maps(make(), pictures(), method="grad_cam", layer="features", **options)


def test_a_part_in_dataparallel_is_looked_into():
    net = models.vgg11(num_classes=5, init_weights=False)
    net.avgpool, net.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 5)
    expected = wk.score_maps(net, pictures(3, 64, 64), LABELS, "grad_cam")
    assert target_layer(net) == "features.19"
    net.features = nn.DataParallel(net.features)
    assert target_layer(net) == "features.module.19"
    torch.testing.assert_close(wk.score_maps(net, pictures(3, 64, 64), LABELS, "grad_cam"), expected)


class HalfLogits(Net):
    def forward(self, x):
        return super().forward(x).half()


class HalfFeatures(Net):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            x = self.features(x)
        return self.fc(self.first(self.pool(x.relu().float())).tanh())


@pytest.mark.parametrize("make", [HalfLogits, HalfFeatures])
@pytest.mark.parametrize("look", [wk.network_for, wk.hooked])
def test_features_and_logits_of_different_precision(make, look):
    expected = wk.score_maps(Net(), pictures(), LABELS, METHODS, layer="features")
    maps = wk.score_maps(look(make(), "features", example=pictures()), pictures(), LABELS, METHODS)
    for name in METHODS:
        scale = float(expected[name].abs().max())
        assert maps[name].dtype == torch.float32
        torch.testing.assert_close(maps[name], expected[name], rtol=0.05, atol=0.02 * scale, msg=name)


def quantised_by_hand():
    class Whole(nn.Linear):
        def __init__(self):
            super().__init__(8, 5)
            self.weight = nn.Parameter(self.weight.mul(100).to(torch.int8), requires_grad=False)

        def forward(self, x):
            return F.linear(x, self.weight.float() / 100, self.bias)

    net = Net()
    net.fc = Whole()
    return net


def quantised_statically():
    from torch.ao import quantization

    net = nn.Sequential(
        quantization.QuantStub(), Net().features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    )
    net.append(quantization.DeQuantStub())
    net.eval().qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
    prepared = quantization.prepare(net)
    prepared(pictures())
    return quantization.convert(prepared)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["dynamic", "static", "by hand"])
def test_quantised_networks_are_refused(kind):
    dynamic = torch.ao.quantization.quantize_dynamic
    make = {"dynamic": lambda: dynamic(Net()), "static": quantised_statically, "by hand": quantised_by_hand}[kind]
    net, images = make(), pictures()
    net(images)
    for call in (
        wk.network_for,
        wk.split,
        wk.hooked,
        lambda *args: wk.score_maps(net, images, LABELS, "grad_cam", layer="1"),
    ):
        with pytest.raises(wk.CannotSplit, match=r"is quantised: '.*' computes with whole numbers.*in floating point"):
            call(net, "features")


# ---------------------------------------------------------------- what comes after the feature map


class Recurrent(Net):
    def __init__(self, kind):
        super().__init__()
        self.reader = kind(6, 6, batch_first=True, bidirectional=True)
        self.join = nn.Linear(12, 6)

    def pool(self, x):
        return self.join(self.reader(x.flatten(2).transpose(1, 2))[0][:, -1])


class Attends(Net):
    """The mean asks, positions answer, as in CLIP."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def pool(self, x):
        x = x.flatten(2).transpose(1, 2)
        return self.attention(x.mean(1, keepdim=True), x, x, need_weights=False)[0][:, 0]


@pytest.mark.parametrize(
    "make", [lambda: Recurrent(nn.LSTM), lambda: Recurrent(nn.GRU), Attends], ids=["lstm", "gru", "attention"]
)
def test_recurrent_and_attention_pooling(make):
    check(make(), make(), pictures())
    assert isinstance(wk.network_for(make(), "features", None, pictures()), SplitModel)
    with pytest.raises(wk.MethodNotDefined, match="cam is not defined on"):
        wk.score_maps(make(), pictures(), LABELS, "cam", layer="features")
    net, images = make().eval().double(), pictures().double()
    features = net.features(images).detach().requires_grad_(True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        scores = of_labels(net.fc(net.first(net.pool(features.relu())).tanh()))
        (gradient,) = torch.autograd.grad(scores.sum(), features, create_graph=True)
        (product,) = torch.autograd.grad(gradient, features, features.detach())
    weights = (gradient - product / 2).mean((2, 3), keepdim=True)
    expected = (weights * features).sum(1).clamp(min=0).detach()
    maps = wk.score_maps(net, images, LABELS, "shapley_cam", layer="features")
    torch.testing.assert_close(maps, expected.float())


def test_recurrent_layers_run_without_cudnn_which_has_no_gradient_in_evaluation_mode():
    net, seen = Recurrent(nn.LSTM), []
    net.reader.register_forward_hook(lambda *_: seen.append((torch.is_grad_enabled(), torch.backends.cudnn.enabled)))
    wk.score_maps(net, pictures(), LABELS, "grad_cam", layer="features")
    assert (True, False) in seen and (True, True) not in seen and torch.backends.cudnn.enabled


# ---------------------------------------------------------------- reparametrised weights, hooks, work in place


def norms(kind):
    def of_all(net, change, kinds=(nn.Conv2d, nn.Linear)):
        for module in [module for module in net.modules() if isinstance(module, kinds)]:
            change(module)
        return net

    changes = {
        "weight_norm of earlier torch": nn.utils.weight_norm,
        "spectral_norm of earlier torch": nn.utils.spectral_norm,
        "weight_norm": parametrizations.weight_norm,
        "spectral_norm": parametrizations.spectral_norm,
        "pruned": lambda module: prune.l1_unstructured(module, "weight", amount=0.3),
    }
    net = of_all(Net(), changes[kind])
    for _ in range(5):  # a spectral norm is an iteration, a step of which each pass in training mode takes
        net.train()(pictures())
    return net


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize(
    "kind", ["weight_norm of earlier torch", "spectral_norm of earlier torch", "weight_norm", "spectral_norm", "pruned"]
)
def test_weights_that_are_computed(kind):
    given = norms(kind).train()
    check(given, norms(kind), pictures())
    assert wk.score_maps(given, pictures(), LABELS, "full_grad", layer="features").any()


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_the_weights_of_a_normed_head_are_those_of_now(norm):
    """Earlier torch computes them when the layer runs, which plain CAM does not need."""
    model, images = wk.build_model("resnet18", 5, weights="none", width=0.125), pictures(3, 32, 32)
    norm(model.head)
    model(images)
    for name, parameter in model.head.named_parameters():
        if name in ("weight_g", "parametrizations.weight.original0"):
            parameter.data[3] *= -7
    maps = wk.score_maps(model, images, [3, 3], "cam")
    direction = dict(model.head.named_parameters())
    v = direction["weight_v"] if "weight_v" in direction else direction["parametrizations.weight.original1"]
    g = direction["weight_g"] if "weight_g" in direction else direction["parametrizations.weight.original0"]
    weight = (g * v / v.norm(dim=1, keepdim=True))[3].detach()
    expected = torch.einsum("c,bchw->bhw", weight, wk.feature_map(model, images))
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


class Changes(Net):
    """Works on the images in place, as some networks normalise them."""

    def forward(self, x):
        return super().forward(x.sub_(0.3).div_(1.5))


class ChangesWithoutAName(Net):
    def __init__(self):
        super().__init__()
        self.features.insert(0, nn.Hardtanh(-1.5, 1.5, inplace=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", [Changes, ChangesWithoutAName])
@pytest.mark.parametrize("look", [wk.split, wk.hooked])
def test_networks_that_change_their_input(kind, layout, look):
    methods = ["grad_cam", "score_cam", "ablation_cam", "full_grad", "eigen_cam"]
    images = pictures().contiguous(memory_format=layout)
    kept, net = images.clone(), kind()
    maps = wk.score_maps(look(net, "features", None, images), images, LABELS, methods)
    torch.testing.assert_close(maps["grad_cam"], reference(kind(), kept, of_labels)["grad_cam"])
    assert torch.equal(images, kept)
    again = wk.score_maps(look(net, "features", None, images), images, LABELS, methods, smooth=())
    assert all(torch.equal(again[name], maps[name]) for name in methods)

    class Copies(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = kind()

        def forward(self, x):
            return self.net(x.clone())

    safe = wk.score_maps(look(Copies(), "net.features", None, images), images, LABELS, methods)
    for name in methods:
        torch.testing.assert_close(maps[name], safe[name], msg=name)


def doubled(_module, _inputs, output):
    return output * 2


@pytest.mark.parametrize("at", ["", "features", "features.0", "features.3", "first"])
@pytest.mark.parametrize("layer", ["features", "features.3"])
def test_hooks_that_change_values_count(at, layer):
    def made():
        net = Net()
        net.get_submodule(at).register_forward_hook(doubled)
        net.register_forward_pre_hook(lambda _module, inputs: (inputs[0] / 2,))
        return net

    check(made(), made(), pictures(), layer, can_be_cut=False)


def test_hooks_that_keep_outputs_keep_no_traced_values():
    net, seen = Net(), []
    for module in (net, net.features, net.first):
        module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    net.first.register_full_backward_hook(lambda *_: None)
    check(net, Net(), pictures(), "features.3", can_be_cut=False)
    assert seen and all(type(output) is torch.Tensor for output in seen)


# ---------------------------------------------------------------- outputs that are no logits, and other heads


class Outputs(Net):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(super().forward(x))


@pytest.mark.parametrize(
    "make, described",
    [
        (lambda logits: {"logits": logits, "aux": None}, "dict with logits, aux"),
        (lambda logits: (logits, logits), "tuple"),
        (lambda logits: logits[:, 0], r"tensor \(1,\)"),
        (lambda logits: logits[:, :, None, None], r"tensor \(1, 5, 1, 1\)"),
    ],
)
def test_outputs_that_are_no_logits_are_described(make, described):
    for call in (wk.network_for, wk.split, wk.hooked):
        with pytest.raises(
            WsolkitError, match=rf"Outputs must return logits \(B, K\), but gives .*{described}.*target="
        ):
            call(Outputs(make), "features", None, pictures())


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("build, layer", [(models.inception_v3, "Mixed_7c"), (models.googlenet, "inception5b")])
def test_auxiliary_heads(build, layer, train):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the time that torchvision's initialisation takes
        net = build(num_classes=5, aux_logits=True, init_weights=False, transform_input=True).train(train)
    images = pictures(3, 80, 97)
    before = [module.training for module in net.modules()]
    made = wk.network_for(net, example=images)
    maps = wk.score_maps(net, images, LABELS, METHODS)
    assert isinstance(made, SplitModel) and made.layer == layer and made.has_cam
    assert [module.training for module in net.modules()] == before
    for name, expected in reference(net, images, of_labels, layer).items():
        torch.testing.assert_close(maps[name], expected, rtol=1e-3, atol=1e-3 * float(expected.max()))


def test_a_network_whose_parts_cannot_be_traced_is_hooked_with_the_same_map():
    class Sees(Net):
        def pool(self, x):
            return super().pool(x if x.sum() > 0 else -x)

    check_hooked = wk.network_for(Sees(), "features", None, pictures())
    assert isinstance(check_hooked, HookedModel)
    maps = wk.score_maps(Sees().half(), pictures(), LABELS, METHODS, layer="features")
    for name, expected in reference(Sees().half().float(), pictures(), of_labels).items():
        torch.testing.assert_close(maps[name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_predict_localise_and_faithfulness_of_other_dtypes(dtype):
    """Their images are float32, whatever the network is."""
    data = wk.load_dataset("synthetic", "test", size=48, classes=3, per_class=2)
    given, images = models.resnet18(num_classes=3).to(dtype), data.images(range(2))
    plain, view = copy.deepcopy(given).float(), {"geometry": data.geometry, "label": 1}
    photo, results = data.load(data.samples[0])[0], []
    for net in (given, plain):
        (found,) = wk.predict(net, photo, "grad_cam", **view)
        made = wk.localise(net, data, "grad_cam")
        curves = faithfulness(net, images, torch.tensor([0, 1]), made.maps[:2], steps=4)
        results.append(
            [found.score_map, np.float64(found.probability), made.maps, made.logits, curves.deletion, curves.most_first]
        )
    for mine, expected in zip(*results, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-5)
    assert all(parameter.dtype == dtype for parameter in given.parameters())


class HalfBody(nn.Sequential):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


@pytest.mark.parametrize("last", [nn.Identity, nn.Softplus])
def test_cam_on_features_in_half_precision(last):
    class Plain(nn.Module):
        def __init__(self, kind, dtype=torch.float32):
            super().__init__()
            torch.manual_seed(0)
            self.dtype = dtype
            self.features, self.last, self.fc = kind(nn.Conv2d(3, 6, 3), nn.ReLU()), last(), nn.Linear(6, 5)

        def forward(self, x):
            return self.fc(self.last(self.features(x)).mean((2, 3)).float()).to(self.dtype)

    if last is nn.Identity:
        expected = wk.score_maps(Plain(nn.Sequential), pictures(), LABELS, "cam", layer="features")
        for net in (Plain(HalfBody), Plain(nn.Sequential, torch.float16)):
            maps = wk.score_maps(net, pictures(), LABELS, "cam", layer="features")
            torch.testing.assert_close(maps, expected, rtol=0.05, atol=0.05)
    else:
        with pytest.raises(wk.MethodNotDefined, match="cam is not defined"):
            wk.score_maps(Plain(HalfBody), pictures(), LABELS, "cam", layer="features")
