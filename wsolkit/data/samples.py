"""One image as annotations know it, the geometry of image, boxes and mask, splits, and choices of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wsolkit.common.errors import WsolkitError


@dataclass(frozen=True)
class MaskFiles:
    """Mask files of one image below a folder: one per instance, and the ignored region or None."""

    paths: tuple[str, ...]
    ignore: str | None = None
    root: Path = Path()


@dataclass(frozen=True)
class Sample:
    """One image as the annotation files know it.

    Attributes:
        id: unique within the dataset, also the name in result files.
        label: class index, 0-based.
        boxes: ground-truth boxes (x0, y0, x1, y1) in original pixels.
        path: the image file; None where the image is drawn by code.
        size: (width, height) of the original image, where it is known without opening it.
        masks: its mask files, whose instances have the boxes.
    """

    id: str
    label: int
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    path: Path | None = None
    size: tuple[int, int] | None = None
    masks: MaskFiles | None = None


@dataclass(frozen=True, eq=False)
class Target:
    """What belongs to one image after resize and crop.

    Attributes:
        label: class index, 0-based.
        boxes: (n, 4) int64, x0 y0 x1 y1, inclusive corners, in pixels of the returned image.
        mask: (H, W) uint8 (0 background, 1 object, 255 ignore) or None.
        id: the sample's id.
    """

    label: int
    boxes: torch.Tensor
    mask: torch.Tensor | None
    id: str


@dataclass(frozen=True)
class Geometry:
    """How an original image becomes the network's input.

    `kind="resize"` is wsolevaluation's: both sides to `size`, no crop. `kind="crop"` is RethinkingCAM's: both sides to
    256/224 of `size`, then the central `size` pixels. Ground-truth corners are scaled and truncated to integers; with a
    crop also shifted, and clipped to the frame [0, size - 1]. (Without one they are not clipped, as in wsolevaluation:
    an inclusive corner inside the image lies inside the frame.)
    """

    size: int = 224
    kind: str = "resize"

    def __post_init__(self) -> None:
        if self.kind not in ("resize", "crop"):
            raise WsolkitError(f"geometry must be 'resize' or 'crop', but is '{self.kind}'")
        if not isinstance(self.size, int) or self.size < 8:
            raise WsolkitError(f"the input size must be an integer of at least 8 pixels, but is {self.size!r}")

    @property
    def enlarged(self) -> int:
        """Side before a crop (256 for 224), used by `kind="crop"` and by the random crops of training."""
        return round(self.size * 256 / 224)

    @property
    def side(self) -> int:
        """Side to which an evaluation image is resized."""
        return self.enlarged if self.kind == "crop" else self.size

    @property
    def offset(self) -> int:
        return (self.side - self.size) // 2

    def boxes(self, boxes: Sequence[Sequence[float]], original: tuple[int, int]) -> torch.Tensor:
        """(n, 4) boxes in pixels of an image of `original` (width, height) -> (n, 4) int64 in the input frame."""
        known, extent = np.asarray(boxes, np.float64).reshape(-1, 4), np.array([*original, *original], np.float64)
        # corner * side / size in this order, as the published protocol: another order can truncate differently
        scaled = np.trunc(known * self.side / extent).astype(np.int64) - self.offset
        if self.kind == "resize":
            return torch.from_numpy(scaled)
        inside = (scaled[:, 2:] >= 0).all(axis=1) & (scaled[:, :2] < self.size).all(axis=1)
        if inside.any():  # an object that the crop cut away cannot be found; the last one is kept so that none is lost
            scaled = scaled[inside]
        return torch.from_numpy(scaled.clip(0, self.size - 1))

    def crop(self, pixels: np.ndarray) -> np.ndarray:
        """Cut the central window out of (..., side, side, C) or (side, side) pixels."""
        window = slice(self.offset, self.offset + self.size)
        return pixels[..., window, window, :] if pixels.ndim > 2 else pixels[window, window]


@dataclass(frozen=True)
class Request:
    """One split of a data set as somebody asks for it: `load_dataset` makes it, an opener answers with the data set.

    Attributes:
        split: "train", "val" or "test".
        root: the folder of the data set, None where none is given.
        geometry: of the images.
        classes: None is all, an integer the first so many, else a list of names or 0-based indices.
        val_share, seed: of the validation split; `seed` also of what is drawn.
    """

    split: str
    root: str | Path | None
    geometry: Geometry
    classes: Sequence[str | int] | int | None = None
    val_share: float = 0.2
    seed: int = 0

    def select(self, names: Sequence[str]) -> tuple[list[str], dict[int, int]]:
        """The names of the chosen classes, and place in `names` -> label."""
        wanted, chosen = [self.classes] if isinstance(self.classes, str) else self.classes, []
        if isinstance(wanted, int) and not 2 <= wanted <= len(names):
            raise WsolkitError(f"classes={wanted}: expected a number between 2 and {len(names)}")
        if wanted is None or isinstance(wanted, int):
            wanted = range(wanted or len(names))
        for item in wanted:
            index = int(item) if str(item).isdecimal() else next((i for i, n in enumerate(names) if n == item), -1)
            if not 0 <= index < len(names):
                raise WsolkitError(
                    f"class '{item}' is not in the dataset; it has e.g. {', '.join(map(str, names[:5]))}"
                )
            chosen.append(index)
        if self.classes is not None and (len(set(chosen)) != len(chosen) or len(chosen) < 2):
            raise WsolkitError(f"classes must be at least two different ones, but are {list(wanted)}")
        return [names[index] for index in chosen], {index: label for label, index in enumerate(chosen)}

    def own(self, labels: Sequence[int] | np.ndarray) -> list[int]:
        """Indices of the training images with these `labels` in the split: held out for "val", else the rest. Of each
        class `val_share` is held out, rounded, at least one of two or more."""
        if not 0.0 < self.val_share < 1.0:
            raise WsolkitError(f"the validation share must lie strictly between 0 and 1, but is {self.val_share}")
        known = np.asarray(labels)
        held = np.zeros(len(known), dtype=bool)
        for label in np.unique(known):
            members = np.flatnonzero(known == label)
            if len(members) > 1:
                count = min(len(members) - 1, max(1, round(self.val_share * len(members))))
                held[np.random.default_rng([self.seed, int(label)]).permutation(members)[:count]] = True
        return np.flatnonzero(held if self.split == "val" else ~held).tolist()
