"""DDT, deep descriptor transforming: what the images of a class have in common, by a principal component. No training.

Also what variants share that are fitted to a frozen body: start weights, input size and stride of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from wsolkit.methods.context import Context, Module, Tensor
from wsolkit.methods.registry import LIST, Published, Variant, register
from wsolkit.networks.backbones import family
from wsolkit.training.recipe import Objective, recipe_values

PRETRAINED_SIZE = 448  # at 224 px and stride 32 DDT is worse than a box in the middle
FOLLOWS_BORDER = (
    0.5  # share of a component's variance that "in the outer ring or not" explains, from which on a warning
)
ENLARGED = 4  # times, before values are scaled
FACTS = ("explained", "border", "middle", "ring")


def on_frozen_body(recipe: Any, parameters: Any) -> Any:
    """The recipe of a network whose body stays and whose head is a linear probe: the run's, where it is one already."""
    values = recipe_values("frozen", "", "")
    return recipe if recipe.frozen else recipe.changed(**{n: values[n] for n in ("frozen", "epochs", "weight_decay")})


def frozen_view(parameters: Any) -> dict[str, int]:
    """Input size and stride of a frozen body: pretrained ones see large images at their own stride; one that the run
    trained from scratch sees what it was trained on."""
    pretrained, strides = parameters.weights != "none", family(parameters.backbone).strides
    size = max(parameters.size, PRETRAINED_SIZE) if pretrained else parameters.size
    stride = max(strides) if pretrained else parameters.stride
    return {"size": parameters.frozen_size or size, "stride": parameters.frozen_stride or stride}


