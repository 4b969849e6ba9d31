"""Exercises of the notebooks: `check(name, answer)` says whether an answer is right, and helps where it is not.

An answer is a number, an array or tensor, a word, a list of words, or a function. A function is tried on random input, and what
it returns is compared with what the package (or torch) computes from the same input; so no solution is stored here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wsolkit.boxes.extract import extract_box, iou
from wsolkit.boxes.preparation import normalise_map
from wsolkit.common.errors import WsolkitError
from wsolkit.common.parameters import nearest
from wsolkit.evaluation.comparison import mcnemar
from wsolkit.evaluation.metrics import share_interval
from wsolkit.methods import adl
from wsolkit.methods.context import Context
from wsolkit.methods.has import HaS
from wsolkit.methods.maps import feature_map, score_maps
from wsolkit.networks.models import unit_range
from wsolkit.networks.pooling import thresholded_average_pool
from wsolkit.study.small_networks import CLASSES, positive, small_network


class Exercise(NamedTuple):
    """expects: what an answer is. judge(answer): "" where it is right, else a hint; it may raise."""

    expects: str
    judge: Callable[[Any], str]


EXERCISES: dict[str, Exercise] = {}  # in the order of the notebooks


class NoAnswer(Exception):
    """The function is still empty."""


def judge(name: str, answer: Any) -> tuple[str, str]:
    """("right", ""), ("wrong", a hint) or ("open", what is expected) for an answer; never raises for one.

    Raises:
        WsolkitError: no exercise has that name.
    """
    if name not in EXERCISES:
        raise WsolkitError(f"unknown exercise {name!r}{nearest(name, EXERCISES)}")
    expects = EXERCISES[name].expects
    if answer is None or answer is Ellipsis:
        return "open", f"Expected is {expects}."
    try:
        with torch.random.fork_rng(devices=[]):  # the reader's generators stay as they were
            torch.manual_seed(0)
            hint = EXERCISES[name].judge(answer)
    except NoAnswer:
        return "open", f"Expected is {expects}; this one returns nothing yet."
    except Exception as error:  # whatever the answer is or does
        said = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
        return "wrong", f"Expected is {expects}. Yours led to {said}"
    return ("wrong", hint) if hint else ("right", "")


def check(name: str, answer: Any) -> None:
    """Print whether `answer` is right, with a hint where it is not; None (or a function that returns None) is no answer yet."""
    state, hint = judge(name, answer)
    sign = {"right": "✓ Right.", "wrong": "✗ Not yet.", "open": "○ No answer yet."}[state]
    print(f"{name}: {sign} {hint}".rstrip())


# ------------------------------------------------------------------------------------------------ how answers are judged


def exercise(name: str, expects: str) -> Callable[[Callable[[Any], str]], Callable[[Any], str]]:
    """Decorator: the function judges the answers of the exercise `name`."""

    def decorate(function: Callable[[Any], str]) -> Callable[[Any], str]:
        EXERCISES[name] = Exercise(expects, function)
        return function

    return decorate


def call(answer: Any, *arguments: Any) -> Any:
    """What the reader's function returns; tensors are handed over as copies. TypeError for something that is no function."""
    if not callable(answer):
        raise TypeError(f"this is no function but {type(answer).__name__}: give the function itself, without brackets")
    returned = answer(*(item.clone() if isinstance(item, Tensor) else item for item in arguments))
    if returned is None or returned is Ellipsis:
        raise NoAnswer
    return returned


def array(given: Any) -> np.ndarray:
    """Numbers as float64. TypeError for anything else."""
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    if isinstance(given, list | tuple) and any(isinstance(item, Tensor) for item in given):
        given = [array(item) for item in given]
    if callable(given):
        raise TypeError("numbers were expected, and this is a function or a class: give what it returns")
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"numbers were expected, and this is {type(given).__name__} {str(given)[:60]!r}") from None


def number(given: Any) -> float:
    """One number. TypeError for anything else."""
    values = array(given)
    if values.size != 1:
        raise TypeError(f"one number was expected, and this has the shape {values.shape}")
    return float(values.reshape(()))


