"""What is asked in 00_tour, 01_train, 08_compare and 09_training_time_methods: boxes, pooling, statistics, training."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from wsolkit.boxes.extract import extract_box, iou
from wsolkit.boxes.preparation import normalise_map
from wsolkit.evaluation.comparison import mcnemar
from wsolkit.evaluation.intervals import share_interval
from wsolkit.methods import adl
from wsolkit.methods.has import HaS
from wsolkit.networks.models import unit_range
from wsolkit.networks.pooling import thresholded_average_pool
from wsolkit.study.exercises import array, call, chosen, differs, exercise, number

# ------------------------------------------------------------------------------------------------ 00_tour


def hand_made_map() -> np.ndarray:
    """(8, 8) float64: the map of the tour, a block of ones with a fainter column on its left."""
    drawn = np.zeros((8, 8))
    drawn[2:4, 3:6], drawn[2:4, 2] = 1.0, 0.3
    return drawn


@exercise("tour-box", "four numbers, x0, y0, x1, y1")
def _box(answer) -> str:
    box = array(answer)
    if box.shape != (4,):
        return f"A box is four numbers, x0, y0, x1, y1; this has shape {box.shape}."
    if not differs(box, extract_box(hand_made_map(), threshold=0.9, size=8)):
        return ""
    if not differs(box, extract_box(hand_made_map(), threshold=0.1, size=8)):
        return "That is the box at threshold 0.1: the fainter column is 0.3, which is less than 0.9 of the maximum."
    return "Which values of the map are above 0.9 of its maximum? And the far end is one past the last pixel."


@exercise("tour-iou", "a function (a, b) -> number, for two boxes x0, y0, x1, y1 with corners included")
def _iou(answer) -> str:
    draw = np.random.default_rng(0)
    for _ in range(50):
        corners = draw.integers(0, 12, (2, 2, 2))
        a, b = (np.concatenate([pair.min(axis=0), pair.max(axis=0)]) for pair in corners)
        truth, found = float(iou(a, b)[0, 0]), number(call(answer, a.tolist(), b.tolist()))
        if differs(found, truth, 1e-6):
            why = " Corners are included: a box from 2 to 4 is three pixels wide." if truth else (
                " They are apart: width and height of the overlap must not go below 0, each on its own.")  # fmt: skip
            return f"For {a.tolist()} and {b.tolist()} it is {found:.4g} instead of {truth:.4g}.{why}"
    return ""


@exercise("tour-min-max", "a function: map (h, w) -> map (h, w) between 0 and 1")
def _min_max(answer) -> str:
    for drawn in (torch.randn(5, 7) * 3 + 4, torch.rand(4, 4) - 5, torch.full((3, 3), 2.0)):
        if hint := differs(call(answer, drawn), normalise_map(drawn)):
            flat = " A map that is the same everywhere has no contrast: all zeros." if drawn.std() == 0 else (
                " The smallest value becomes 0 and the largest 1, also where all are negative.")  # fmt: skip
            return hint + flat
    return ""


# ------------------------------------------------------------------------------------------------ 01_train


@exercise("train-steps", "a function (images, batch_size) -> number of steps in an epoch")
def _steps(answer) -> str:
    draw = np.random.default_rng(0)
    for images, size in [(32, 16), (1, 8), *((int(n), int(b)) for n, b in draw.integers(1, 500, (30, 2)))]:
        truth = len(torch.arange(images).split(size))
        if differs(call(answer, images, size), truth):
            return (
                f"{images} images in batches of {size} are {truth} steps: the last batch may be smaller, and it counts."
            )
    return ""


@exercise("train-tap", "a function (features (B, C, h, w), tau) -> (B, C)")
def _tap(answer) -> str:
    for tau in (0.1, 0.5):
        for features in (torch.randn(2, 3, 4, 5).relu(), F.pad(torch.rand(1, 2, 2, 2), (0, 2, 0, 2))):
            if hint := differs(call(answer, features, tau), thresholded_average_pool(features, tau)):
                if not differs(call(answer, features, tau), features.mean(dim=(2, 3))):
                    return "That is GAP. Divide by the number of positions above tau times the maximum, not by all of them."
                return f"{hint} The maximum is that of each image and each channel, and only what exceeds tau times it counts."
    return ""


@exercise("train-loss", "a function (logits (B, K), labels (B,)) -> number")
def _loss(answer) -> str:
    for logits in (torch.randn(6, 4), torch.randn(3, 5) * 200):
        labels = logits.argmin(dim=1)  # the softmax of the large ones is exactly 0 there
        truth = F.cross_entropy(logits, labels)
        if hint := differs(call(answer, logits, labels), truth):
            large = (
                " These logits are large: exp overflows; take log_softmax or logsumexp."
                if logits.abs().max() > 100
                else ""
            )
            return f"{hint} It is the mean over images of -log softmax(logits)[label].{large}"
    return ""


# ------------------------------------------------------------------------------------------------ 08_compare


@exercise("compare-difference", "a function (hits_a (N,), hits_b (N,), of True and False) -> points")
def _difference(answer) -> str:
    for share in (0.3, 0.8):
        a, b = torch.rand(40) < share, torch.rand(40) < 0.5
        truth = 100 * (a.float().mean() - b.float().mean())
        if hint := differs(call(answer, a, b), truth):
            return f"{hint} Points are percent of A minus percent of B (subtraction of two True is no number: make them float)."
    return ""


@exercise("compare-mcnemar", "a function (only_a, only_b) -> p between 0 and 1")
def _mcnemar(answer) -> str:
    for only_a, only_b in [(5, 5), (0, 1), *np.random.default_rng(0).integers(0, 30, (20, 2)).tolist()]:
        truth = mcnemar(only_a, only_b)
        if differs(call(answer, only_a, only_b), truth):
            return (f"For {only_a} and {only_b} p is {truth:.4g}: twice the probability that a fair coin, thrown {only_a + only_b} "
                    f"times, shows at most {min(only_a, only_b)} heads, and never more than 1.")  # fmt: skip
    return ""


@exercise("compare-overlap", 'one word, "yes" or "no"')
def _overlap(answer) -> str:
    draw = np.random.default_rng(0)  # B finds all that A finds, and some images more
    a = draw.random(400) < 0.5
    b = a | (draw.random(400) < 0.08)
    more = int((b & ~a).sum())
    (_, high), (low, _) = share_interval(a), share_interval(b)
    return chosen(answer, "yes" if high > low and mcnemar(0, more) < 0.05 else "no", ("yes", "no"),
                  f"Take a B that finds all that A finds and {more} of 400 images more: the intervals overlap (A's ends at "
                  f"{high:.1f}, B's begins at {low:.1f}). On how many images is A the better one?")  # fmt: skip


# ------------------------------------------------------------------------------------------------ 09_training_time_methods


@exercise("training-rate", "a number from 0 to 1")
def _rate(answer) -> str:
    rate = number(answer)
    images = torch.rand(4, 3, 32, 32) + 0.1
    same = float((HaS(grid=0.25, rate=rate).change(images, torch.zeros(4))[0] == images).float().mean())
    return (
        ""
        if same == 1
        else f"With rate {rate:g}, {same:.0%} of these images stay as they are: which value hides no cell?"
    )


@exercise("training-cutmix-loss", "a function (logits (B, K), labels (B,), partners (B,), share) -> number")
def _cutmix(answer) -> str:
    for share in (0.8, 0.3):
        logits, (labels, partners) = torch.randn(6, 4), torch.randint(4, (2, 6))
        truth = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, partners)
        if hint := differs(call(answer, logits, labels, partners, share), truth):
            return f"{hint} The cross-entropy of each label counts as much as its image's share of the picture."
    return ""


@exercise("training-adl", "a function (features (B, C, h, w), gamma) -> (B, 1, h, w) of 0 and 1")
def _adl(answer) -> str:
    for gamma in (0.8, 0.5):
        features = torch.randn(3, 5, 4, 4).relu()
        if hint := differs(call(answer, features, gamma), adl.drop_mask(features, gamma)):
            return f"{hint} Attention is the mean over channels; 1 where it is below gamma times the largest of its own image."
    return ""


@exercise("training-acol", "a function (a (B, h, w), b (B, h, w)) -> (B, h, w)")
def _acol(answer) -> str:
    a, b = torch.randn(3, 4, 4), torch.randn(3, 4, 4) * 10 + 2
    truth = torch.maximum(unit_range(a), unit_range(b))
    hint = differs(call(answer, a, b), truth)
    return (
        hint and f"{hint} Scale each map of each branch to [0, 1] first, then take the larger value at each position."
    )
