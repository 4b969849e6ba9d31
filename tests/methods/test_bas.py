"""BAS against deep copies and sums over positions, on every backbone, through a checkpoint, and what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import wsolkit as wk
from wsolkit.common.errors import WsolkitError
from wsolkit.methods.bas import BAS
from wsolkit.methods.registry import MethodNotDefined

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 1])


def network(backbone="resnet18", **options):
    return wk.build_model(backbone, 3, "bas", weights="none", width=0.1, **options)


def by_copies(model, images, labels, area, spatial):
    """The loss with a real deep copy of what follows the middle."""
    front, back = model.halves()
    rest, features = copy.deepcopy(nn.Sequential(back, model.branch)), front(images)
    for parameter in rest.parameters():
        parameter.requires_grad_(False)
    own = torch.stack([model.generator(features)[i, y] for i, y in enumerate(labels)]).sigmoid()[:, None]
    maps = torch.relu(model.branch(back(features)))
    logits, small = maps.mean((2, 3)), nn.functional.adaptive_avg_pool2d(own, maps.shape[2:])
    erased = torch.relu(rest(features.detach() * (1 - own))).mean((2, 3))
    value = cross_entropy(logits, labels) + spatial * cross_entropy((maps * small).mean((2, 3)), labels)
    for i, y in enumerate(labels):
        whole = logits[i, y].detach()
        value = value + (1.0 if erased[i, y] >= whole else erased[i, y] / (whole + 1e-8)) / len(labels)
        value = value + area * own[i].mean() / len(labels)
    return value, logits


@pytest.mark.parametrize(
    ("backbone", "area", "spatial"), [("resnet18", 1.2, 0.5), ("vgg16", 0.7, 0.0), ("mobilenet_v2", 1.5, 0.5)]
)
@pytest.mark.parametrize("training", [True, False])
def test_loss_and_gradients_are_those_of_a_deep_copy(backbone, area, spatial, training):
    model = network(backbone, batch_norm=True if backbone == "vgg16" else None).train(training)
    for module in model.modules():
        module.p = 0.0 if isinstance(module, nn.Dropout) else getattr(module, "p", 0.0)
    other, objective = copy.deepcopy(model), BAS()
    with objective.attached(model):
        value, logits = objective.loss(model, IMAGES, LABELS, cross_entropy)
    expected, right = by_copies(other, IMAGES, LABELS, area, spatial)
    assert torch.allclose(logits, right, atol=1e-6) and float(value) == pytest.approx(float(expected), rel=1e-5)
    value.backward()
    expected.backward()
    for (name, made), (_, wanted) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.allclose(made.grad, wanted.grad, rtol=1e-3, atol=1e-6 + 1e-3 * float(wanted.grad.abs().max())), (
            name
        )
    for (name, made), (_, wanted) in zip(model.named_buffers(), other.named_buffers(), strict=True):
        assert torch.allclose(made.float(), wanted.float(), atol=1e-6), name  # the erased pass leaves no trace in norms


def test_the_erased_pass_teaches_the_generator_alone():
    model = network().train()
    _, _, background, _ = model(IMAGES, LABELS)
    background.sum().backward()
    touched = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    moved_front = [name for name, p in model.halves()[0].named_parameters() if p.grad is not None and p.grad.any()]
    assert "branch" not in touched and "generator" in touched
    assert moved_front, "M depends on the front through the generator"


def test_where_nothing_is_suppressed_the_quotient_is_a_constant():
    class Fixed(nn.Module):
        backbone = "resnet18"
        generator = None

        def forward(self, images, labels):
            return logits, logits, background, area

    logits = torch.tensor([[2.0, 1.0], [1.0, 4.0]], requires_grad=True)
    background, area = torch.tensor([3.0, 1.0], requires_grad=True), torch.tensor([0.5, 0.1])
    objective, labels = BAS(area=2.0), torch.tensor([0, 1])
    with objective.attached(Fixed()):
        value, _ = objective.loss(Fixed(), None, labels, cross_entropy)
    assert float(value) == pytest.approx(
        1.5 * float(cross_entropy(logits, labels)) + (1 + 0.25) / 2 + 2 * 0.3, rel=1e-5
    )
    value.backward()
    assert background.grad.tolist() == pytest.approx([0.0, 1 / 8]) and objective.settings() == {"area": 2.0}


@pytest.mark.parametrize("backbone", ["resnet18", "vgg16", "mobilenet_v2", "convnext_tiny", "resnet50"])
def test_the_map_is_the_mean_over_the_most_probable_classes(backbone):
    model = network(backbone).eval()
    with torch.no_grad():
        front, back = model.halves()
        assert torch.allclose(back(front(IMAGES)), model.body(IMAGES), atol=1e-5)
        maps, order = model.maps(front(IMAGES)), model(IMAGES).argsort(dim=1, descending=True)
    made = wk.score_maps(model, IMAGES, LABELS, "bas")
    assert torch.allclose(made, maps.mean(1), atol=1e-5) and made.shape[1] >= model.body(IMAGES).shape[2]
    two = wk.score_maps(model, IMAGES, LABELS, "bas", top=2)
    by_hand = torch.stack([maps[i, order[i, :2]].mean(0) for i in range(3)])
    assert torch.allclose(two, by_hand, atol=1e-5)
    assert wk.score_maps(model, IMAGES, LABELS, "grad_cam").isfinite().all()
    assert not wk.is_defined("cam", model)[0]


def test_it_trains_resumes_and_refuses(tmp_path):
    birds = {
        name: wk.load_dataset("synthetic", name, size=32, classes=3, per_class=6) for name in ("train", "val", "test")
    }
    model = wk.build_model("resnet18", 3, "bas", weights="none", width=0.1, stride=8)
    history = wk.fit(model, birds["train"], birds["val"], out=tmp_path, epochs=2, batch_size=6, objective=BAS())
    loaded, _ = wk.load_checkpoint(tmp_path / "best.pt")
    result = wk.evaluate(loaded, birds["test"], "bas", val=birds["val"])
    assert len(history) == 2 and result.operating_points["fixed"]["threshold"] == 0.15
    assert np.isfinite(result.maps["test"].maps).all()
    plain = wk.build_model("resnet18", 3, weights="none", width=0.1)
    with pytest.raises(MethodNotDefined, match="bas uses a generator of maps"):
        wk.score_maps(plain, IMAGES, LABELS, "bas")
    with pytest.raises(MethodNotDefined, match=r"cut at layer 'body.layer3', has not"):
        wk.score_maps(loaded, IMAGES, LABELS, "bas", layer="layer3")
    with pytest.raises(WsolkitError, match="bas uses a generator of maps"):
        wk.fit(plain, birds["train"], epochs=1, objective=BAS())
    with pytest.raises(WsolkitError, match="bas: top must be a whole number of at least 0, but is -1"):
        wk.score_maps(loaded, IMAGES, LABELS, "bas", top=-1)
    with pytest.raises(WsolkitError, match="give images"):
        wk.score_maps(loaded, None, LABELS, "bas", features=wk.feature_map(loaded, IMAGES))
