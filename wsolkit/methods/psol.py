"""PSOL, pseudo-supervised object localisation: a regressor of boxes, fitted to boxes that another method made.

The regressor gives a box and no map, of whatever class. It can be better than the boxes that it learned from: their
errors differ from image to image, and what they have in common is where the object is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from wsolkit.boxes.extract import extract_box
from wsolkit.boxes.shares import shares_of_boxes
from wsolkit.common.errors import require
from wsolkit.common.parameters import parameter
from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.ddt import frozen_view, on_frozen_body, unfitted
from wsolkit.methods.registry import LIST, Published, Variant, register, resolve
from wsolkit.training.recipe import Objective

CELLS = 2  # of the pooled feature map, in both directions
COMPONENTS = 128  # of the pooled features, at most
ROWS, KEPT = 2048, 512  # rows that are held, and to how many they are reduced when there are more
STRENGTHS = np.logspace(-8, 4, 97)  # of the ridge, in units of the largest variance: the last is the mean box
TINY = 1e-12
HIDDEN, EPOCHS, BATCH, RATE = 512, 100, 32, 0.002  # of the small network


class Ridge:
    """Ridge regression of targets (N, T) on the principal components of rows (N, D), in one pass and in float64.

    Memory is bounded, whatever N is: at most ROWS + a batch rows are held. Where there are more, they become KEPT rows
    with (nearly) the same second moment, the longest principal axes of what was seen; up to ROWS nothing is lost.

    Args: length: D. targets: T.
    """

    def __init__(self, length: int, targets: int = 4) -> None:
        self.held: list[np.ndarray] = []
        self.count, self.total = 0, np.zeros(length)
        self.cross, self.answers, self.squares = np.zeros((length, targets)), np.zeros(targets), np.zeros(targets)

    def add(self, rows: np.ndarray, targets: np.ndarray) -> None:
        """Some rows (n, D) and their targets (n, T)."""
        rows, targets = rows.astype(np.float64), targets.astype(np.float64)
        self.count += len(rows)
        self.total += rows.sum(0)
        self.cross += rows.T @ targets
        self.answers += targets.sum(0)
        self.squares += (targets**2).sum(0)
        self.held.append(rows)
        if sum(map(len, self.held)) > ROWS:
            held = np.concatenate(self.held)
            self.held = [np.linalg.eigh(held @ held.T)[1][:, -KEPT:].T @ held]

    def fit(self, components: int = COMPONENTS) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        """Weight (T, D) and bias (T,), and facts: "components" that were used, "strength" of the ridge in units of the
        largest variance, "error", the root of the mean square that generalised cross-validation expects.

        The strength is the one of STRENGTHS with the least n RSS / (n - df)^2, where df counts the mean and
        sum s / (s + strength) over the variances s of the components. Source: Golub, Heath, Wahba, Technometrics 1979.
        """
        n, mean, middle = self.count, self.total / self.count, self.answers / self.count
        held = np.concatenate(self.held)
        values, vectors = np.linalg.eigh(held @ held.T)
        least = TINY * values[-1]  # below it, rounding
        good = values > least
        axes = held.T @ (vectors[:, good] / np.sqrt(values[good]))  # (D, r), orthonormal
        place = axes.T @ mean
        values, vectors = np.linalg.eigh(np.diag(values[good]) - n * np.outer(place, place))  # of centred rows
        count = min(components, max(n - 2, 0), int((values > least).sum()))
        variances, axes = values[::-1][:count], axes @ vectors[:, ::-1][:, :count]
        shared = axes.T @ (self.cross - np.outer(mean, self.answers))  # (components, T)
        best = (np.inf, 0.0, np.zeros_like(shared))
        for strength in STRENGTHS if count else ():
            shrunk = shared / (variances + strength * variances[0])[:, None]
            rest = self.squares - n * middle**2 - (2 * shared * shrunk - variances[:, None] * shrunk**2).sum(0)
            freedom = n - 1 - (variances / (variances + strength * variances[0])).sum()
            best = min(best, (n * rest.sum() / freedom**2, strength, shrunk), key=lambda item: item[0])
        error, strength, coefficients = best
        weight, root = (axes @ coefficients).T, np.sqrt(max(error, 0.0) / len(middle))
        return weight, middle - weight @ mean, {"components": count, "strength": float(strength), "error": float(root)}


def pseudo_boxes(maps: np.ndarray, method: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The boxes that a method's own rule and fixed threshold cut from its maps (N, h, w), in the frame `size` (H, W):
    (N, 4) float64 as shares of the image, and (N,) bool, whether the mask was empty, so that the box means nothing."""
    entry = resolve(method)
    threshold = entry.fixed_threshold(entry.percentile)
    made = [extract_box(own, threshold, entry.percentile, size, return_empty=True) for own in maps]
    boxes, empty = zip(*made, strict=True)
    return shares_of_boxes(np.stack(boxes), size), np.array(empty)


def pooled(features: Tensor) -> Tensor:
    """The means (B, 4 C) of a feature map (B, C, h, w) in 2 x 2 cells."""
    from torch.nn.functional import adaptive_avg_pool2d

    return adaptive_avg_pool2d(features.float(), CELLS).flatten(1)