def differs(given: Any, truth: Any, tolerance: float = 1e-4) -> str:
    """How `given` differs from `truth` (both become arrays), or "". The tolerance is a share of the largest true value."""
    given, truth = array(given), array(truth)
    if truth.ndim == 0:
        given = np.asarray(number(given))
    if given.shape != truth.shape:
        return f"The shape is {given.shape}, and {truth.shape} is expected."
    worst = np.abs(np.nan_to_num(given, nan=np.inf) - truth)
    if worst.max(initial=0.0) <= tolerance * max(float(np.abs(truth).max(initial=0.0)), 1e-12):
        return ""
    place = tuple(int(i) for i in np.unravel_index(int(worst.argmax()), worst.shape))
    return (f"At {list(place)} it" if place else "It") + f" is {given[place]:.4g} instead of {truth[place]:.4g}."


def compared(
    answer: Any,
    cases: Iterable[tuple],
    truth: Callable[..., Any],
    hint: str,
    mistakes: dict[str, Callable[..., Any]] | None = None,
    tolerance: float = 1e-4,
) -> str:
    """A hint for the first of the cases (arguments) in which the reader's function does not return what `truth` returns.

    Args:
        hint: may name the case's arguments, {0}, {1}, ...; how the answer differs stands before it.
        mistakes: other hints, each for those who return what the function beside it returns.
    """
    for case in cases:
        expected, given = truth(*case), call(answer, *case)
        if difference := differs(given, expected, tolerance):
            for said, mistake in (mistakes or {}).items():
                if not differs(given, mistake(*case), tolerance):
                    return said
            return f"{difference} {hint.format(*case)}"
    return ""


def words(answer: Any) -> set[str]:
    """One word or several, as they are compared: lower case, `_` and `-` do not matter."""
    items = answer.replace(",", " ").split() if isinstance(answer, str) else answer
    if isinstance(items, bool | np.bool_):
        items = ["yes" if items else "no"]
    if not isinstance(items, Iterable) or not all(isinstance(item, str) for item in items):
        raise TypeError(f"words were expected, and this is {type(answer).__name__} {str(answer)[:60]!r}")
    return {item.strip().lower().replace("_", "").replace("-", "") for item in items}


def chosen(answer: Any, truth: str | Iterable[str] | bool, offered: Iterable[str], hint: str) -> str:
    """A choice among the words `offered`: "" where it is `truth` (True is "yes"), else the hint."""
    given = words(answer)
    if unknown := given - words(list(offered)):
        return f"Choose from {', '.join(offered)}; {', '.join(sorted(unknown))[:60]!r} is not among them."
    return "" if given == words(truth if isinstance(truth, str | bool) else list(truth)) else hint


def _context(pooling: str = "gap", backbone: str = "resnet18") -> Context:
    """A small network at work on three images."""
    model, images, labels = small_network(pooling, backbone)
    return Context(model, images, labels, feature_map(model, images), 8)


def _case() -> tuple[Tensor, Tensor, Tensor]:
    """Random features (3, 6, 4, 5), head weights (K, 6) and labels (3,)."""
    return torch.randn(3, 6, 4, 5).relu(), torch.randn(CLASSES, 6), torch.randint(CLASSES, (3,))


