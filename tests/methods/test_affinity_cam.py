"""Affinity CAM against loops over positions, and the finer feature map that it uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

import wsolkit as wk
from wsolkit.common.errors import WsolkitError
from wsolkit.methods import affinity_cam, resolve
from wsolkit.networks.split import finer_features, network_for


class Regions(nn.Module):
    """A body whose finer map is the image itself (3 channels), and whose map is its means over 4 x 4 pixels."""

    num_classes, has_cam = 2, True

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Identity(), nn.AvgPool2d(4))
        self.pool, self.head = wk.GlobalAveragePool(), nn.Linear(3, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 2.0]]))

    def forward(self, images):
        return self.head(self.pool(self.body(images)))


def by_loops(finer, evidence, power, steps):
    """(C, H, W) and (H, W), float64 -> (H, W)."""
    _, height, width = finer.shape
    g = [finer[:, y, x] for y in range(height) for x in range(width)]
    middle = sum(g) / len(g)
    values = list(evidence.ravel())
    weights = np.zeros((len(g), len(g)))
    for i, a in enumerate(g):
        for j, b in enumerate(g):
            a0, b0 = a - middle, b - middle
            weights[i, j] = max(0.0, a0 @ b0 / (np.linalg.norm(a0) * np.linalg.norm(b0))) ** power
    for _ in range(steps):
        values = [sum(w * v for w, v in zip(row, values, strict=True)) / sum(row) for row in weights]
    return np.array(values).reshape(height, width)


@pytest.mark.parametrize(("power", "steps"), [(2.0, 2), (1.0, 1), (4.0, 3)])
def test_equals_loops_over_positions(power, steps):
    model, images = Regions().eval(), torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    maps = wk.score_maps(model, images, torch.tensor([0, 1]), "affinity_cam", power=power, steps=steps)
    assert maps.shape == (2, 8, 12)
    cams = wk.score_maps(model, images, torch.tensor([0, 1]), "cam") / 6  # Grad-CAM's weights are W / (hw)
    grown = nn.functional.interpolate(cams[:, None], (8, 12), mode="bilinear", align_corners=False)[:, 0]
    for image, evidence, made in zip(images.double().numpy(), grown.double().numpy(), maps, strict=True):
        np.testing.assert_allclose(made, by_loops(image, evidence, power, steps), rtol=1e-4, atol=1e-6)


def test_a_large_map_is_made_in_blocks_of_rows(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    maps, features = torch.randn(2, 5, 7, generator=generator), torch.randn(2, 4, 5, 7, generator=generator)
    whole = affinity_cam.spread(maps, features, 2.0, 3)
    monkeypatch.setattr(affinity_cam, "LARGEST", 4 * 35)  # four rows of T
    torch.testing.assert_close(affinity_cam.spread(maps, features, 2.0, 3), whole)


def test_evidence_on_a_part_becomes_the_whole_object():
    image = torch.zeros(1, 3, 32, 32)
    image[:, 1, 4:28, 8:20] = 1.0  # the object is green, and only its head is telling: blue too
    image[:, 2, 4:12, 8:20] = 0.6
    model, truth = Regions().eval(), [8, 4, 19, 27]
    label = torch.tensor([1])
    box = {
        name: wk.extract_box(wk.score_maps(model, image, label, name)[0].numpy(), threshold=0.5, size=32)
        for name in ("cam", "affinity_cam")
    }
    assert wk.iou(box["cam"], truth) < 0.5 and wk.iou(box["affinity_cam"], truth) > 0.85, box


def test_the_fixed_threshold_is_its_own():
    entry = resolve("Affinity-CAM")
    assert entry.fixed_threshold(100.0) == 0.5 and entry.fixed_threshold(90.0) == 0.35
    assert resolve("cam").fixed_threshold(100.0) == 0.2
    data = wk.load_dataset("synthetic", "test", size=32, classes=2, per_class=4)
    model = wk.build_model("resnet18", 2, weights="none", width=0.25)
    assert wk.evaluate(model, data, "affinity_cam", val=None).threshold == 0.5
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    boxes = [
        wk.predict(model, image, "affinity_cam", geometry=wk.Geometry(64), **own)[0].box.tolist()
        for own in ({}, {"threshold": 0.5}, {"threshold": 0.9})
    ]
    assert boxes[0] == boxes[1] != boxes[2]


@pytest.mark.parametrize(
    ("backbone", "stride", "layer"),
    [
        ("mobilenet_v2", 32, "features.14.conv.0"),
        ("vgg16", 16, "features.22"),
        ("resnet18", 32, "layer3"),
        ("convnext_tiny", 32, "features.6.0"),
    ],
)
def test_the_finer_map_is_the_last_one_before_the_stride(backbone, stride, layer):
    width = {} if backbone == "convnext_tiny" else {"width": 0.25}
    model = wk.build_model(backbone, 2, weights="none", stride=stride, **width).eval()
    images, seen = torch.randn(2, 3, 96, 64), []
    features = wk.feature_map(model, images)
    with torch.no_grad():
        finer = finer_features(model, images, features)
    assert not any(module._forward_hooks for module in model.modules())
    handle = model.body.get_submodule(layer).register_forward_hook(lambda _m, _i, out: seen.append(out.clone()))
    with torch.no_grad():
        model.body(images)
    handle.remove()
    assert torch.equal(finer, seen[0])
    assert finer.shape[2:] == torch.Size([2 * side for side in features.shape[2:]])


def test_networks_of_others(one_thread):
    image, label = torch.randn(1, 3, 64, 64), torch.tensor([1])
    plain = models.resnet18(num_classes=3).eval()
    maps = wk.score_maps(plain, image, label, "affinity_cam")
    assert maps.shape == (1, 4, 4)
    hooked = wk.hooked(plain, "layer4", example=image)
    torch.testing.assert_close(wk.score_maps(hooked, image, label, "affinity_cam"), maps, rtol=1e-3, atol=1e-5)
    flat = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    network = network_for(flat, "0", None, image)
    features = network.body(image)
    assert finer_features(network, image, features) is features, "no finer map: its own"


class Attention(nn.Module):
    """Tokens, whose attention weights pass a module: (B, heads, n, n), with as many rows as columns."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.weights = nn.Conv2d(3, 8, 8, stride=8), nn.LayerNorm(8), nn.Dropout(0.1)
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, images):
        x = nn.functional.pad(self.embed(images).flatten(2).mT, (0, 0, 1, 0))
        y = self.norm(x)[:, None]
        x = x + (self.weights((y @ y.mT).softmax(dim=-1)) @ y)[:, 0]
        z = self.last(x)
        return self.head((z @ z.mT).softmax(dim=-1)[:, 0, None] @ z)[:, 0]


