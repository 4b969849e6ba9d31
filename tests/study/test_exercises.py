"""Exercises: right answers are told from wrong ones, nothing is raised for an answer, and grades find planted flaws."""

from __future__ import annotations

import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wsolkit import methods as cams
from wsolkit.networks.models import unit_range
from wsolkit.study import exercises
from wsolkit.study.cam_marks import grade

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


def iou(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = [(x1 - x0 + 1) * (y1 - y0 + 1) for x0, y0, x1, y1 in (a, b)]
    return width * height / (sum(areas) - width * height)


def iou_of_the_reckless(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    areas = [(x1 - x0 + 1) * (y1 - y0 + 1) for x0, y0, x1, y1 in (a, b)]
    return width * height / (sum(areas) - width * height)


def min_max(drawn):
    low, high = drawn.min(), drawn.max()
    return (drawn - low) / (high - low) if high > low else drawn * 0


def tap(features, tau):
    keep = features > tau * features.amax((2, 3), keepdim=True)
    return (features * keep).sum((2, 3)) / keep.sum((2, 3)).clamp(min=1)


def cutmix_loss(logits, labels, partners, share):
    return share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, partners)


def drop_mask(features, gamma):
    seen = features.mean(1, keepdim=True)
    return (seen < gamma * seen.amax((2, 3), keepdim=True)).float()


def mcnemar(only_a, only_b):
    n, few = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(few + 1)) / 2**n)


def grad_weights(features, rest, labels):
    features.requires_grad_(True)
    score = rest(features).gather(1, labels[:, None]).sum()
    return torch.autograd.grad(score, features)[0].mean(dim=(2, 3))


