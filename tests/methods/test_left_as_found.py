"""Whatever a method does, and however it ends: the model is as it was, and no call keeps anything."""

from __future__ import annotations

import gc

import numpy as np
import psutil
import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from wsolkit.common.errors import WsolkitError
from wsolkit.methods.maps import feature_map, score_maps
from wsolkit.methods.registry import is_defined, method_names
from wsolkit.networks.models import GlobalAveragePool, ts_cam
from wsolkit.networks.split import network_for

OPTIONS = {"sess": {"num_scales": 1}}
LABELS = [0, 4]


class Fails(nn.Module):
    """Passes its input on until the n-th call, which raises."""

    def __init__(self):
        super().__init__()
        self.error, self.left = None, 0

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return x


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(_context, x, error):
        FailsBackward.error = error
        return x.clone()

    @staticmethod
    def backward(_context, _gradient):
        raise FailsBackward.error


class InPlace(nn.Module):
    """Batch norm, every ReLU in place, a functional one in place after the target layer. As torchvision's VGG_bn."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            Fails(),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.BatchNorm2d(6),
        )
        self.after, self.dropout, self.fc = Fails(), nn.Dropout(0.5), nn.Linear(6, 5)
        self.fail_backward = None

    def forward(self, x):
        x = nn.functional.relu(self.features(x), inplace=True)
        x = self.fc(self.dropout(self.after(x).mean((2, 3))))
        return x if self.fail_backward is None else FailsBackward.apply(x, self.fail_backward)


class Parts(InPlace):
    """The same as body, pool and head."""

    pooling, backbone, has_cam, num_classes = "gap", "toy", True, 5

    def __init__(self):
        super().__init__()
        features, after, head = self.features, self.after, self.fc
        del self.features, self.after, self.dropout, self.fc
        self.body = nn.Sequential(*features, nn.ReLU(inplace=True))
        self.pool, self.head = nn.Sequential(after, GlobalAveragePool()), head
        self.rest = nn.Sequential(self.pool, nn.Dropout(0.0), self.head)

    def forward(self, x):
        return self.rest(self.body(x))


class SkipAround(InPlace):
    """A sum beside the target layer, so that it is hooked."""

    def __init__(self):
        super().__init__()
        self.target = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        x = self.features(x)
        x = nn.functional.relu(self.target(x), inplace=True) + x
        x = self.fc(self.dropout(self.after(x).mean((2, 3))))
        return x if self.fail_backward is None else FailsBackward.apply(x, self.fail_backward)


class Tokens(VisionTransformer):
    def __init__(self):
        super().__init__(16, 4, 2, 2, 8, 16, num_classes=5, dropout=0.1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)
        self.encoder.dropout = Fails()
        self.heads = nn.Sequential(Fails(), self.heads.head)


KINDS = {
    "parts": (Parts, None),
    "split": (InPlace, "features"),
    "hooked": (SkipAround, "target"),
    "vit": (Tokens, None),
}


def made(kind):
    torch.manual_seed(0)
    return KINDS[kind][0]()


def worn(kind):
    """A model in a mixed state, as in the middle of training."""
    model = made(kind).train()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    model(pictures()).sum().backward()
    modules = [m for m in model.modules() if not list(m.children())]
    modules[-1].eval()
    modules[0].register_forward_hook(lambda *_: None)
    modules[0].register_forward_pre_hook(lambda *_: None)
    return model


def pictures(n=2):
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def state(model):
    kinds = [name for name in vars(model) if name.endswith("_hooks")]
    assert "_forward_hooks" in kinds and "_backward_hooks" in kinds
    return {
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "modules": [(name, id(module)) for name, module in model.named_modules()],
        "attributes": [sorted(set(vars(module)) - {"left"}) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "hooks": [(name, kind, list(getattr(m, kind))) for name, m in model.named_modules() for kind in kinds],
        "parameters": [(id(p), p.requires_grad, p.is_leaf, p._version) for p in model.parameters()],
        "hooks of tensors": [len(p._backward_hooks or ()) for p in model.parameters()],
        "grads": [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in model.parameters()],
        "values": {name: value.tolist() for name, value in model.state_dict().items()},
    }


def defined(kind):
    model, layer = made(kind), KINDS[kind][1]
    network = network_for(model, layer, example=pictures())
    return [name for name in method_names() if is_defined(name, network)[0]]


def call(model, kind, method, images=None, **more):
    images = pictures() if images is None else images
    return score_maps(
        model, images, LABELS, method, layer=KINDS[kind][1], chunk=3, **OPTIONS.get(str(method), {}), **more
    )


CASES = [(kind, method) for kind in KINDS for method in defined(kind)]


def test_the_cases_are_of_every_kind():
    assert {method for _, method in CASES} >= set(method_names()) - {"ts_cam", "acol", "ddt", "psol", "c2am", "bas"}, (
        "these have networks of their own"
    )
    networks = {kind: type(network_for(made(kind), KINDS[kind][1], example=pictures())).__name__ for kind in KINDS}
    assert networks == {"parts": "Parts", "split": "SplitModel", "hooked": "HookedModel", "vit": "HookedModel"}


@pytest.mark.parametrize("kind, method", CASES)
def test_after_any_method(kind, method):
    model, images = worn(kind), pictures()
    before, kept = state(model), images.clone()
    maps = call(model, kind, method, images)
    assert state(model) == before and torch.equal(images, kept)
    assert not maps.requires_grad and not maps.is_inference() and maps.isfinite().all()
    smooth = call(model, kind, method, smooth="aug")
    assert state(model) == before and smooth.shape == maps.shape
    if method != "random_cam":
        assert torch.allclose(call(model, kind, method), maps), "the same again"


def test_after_feature_map_and_ts_cam():
    model = ts_cam(Tokens(), 5).train()
    model(pictures()).sum().backward()
    before = state(model)
    for method in ("ts_cam", "attention_rollout", "grad_cam"):
        score_maps(model, pictures(), LABELS, method)
    feature_map(model, pictures())
    assert state(model) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), RuntimeError("stop")], ids=["interrupt", "error"])
@pytest.mark.parametrize("where", ["body", "rest"])
@pytest.mark.parametrize("kind, method", CASES)
def test_after_an_exception(kind, method, where, error):
    raised = 0
    for at in (1, 2, 3, 5):
        model = worn(kind)
        failing = [m for m in model.modules() if isinstance(m, Fails)]
        failing = failing[0] if where == "body" else failing[-1]
        # without what an earlier case left on it: methods that copy the network would copy it along
        failing.error, failing.left = error.with_traceback(None), at
        before = state(model)
        try:
            call(model, kind, method)
        except (type(error), WsolkitError) as caught:  # the first pass tries the network itself, and says so
            raised += error in (caught, caught.__cause__)
        assert state(model) == before, at
    # a method that looks at the feature map alone runs no rest-network, unless the network has to be cut first
    assert raised or (where == "rest" and kind == "parts")


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), RuntimeError("stop")], ids=["interrupt", "error"])
@pytest.mark.parametrize("method", ["grad_cam", "shapley_cam", "finer_cam", "full_grad"])
@pytest.mark.parametrize("kind", ["hooked"])
def test_after_an_exception_in_the_backward_pass(kind, method, error):
    model = worn(kind)
    model.fail_backward = error
    before = state(model)
    with pytest.raises(type(error), match="stop"):
        call(model, kind, method)
    assert state(model) == before


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind, method", CASES)
def test_frozen_and_inside_no_grad_and_inference_mode(kind, method, frozen):
    if method == "random_cam":
        pytest.skip("random")
    expected = call(made(kind).eval(), kind, method)
    model = made(kind).requires_grad_(not frozen)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            maps = call(model, kind, method, pictures() * 1)  # an inference tensor, under inference mode
        assert torch.allclose(maps, expected, atol=1e-6) and not maps.is_inference()
    assert all(p.requires_grad is not frozen and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_calls(kind):
    model = made(kind)
    known = defined(kind)
    methods = ["grad_cam", "grad_cam++", "layer_cam", "shapley_cam", "eigen_cam", "finer_cam"]
    methods += [name for name in ("cam", "attention_rollout") if name in known]

    def calls(n):
        for _ in range(n):
            call(model, kind, methods)
        gc.collect()
        tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
        return tensors, psutil.Process().memory_info().rss

    measured = [calls(n) for n in (20, 40, 40)]
    assert measured[2][0] <= measured[0][0]
    grown = np.diff([resident for _, resident in measured])
    assert grown.min() < 8 * 2**20, "what the C library keeps for later comes once, what is lost comes each time"
