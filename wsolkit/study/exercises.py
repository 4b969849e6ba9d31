"""Exercises of the notebooks: `check(name, answer)` says whether an answer is right, and helps where it is not.

An answer is a number, an array or tensor, a word, a list of words, or a function. A function is tried on random input,
and its values are compared with those that the package (or torch) computes from the same input. No solution is stored.
What is asked, and what a wrong answer is told, is text: it lies in exercises.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert

from wsolkit.boxes.extract import extract_box, iou
from wsolkit.boxes.preparation import normalise_map
from wsolkit.common.errors import require
from wsolkit.common.files import read_yaml
from wsolkit.common.parameters import nearest
from wsolkit.evaluation.comparison import mcnemar
from wsolkit.evaluation.metrics import share_interval
from wsolkit.methods.adl import drop_mask
from wsolkit.methods.affinity_cam import spread
from wsolkit.methods.c2am import LEAST, MOST, contrast
from wsolkit.methods.context import Context
from wsolkit.methods.has import HaS
from wsolkit.methods.maps import feature_map, score_maps
from wsolkit.networks.models import thresholded_average_pool, unit_range
from wsolkit.study.cam_marks import CLASSES, positive, small_network
from wsolkit.study.detector import Detections, hits_of, mean_average_precision

EXERCISES: dict[str, dict[str, Any]] = read_yaml(Path(__file__).with_suffix(".yaml"))  # what is right: see `_Cases`


class NoAnswer(Exception):
    """The function is still empty."""


def judge(name: str, answer: Any) -> tuple[str, str]:
    """("right", ""), ("wrong", a hint) or ("open", what is expected) for an answer; never raises for one.

    Raises: WsolkitError: no exercise has that name.
    """
    require(name in EXERCISES, f"unknown exercise {name!r}{nearest(name, EXERCISES)}")
    expects = EXERCISES[name]["expects"]
    if answer is None or answer is Ellipsis:
        return "open", f"Expected is {expects}."
    try:
        with torch.random.fork_rng(devices=[]):  # the reader's generators stay as they were
            torch.manual_seed(0)
            cases = getattr(_Cases(), name.replace("-", "_"))()
            hint = next(filter(None, (_hint(EXERCISES[name], answer, *case) for case in cases)), "")
    except NoAnswer:
        return "open", f"Expected is {expects}; this one returns nothing yet."
    except Exception as error:  # whatever the answer is or does
        said = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
        return "wrong", f"Expected is {expects}. Yours led to {said}"
    return ("wrong", hint) if hint else ("right", "")


def check(name: str, answer: Any) -> None:
    """Print whether `answer` is right, with a hint where it is not; None (or a function that returns None) is no answer
    yet."""
    state, hint = judge(name, answer)
    sign = {"right": "✓ Right.", "wrong": "✗ Not yet.", "open": "○ No answer yet."}[state]
    print(f"{name}: {sign} {hint}".rstrip())


def _hint(asked: dict[str, Any], answer: Any, arguments: Any, truth: Any, *mistakes: Any) -> str:
    """What an answer that is wrong in a case is told, or ""."""
    if choose := asked.get("choose"):
        given, offered = _words(answer), ", ".join(choose)
        if unknown := given - _words(choose):
            return f"Choose from {offered}; {', '.join(sorted(unknown))[:60]!r} is not among them."
        return "" if given == _words(truth) else asked["hint"].format(*arguments)
    value, inserted = (arguments(answer), ()) if callable(arguments) else (_call(answer, *arguments), arguments)
    tolerance = asked.get("tolerance", 1e-4)
    if not (difference := differs(value, truth, tolerance)):
        return ""
    known = zip(asked.get("mistakes", ()), mistakes, strict=True)
    general = f"{difference} {asked['hint'].format(*inserted)}"
    return next((hint for hint, made in known if not differs(value, made, tolerance)), general)


def _call(function: Any, *arguments: Any) -> Any:
    """What the reader's function returns; tensors are handed over as copies."""
    if not callable(function):
        kind = type(function).__name__
        raise TypeError(f"this is no function but {kind}: give the function itself, without brackets")
    returned = function(*(item.clone() if isinstance(item, Tensor) else item for item in arguments))
    if returned is None or returned is Ellipsis:
        raise NoAnswer
    return returned