def _class_maps(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return torch.einsum("bc,bchw->bhw", weight[labels], features)


# ------------------------------------------------------------------------------------------------ by notebook


@exercise("tour-box", "four numbers, x0, y0, x1, y1")
def _box(answer) -> str:
    score_map = np.zeros((8, 8))  # that of the tour: a block of ones with a fainter column on its left
    score_map[2:4, 3:6], score_map[2:4, 2] = 1.0, 0.3
    low = "That is the box at threshold 0.1: the fainter column is 0.3, which is less than 0.9 of the maximum."
    mistakes = {low: lambda: extract_box(score_map, threshold=0.1, size=8)}
    hint = "Which values of the map are above 0.9 of its maximum? And the far end is one past the last pixel."
    return compared(lambda: answer, [()], lambda: extract_box(score_map, threshold=0.9, size=8), hint, mistakes)


@exercise("tour-iou", "a function (a, b) -> number, for two boxes x0, y0, x1, y1 with corners included")
def _iou(answer) -> str:
    corners = np.sort(np.random.default_rng(0).integers(0, 12, (50, 2, 2, 2)), axis=2).reshape(50, 2, 4)
    hint = "Boxes {0} and {1}. Corners count: 2 to 4 are three pixels. An overlap's sides are never negative, each on its own."
    return compared(answer, corners.tolist(), lambda a, b: iou(np.array(a), np.array(b))[0, 0], hint, tolerance=1e-6)


@exercise("tour-min-max", "a function: map (h, w) -> map (h, w) between 0 and 1")
def _min_max(answer) -> str:
    cases = [(torch.randn(5, 7) * 3 + 4,), (torch.rand(4, 4) - 5,), (torch.full((3, 3), 2.0),)]
    hint = "The smallest value becomes 0 and the largest 1; a map that is the same everywhere is all zeros."
    return compared(answer, cases, normalise_map, hint)


@exercise("train-steps", "a function (images, batch_size) -> number of steps in an epoch")
def _steps(answer) -> str:
    cases = [(32, 16), (1, 8), *np.random.default_rng(0).integers(1, 500, (30, 2)).tolist()]
    hint = "This is for {0} images in batches of {1}: the last batch may be smaller, and it counts."
    return compared(answer, cases, lambda images, size: len(torch.arange(images).split(size)), hint)


@exercise("train-tap", "a function (features (B, C, h, w), tau) -> (B, C)")
def _tap(answer) -> str:
    maps = torch.randn(2, 3, 4, 5).relu(), F.pad(torch.rand(1, 2, 2, 2), (0, 2, 0, 2))
    hint = "The maximum is that of each image and each channel, and only what exceeds tau times it counts."
    gap = "That is GAP. Divide by the number of positions above tau times the maximum, not by all of them."
    mistakes = {gap: lambda features, tau: features.mean(dim=(2, 3))}
    return compared(answer, product(maps, (0.1, 0.5)), thresholded_average_pool, hint, mistakes)


@exercise("train-loss", "a function (logits (B, K), labels (B,)) -> number")
def _loss(answer) -> str:
    logits = torch.randn(6, 4), torch.randn(3, 5) * 200  # the softmax of the large ones is exactly 0 at the smallest
    hint = "The mean over images of -log softmax(logits)[label]; exp of large logits overflows, log_softmax does not."
    return compared(answer, [(some, some.argmin(dim=1)) for some in logits], F.cross_entropy, hint)


@exercise("cam-second", "a function (features (B, C, h, w), weight (K, C), logits (B, K)) -> maps (B, h, w)")
def _second(answer) -> str:
    features, weight, _ = _case()
    logits = features.mean(dim=(2, 3)) @ weight.T
    first, second = (_class_maps(features, weight, labels) for labels in logits.topk(2).indices.T)
    mistakes = {"That is the map of the most probable class.": lambda *_: first}
    hint = "Try logits.argsort(dim=1)[:, -2]."
    return compared(answer, [(features, weight, logits)], lambda *_: second, hint, mistakes)


@exercise("cam-bias", 'one word, "yes" or "no"')
def _bias(answer) -> str:
    maps = np.random.default_rng(0).normal(size=(20, 6, 6))
    same = all(np.array_equal(extract_box(some, 0.4, size=48), extract_box(some + 3.0, 0.4, size=48)) for some in maps)
    hint = "Twenty random maps have the same boxes with 3 added. Which step between map and threshold takes a constant away?"
    return chosen(answer, not same, ("yes", "no"), hint)


@exercise("cam-logit", "a function (maps (B, h, w), bias (B,)) -> logits (B,)")
def _logit(answer) -> str:
    model, images, labels = small_network()
    with torch.no_grad():
        model.head.bias.normal_()
        logits = model(images).gather(1, labels[:, None])[:, 0]
    case = (score_maps(model, images, labels, "cam"), model.head.bias.detach()[labels])
    total = "That is the sum over positions; pooling takes their mean."
    mistakes = {total: lambda maps, bias: maps.sum(dim=(1, 2)) + bias}
    hint = "Read the formula from right to left: the mean of the map, and what was left out of it."
    return compared(answer, [case], lambda *_: logits, hint, mistakes, 1e-3)


@exercise("rethinking-rest", "a function (features (B, C, h, w), weight (K, C), labels (B,)) -> maps (B, h, w)")
def _rest(answer) -> str:
    def clamped(features, weight, labels):
        return _class_maps(features, weight.clamp(min=0), labels)

    kept = "That is the map that is kept. Asked is what clamping takes away, so that both together are CAM."
    hint = "Together with the clamped map it must give CAM: which weights are left?"
    return compared(answer, [_case()], lambda *case: _class_maps(*case) - clamped(*case), hint, {kept: clamped})


@exercise("rethinking-level", "a function (score_map (h, w), theta, percentile) -> number")
def _level(answer) -> str:
    cases = [(torch.rand(9, 9), theta, percentile) for theta, percentile in ((0.35, 90), (0.5, 100), (0.2, 70))]
    mistakes = {"That is a share of the maximum, for any percentile.": lambda some, theta, _: theta * some.max()}
    hint = "See numpy.percentile."
    return compared(answer, cases, lambda some, theta, q: theta * np.percentile(some, q), hint, mistakes)


@exercise("rethinking-tau", "one of max, mean, sum, min")
def _tau(answer) -> str:
    features = torch.rand(4, 3, 5, 5)
    nearly = thresholded_average_pool(features, 0.999999)
    others = {"max": features.amax, "mean": features.mean, "sum": features.sum, "min": features.amin}
    truth = min(others, key=lambda name: float((others[name](dim=(2, 3)) - nearly).abs().max()))
    hint = "With tau close to 1, which positions exceed tau times the maximum of their channel?"
    return chosen(answer, truth, others, hint)


@exercise("grad-weights", "a function (features (B, C, h, w), rest, labels (B,)) -> weights (B, C)")
def _grad_weights(answer) -> str:
    hint = "Features that require a gradient, each image's own logit, summed, torch.autograd.grad, mean over positions."
    for pooling, backbone in (("gap", "resnet18"), ("tap", "resnet18"), ("fc", "vgg16_fc")):
        context = _context(pooling, backbone)
        weights, case = context.gradients.mean(dim=(2, 3)), (context.features, context.model.rest, context.labels)
        if wrong := compared(answer, [case], lambda *_, weights=weights: weights, hint, tolerance=1e-3):
            return f"On a network with pooling '{pooling}': {wrong}"
    return ""


@exercise("grad-factor", "a function (h, w) -> number")
def _factor(answer) -> str:
    def truth(height: int, width: int) -> Tensor:
        features, network, labels = torch.rand(1, 6, height, width), positive(6), torch.tensor([2])
        cam = _class_maps(features, network.head.weight, labels)
        return (cam / score_maps(network, None, labels, "grad_cam", features=features)).flatten()[cam.argmax()]

    hint = "This is for a feature map of {0} x {1}: by what does the mean divide?"
    return compared(answer, [(2, 3), (4, 4)], truth, hint, tolerance=1e-3)


@exercise("grad-hires", "a function (features, gradients, both (B, C, h, w)) -> maps (B, h, w)")
def _hires(answer) -> str:
    context = _context("fc", "vgg16_fc")
    maps = score_maps(context.model, context.images, context.labels, ("grad_cam", "hires_cam"))
    mistakes = {"That is Grad-CAM: take no mean of the gradient.": lambda *_: maps["grad_cam"]}
    hint = "Multiply position by position, sum over channels, and cut off what is negative."
    return compared(answer, [(context.features, context.gradients)], lambda *_: maps["hires_cam"], hint, mistakes, 1e-3)


@exercise("plusplus-closed", "a function (weight (B, C), pooled (B, C)) -> weights (B, C)")
def _closed(answer) -> str:
    weight, features = torch.randn(3, 6, dtype=torch.float64), torch.rand(3, 6, 4, 5, dtype=torch.float64)
    gradient = (weight / 20)[:, :, None, None].expand_as(features)
    alpha = gradient**2 / (2 * gradient**2 + features.sum(dim=(2, 3), keepdim=True) * gradient**3)
    truth = (alpha * gradient.clamp(min=0)).sum(dim=(2, 3))
    hint = "W / (2 + W p) for positive weights, and 0 for the others, whatever their denominator is."
    return compared(answer, [(weight, features.mean(dim=(2, 3)))], lambda *_: truth, hint)


@exercise("plusplus-scale", "a list of names, of cam, grad_cam and grad_cam++")
def _scale(answer) -> str:
    model, images, labels = small_network()
    names = ("cam", "grad_cam", "grad_cam++")
    before = score_maps(model, images, labels, names)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(100)
    after = score_maps(model, images, labels, names)
    changed = [name for name in names if differs(unit_range(after[name]), unit_range(before[name]), 1e-3)]
    hint = "One positive factor on a map changes no box. In which formulas does the weight stand more than once?"
    return chosen(answer, changed, names, hint)


@exercise("plusplus-tap", 'one word, "yes" or "no"')
def _plusplus_tap(answer) -> str:
    context = _context("tap")
    places, weights = context.gradients.flatten(2), context.class_weights
    gradient = places.amax(dim=2).where(weights > 0, places.amin(dim=2))
    same = not differs(context.features.sum(dim=(2, 3)) * gradient, weights * context.model.pool(context.features))
    hint = "S_c sums all positions, also those that TAP leaves out. Are they all zero?"
    return chosen(answer, same, ("yes", "no"), hint)


@exercise("score-effective", "a function: weights (C,) with sum 1 -> number")
def _effective(answer) -> str:
    cases = [(torch.full((8,), 1 / 8),), (torch.randn(12).softmax(0),), (torch.tensor([1.0, 0.0, 0.0]),)]
    hint = "exp(-sum w log w); a weight of 0 adds nothing to the sum (0 log 0 is 0, not NaN)."
    return compared(answer, cases, lambda weights: torch.special.entr(weights).sum().exp(), hint)


@exercise("score-passes", "a function (images, channels) -> number of masked images that the body sees")
def _passes(answer) -> str:
    def truth(count: int, channels: int) -> int:
        model, images, labels = small_network()
        features, seen = torch.rand_like(feature_map(model, images))[:count], []  # no channel is flat
        model.body.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
        score_maps(model, images[:count], labels[:count], "score_cam", features=features, channels=channels)
        return sum(seen)

    return compared(answer, [(1, 4), (3, 10)], truth, "This is for {0} images and {1} channels: one mask per what?")


@exercise("score-softmax", 'a list of what changes the weights, of "add" and "multiply"')
def _softmax(answer) -> str:
    scores = torch.randn(10)
    others = {"add": scores + 7, "multiply": scores * 7}
    changed = [name for name, other in others.items() if differs(other.softmax(0), scores.softmax(0))]
    return chosen(answer, changed, others, "exp(s + a) = exp(s) exp(a), and the softmax divides. What of exp(a s)?")


@exercise("any-max", "a function: context -> weights (B, C)")
def _any_max(answer) -> str:
    mean = "That is the mean of the gradient over positions, the weight of grad_cam."
    mistakes = {mean: lambda context: context.gradients.mean(dim=(2, 3))}
    hint = "context.gradients is (B, C, h, w); see torch.amax with two axes."
    cases = [(_context("fc", "vgg16_fc"),)]
    return compared(answer, cases, lambda context: context.gradients.flatten(2).amax(dim=2), hint, mistakes, 1e-3)


@exercise("any-mean", "a function (first (B, h, w), second (B, h, w)) -> (B, h, w)")
def _any_mean(answer) -> str:
    case = (torch.randn(3, 4, 4), 1000 * torch.rand(3, 4, 4))
    plain = "The second map is a thousand times larger, so the first plays no part: scale both to [0, 1], map by map."
    hint = "Each map has its own minimum and maximum: amin and amax over (1, 2), with keepdim."
    mistakes = {plain: lambda first, second: (first + second) / 2}
    return compared(answer, [case], lambda first, second: (unit_range(first) + unit_range(second)) / 2, hint, mistakes)


@exercise("any-twins", "a list of names, of layer_cam, hires_cam, xgrad_cam, eigen_cam and grad_cam++")
def _any_twins(answer) -> str:
    offered = ("layer_cam", "hires_cam", "xgrad_cam", "eigen_cam", "grad_cam++")
    twins = set(offered)
    for seed in (0, 1):
        maps = score_maps(*small_network(seed=seed), ("grad_cam", *offered))
        twins &= {name for name in offered if not differs(unit_range(maps[name]), unit_range(maps["grad_cam"]), 1e-3)}
    hint = "Behind GAP a channel has one gradient for all positions. Where does the same weighted sum remain, negatives too?"
    return chosen(answer, twins, offered, hint)


@exercise("compare-difference", "a function (hits_a (N,), hits_b (N,), of True and False) -> points")
def _difference(answer) -> str:
    cases = [(torch.rand(40) < share, torch.rand(40) < 0.5) for share in (0.3, 0.8)]
    hint = "Points are percent of A minus percent of B (subtraction of two True is no number: make them float)."
    return compared(answer, cases, lambda a, b: 100 * (a.float().mean() - b.float().mean()), hint)


@exercise("compare-mcnemar", "a function (only_a, only_b) -> p between 0 and 1")
def _mcnemar(answer) -> str:
    cases = [(5, 5), (0, 1), *np.random.default_rng(0).integers(0, 30, (20, 2)).tolist()]
    hint = "For {0} and {1}: twice the chance that a fair coin shows the smaller number of heads or fewer; at most 1."
    return compared(answer, cases, mcnemar, hint)


@exercise("compare-overlap", 'one word, "yes" or "no"')
def _overlap(answer) -> str:
    draw = np.random.default_rng(0)  # B finds all that A finds, and some images more
    a = draw.random(400) < 0.5
    b = a | (draw.random(400) < 0.08)
    more = int((b & ~a).sum())
    (_, high), (low, _) = share_interval(a), share_interval(b)
    ends = f"A's interval ends at {high:.1f} and B's begins at {low:.1f}"
    hint = f"Say B finds all that A finds, and {more} of 400 images more: {ends}. On how many images is A better?"
    return chosen(answer, high > low and mcnemar(0, more) < 0.05, ("yes", "no"), hint)


@exercise("training-rate", "a number from 0 to 1")
def _rate(answer) -> str:
    rate, images = number(answer), torch.rand(4, 3, 32, 32) + 0.1
    same = float((HaS(grid=0.25, rate=rate).change(images, torch.zeros(4))[0] == images).float().mean())
    hint = f"With rate {rate:g}, {same:.0%} of these images stay as they are: which value hides no cell?"
    return "" if same == 1 else hint


@exercise("training-cutmix-loss", "a function (logits (B, K), labels (B,), partners (B,), share) -> number")
def _cutmix(answer) -> str:
    def truth(logits, labels, partners, share):
        return share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, partners)

    cases = [(torch.randn(6, 4), *torch.randint(4, (2, 6)), share) for share in (0.8, 0.3)]
    hint = "The cross-entropy of each label counts as much as its share of the mixed image."
    return compared(answer, cases, truth, hint)


@exercise("training-adl", "a function (features (B, C, h, w), gamma) -> (B, 1, h, w) of 0 and 1")
def _adl(answer) -> str:
    cases = [(torch.randn(3, 5, 4, 4).relu(), gamma) for gamma in (0.8, 0.5)]
    hint = "Attention is the mean over channels; 1 where it is below gamma times the largest of its own image."
    return compared(answer, cases, adl.drop_mask, hint)


@exercise("training-acol", "a function (a (B, h, w), b (B, h, w)) -> (B, h, w)")
def _acol(answer) -> str:
    case = (torch.randn(3, 4, 4), torch.randn(3, 4, 4) * 10 + 2)
    hint = "Scale each map of each branch to [0, 1] first, then take the larger value at each position."
    return compared(answer, [case], lambda a, b: torch.maximum(unit_range(a), unit_range(b)), hint)
