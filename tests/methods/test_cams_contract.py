"""Score maps: the model stays as it was, memory stays bounded, wrong input is named, methods can be added."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import wsolkit as wk
from wsolkit import methods as cams
from wsolkit.common.errors import WsolkitError
from wsolkit.networks.models import GlobalAveragePool

KINDS = ["cam", "grad_cam", "grad_cam++", "layer_cam", "shapley_cam", "score_cam", "ablation_cam", "full_grad", "sess"]
OPTIONS = {"sess": {"num_scales": 1}}


class Net(nn.Module):
    """Body with batch norm and in-place ReLU, GAP and a linear head; `fail` raises at its n-th call."""

    pooling, backbone, has_cam = "gap", "toy", True

    def __init__(self, channels=6, pool=None):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, channels, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.pool = pool or GlobalAveragePool()
        self.head = nn.Linear(channels, 5)
        self.rest = nn.Sequential(self.pool, self.head)
        self.num_classes = 5

    def forward(self, x):
        return self.head(self.pool(self.body(x)))


class Fails(nn.Module):
    """Passes its input on until the n-th call, which raises."""

    def __init__(self, error, at):
        super().__init__()
        self.error, self.left = error, at

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return x


def pictures(n=2):
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def hooks(model):
    kinds = [name for name in vars(model) if name.endswith("_hooks")]
    assert "_forward_hooks" in kinds and "_backward_hooks" in kinds
    return {(name, kind): len(getattr(module, kind)) for name, module in model.named_modules() for kind in kinds}


def state(model):
    """Everything that a call might disturb."""
    return {
        "modules": [id(module) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "hooks": hooks(model),
        "flags": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in model.parameters()],
        "values": {name: value.tolist() for name, value in model.state_dict().items()},
    }


def worn():
    """A model in a mixed state, as in the middle of training."""
    model = Net().train()
    model.head.eval()
    model.body[0].weight.requires_grad_(False)
    model(pictures()).sum().backward()
    model.body[0].register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("smooth", [(), ("aug",)])
@pytest.mark.parametrize("method", KINDS)
def test_the_model_stays_as_it_was(method, smooth):
    model, images, y = worn(), pictures(), torch.tensor([0, 4])
    before, image_copy = state(model), images.clone()
    maps = wk.score_maps(model, images, y, method, smooth=smooth, **OPTIONS.get(method, {}))
    assert state(model) == before
    assert torch.equal(images, image_copy)
    assert not maps.requires_grad and maps.dtype == torch.float32
    quiet = copy.deepcopy(model).eval()
    again = wk.score_maps(quiet, images, y, method, smooth=smooth, **OPTIONS.get(method, {}))
    assert torch.allclose(maps, again), "computed in evaluation mode"


@pytest.mark.parametrize("error", [RuntimeError("boom"), IndexError("boom"), KeyboardInterrupt("boom")], ids=repr)
@pytest.mark.parametrize(
    "method, at, where",
    [
        *[("cam", 1, "body"), ("score_cam", 3, "body"), ("score_cam", 2, "pool"), ("ablation_cam", 2, "pool")],
        *[("grad_cam", 1, "pool"), ("shapley_cam", 1, "pool"), ("full_grad", 2, "body"), ("sess", 3, "body")],
    ],
)
def test_the_model_stays_as_it_was_after_an_exception(method, at, where, error):
    model = worn()
    if where == "pool":
        model.pool = nn.Sequential(Fails(error, at), GlobalAveragePool())
        model.rest = nn.Sequential(model.pool, model.head)
    else:
        model.body.append(Fails(error, at))
    model.body[-1].train()
    before = state(model)
    with pytest.raises((type(error), WsolkitError), match="boom"):  # the first pass tries the network itself
        wk.score_maps(model, pictures(), torch.tensor([0, 4]), method, chunk=2, **OPTIONS.get(method, {}))
    assert state(model) == before


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_inside_no_grad_and_inference_mode(method, frozen):
    model, images, y = Net().requires_grad_(not frozen), pictures(), torch.tensor([0, 4])
    options = OPTIONS.get(method, {})
    expected = wk.score_maps(Net(), images, y, method, smooth="eigen" if method == "cam" else (), **options)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            inside = images * 1, y * 1  # inference tensors, under inference mode
            maps = wk.score_maps(model, *inside, method, smooth="eigen" if method == "cam" else (), **options)
            features = wk.feature_map(model, inside[0])
            shared = wk.score_maps(model, *inside, method, features=features * 1, **options)
        assert torch.allclose(maps, expected, atol=1e-6), mode
        assert not maps.is_inference() and not features.is_inference()
        if method != "cam":
            assert torch.allclose(shared, expected, atol=1e-6)
    assert all(p.requires_grad is not frozen and p.grad is None for p in model.parameters())


def test_features_can_be_shared_and_the_body_runs_once():
    model, images, y = Net(), pictures(), torch.tensor([0, 4])
    wk.score_maps(model, images, y)  # the first look also checks that the parts are the whole
    calls = []
    model.body.register_forward_hook(lambda _, inputs, output: calls.append(len(inputs[0])))
    expected = wk.score_maps(model, images, y, "grad_cam")
    assert len(calls) == 1
    features = wk.feature_map(model, images)
    kept = features.clone()
    assert torch.equal(wk.score_maps(model, None, y, "grad_cam", features=features), expected)
    assert len(calls) == 2 and torch.equal(features, kept)
    wk.score_maps(model, images, y, "cam", smooth=("aug",), features=features)
    assert calls == [2, 2, 10]  # the five other copies, in one batch
    many = wk.score_maps(model, images, y, ["grad_cam", "cam", "grad_cam++"])
    assert list(many) == ["grad_cam", "cam", "grad_cam++"] and calls[3:] == [2]
    assert torch.equal(many["grad_cam"], expected)
    for method in ("score_cam", "full_grad"):
        with pytest.raises(ValueError, match="needs images, not only features"):
            wk.score_maps(model, None, y, method, features=features)
    with pytest.raises(ValueError, match="give images"):
        wk.score_maps(model, None, y, "cam", smooth="aug", features=features)
    with pytest.raises(ValueError, match="give images, or features"):
        wk.score_maps(model, None, y, "cam")
    with pytest.raises(ValueError, match="2 images, but features of 1"):
        wk.score_maps(model, images, y, "cam", features=features[:1])


def test_a_rest_that_begins_in_place_and_a_model_without_rest():
    pool = nn.Sequential(nn.ReLU(inplace=True), nn.Tanh(), GlobalAveragePool())
    model, images, y = Net(pool=pool), pictures(), torch.tensor([0, 4])
    features = wk.feature_map(model, images)
    kept = features.clone()
    for method in ("grad_cam", "shapley_cam", "finer_cam", "ablation_cam"):
        expected = wk.score_maps(model, images, y, method, features=features)
        assert torch.equal(features, kept), method
        bare = copy.deepcopy(model)
        del bare.rest
        assert torch.allclose(wk.score_maps(bare, images, y, method), expected)


# ---------------------------------------------------------------- memory


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made, in elements."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(made, torch.Tensor) and made._is_view() is False:
                self.elements = max(self.elements, made.numel())
        return result


@pytest.mark.parametrize("images_in_batch", [1, 3])
def test_score_cam_memory_is_bounded_by_the_chunk(images_in_batch):
    """The widest activation per image is the body's first, 4 x 8 x 8 = 256, or the masked input, 3 x 16 x 16 = 768."""
    images, y = pictures(images_in_batch), torch.zeros(images_in_batch, dtype=torch.int64)

    def peak(channels, chunk):
        model = Net(channels)
        with Largest() as largest:
            wk.score_maps(model, images, y, "score_cam", chunk=chunk)
        return largest.elements

    assert peak(10, 4) == 4 * 768
    assert peak(10, 8) == 8 * 768
    few, many = peak(10, 2), peak(40, 2)
    # a wider feature map is itself larger; masks and activations of all 40 channels at once would be 40 x 768
    assert few <= max(2 * 768, images_in_batch * 10 * 64, images_in_batch * 768)
    assert many <= max(2 * 768, 3 * 40 * 64, images_in_batch * 768) < images_in_batch * 40 * 768