def test_attention_weights_are_no_feature_map_and_channels_may_be_last(one_thread):
    image, label = torch.randn(1, 3, 64, 64), torch.tensor([1])
    maps = wk.score_maps(Attention().eval(), image, label, "affinity_cam", layer="last", reshape="tokens")
    assert maps.shape == (1, 8, 8)

    swin = models.SwinTransformer([4, 4], 8, [1, 1, 1], [1, 1, 1], [4, 4], num_classes=3).eval()
    network = network_for(swin, None, None, image)
    features = network.body(image)
    assert features.shape == (1, 32, 4, 4)
    seen = []
    handle = swin.features[3].register_forward_hook(lambda _m, _i, output: seen.append(output))
    finer = finer_features(network, image, features)
    handle.remove()
    assert torch.equal(finer, seen[0].permute(0, 3, 1, 2)) and finer.shape == (1, 16, 8, 8)


class Scores(Attention):
    """The same with a module that passes the scores before the softmax."""

    def forward(self, images):
        x = nn.functional.pad(self.embed(images).flatten(2).mT, (0, 0, 1, 0))
        y = self.norm(x)[:, None]
        x = x + (self.weights(y @ y.mT).softmax(dim=-1) @ y)[:, 0]
        z = self.last(x)
        return self.head((z @ z.mT).softmax(dim=-1)[:, 0, None] @ z)[:, 0]


def test_attention_before_the_softmax_is_no_feature_map():
    network = wk.hooked(Scores().eval(), "last", "tokens", torch.randn(1, 3, 64, 64)).eval()
    image = torch.randn(1, 3, 64, 64)
    features = wk.feature_map(network, image)
    assert finer_features(network, image, features) is features


def test_the_finer_map_is_made_in_the_precision_that_was_asked_for():
    model = wk.build_model("resnet18", 2, weights="none", width=0.25).eval()
    images = torch.randn(2, 3, 64, 64)
    features = wk.feature_map(model, images)
    plain, coarse = (finer_features(model, images, features, precision).float() for precision in ("float32", "bf16"))
    assert not torch.equal(plain, coarse)
    torch.testing.assert_close(plain, coarse, rtol=0.05, atol=0.05 * float(plain.abs().max()))


def test_wrong_options():
    model, images, labels = Regions().eval(), torch.randn(1, 3, 8, 8), torch.tensor([0])
    wrong = {"power": (-1, float("nan"), 1e9, "2"), "steps": (0, 1.5, True)}
    for options, text in [
        ({name: value}, f"{name} must be .*, but is {value!r}") for name in wrong for value in wrong[name]
    ]:
        with pytest.raises(WsolkitError, match=text):
            wk.score_maps(model, images, labels, "affinity_cam", **options)
    with pytest.raises(WsolkitError, match="give images"):
        wk.score_maps(model, None, labels, "affinity_cam", features=torch.randn(1, 3, 2, 2))