def _array(given: Any) -> np.ndarray:
    """Numbers as float64."""
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    if isinstance(given, list | tuple) and any(isinstance(item, Tensor) for item in given):
        given = [_array(item) for item in given]
    if callable(given):
        raise TypeError("numbers were expected, and this is a function or a class: give what it returns")
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"numbers were expected, and this is {type(given).__name__} {str(given)[:60]!r}") from None


def differs(given: Any, truth: Any, tolerance: float = 1e-4) -> str:
    """How `given` differs from `truth`, or ""; the tolerance is a share of the largest true value."""
    given, truth = _array(given), _array(truth)
    if not truth.ndim and given.size != 1:
        raise TypeError(f"one number was expected, and this has the shape {given.shape}")
    given = given if truth.ndim else given.reshape(())
    if given.shape != truth.shape:
        return f"The shape is {given.shape}, and {truth.shape} is expected."
    worst = np.abs(np.nan_to_num(given, nan=np.inf) - truth)
    if worst.max(initial=0.0) <= tolerance * max(float(np.abs(truth).max(initial=0.0)), 1e-12):
        return ""
    place = tuple(map(int, np.unravel_index(worst.argmax(), worst.shape)))
    return (f"At {list(place)} it" if place else "It") + f" is {given[place]:.4g} instead of {truth[place]:.4g}."


def _words(answer: Any) -> set[str]:
    """One word or several, as they are compared: lower case, `_` and `-` do not matter."""
    items = answer.replace(",", " ").split() if isinstance(answer, str) else answer
    if isinstance(items, bool | np.bool_):
        items = ["yes" if items else "no"]
    if not isinstance(items, Iterable) or not all(isinstance(item, str) for item in items):
        raise TypeError(f"words were expected, and this is {type(answer).__name__} {str(answer)[:60]!r}")
    return {item.strip().lower().replace("_", "").replace("-", "") for item in items}


def _context(pooling: str = "gap", backbone: str = "resnet18") -> Context:
    """A small network at work on three images."""
    model, images, labels = small_network(pooling, backbone)
    return Context(model, images, labels, feature_map(model, images), 8)


def _case() -> tuple[Tensor, Tensor, Tensor]:
    """Random features (3, 6, 4, 5), head weights (K, 6) and labels (3,)."""
    return torch.randn(3, 6, 4, 5).relu(), torch.randn(CLASSES, 6), torch.randint(CLASSES, (3,))