# ---------------------------------------------------------------- what is refused, and how


@pytest.mark.parametrize(
    "labels, message",
    [
        (None, "labels are required"),
        (torch.tensor([0.0, 1.0]), "whole numbers"),
        (torch.tensor([True, False]), "whole numbers"),
        (torch.tensor(1), r"shape \(2,\)"),
        (torch.tensor([0, 1, 2]), r"shape \(2,\), one per image, but got \(3,\)"),
        (torch.tensor([[0], [1]]), r"shape \(2,\)"),
        (torch.tensor([0, 5]), r"label 5 is outside 0\.\.4"),
        (torch.tensor([-1, 0]), "label -1 is outside"),
    ],
)
@pytest.mark.parametrize("method", ["cam", "grad_cam", "score_cam"])
def test_wrong_labels(labels, message, method):
    with pytest.raises(ValueError, match=message):
        wk.score_maps(Net(), pictures(), labels, method)


def test_labels_of_any_whole_number_kind():
    model, images = Net(), pictures()
    expected = wk.score_maps(model, images, torch.tensor([2, 3]), "grad_cam")
    for labels in ([2, 3], np.array([2, 3], dtype=np.int32), torch.tensor([2, 3], dtype=torch.uint8)):
        assert torch.equal(wk.score_maps(model, images, labels, "grad_cam"), expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"method": "no_cam"}, "unknown method 'no_cam'; the names are: cam, rethinking_cam"),
        ({"method": None}, "unknown method None; the names are: cam"),
        ({"smooth": ("eigen", "blur")}, "unknown smoothing 'blur'.*valid are: eigen, aug"),
        ({"chunk": 0}, "chunk=0"),
        ({"chunk": 2.0}, "chunk=2.0"),
        ({"channels": 4}, "none of the methods cam has the option 'channels'; they have none"),
        ({"method": "rethinking_cam", "tau": 1}, "has the option 'tau'; their options are: nwc"),
        ({"method": "full_grad", "smooth": "eigen"}, "not offered for 'full_grad'"),
        ({"images": torch.zeros(3, 16, 16)}, "4 axes"),
        ({"images": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}, "float tensor.*uint8"),
        ({"images": torch.zeros(0, 3, 16, 16)}, "at least one image"),
        ({"images": np.zeros((2, 3, 16, 16))}, "got ndarray"),
    ],
)
def test_wrong_arguments(arguments, message):
    call = {"images": pictures(), "labels": [0, 1], **arguments}
    with pytest.raises(ValueError, match=message):
        wk.score_maps(Net(), **call)