class Descriptors:
    """Sums over descriptors (columns of feature maps) in float64: C x C memory for any number of images.

    Args: channels: C.
    """

    def __init__(self, channels: int) -> None:
        self.moment, self.total, self.count = np.zeros((channels, channels)), np.zeros(channels), 0
        self.ring, self.ring_count = np.zeros(channels), 0  # of positions in the outer ring of each map
        self.inside, self.inside_count = np.zeros(channels), 0  # of its middle half, in both directions

    def add(self, maps: np.ndarray) -> None:
        """Feature maps (B, C, h, w)."""
        maps = maps.astype(np.float64)
        columns = maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1])
        height, width = maps.shape[2:]
        self.moment += columns.T @ columns
        self.total += columns.sum(0)
        self.count += len(columns)
        core = maps[:, :, 1:-1, 1:-1]
        self.ring += columns.sum(0) - core.sum((0, 2, 3))
        self.ring_count += len(maps) * (height * width - core.shape[2] * core.shape[3])
        middle = maps[:, :, height // 4 : height - height // 4, width // 4 : width - width // 4]
        self.inside += middle.sum((0, 2, 3))
        self.inside_count += middle[:, 0].size

    def join(self, other: Descriptors) -> None:
        """Add what another one has seen."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def component(self) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        """Mean (C,), first principal direction (C,) of length 1, and facts on it.

        The direction's sign is the one in which the outer ring of the maps is negative on average. Facts: "explained",
        share of the variance; "border" and "middle", mean of the projection in the outer ring and in the middle half,
        in standard deviations; "ring", share of the projection's variance that lies between ring and all else. Where
        all descriptors are equal, the direction and all facts are 0.
        """
        mean = self.total / self.count
        covariance = self.moment / self.count - np.outer(mean, mean)
        variance, direction = _largest(covariance)
        if variance <= 1e-12 * (self.moment.trace() / self.count):
            return mean, np.zeros_like(mean), dict.fromkeys(FACTS, 0.0)
        border = direction @ (self.ring / self.ring_count - mean)
        sign = -1.0 if border > 0 else 1.0
        middle = direction @ (self.inside / self.inside_count - mean)
        share = self.ring_count / self.count
        ring = share / (1 - share) * border**2 / variance if share < 1 else 0.0
        facts = {"explained": variance / covariance.trace(), "ring": min(1.0, ring)}
        facts |= {"border": sign * border / variance**0.5, "middle": sign * middle / variance**0.5}
        return mean, sign * direction, facts


def _largest(matrix: np.ndarray) -> tuple[float, np.ndarray]:
    """The largest eigenvalue of a symmetric matrix and its vector; the same bits in every call."""
    from scipy.sparse.linalg import ArpackError, eigsh

    start = np.ones(len(matrix)) / len(matrix) ** 0.5
    try:
        values, vectors = eigsh(matrix, k=1, which="LA", v0=start)
    except (ArpackError, ValueError, TypeError):  # not converged, or too small for it
        values, vectors = np.linalg.eigh(matrix)
    return float(values[-1]), vectors[:, -1]


class DDT(Objective):
    """Fits means and first principal directions of the training images' descriptors: a row per class, and one over all
    classes as the last; a class without images has that of all."""

    name, frozen = "ddt", True

    def prepare(self, model: Any) -> None:
        import torch

        rows, channels = model.num_classes + 1, model.head.in_features
        shapes = {"ddt_mean": channels, "ddt_direction": channels, "ddt_facts": len(FACTS)}
        model.keep(**{name: torch.full((rows, length), torch.nan) for name, length in shapes.items()})

    @contextmanager
    def observing(self, model: Any, recipe: Any) -> Iterator[Callable[[Tensor, Tensor, Tensor], None]]:
        channels, every = model.head.in_features, model.num_classes
        sums = {every: Descriptors(channels)}  # of all classes, and of the one whose images come: no more are held
        fits: dict[int, Any] = {}

        def complete() -> None:
            for label in [label for label in sums if label != every]:
                fits[label] = sums[label].component()
                sums[every].join(sums.pop(label))

        def observe(images: Tensor, features: Tensor, labels: Tensor) -> None:
            for label in labels.unique().tolist():
                if label not in sums:
                    complete()
                    sums[label] = Descriptors(channels)
                sums[label].add(features[labels == label].cpu().numpy())

        yield observe
        complete()
        fits[every] = sums[every].component()
        for row in range(every + 1):
            keep(model, row, fits.get(row, fits[every]))
        if reason := followers(model):
            warnings.warn(reason, RuntimeWarning, stacklevel=2)


def keep(model: Any, row: int, component: tuple[np.ndarray, np.ndarray, dict[str, float]]) -> None:
    """Store what `Descriptors.component` gave as the statistics of a class (its label), or of all (the last row)."""
    import torch

    mean, direction, known = component
    values = {"ddt_mean": mean, "ddt_direction": direction, "ddt_facts": [known[name] for name in FACTS]}
    for name, value in values.items():
        getattr(model.fitted, name)[row] = torch.from_numpy(np.array(value, np.float32))


def facts(model: Any) -> dict[str, list[float]]:
    """What is known of the components: name of `FACTS` -> K + 1 numbers, a class each, and all classes as the last."""
    return dict(zip(FACTS, model.fitted.ddt_facts.T.tolist(), strict=True))


def followers(model: Any) -> str:
    """A sentence on the components that follow the border of the images instead of objects; "" where none does."""
    ring = facts(model)["ring"]
    bad = [row for row, share in enumerate(ring[:-1]) if share > FOLLOWS_BORDER]
    if not bad:
        return ""
    classes = ", ".join(map(str, bad[:5])) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
    share = 100 * max(ring[row] for row in bad)
    return (
        f"ddt: the component of class {classes} follows the border of the images rather than an object (position in "
        f"the outer ring explains {share:.0f} % of its variance): its boxes mean little; try another stride or network"
    )


def unfitted(name: str, buffer: str) -> Callable[[Module], str]:
    """The check of a method that uses what was fitted to a network, by its name and one of the buffers it keeps."""

    def check(model: Module) -> str:
        kept = getattr(getattr(model, "fitted", None), "_buffers", {}).get(buffer)
        if kept is not None and bool(kept.isfinite().all()):  # NaN until a fit has ended
            return ""
        kind = getattr(model, "backbone", type(model).__name__)
        cut = f", cut at layer '{model.layer}'," if hasattr(model, "layer") else ""
        return (
            f"{name} uses what was fitted to training images, which this {kind}{cut} does not hold; take"
            f"{', without a layer,' if cut else ''} the network of a training run of variant {name} "
            f"(Run.model('{name}')), or wk.fit(model, train, objective=wsolkit.methods.{name}.{name.upper()}(), "
            "frozen=True)"
        )

    return check


@register(
    "ddt",
    needs="features",
    description="first principal component of the descriptors of a class's training images, on a frozen body",
    label="DDT",
    relu=False,
    eigen=False,
    uses_classes=True,
    check=unfitted("ddt", "ddt_mean"),
    threshold=0.5,
    variants=(Variant("ddt", "DDT", makes_objective=DDT, start="gap", changes=on_frozen_body, view=frozen_view), "gap"),
    chapter="11_ddt.ipynb",
    published=(Published("vgg16", LIST, {"top1_loc": 62.30, "gt_known_loc": 84.55}),),
)
def ddt(context: Context, per_class: bool = True) -> Tensor:
    """P = xi . (A - mu) at every position, the foreground where P > 0: mu and xi are mean and first principal direction
    of the descriptors of all training images of the class, or with per_class=False of all classes.

    The map is P, enlarged four times, with its positive values divided by the largest and its negative ones by the
    least, so that the fixed threshold 0.5 of every image is P = 0. Where no position is positive, the box is the whole
    image.

    Source: Wei et al., "Unsupervised Object Discovery and Co-Localization by Deep Descriptor Transforming", Pattern
    Recognition 2019 (IJCAI 2017).
    """
    import torch
    from torch.nn.functional import interpolate

    fitted, features = context.model.fitted, context.features.float()
    rows = context.labels if per_class else torch.full_like(context.labels, len(fitted.ddt_mean) - 1)
    mean, direction = fitted.ddt_mean[rows], fitted.ddt_direction[rows]
    projected = torch.einsum("bc,bchw->bhw", direction, features) - (direction * mean).sum(1)[:, None, None]
    larger = interpolate(projected[:, None], scale_factor=ENLARGED, mode="bilinear", align_corners=False)
    return around_zero(larger[:, 0])


def around_zero(maps: Tensor) -> Tensor:
    """(B, h, w) -> the same in [-1, 1]: zero stays, so that it is half of a map's range. A map without positive values
    becomes one whose box at that threshold is the whole image."""
    low, high = (maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True))
    scaled = maps.clamp(min=0) / high.clamp(min=1e-30) - maps.clamp(max=0) / low.clamp(max=-1e-30)
    whole = maps.new_ones(maps.shape)
    whole[:, 0, 0] = -1.0  # a map needs two values
    scaled[:, 0, 0] = scaled[:, 0, 0].where(low[:, 0, 0] < 0, -1.0)  # nor may zero be the least where all is foreground
    return scaled.where(high > 0, whole)
