"""Networks behind torch.compile run as they are; TorchScript, and layers that run twice, get one clear error."""

from __future__ import annotations

import pytest
import torch
from small_networks import NETWORKS, pictures
from torch import nn

import wsolkit as wk
from wsolkit.networks.split import HookedModel

LABELS = [3, 5]
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # it is on its way out


@pytest.mark.parametrize(
    "name, layer",
    [("resnet18", "layer3"), ("resnet18", None), ("vit", None), ("vit", "encoder.layers.encoder_layer_1")],
)
def test_compiled_networks(name, layer):
    net, images = NETWORKS[name](), pictures()
    compiled = torch.compile(net, backend="eager").train()
    expected = wk.score_maps(net, images, LABELS, ["grad_cam", "eigen_cam"], layer=layer)
    layers = [layer] if layer is None else [layer, net.get_submodule(layer), f"_orig_mod.{layer}"]
    for one in layers:
        maps = wk.score_maps(compiled, images, LABELS, list(expected), layer=one)
        assert all(torch.equal(maps[method], expected[method]) for method in expected)
    assert compiled.training and all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())
    made = wk.network_for(compiled, layer)
    assert isinstance(made, HookedModel) == (name == "vit")
    if layer is not None:
        by_hook = wk.hooked(compiled, layer, "tokens" if name == "vit" else None)
        assert torch.allclose(wk.score_maps(by_hook, images, LABELS, "grad_cam"), expected["grad_cam"], atol=1e-6)
    if name == "resnet18" and layer is not None:
        assert torch.equal(wk.score_maps(wk.split(compiled, layer), images, LABELS, "grad_cam"), expected["grad_cam"])


def test_a_compiled_network_with_a_body():
    model, images = wk.build_model("resnet18", 7, weights="none", width=0.125).eval(), pictures()
    compiled = torch.compile(model, backend="eager")
    for method, options in (("cam", {}), ("score_cam", {"channels": 2}), ("grad_cam", {"layer": "body.layer3"})):
        maps, expected = (wk.score_maps(net, images, LABELS, method, **options) for net in (compiled, model))
        assert torch.allclose(maps, expected, atol=1e-5)


@pytest.mark.slow
def test_a_layer_inside_a_compiled_part():
    net = NETWORKS["resnet18"]()
    expected = wk.score_maps(net, pictures(), LABELS, "grad_cam", layer="layer3")
    net.layer4 = torch.compile(net.layer4, backend="eager")
    assert torch.allclose(wk.score_maps(net, pictures(), LABELS, "grad_cam", layer="layer3"), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"runs 0 times .*outside of the part that torch\.compile wraps"):
        wk.score_maps(net, pictures(), LABELS, "grad_cam", layer="layer4.0")


class Wrapper(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.first, self.part, self.fc = nn.Conv2d(3, 3, 1), body, nn.Linear(4, 7)

    def forward(self, x):
        return self.fc(self.part(self.first(x)).mean((2, 3)))


def test_torchscript_is_refused_but_may_be_the_layer():
    torch.manual_seed(0)
    part = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    net, images = Wrapper(part).eval(), pictures(2, 16)
    scripts = [torch.jit.script(net), torch.jit.trace(net, images), torch.jit.freeze(torch.jit.script(net))]
    for script in scripts:
        for call in (
            lambda: wk.score_maps(script, images, LABELS, "grad_cam", layer="part"),  # noqa: B023
            lambda: wk.score_maps(script, images, LABELS, "grad_cam"),  # noqa: B023
            lambda: wk.split(script, "part"),  # noqa: B023
            lambda: wk.hooked(script, "part"),  # noqa: B023
        ):
            with pytest.raises(
                wk.CannotSplit, match=r"TorchScript network .*give the nn\.Module that it was made from"
            ):
                call()
    expected = wk.score_maps(net, images, LABELS, "grad_cam", layer="part")
    assert expected.any()
    mixed = Wrapper(torch.jit.script(part)).eval()
    mixed.load_state_dict(net.state_dict())
    assert torch.allclose(wk.score_maps(mixed, images, LABELS, "grad_cam", layer="part"), expected, atol=1e-6)
    with pytest.raises(wk.CannotSplit, match=r"TorchScript network .*give the nn\.Module that it was made from"):
        wk.score_maps(mixed, images, LABELS, "grad_cam", layer="part.0")


# ---------------------------------------------------------------- full_grad


class Runs(nn.Module):
    """`second` runs `times` times; `other` has a bias that nothing needs."""

    def __init__(self, times, other=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc, self.times, self.other = nn.Linear(4, 7), times, other

    def forward(self, x):
        x = self.first(x).relu()
        for _ in range(self.times):
            x = self.second(x).relu()
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("look", [wk.split, wk.hooked])
def test_full_grad_on_layers_that_run_several_times(look):
    images = pictures(2, 16)
    assert wk.score_maps(look(Runs(1), "first"), images, LABELS, "full_grad").any()
    with pytest.raises(
        wk.MethodNotDefined, match=r"FullGrad needs every convolution .*second \(2\)\. Use another method"
    ):
        wk.score_maps(look(Runs(2), "first"), images, LABELS, "full_grad")


def test_full_grad_where_the_counts_only_add_up():
    """One layer twice and one never: as many gradients as biases, but of other layers."""
    model = wk.hooked(Runs(2, nn.Conv2d(4, 4, 1)), "first")
    with pytest.raises(wk.MethodNotDefined, match=r"second \(2\), model\.other \(0\)"):
        wk.score_maps(model, pictures(2, 16), LABELS, "full_grad")