@pytest.mark.parametrize("smooth", [None, "eigen", ["eigen"], {"eigen"}, ("eigen", "eigen")])
def test_smooth_in_any_form(smooth):
    model = Net()
    maps = wk.score_maps(model, pictures(), [0, 1], smooth=smooth)
    assert torch.equal(maps, wk.score_maps(model, pictures(), [0, 1], smooth=("eigen",) if smooth else ()))


@pytest.mark.parametrize("method", ["grad_cam", "grad_cam++", "finer_cam"])
def test_a_gradient_of_zero_is_said(method):
    model, images = Net(), pictures()
    with torch.no_grad():
        model.head.weight.zero_()
    with pytest.raises(ValueError, match="zero everywhere, for every image"):
        wk.score_maps(model, images, [0, 1], method)
    if method != "finer_cam":  # it looks at other classes too
        with torch.no_grad():
            model.head.weight[1] = 1.0
        with pytest.warns(RuntimeWarning, match=r"zero everywhere for image\(s\) \[0\]"):
            maps = wk.score_maps(model, images, [0, 1], method)
        assert not maps[0].any() and maps[1].any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wk.score_maps(Net(), images, [0, 1], method)


def test_a_rest_without_gradient_is_refused():
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().mean((2, 3))

    for frozen in (False, True):
        model = Net(pool=Detached()).requires_grad_(not frozen)
        with pytest.raises(ValueError, match="no gradient reaches the feature map"):
            wk.score_maps(model, pictures(), [0, 1], "grad_cam")