def _class_maps(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """CAM's maps, unscaled."""
    return torch.einsum("bc,bchw->bhw", weight[labels], features)


_scored: Callable[..., Any] = score_maps  # its type does not tell one map from several


class _Cases:
    """What is right: each method yields the cases that an answer is tried in, as (arguments, right value, values of the
    known mistakes). A function in place of arguments makes the value of the answer; for words, they are the hint's."""

    def tour_box(self) -> Iterator[tuple]:
        score_map = np.zeros((8, 8))  # that of the tour: a block of ones with a fainter column on its left
        score_map[2:4, 3:6], score_map[2:4, 2] = 1.0, 0.3
        yield lambda answer: answer, *(extract_box(score_map, threshold=theta, size=8) for theta in (0.9, 0.1))

    def tour_iou(self) -> Iterator[tuple]:
        corners = np.sort(np.random.default_rng(0).integers(0, 12, (50, 2, 2, 2)), axis=2).reshape(50, 2, 4)
        for boxes in corners:
            yield boxes.tolist(), iou(*boxes)[0, 0]

    def tour_min_max(self) -> Iterator[tuple]:
        for score_map in (torch.randn(5, 7) * 3 + 4, torch.rand(4, 4) - 5, torch.full((3, 3), 2.0)):
            yield (score_map,), normalise_map(score_map)

    def train_steps(self) -> Iterator[tuple]:
        for images, size in [(32, 16), (1, 8), *np.random.default_rng(0).integers(1, 500, (30, 2)).tolist()]:
            yield (images, size), len(torch.arange(images).split(size))

    def train_tap(self) -> Iterator[tuple]:
        maps = torch.randn(2, 3, 4, 5).relu(), F.pad(torch.rand(1, 2, 2, 2), (0, 2, 0, 2))
        for features, tau in product(maps, (0.1, 0.5)):
            yield (features, tau), thresholded_average_pool(features, tau), features.mean(dim=(2, 3))

    def train_loss(self) -> Iterator[tuple]:
        for logits in (torch.randn(6, 4), torch.randn(3, 5) * 200):  # a softmax of the large ones is exactly 0
            labels = logits.argmin(dim=1)
            yield (logits, labels), F.cross_entropy(logits, labels)

    def cam_second(self) -> Iterator[tuple]:
        features, weight, _ = _case()
        logits = features.mean(dim=(2, 3)) @ weight.T
        first, second = (_class_maps(features, weight, labels) for labels in logits.topk(2).indices.T)
        yield (features, weight, logits), second, first

    def cam_bias(self) -> Iterator[tuple]:
        maps = np.random.default_rng(0).normal(size=(20, 6, 6))
        boxes, raised = ([extract_box(some + more, 0.4, size=48) for some in maps] for more in (0.0, 3.0))
        yield (), bool(differs(boxes, raised))

    def cam_logit(self) -> Iterator[tuple]:
        model, images, labels = small_network()
        with torch.no_grad():
            bias = model.head.bias.normal_()[labels]
            logits = model(images).gather(1, labels[:, None])[:, 0]
        maps = _scored(model, images, labels, "cam")
        yield (maps, bias), logits, maps.sum(dim=(1, 2)) + bias

    def rethinking_rest(self) -> Iterator[tuple]:
        features, weight, labels = case = _case()
        clamped = _class_maps(features, weight.clamp(min=0), labels)
        yield case, _class_maps(*case) - clamped, clamped

    def rethinking_level(self) -> Iterator[tuple]:
        for theta, percentile in ((0.35, 90), (0.5, 100), (0.2, 70)):
            score_map = torch.rand(9, 9)
            yield (score_map, theta, percentile), theta * np.percentile(score_map, percentile), theta * score_map.max()

    def rethinking_tau(self) -> Iterator[tuple]:
        features = torch.rand(4, 3, 5, 5)
        nearly = thresholded_average_pool(features, 0.999999)
        offered: dict[str, Any] = {"max": features.amax, "mean": features.mean, "sum": features.sum}
        offered["min"] = features.amin
        yield (), min(offered, key=lambda name: float((offered[name](dim=(2, 3)) - nearly).abs().max()))

    def grad_weights(self) -> Iterator[tuple]:
        for pooling, backbone in (("gap", "resnet18"), ("tap", "resnet18"), ("fc", "vgg16_fc")):
            context = _context(pooling, backbone)
            yield (context.features, context.model.rest, context.labels), context.gradients.mean(dim=(2, 3))

    def grad_factor(self) -> Iterator[tuple]:
        for height, width in ((2, 3), (4, 4)):
            features, network, labels = torch.rand(1, 6, height, width), positive(6), torch.tensor([2])
            cam = _class_maps(features, network.head.weight, labels)
            ratio = cam / _scored(network, None, labels, "grad_cam", features=features)
            yield (height, width), ratio.flatten()[cam.argmax()]

    def grad_hires(self) -> Iterator[tuple]:
        context = _context("fc", "vgg16_fc")
        maps = _scored(context.model, context.images, context.labels, ("grad_cam", "hires_cam"))
        yield (context.features, context.gradients), maps["hires_cam"], maps["grad_cam"]

    def plusplus_closed(self) -> Iterator[tuple]:
        weight, features = torch.randn(3, 6, dtype=torch.float64), torch.rand(3, 6, 4, 5, dtype=torch.float64)
        gradient = (weight / 20)[:, :, None, None].expand_as(features)
        alpha = gradient**2 / (2 * gradient**2 + features.sum(dim=(2, 3), keepdim=True) * gradient**3)
        yield (weight, features.mean(dim=(2, 3))), (alpha * gradient.clamp(min=0)).sum(dim=(2, 3))

    def plusplus_scale(self) -> Iterator[tuple]:
        (model, *case), names = small_network(), EXERCISES["plusplus-scale"]["choose"]
        before = _scored(model, *case, names)
        with torch.no_grad():
            for parameter in model.head.parameters():
                parameter.mul_(100)
        after = _scored(model, *case, names)
        yield (), [name for name in names if differs(unit_range(after[name]), unit_range(before[name]), 1e-3)]

    def plusplus_tap(self) -> Iterator[tuple]:
        context = _context("tap")
        places, weights = context.gradients.flatten(2), context.class_weights
        gradient = places.amax(dim=2).where(weights > 0, places.amin(dim=2))
        sums, pooled = context.features.sum(dim=(2, 3)), context.model.pool(context.features)
        yield (), not differs(sums * gradient, weights * pooled)

    def score_effective(self) -> Iterator[tuple]:
        for weights in (torch.full((8,), 1 / 8), torch.randn(12).softmax(0), torch.tensor([1.0, 0.0, 0.0])):
            yield (weights,), torch.special.entr(weights).sum().exp()

    def score_passes(self) -> Iterator[tuple]:
        for count, channels in ((1, 4), (3, 10)):
            model, images, labels = small_network()
            features = torch.rand_like(feature_map(model, images))[:count]  # no channel is flat
            seen: list[int] = []
            model.body.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(len(inputs[0])))
            _scored(model, images[:count], labels[:count], "score_cam", features=features, channels=channels)
            yield (count, channels), sum(seen)

    def score_softmax(self) -> Iterator[tuple]:
        scores = torch.randn(10)
        others = {"add": scores + 7, "multiply": scores * 7}
        yield (), [name for name, other in others.items() if differs(other.softmax(0), scores.softmax(0))]

    def any_max(self) -> Iterator[tuple]:
        context = _context("fc", "vgg16_fc")
        yield (context,), context.gradients.amax(dim=(2, 3)), context.gradients.mean(dim=(2, 3))

    def any_mean(self) -> Iterator[tuple]:
        a, b = torch.randn(3, 4, 4), 1000 * torch.rand(3, 4, 4)
        yield (a, b), (unit_range(a) + unit_range(b)) / 2, (a + b) / 2

    def any_twins(self) -> Iterator[tuple]:
        twins = set(offered := EXERCISES["any-twins"]["choose"])
        for seed in (0, 1):
            made = _scored(*small_network(seed=seed), ("grad_cam", *offered))
            maps = {name: unit_range(own) for name, own in made.items()}
            twins &= {name for name in offered if not differs(maps[name], maps["grad_cam"], 1e-3)}
        yield (), twins

    def compare_difference(self) -> Iterator[tuple]:
        for share in (0.3, 0.8):
            a, b = torch.rand(40) < share, torch.rand(40) < 0.5
            yield (a, b), 100 * (a.float().mean() - b.float().mean())

    def compare_mcnemar(self) -> Iterator[tuple]:
        for counts in [(5, 5), (0, 1), *np.random.default_rng(0).integers(0, 30, (20, 2)).tolist()]:
            yield counts, mcnemar(*counts)

    def compare_overlap(self) -> Iterator[tuple]:
        draw = np.random.default_rng(0)  # B finds all that A finds, and some images more
        a = draw.random(400) < 0.5
        b = a | (draw.random(400) < 0.08)
        more, (_, high), (low, _) = int((b & ~a).sum()), share_interval(a), share_interval(b)
        yield (more, high, low), high > low and mcnemar(0, more) < 0.05

    def training_rate(self) -> Iterator[tuple]:
        images = torch.rand(4, 3, 32, 32) + 0.1

        def kept(rate: Any) -> Tensor:
            hidden, _ = HaS(grid=0.25, rate=_array(rate).item()).change(images, torch.zeros(4))
            return (hidden == images).float().mean()

        yield kept, 1.0

    def training_cutmix_loss(self) -> Iterator[tuple]:
        logits, (labels, partners) = torch.randn(6, 4), torch.randint(4, (2, 6))
        for share in (0.8, 0.3):
            own, other = F.cross_entropy(logits, labels), F.cross_entropy(logits, partners)
            yield (logits, labels, partners, share), share * own + (1 - share) * other

    def training_adl(self) -> Iterator[tuple]:
        for gamma in (0.8, 0.5):
            features = torch.randn(3, 5, 4, 4).relu()
            yield (features, gamma), drop_mask(features, gamma)

    def training_acol(self) -> Iterator[tuple]:
        a, b = torch.randn(3, 4, 4), torch.randn(3, 4, 4) * 10 + 2
        yield (a, b), torch.maximum(unit_range(a), unit_range(b))

    def ddt_sign(self) -> Iterator[tuple]:
        for turned in (1.0, -1.0):
            maps = torch.randn(5, 4, 6).abs() * turned
            maps[0] *= -1.5  # one image that is unlike the others
            ring = torch.ones(4, 6, dtype=torch.bool)
            ring[1:-1, 1:-1] = False
            borders = maps[:, ring]
            yield (maps,), maps * -borders.mean().sign(), maps * -borders.mean(1).sign()[:, None, None]

    def ddt_sums(self) -> Iterator[tuple]:
        for shape in ((40, 3), (7, 5)):
            f = torch.randn(shape, dtype=torch.float64) + 1
            moment, covariance = f.T @ f, torch.cov(f.T, correction=0)
            yield (len(f), f.sum(0), moment), covariance, moment / len(f)

    def ddt_zero(self) -> Iterator[tuple]:
        f = torch.randn(50, 4, dtype=torch.float64)
        share = float((((f - f.mean(0)) @ torch.linalg.eigh(torch.cov(f.T)).eigenvectors[:, -1]) > 0).double().mean())
        yield (), "some" if 0 < share < 1 else "all" if share else "nothing"

    def c2am_repulsion(self) -> Iterator[tuple]:
        for shape in ((5, 8), (3, 2)):
            v, b = (F.normalize(torch.rand(shape), dim=1) for _ in range(2))
            losses = -(1 - (v @ b.T).clamp(LEAST, MOST)).log()
            yield (v, b), losses.mean(), losses.diagonal().mean()

    def c2am_weights(self) -> Iterator[tuple]:
        for alpha in (0.05, 1.0):
            v = F.normalize(torch.rand(6, 4), dim=1)
            once = (v @ v.T).argsort(dim=1, descending=True)
            yield (v @ v.T, alpha), *((-alpha * (places - 1)).exp() for places in (once.argsort(dim=1), once))

    def c2am_turned(self) -> Iterator[tuple]:
        features, p = torch.rand(4, 5, 3, 3), torch.rand(4, 1, 3, 3)
        before, after = (float(contrast(features, share)) for share in (p, 1 - p))
        yield (), "stays" if abs(before - after) < 1e-5 else "grows" if after > before else "falls"

    def bas_quotient(self) -> Iterator[tuple]:
        for _ in range(2):
            whole, background = torch.rand(8) + 0.5, torch.rand(8) * 2.5
            yield (background, whole), (background / whole).clamp(max=1), background / whole

    def bas_erased(self) -> Iterator[tuple]:
        features, foreground = torch.randn(3, 4, 5), torch.rand(4, 5)
        yield (features, foreground), features * (1 - foreground), features * foreground

    def bas_area(self) -> Iterator[tuple]:
        features = torch.rand(6, 6)
        left = {name: float((features * (1 - m)).sum()) for name, m in (("zero", 0.0), ("half", 0.5), ("one", 1.0))}
        yield (), min(left, key=lambda name: left[name])

    def psol_extents(self) -> Iterator[tuple]:
        for side in (16, 21):
            first, more = torch.randint(0, side // 2, (5, 2)), torch.randint(0, side // 2, (5, 2))
            boxes = torch.cat([first, first + more], dim=1)
            yield (boxes, side), torch.cat([first, more + 1], dim=1) / side, torch.cat([first, more], dim=1) / side

    def psol_ridge(self) -> Iterator[tuple]:
        for n, length, strength in ((30, 4, 0.5), (6, 9, 2.0)):
            x, t = (torch.randn(n, width, dtype=torch.float64) for width in (length, 4))
            x, t = x - x.mean(0), t - t.mean(0)
            right = torch.linalg.solve(x.T @ x + strength * torch.eye(length, dtype=torch.float64), x.T @ t).T
            yield (x, t, strength), right, torch.linalg.lstsq(x, t).solution.T

    def psol_strong(self) -> Iterator[tuple]:
        yield (), "mean"

    def likeness_cosine(self) -> Iterator[tuple]:
        for shape in ((5, 12), (3, 4)):
            features = torch.randn(shape) + 2
            centred = features - features.mean(dim=1, keepdim=True)
            given = (torch.cosine_similarity(x[:, :, None], x[:, None, :], dim=0) for x in (centred, features))
            yield (features,), *given

    def likeness_step(self) -> Iterator[tuple]:
        for power in (1.0, 3.0):
            score_map, features = torch.randn(12), torch.randn(5, 12)
            unit = F.normalize(features - features.mean(dim=1, keepdim=True), dim=0)
            cosines = unit.T @ unit
            right = spread(score_map.view(1, 3, 4), features.view(1, 5, 3, 4), power, 1).flatten()
            yield (score_map, cosines, power), right, cosines.clamp(min=0) ** power @ score_map

    def likeness_power(self) -> Iterator[tuple]:
        score_map = torch.randn(1, 3, 4)
        made = spread(score_map, torch.randn(1, 5, 3, 4), 0.0, 1)
        kinds = {"flat": made.std() < 1e-5, "unchanged": not differs(made, score_map), "empty": not made.any()}
        yield (), next(name for name, true in kinds.items() if true)

    def detector_decode(self) -> Iterator[tuple]:
        for count in (6, 1):
            anchors, t = torch.rand(count, 4) * 20 + 5, torch.randn(count, 4) / 3  # centres and sides
            boxes = torch.cat([anchors[:, :2] + t[:, :2] * anchors[:, 2:], anchors[:, 2:] * t[:, 2:].exp()], dim=1)
            edges, right = (box_convert(own, "cxcywh", "xyxy") for own in (anchors, boxes))
            yield (edges, t), right, boxes

    def detector_right(self) -> Iterator[tuple]:
        truths = [[0, 0, 9, 9], [4, 0, 13, 9]], [[0, 0, 9, 9]]
        for truth, starts in product(truths, ((0, 1, 2), (2, 3, 0, 6), (4, 0, 0), (20, 1))):
            boxes, rows = np.array([[x, 0, x + 9, 9] for x in starts]), np.zeros(len(starts), np.int64)
            detections = Detections(rows, rows, np.linspace(1, 0, len(starts)), boxes)
            overlaps = torch.from_numpy(iou(boxes, truth))
            right = hits_of(detections, [np.array(truth)], np.zeros(1, np.int64))
            yield (overlaps,), right, overlaps.amax(dim=1) >= 0.5

    def detector_squared(self) -> Iterator[tuple]:
        draw = np.random.default_rng(0)
        image, score, truth = np.arange(40) % 20, draw.random(40), np.array([[0, 0, 9, 9]])
        boxes = np.array([[x, 0, x + 9, 9] for x in draw.integers(0, 8, 40)])
        one_class, label = np.zeros(40, np.int64), np.zeros(20, np.int64)
        before, after = (
            mean_average_precision(Detections(image, one_class, score**power, boxes), [truth] * 20, label)[0]
            for power in (1, 2)
        )
        yield (), "same" if before == after else "larger" if after > before else "smaller"
