"""The body with its norms folded: the same numbers as the body itself, whatever was changed in it meanwhile."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wsolkit import build_model, feature_map, score_maps
from wsolkit.networks import folded
from wsolkit.networks.split import network_for

SIDE, COUNT = 48, 4


@pytest.fixture(autouse=True)
def copies_of_small_images_too(monkeypatch):
    monkeypatch.setattr(folded, "_WORTH", 0)


class Everything(nn.Module):
    """Norms that a convolution can take over, one that it must leave alone, and neighbours of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(16)
        self.inplace = nn.ReLU(inplace=True)
        self.depthwise, self.six = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6()
        self.dilated, self.dilated_norm = nn.Conv2d(16, 24, 3, padding=2, dilation=2), nn.BatchNorm2d(24, affine=False)
        self.short, self.long = nn.Conv2d(16, 24, 1), nn.Conv2d(24, 24, 3, padding=1)
        self.silu, self.hardswish = nn.SiLU(), nn.Hardswish()
        self.twice = nn.Conv2d(24, 24, 3, padding=1)
        self.same = nn.Conv2d(24, 24, 3, padding="same")
        self.alone = nn.BatchNorm2d(24)
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        x = self.inplace(self.stem_norm(self.stem(images)))
        x = self.six(self.depthwise(x))
        y = self.long(self.silu(self.dilated_norm(self.dilated(x))))
        y += self.drop(self.short(x))
        y = F.relu(y)
        seen_twice = self.twice(y)
        y = torch.relu(self.twice(self.hardswish(seen_twice))) + seen_twice
        y = self.same(y)
        return self.alone(F.max_pool2d(y, 2)).relu()


def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode, with batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
    return module.eval()


def images(count: int = COUNT, side: int = SIDE) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def plainly(body: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return body(x.clone())


def check(body: nn.Module, used: bool = True) -> None:
    """`run` gives what the body gives, by a copy or (used=False) by the body itself."""
    x = images()
    expected = plainly(body, x)
    assert (folded.run(body, x) - expected).abs().max() <= 2e-5 * expected.abs().max()
    assert (copy_of(body) is not None) == used


def copy_of(body: nn.Module) -> nn.Module | None:
    return folded._kept.get(body, (None, None))[1]


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet50", "mobilenet_v2"])
def test_bodies_of_the_kit(name):
    check(settled(build_model(name, 5, weights="none", width=0.25).body), used=name != "vgg16")  # which has no norm


def test_vgg_with_batch_normalisation():
    check(settled(build_model("vgg16", 5, weights="none", width=0.25, batch_norm=True).body))


def test_everything_a_convolution_takes_over():
    body = settled(Everything())
    check(body)
    left = [type(module).__name__ for module in copy_of(body).modules()]
    assert left.count("Conv2d") == 7 and left.count("BatchNorm2d") == 1  # what stands alone stays


def test_bfloat16_is_that_of_the_body():
    body, x = settled(build_model("resnet18", 5, weights="none", width=0.25).body), images()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        autocast = body(x).float()
    features = folded.run(body, x, "bf16")
    assert features.dtype == torch.float32 and torch.equal(features, autocast) and body not in folded._kept


def zero(weight):
    weight.data[3] = 0


def swap(weight):
    weight.data.copy_(weight.data.flip(0))


def turn(weight):
    weight.data.neg_()


def train(weight):
    with torch.no_grad():
        weight.mul_(1.5)


def assign(weight):
    weight.data = torch.randn_like(weight)


@pytest.mark.parametrize("change", [zero, swap, turn, train, assign])
def test_the_copy_follows_the_weights(change):
    body = settled(build_model("resnet18", 5, weights="none", width=0.25).body)
    check(body)
    change(body.layer3[0].conv1.weight)
    check(body)


def test_the_copy_follows_statistics_and_modules():
    body = settled(build_model("resnet18", 5, weights="none", width=0.25).body)
    check(body)
    body.bn1.running_mean.data.add_(0.5)
    check(body)
    body.layer4[1].conv2.stride = (2, 2)
    body.layer4[1].downsample = nn.AvgPool2d(2)
    check(body)
    body.relu = nn.Tanh()
    check(body)


def test_hooks_are_called():
    body = settled(build_model("resnet18", 5, weights="none", width=0.25).body)
    check(body)
    seen = []
    handle = body.layer2.register_forward_hook(lambda module, inputs, output: seen.append(1) or output * 0)
    folded.run(body, images())
    assert seen == [1]
    handle.remove()
    check(body)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.convolution(x if x.mean() > 100 else -x))


class Coupled(nn.Module):
    """Its images are not on their own."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x):
        return self.norm(self.convolution(x))


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.convolution(x)) + 1 + torch.rand(())


@pytest.mark.parametrize("kind", [Branching, Coupled])
def test_what_cannot_be_copied_runs_as_it_is(kind):
    check(kind().eval(), used=False)


def test_a_random_body_is_not_copied():
    body = Noisy().eval()
    assert not torch.equal(folded.run(body, images()), folded.run(body, images())) and copy_of(body) is None


def test_the_same_call_gives_the_same_bits_whatever_came_before():
    model, x, labels = settled(build_model("resnet18", 5, weights="none", width=0.25)), images(5), torch.arange(5)
    one = score_maps(model, x, labels, "grad_cam")
    for other in (x[:1], x[:2], x[:, :, :40, :40]):
        score_maps(model, other, labels[: len(other)], "grad_cam")
    assert torch.equal(one, score_maps(model, x, labels, "grad_cam"))


def test_nothing_is_kept_of_models_that_are_gone_and_nothing_is_changed():
    model = settled(build_model("resnet18", 5, weights="none", width=0.25))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = {name: sorted(vars(module)) for name, module in model.named_modules()}
    feature_map(model, images())
    assert model.body in folded._kept
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert attributes == {name: sorted(vars(module)) for name, module in model.named_modules()}
    gone = weakref.ref(model.body)
    del model
    gc.collect()
    assert gone() is None


def test_a_split_network_is_copied_too_and_kept_no_longer_than_its_model():
    import torchvision

    model = settled(torchvision.models.resnet18(num_classes=5))
    labels = torch.arange(COUNT)
    first = score_maps(model, images(), labels, "grad_cam", layer="layer3")
    network = network_for(model, "layer3", None, images())
    assert network is network_for(model, "layer3", None, images())  # not traced again for every call
    assert copy_of(network.body) is not None
    assert torch.equal(first, score_maps(model, images(), labels, "grad_cam", layer="layer3"))
    model.layer2 = nn.Conv2d(64, 128, 3, stride=2, padding=1)
    assert not torch.equal(first, score_maps(model, images(), labels, "grad_cam", layer="layer3"))
    gone = weakref.ref(model)
    del model, network
    gc.collect()
    assert gone() is None


def test_small_calls_run_the_body_itself(monkeypatch):
    monkeypatch.undo()
    body = settled(build_model("resnet18", 5, weights="none", width=0.25).body)
    assert torch.equal(folded.run(body, images()), plainly(body, images())) and body not in folded._kept