@pytest.mark.parametrize("method", [name for name in cams.method_names() if cams.is_defined(name, Net())[0]])
def test_flat_features_and_a_batch_of_one(method):
    options = OPTIONS.get(method, {})
    one = wk.score_maps(Net(), pictures(1), [3], method, **options)
    assert one.shape == (1, 8, 8) and one.isfinite().all()
    model = Net()
    with torch.no_grad():
        model.body[3].weight.zero_()
        model.body[3].bias.fill_(-1)
    maps = wk.score_maps(model, pictures(1), [3], method, **options)
    assert maps.shape == (1, 8, 8) and maps.isfinite().all()
    if method not in ("full_grad", "sess"):
        assert not maps.any()


def test_half_precision_features_and_double_models():
    model, images = Net(), pictures()
    expected = wk.score_maps(model, images, [0, 1], "grad_cam")
    double = wk.score_maps(copy.deepcopy(model).double(), images.double(), [0, 1], "grad_cam")
    assert double.dtype == torch.float32 and torch.allclose(double, expected, atol=1e-6)
    for method in ("grad_cam++", "score_cam", "cam", "eigen_cam"):
        half = wk.score_maps(copy.deepcopy(model).bfloat16(), images.bfloat16(), [0, 1], method)
        assert half.dtype == torch.float32 and half.isfinite().all()


# ---------------------------------------------------------------- adding a method


def test_adding_a_method():
    def define():
        @cams.register("test_peak_cam", needs="gradient", description="largest gradient", aliases=("test_peak",))
        def peak(context, power=1.0):
            return context.gradients.amax(dim=(2, 3)) ** power

    model, images, y = Net(), pictures(), torch.tensor([0, 4])
    try:
        define()
        define()  # a notebook cell run twice
        # on GAP every position has the same gradient: largest is mean
        expected = wk.score_maps(model, images, y, "grad_cam")
        assert torch.allclose(wk.score_maps(model, images, y, "test-peak"), expected)
        weighted = (model.head.weight[y] / 64) ** 2
        squared = (weighted[:, :, None, None] * wk.feature_map(model, images)).sum(1)
        assert torch.allclose(wk.score_maps(model, images, y, "test_peak_cam", power=2.0), squared, atol=1e-6)
        assert "test_peak_cam" in cams.method_names()
        with pytest.raises(ValueError, match="'grad_cam' is already taken"):
            cams.register("grad_cam", needs="features", description="")(lambda context: context.features)
        with pytest.raises(ValueError, match="needs='magic'"):
            cams.register("other", needs="magic", description="")

        @cams.register("test_bad_cam", needs="features", description="wrong shape")
        def bad(context):
            return context.features.sum()

        with pytest.raises(ValueError, match=r"'test_bad_cam' returned shape \(\)"):
            wk.score_maps(model, images, y, "test_bad_cam")
    finally:
        cams.METHODS.pop("test_peak_cam", None)
        cams.METHODS.pop("test_bad_cam", None)


def test_every_method_has_a_description():
    for method in cams.METHODS.values():
        assert method.description and method.needs in ("features", "gradient", "forward") and "+" not in method.slug


@pytest.mark.parametrize("smooth", [(), ("aug",), ("eigen",)])
def test_values_that_are_not_finite_are_refused(smooth):
    model, y = Net().eval(), torch.tensor([0, 4])
    images = pictures()
    features = wk.feature_map(model, images)
    for value in (torch.nan, torch.inf):
        broken, torn = images.clone(), features.clone()
        broken[1, 0, 3, 3] = torn[1, 2, 0, 0] = value
        with pytest.raises(WsolkitError, match="images 1 of this batch have values that are not finite"):
            wk.score_maps(model, broken[:2], y, "grad_cam", features=torn)
        with pytest.raises(WsolkitError, match="features 1 of this batch have values that are not finite"):
            wk.score_maps(model, images, y, "grad_cam", smooth=smooth, features=torn)
        with pytest.raises(WsolkitError, match="have values that are not finite"):
            wk.score_maps(model, broken, y, "grad_cam", smooth=smooth)
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    with pytest.raises(WsolkitError, match=r"maps of 'layer_cam' have values .*the network's logits"):
        wk.score_maps(model, images, y, ["layer_cam", "grad_cam", "score_cam"], smooth=smooth)
    assert wk.score_maps(model, images, y, "eigen_cam").isfinite().all(), "it has no logits"