class PSOL(Objective):
    """Fits a regressor to the boxes that `source` cuts from its maps of the training images, for their true classes.

    "ridge" is a closed form: a linear function of the feature map's means in 2 x 2 cells, see `Ridge`. "network" is the
    published one on a frozen body: the feature map's mean, 512 units, ReLU, four outputs, sigmoid; 50 times the mean
    squared error of x, y, width and height as shares; SGD with momentum 0.9 and weight decay 1e-4. Published is a
    fine-tuned body with crops and flips. No box of a person is seen, and nothing is chosen on one.

    Source: Zhang, Cao, Wu, "Rethinking the Route Towards Weakly Supervised Object Localization", CVPR 2020; its sizes
    of steps on CUB as later work repeats them. The closed form is the kit's own.
    """

    name, frozen, code = "psol", True, ("boxes", "methods/context.py", "methods/maps.py")
    source: str = parameter("ddt", "the method that makes the pseudo boxes")
    regressor: str = parameter("ridge", "closed form, or the published small network", choices=("ridge", "network"))

    def prepare(self, model: Any) -> None:
        import torch

        channels = model.head.in_features
        shapes: dict[str, tuple[int, ...]] = {"psol_weight": (4, CELLS**2 * channels), "psol_bias": (4,)}
        if self.regressor == "network":
            shapes = {"psol_hidden_weight": (HIDDEN, channels), "psol_hidden_bias": (HIDDEN,)}
            shapes |= {"psol_weight": (4, HIDDEN), "psol_bias": (4,)}
        earlier = [name for name in getattr(getattr(model, "fitted", None), "_buffers", ()) if name.startswith("psol_")]
        for name in earlier:  # of another regressor
            delattr(model.fitted, name)
            del model.spec["fitted"][name]
        model.keep(**{name: torch.full(shape, torch.nan) for name, shape in shapes.items()})

    @contextmanager
    def observing(self, model: Any, recipe: Any) -> Iterator[Callable[[Tensor, Tensor, Tensor], None]]:
        import torch

        from wsolkit.methods.maps import score_maps

        ridge, seen = Ridge(CELLS**2 * model.head.in_features), 0
        means: list[Tensor] = []
        targets: list[Tensor] = []

        def observe(images: Tensor, features: Tensor, labels: Tensor) -> None:
            nonlocal seen
            seen += len(images)
            maps: Any = score_maps(model, images, labels, self.source, features=features)
            shares, empty = pseudo_boxes(maps.cpu().numpy(), self.source, (images.shape[2], images.shape[3]))
            kept = torch.from_numpy(~empty).to(features.device)
            if self.regressor == "ridge":
                ridge.add(pooled(features[kept]).cpu().numpy(), shares[~empty])
            else:
                means.append(features[kept].mean((2, 3)))
                targets.append(torch.from_numpy(shares[~empty]).float())

        yield observe
        boxes = ridge.count or sum(map(len, targets))
        require(boxes, f"psol: {self.source} cut no box from any of {seen} training images, so there is nothing to fit")
        if self.regressor == "ridge":
            weight, bias, _ = ridge.fit()
            fitted = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
        else:
            fitted = fit_network(torch.cat(means), torch.cat(targets).to(means[0].device), recipe.seed)
        for name, value in fitted.items():
            model.fitted.get_buffer(f"psol_{name}").copy_(value)


def fit_network(features: Tensor, boxes: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """The small network of PSOL for features (N, C) and boxes (N, 4), corners as shares: its weights by name."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        net: Any = nn.Sequential(nn.Linear(features.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 4), nn.Sigmoid())
        net = net.to(features.device)
        optimiser = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
        extents = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)  # x, y, width, height
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(features)).split(BATCH):
                optimiser.zero_grad()
                (50 * (net(features[chosen]) - extents[chosen]).square().mean()).backward()
                optimiser.step()
    hidden, last = net[0], net[2]
    names = {"hidden_weight": hidden.weight, "hidden_bias": hidden.bias, "weight": last.weight, "bias": last.bias}
    return {name: value.detach() for name, value in names.items()}


VARIANT = Variant(
    "psol", "PSOL", makes_objective=PSOL, start="ddt", always=True, changes=on_frozen_body, view=frozen_view
)


@register(
    "psol",
    needs="features",
    gives="boxes",
    description="boxes by a regressor that was fitted to boxes of DDT, on a frozen body",
    label="PSOL",
    check=unfitted("psol", "psol_weight"),
    variants=(VARIANT, "gap"),
    chapter="12_psol.ipynb",
    published=(
        Published("vgg16", LIST, {"top1_loc": 66.30, "gt_known_loc": 80.45}, "body fine-tuned"),
        Published("resnet50", LIST, {"top1_loc": 70.68, "gt_known_loc": 90.00}, "body fine-tuned"),
        Published("inception_v3", LIST, {"top1_loc": 65.51}, "body fine-tuned"),
    ),
    differs="body frozen, regressor in closed form",
)
def psol(context: Context) -> Tensor:
    """x0, y0, x1, y1 as shares of the image, (B, 4), of whatever class. See `PSOL`."""
    import torch

    fitted = context.model.fitted
    if "psol_hidden_weight" in fitted._buffers:
        hidden = context.features.float().mean((2, 3)) @ fitted.psol_hidden_weight.T + fitted.psol_hidden_bias
        extents = (hidden.relu() @ fitted.psol_weight.T + fitted.psol_bias).sigmoid()
        first, last = extents[:, :2], extents[:, :2] + extents[:, 2:]
    else:
        corners = pooled(context.features) @ fitted.psol_weight.T + fitted.psol_bias
        first, last = corners[:, :2], corners[:, 2:]
    first = first.clamp(0, 1)
    return torch.cat([first, last.clamp(max=1).maximum(first)], dim=1)