def edge(maps):
    inner = torch.zeros(maps.shape[1:], dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    return maps[:, ~inner]


def cosines(features, centred=True):
    columns = features - features.mean(1, keepdim=True) * centred
    unit = columns / columns.norm(dim=0)
    return unit.T @ unit


def decode(anchors, t):
    sides = anchors[:, 2:] - anchors[:, :2]
    middle = (anchors[:, :2] + anchors[:, 2:]) / 2 + t[:, :2] * sides
    half = sides * t[:, 2:].exp() / 2
    return torch.cat([middle - half, middle + half], dim=1)


def greedy(overlaps):
    right, taken = [], set()
    for row in overlaps.tolist():
        best = max((k for k in range(len(row)) if k not in taken), key=lambda k: row[k], default=None)
        right.append(best is not None and row[best] >= 0.5)
        if right[-1]:
            taken.add(best)
    return torch.tensor(right)


def weighted(weights, features):
    return torch.einsum("bc,bchw->bhw", weights, features)


# name: (right answers, wrong answers)
ANSWERS = {
    "tour-box": ([[3, 2, 6, 4], np.array([3, 2, 6, 4]), torch.tensor([3, 2, 6, 4])], [[2, 2, 6, 4], [3, 2, 5, 3], 3]),
    "tour-iou": ([iou, lambda a, b: torch.tensor(iou(a, b))], [iou_of_the_reckless, lambda a, b: 0.0, 0.5]),
    "tour-min-max": ([min_max], [lambda m: m / m.max(), lambda m: (m - m.min()) / (m.max() - m.min())]),
    "train-steps": ([lambda n, b: -(-n // b), lambda n, b: math.ceil(n / b)], [lambda n, b: n // b, 48]),
    "train-tap": ([tap], [lambda f, tau: f.mean((2, 3)), lambda f, tau: (f * (f > tau)).mean((2, 3))]),
    "train-loss": (
        [F.cross_entropy, lambda z, y: -z.log_softmax(1).gather(1, y[:, None]).mean()],
        [
            lambda z, y: F.cross_entropy(z, y, reduction="sum"),
            lambda z, y: -z.softmax(1)[range(len(y)), y].log().mean(),
        ],
    ),
    "compare-difference": (
        [lambda a, b: 100 * (a.float().mean() - b.float().mean())],
        [lambda a, b: 100 * (a & ~b).float().mean(), lambda a, b: a.float().mean() - b.float().mean()],
    ),
    "compare-mcnemar": ([mcnemar], [lambda a, b: 2 * mcnemar(a, b), lambda a, b: abs(a - b) / max(a + b, 1)]),
    "compare-overlap": (["yes", "Yes", True], ["no", False, "perhaps"]),
    "training-rate": ([0, 0.0, np.float32(0)], [1, 0.5, -1, "none"]),
    "training-cutmix-loss": (
        [cutmix_loss],
        [lambda z, a, b, share: cutmix_loss(z, b, a, share), lambda z, a, b, s: 0.0],
    ),
    "training-adl": (
        [drop_mask],
        [lambda f, gamma: 1 - drop_mask(f, gamma), lambda f, gamma: drop_mask(f, gamma)[:, 0]],
    ),
    "training-acol": ([lambda a, b: torch.maximum(unit_range(a), unit_range(b))], [torch.maximum, lambda a, b: a]),
    "cam-second": (
        [lambda f, w, z: weighted(w[z.argsort(1)[:, -2]], f)],
        [lambda f, w, z: weighted(w[z.argmax(1)], f), lambda f, w, z: weighted(w[z.argmin(1)], f)],
    ),
    "cam-bias": (["no", False], ["yes", True]),
    "cam-logit": ([lambda m, b: m.mean((1, 2)) + b], [lambda m, b: m.mean((1, 2)), lambda m, b: m.sum((1, 2)) + b]),
    "rethinking-rest": (
        [lambda f, w, y: weighted(w[y].clamp(max=0), f)],
        [lambda f, w, y: weighted(w[y].clamp(min=0), f), lambda f, w, y: weighted(w[y], f)],
    ),
    "rethinking-level": (
        [lambda m, theta, p: theta * np.percentile(m, p)],
        [lambda m, theta, p: theta * m.max(), lambda m, theta, p: np.percentile(m, theta * p)],
    ),
    "rethinking-tau": (["max"], ["mean", "median", 1.0]),
    "grad-weights": (
        [grad_weights],
        [lambda f, rest, y: grad_weights(f, rest, y.flip(0)), lambda f, rest, y: f.mean((2, 3))],
    ),
    "grad-factor": ([lambda h, w: h * w], [lambda h, w: h + w, lambda h, w: 1 / (h * w), 64]),
    "grad-hires": (
        [lambda f, g: (f * g).sum(1).clamp(min=0)],
        [lambda f, g: (f * g).sum(1), lambda f, g: weighted(g.mean((2, 3)), f).clamp(min=0)],
    ),
    "plusplus-closed": (
        [lambda w, p: torch.where(w > 0, w / (2 + w * p), 0.0)],
        [lambda w, p: w.clamp(min=0), lambda w, p: w / (2 + w * p)],
    ),
    "plusplus-scale": ([["grad_cam++"], "grad_cam++"], [["cam", "grad_cam++"], [], "score_cam", 3]),
    "plusplus-tap": (["no"], ["yes"]),
    "score-effective": (
        [lambda w: torch.exp(-(w * w.clamp(min=1e-30).log()).sum())],
        [lambda w: torch.exp(-(w * w.log()).sum()), lambda w: (w > 0).sum(), lambda w: 1 / w.max()],
    ),
    "score-passes": ([lambda n, c: n * c], [lambda n, c: c, lambda n, c: n + c, 40]),
    "score-softmax": (["multiply", ["multiply"]], ["add", ["add", "multiply"], []]),
    "any-max": (
        [lambda c: c.gradients.amax(dim=(2, 3))],
        [lambda c: c.gradients.mean(dim=(2, 3)), lambda c: c.gradients],
    ),
    "any-mean": (
        [lambda a, b: (unit_range(a) + unit_range(b)) / 2],
        [lambda a, b: (a + b) / 2, lambda a, b: unit_range(a + b)],
    ),
    "any-twins": (
        [["hires_cam", "xgrad_cam"], "xgrad-cam, hires-cam"],
        [["hires_cam"], [], ["layer_cam", "hires_cam"]],
    ),
    "ddt-sign": (
        [lambda p: -p if edge(p).mean() > 0 else p],
        [lambda p: torch.stack([-one if edge(one[None]).mean() > 0 else one for one in p]), lambda p: p],
    ),
    "ddt-sums": (
        [lambda n, s, m: m / n - torch.outer(s / n, s / n)],
        [lambda n, s, m: m / n, lambda n, s, m: m - torch.outer(s, s)],
    ),
    "ddt-zero": (["some"], ["nothing", "all"]),
    "c2am-repulsion": (
        [lambda v, b: -torch.log(1 - (v @ b.T).clamp(0.0005, 0.9995)).mean()],
        [lambda v, b: -torch.log(1 - (v * b).sum(1)).mean(), lambda v, b: -torch.log(v @ b.T).mean()],
    ),
    "c2am-weights": (
        [lambda c, a: torch.exp(-a * ((c[:, None] > c[:, :, None]).sum(2) - 1.0))],
        [lambda c, a: torch.exp(-a * c), lambda c, a: torch.exp(-a * (c.argsort(1, descending=True) - 1.0))],
    ),
    "c2am-turned": (["stays"], ["grows", "falls"]),
    "bas-quotient": ([lambda b, w: (b / w).clamp(max=1)], [lambda b, w: b / w, lambda b, w: w / b]),
    "bas-erased": ([lambda f, m: f * (1 - m)], [lambda f, m: f * m, lambda f, m: f]),
    "bas-area": (["one"], ["zero", "half"]),
    "psol-extents": (
        [lambda b, side: torch.cat([b[:, :2], b[:, 2:] - b[:, :2] + 1], 1) / side],
        [lambda b, side: torch.cat([b[:, :2], b[:, 2:] - b[:, :2]], 1) / side, lambda b, side: b / side],
    ),
    "psol-ridge": (
        [lambda x, t, s: torch.linalg.solve(x.T @ x + s * torch.eye(x.shape[1], dtype=x.dtype), x.T @ t).T],
        [lambda x, t, s: torch.linalg.lstsq(x, t).solution.T, lambda x, t, s: x.T @ t],
    ),
    "psol-strong": (["mean"], ["whole", "empty"]),
    "likeness-cosine": ([cosines], [lambda f: cosines(f, centred=False), lambda f: f.T @ f]),
    "likeness-step": (
        [lambda m, c, p: (weights := c.clamp(min=0) ** p) @ m / weights.sum(1)],
        [lambda m, c, p: c.clamp(min=0) ** p @ m, lambda m, c, p: c.abs() ** p @ m / (c.abs() ** p).sum(1)],
    ),
    "likeness-power": (["flat"], ["unchanged", "empty"]),
    "detector-decode": (
        [decode, lambda anchors, t: decode(anchors.double(), t.double())],
        [lambda anchors, t: anchors, lambda anchors, t: decode(anchors, -t)],
    ),
    "detector-right": ([greedy], [lambda overlaps: overlaps.amax(1) >= 0.5, lambda overlaps: overlaps[:, 0] >= 0.5]),
    "detector-squared": (["same"], ["larger", "smaller"]),
}


def test_every_exercise_has_answers_here_and_stands_in_a_notebook():
    assert set(exercises.EXERCISES) == set(ANSWERS)
    asked = {}
    for path in NOTEBOOKS:
        cells = [c for c in nbformat.read(path, as_version=4).cells if "exercise" in c.metadata.get("tags", [])]
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        asked[path.stem] = [name for name in ANSWERS if f'check("{name}"' in text]
    assert sorted(name for found in asked.values() for name in found) == sorted(ANSWERS)
    assert all(2 <= len(found) <= 4 for stem, found in asked.items() if stem != "10_write_your_own_cam"), asked


@pytest.mark.parametrize("name", ANSWERS)
def test_right_answers_are_right_and_wrong_ones_get_a_hint(name):
    right, wrong = ANSWERS[name]
    for answer in right:
        assert exercises.judge(name, answer) == ("right", "")
    for answer in wrong:
        state, hint = exercises.judge(name, answer)
        assert state == "wrong" and len(hint) > 20, (answer, hint)


@pytest.mark.parametrize("name", ANSWERS)
def test_nothing_is_raised_for_any_answer(name):
    def fails(*_):
        raise KeyError("a reader's own mistake")

    for nothing in (None, ...):
        assert exercises.judge(name, nothing)[0] == "open"
    strange = [
        object(),
        "",
        b"x",
        {},
        {"a": 1},
        [[]],
        ["a", 1],
        float("nan"),
        np.nan,
        torch.empty(0),
        torch.full((3, 3), np.inf),
    ]
    for answer in (*strange, fails, lambda: 1, lambda *_: object(), lambda *_: "x", lambda *_: [1, "a"], int, print):
        state, hint = exercises.judge(name, answer)
        assert state != "right" and hint, answer
    function = exercises.EXERCISES[name]["expects"].startswith("a function")
    assert exercises.judge(name, lambda *_: None)[0] == ("open" if function else "wrong")


def test_what_is_printed(capsys):
    state = torch.get_rng_state()
    exercises.check("cam-bias", None)
    exercises.check("cam-bias", "yes")
    exercises.check("cam-bias", "no")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'cam-bias: ○ No answer yet. Expected is one word, "yes" or "no".'
    assert lines[1].startswith("cam-bias: ✗ Not yet. ") and lines[2] == "cam-bias: ✓ Right."
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="unknown exercise 'cam-bais'; did you mean 'cam-bias'"):
        exercises.check("cam-bais", None)


# ------------------------------------------------------------------------------------------------ grades


@pytest.mark.parametrize(
    "method", ["cam", "rethinking_cam", "grad_cam", "grad_cam++", "layer_cam", "xgrad_cam", "score_cam"]
)
def test_methods_of_the_kit_pass(method):
    found = grade(method)
    assert found.passed and found.failed == [], str(found)
    told = {mark.claim: mark.holds for mark in found.marks if not mark.asked}
    assert told["the scale of the logits does not matter"] is (method not in ("grad_cam++", "score_cam"))
    assert told["a moved image has the moved map"] is (method != "score_cam")


def in_place(context):
    with torch.no_grad():
        context.model.head.weight.clamp_(min=0)
    return context.class_weights


def backward(context):
    context.rest(context.features.clone()).sum().backward()
    return context.class_weights


def relabelled(context):
    weights = context.class_weights
    context.labels.add_(1).remainder_(2)
    return weights


def enormous(context):
    return (unit_range(weighted(context.class_weights, context.features)) - 0.5).sign() * 3e38


def enlarged(context):
    return F.interpolate(weighted(context.class_weights, context.features)[:, None], scale_factor=2)[:, 0]


FLAWS = {
    "the map has the size of the feature map and is finite": [
        enlarged,
        lambda c: c.class_weights / 0,
        lambda c: None,
        enormous,
    ],
    "it depends on the class": [lambda c: c.features.mean((2, 3))],
    "it lights the place of the class's own channel": [lambda c: c.class_weights.abs(), lambda c: -c.class_weights],
    "a constant added to all logits changes nothing": [
        lambda c: weighted(c.class_weights, c.features) * (c.features.mean((1,)) - c.logits.amax(1)[:, None, None])
    ],
    "an image's map depends on that image alone": [lambda c: c.class_weights[:1].expand_as(c.class_weights)],
    "it is the same each time": [lambda c: c.class_weights * torch.rand_like(c.class_weights)],
    "a mirrored image has the mirrored map": [
        lambda c: weighted(c.class_weights, c.features) * torch.arange(1, c.features.shape[3] + 1) ** 0.5
    ],
    "network and feature map are left as they were": [
        *(in_place, backward, lambda c: c.class_weights * c.features.clamp_(max=0.1).sum((2, 3))),
        *(relabelled, lambda c: c.gradients.abs_().sum((2, 3)), lambda c: c.class_weights.clamp_(min=0)),
    ],
}


@pytest.mark.parametrize("what", FLAWS)
def test_a_planted_flaw_is_found(what):
    before = dict(cams.METHODS)
    for flawed in FLAWS[what]:
        found = grade(flawed)
        assert what in found.failed and not found.passed, str(found)
    assert before == cams.METHODS


def test_what_a_method_returns_is_named_where_it_is_no_map():
    for flawed, words in (
        (lambda c: None, "it returns nothing"),
        (lambda c: c.class_weights.numpy(), "it returns ndarray, and a torch.Tensor is expected"),
        (lambda c: c.labels, "it returns the shape (3,), and (B, C), (B, C, h, w) or (B, h, w) is expected, with"),
    ):
        assert grade(flawed).marks[0].seen.startswith(words)


def test_an_answer_that_changes_what_it_is_given_changes_no_truth():
    def changed(context):
        return context.gradients.abs_().amax(dim=(2, 3))

    assert exercises.judge("any-max", changed)[0] == "wrong"


def test_hints_say_what_an_answer_is():
    assert "a function or a class: give what it returns" in exercises.judge("training-rate", lambda: 0)[1]
    assert "one number was expected, and this has the shape (2,)" in exercises.judge("tour-iou", lambda a, b: [0, 1])[1]
    assert (
        exercises.judge("cam-bias", np.bool_(False))[0] == "right"
        and len(exercises.judge("cam-bias", "x" * 999)[1]) < 120
    )


def test_cost_is_measured_against_what_a_method_says():
    def dear(context):
        context.look(context.images)
        return context.gradients.mean(dim=(2, 3))

    assert grade(dear).passed, "a function that says nothing about its cost has none to keep to"
    cams.register("dear_cam", needs="features", description="")(dear)
    try:
        (words,) = (mark.seen for mark in grade(dear).marks if mark.claim == "it costs what it says")
        assert grade("dear_cam").failed == ["it costs what it says"]
        assert words == '2 passes of the body per image, and one gradient: more than needs="features" says'
    finally:
        del cams.METHODS["dear_cam"]


def test_a_grade_is_a_table_that_escapes_what_it_shows():
    def flawed(context):
        raise ValueError("<b>no</b>")

    found = grade(flawed)
    assert "<b>" not in found._repr_html_() and "&lt;b&gt;no" in found._repr_html_()
    assert str(found).startswith("flawed: 0 of 11 hold, not passed yet.\n✗ fails") and len(found.marks) == 11
    for nothing in (3, None, [1]):
        assert grade(nothing).failed == ["is a function"]
