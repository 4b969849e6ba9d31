"""A data set as training and evaluation use it: images of one geometry, labels, boxes, masks, and batches of them.

The geometry of image, boxes and mask, and choices of classes and splits;
then the way from decoded pixels to batches; then `WSOLDataset`, which holds all of it. What an epoch draws depends on
(seed, epoch) alone and is drawn by numpy, so every device sees the same images. On the CPU a compiled loop reads the
decoded pixels once and writes normalised floats, one or two batches ahead of the training step. On CUDA the decoded
pixels of all images lie on the device where they fit, and whole batches are gathered there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from wsolkit.boxes.preparation import LARGEST
from wsolkit.common.code import compiled
from wsolkit.common.errors import WsolkitError, is_digits, is_real, is_whole, require
from wsolkit.data.decoded import DecodedPixels, ahead
from wsolkit.data.images import Sample, image_size, instance_boxes, read_image, read_mask

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DEVICE_SHARE = 1 / 3  # of the free memory of a CUDA device that decoded pixels may take: a training step needs the rest
UPLOAD = 256  # images copied to the device at a time

AS_THEY_ARE = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
# (256, 3) float32, what normalising makes of each grey level of each channel. Looked up instead of computed, the values
# are the same on every device, and the CPU reads one byte and writes one float per value.
_MEAN, _STD = np.array([IMAGENET_MEAN, IMAGENET_STD], np.float32)
LEVELS = (AS_THEY_ARE / np.float32(255) - _MEAN) / _STD

Device = str | torch.device
Batch = tuple[Tensor, Tensor]


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
    boxes: Tensor
    mask: Tensor | None
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
        require(self.kind in ("resize", "crop"), f"geometry must be 'resize' or 'crop', but is '{self.kind}'")
        good = is_whole(self.size, 8, LARGEST)
        require(good, f"the input size must be an integer from 8 to {LARGEST} pixels, but is {self.size!r}")

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

    def boxes(self, boxes: Sequence[Sequence[float]], original: tuple[int, int]) -> Tensor:
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

    def __post_init__(self) -> None:
        require(is_whole(self.seed), f"seed must be a whole number of at least 0, but is {self.seed!r}")
        good = is_real(self.val_share) and 0 < self.val_share < 1
        require(good, f"val_share must lie strictly between 0 and 1, but is {self.val_share!r}")

    def select(self, names: Sequence[str]) -> tuple[list[str], dict[int, int]]:
        """The names of the chosen classes, and place in `names` -> label."""
        wanted, chosen = [self.classes] if isinstance(self.classes, str) else self.classes, []
        if isinstance(wanted, int) and not 2 <= wanted <= len(names):
            raise WsolkitError(f"classes={wanted}: expected a number between 2 and {len(names)}")
        if wanted is None or isinstance(wanted, int):
            wanted = range(wanted or len(names))
        good = isinstance(wanted, Iterable)
        require(good, f"classes must be a number or a list of names or numbers, but is {wanted!r}")
        for item in wanted:
            index = int(item) if is_digits(str(item)) else next((i for i, n in enumerate(names) if n == item), -1)
            known, told = ", ".join(map(str, names[:5])), str(item)[:60]
            require(0 <= index < len(names), f"class '{told}' is not in the dataset; choose from e.g. {known}")
            chosen.append(index)
        if self.classes is not None and (len(set(chosen)) != len(chosen) or len(chosen) < 2):
            raise WsolkitError(f"classes must be at least two different ones, but are {list(wanted)}")
        return [names[index] for index in chosen], {index: label for label, index in enumerate(chosen)}

    def own(self, labels: Sequence[int] | np.ndarray) -> list[int]:
        """Indices of the training images with these `labels` in the split: held out for "val", else the rest. Of each
        class `val_share` is held out, rounded, at least one of two or more."""
        known = np.asarray(labels)
        held = np.zeros(len(known), dtype=bool)
        for label in np.unique(known):
            members = np.flatnonzero(known == label)
            if len(members) > 1:
                count = min(len(members) - 1, max(1, round(self.val_share * len(members))))
                held[np.random.default_rng([self.seed, int(label)]).permutation(members)[:count]] = True
        return np.flatnonzero(held if self.split == "val" else ~held).tolist()


# -------------------------------------------------------------------------------------- from decoded pixels to batches


def normalise(pixels: np.ndarray | Tensor) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 with ImageNet mean 0 and standard deviation 1, on any device."""
    tensor = torch.as_tensor(np.ascontiguousarray(pixels) if isinstance(pixels, np.ndarray) else pixels)
    levels, channel = _levels_on(tensor.device)
    places = tensor.to(torch.int32).mul_(3).add_(channel)
    floats = levels.index_select(0, places.flatten()).view(tensor.shape).movedim(-1, -3)
    # a batch stays in the layout of the pixels, channels last: the one in which convolutions run fastest on CPUs
    return floats if tensor.ndim == 4 else floats.contiguous()


@cache
def _levels_on(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(LEVELS).flatten().to(device), torch.arange(3, dtype=torch.int32, device=device)


def denormalise(image: Tensor) -> np.ndarray:
    """(..., 3, H, W) normalised float -> (..., H, W, 3) uint8, for figures."""
    image = image.detach().cpu().float().movedim(-3, -1)
    image = image * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
    return (image * 255.0).round().clamp(0, 255).to(torch.uint8).numpy()


@compiled
def _look_up(source, rows, corners, flips, table, out):
    """out[k, y, x, c] = table[source at row k's window, c]; mirrored where flips[k]."""
    size = out.shape[1]
    for k in range(rows.size):
        whole = source[rows[k]]
        top, left = corners[k, 0], corners[k, 1]
        first, step = (left + size - 1, -1) if flips[k] else (left, 1)
        for y in range(size):
            for x in range(size):
                for c in range(3):
                    out[k, y, x, c] = table[whole[top + y, first + step * x, c], c]


def windows(
    source: np.ndarray, rows: np.ndarray, corners: np.ndarray, flips: np.ndarray, size: int, table: np.ndarray = LEVELS
) -> np.ndarray:
    """Cut a window out of some images, mirror it or not, and look its values up in `table`, all in one pass.

    Args:
        source: (N, side, side, 3) uint8, in memory or mapped from a file.
        rows, corners, flips: (b,) int64 images to take, (b, 2) int64 top and left of the window, (b,) bool mirror.
        size: side of the window in pixels.
        table: (256, 3): LEVELS normalises, AS_THEY_ARE keeps uint8.

    Returns:
        (b, size, size, 3) of the table's dtype.

    Raises: IndexError: a row or a window lies outside `source`.
    """
    for name, known, end in (("image", rows, len(source)), ("corner", corners, source.shape[1] - size + 1)):
        if len(rows) and not (known.min() >= 0 and known.max() < end):
            raise IndexError(f"{name} {known.min()} to {known.max()}, expected 0 to {end - 1}")
    out = np.empty((len(rows), size, size, 3), table.dtype)
    _look_up(np.asarray(source), rows, corners, flips, table, out)  # the compiled loop checks no index
    return out


def cut_images(
    source: np.ndarray, rows: np.ndarray, corners: np.ndarray, flips: np.ndarray, size: int, device: torch.device
) -> Tensor:
    """The `windows` as normalised images on a device: (b, 3, size, size) float32, channels last."""
    if device.type == "cpu":
        return torch.from_numpy(windows(source, rows, corners, flips, size)).permute(0, 3, 1, 2)
    cut = windows(source, rows, corners, flips, size, AS_THEY_ARE)  # bytes travel, floats are made there
    return normalise(_moved(torch.from_numpy(cut), device))


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def windows_on_device(pixels: Tensor, rows: Tensor, corners: Tensor, flips: Tensor, size: int) -> Tensor:
    """`windows` without a loop: the indices of all rows and columns of all windows, and one gather. Arguments as there,
    as tensors on one device; (b, size, size, 3) uint8."""
    steps = torch.arange(size, device=pixels.device)
    down = corners[:, :1] + steps
    across = corners[:, 1:] + torch.where(flips[:, None], size - 1 - steps, steps)
    return pixels[rows[:, None, None], down[:, :, None], across[:, None, :]]


def held_on(pixels: DecodedPixels, device: torch.device) -> Tensor | None:
    """All decoded pixels on a device, (N, side, side, 3) uint8, kept there for the next epoch; None where they would
    take more than a third of the free memory of CUDA."""
    if str(device) not in pixels.held:
        if device.type == "cuda" and pixels.bytes > DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            return None
        held = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(held), UPLOAD):
            source, rows = pixels.source(np.arange(start, min(start + UPLOAD, len(held))))
            held[start : start + len(rows)] = torch.from_numpy(source[rows]).to(device)
        pixels.held[str(device)] = held
    return pixels.held[str(device)]


class Epoch(NamedTuple):
    """What an epoch draws: order (N,) int64, corners (N, 2) int64, flips (N,) bool, and the ends of global batches."""

    order: np.ndarray
    corners: np.ndarray
    flips: np.ndarray
    bounds: list[tuple[int, int]]


def draw_epoch(count: int, batch_size: int, room: int, seed: int, epoch: int) -> Epoch:
    """Shuffle `count` images and draw a corner in [0, room] and a flip for each, from (seed, epoch) and the batch size.

    A last batch of a single image is left out (batch normalisation cannot train on one value per channel).
    """
    rng = np.random.default_rng([seed, epoch, 1])
    order = rng.permutation(count)
    bounds = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    if count > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds.pop()
    corners, flips = np.zeros((count, 2), np.int64), np.zeros(count, bool)
    for start, stop in bounds:  # batch by batch: the numbers of an epoch have always been drawn in this order
        corners[start:stop] = rng.integers(0, room + 1, (stop - start, 2))
        flips[start:stop] = rng.random(stop - start) < 0.5
    return Epoch(order, corners, flips, bounds)


def share_of(bounds: tuple[int, int], rank: int, world_size: int) -> slice:
    """The contiguous part of a global batch for one of `world_size` processes; the first may have one image more."""
    start, stop = bounds
    size, more = divmod(stop - start, world_size)
    first = start + rank * size + min(rank, more)
    return slice(first, first + size + (rank < more))


def epoch_batches(
    pixels: DecodedPixels, labels: np.ndarray, size: int, epoch: Epoch, shares: list[slice], device: torch.device
) -> Iterator[Batch]:
    """The (images, labels) of `shares`, on `device`; see `WSOLDataset.train_batches`. labels: (N,) int64, by image."""
    if device.type == "cuda" and (held := held_on(pixels, device)) is not None:
        yield from from_device(held, labels, size, epoch, shares)
        return
    labels = labels[epoch.order]
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def made(share: slice) -> Batch:
        """Cut out of pixels in memory or in a mapped file, by a thread, while the step before runs."""
        source, rows = pixels.source(epoch.order[share])
        with torch.cuda.stream(stream) if stream else nullcontext():  # `device` is then the current one of this thread
            images = cut_images(source, rows, epoch.corners[share], epoch.flips[share], size, device)
            return images, _moved(torch.from_numpy(labels[share]), device)

    yield from ahead(made, shares)


def from_device(held: Tensor, labels: np.ndarray, size: int, epoch: Epoch, shares: list[slice]) -> Iterator[Batch]:
    """Batches gathered out of all pixels on a device; what was drawn goes there once: no step waits for a copy."""
    drawn = (epoch.order, epoch.corners, epoch.flips, labels[epoch.order])
    order, corners, flips, wanted = (torch.from_numpy(array).to(held.device) for array in drawn)
    for share in shares:
        cut = windows_on_device(held, order[share], corners[share], flips[share], size)
        yield normalise(cut), wanted[share]


@dataclass(eq=False)
class WSOLDataset(Dataset):
    """Images with labels for training and boxes (masks) for evaluation only.

    `dataset[i]` is deterministic in every split: (3, H, W) float32 normalised image and its `Target`. Random crops and
    flips belong to training and are drawn by `train_batches`.
    """

    name: str
    split: str
    classes: list[str]
    samples: list[Sample]
    geometry: Geometry
    opener: Callable[[str], WSOLDataset] | None = None  # builds another split of the same data
    _decoded: dict[int, DecodedPixels] = field(init=False, default_factory=dict, repr=False)  # by side

    def __post_init__(self) -> None:
        wrong = f"dataset '{self.name}' has no image for split '{self.split}' of the chosen classes"
        held = ", or add images: a class with one training image has none to hold out" if self.split == "val" else ""
        require(self.samples, f"{wrong}; check its files, the root and the classes{held}")

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        size = f"{self.geometry.size} px, {self.geometry.kind}"
        return f"WSOLDataset({self.name}, {self.split}, {len(self)} images, {len(self.classes)} classes, {size})"

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_decoded": {}}  # a copy finds or makes its own pixels

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        return np.array([sample.label for sample in self.samples], dtype=np.int64)

    @property
    def ids(self) -> list[str]:
        return [sample.id for sample in self.samples]

    @property
    def localised(self) -> bool:
        """Whether every image has a ground-truth box or mask: only then a threshold can be chosen and Loc measured."""
        return all(sample.boxes or sample.masks for sample in self.samples)

    def load(self, sample: Sample) -> tuple[Image.Image, np.ndarray | None]:
        """The original RGB image and its mask ((H, W) uint8, same size) or None."""
        return read_image(sample.path or ""), None

    def sibling(self, split: str) -> WSOLDataset:
        """Another split of the same data with the same options."""
        if self.opener is None:
            raise WsolkitError(f"dataset '{self.name}' was built by hand: pass its '{split}' split explicitly")
        return self.opener(split)

    def at(self, size: int) -> WSOLDataset:
        """The same split with images of another side, for a network that sees them larger; its siblings keep theirs."""
        other = copy.copy(self)
        other.geometry = Geometry(size, self.geometry.kind)
        return other

    def subset(self, indices: Sequence[int]) -> WSOLDataset:
        """The same split cut to `indices`, in that order."""
        small = copy.copy(self)
        small.samples = [self.samples[i] for i in indices]
        small.__post_init__()
        return small

    def spread(self, n: int | None, seed: int = 0) -> np.ndarray:
        """(min(n, N),) indices in a seeded order that takes the classes in turn, so any beginning of it is balanced."""
        good = (n is None or is_whole(n, 1)) and is_whole(seed)
        require(good, f"number of images and seed must be whole numbers, at least 1 and 0, but are {n!r} and {seed!r}")
        rng, labels, turns = np.random.default_rng([seed, 77]), self.labels, np.empty(len(self), np.int64)
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            turns[members] = np.arange(len(members))
        return np.lexsort((labels, turns))[:n]

    def decoded(self, side: int) -> DecodedPixels:
        """The pixels of all images, each whole and resized to a square, at one side; decoded once, when asked for."""
        if side not in self._decoded:
            self._decoded[side] = DecodedPixels(f"{self.name} {self.split}", self.samples, side, self.load)
        return self._decoded[side]

    def prepare(self, side: int | None = None) -> None:
        """Decode all images now, to the file that `pixels` reads (None: at the side of evaluation). Training does this
        by itself; datasets that are drawn or small need no file."""
        self.decoded(self.geometry.side if side is None else side).whole(len(self))

    def _rows(self, indices: Sequence[int]) -> np.ndarray:
        """(B,) int64 from 0 up; negative ones count from the end, and IndexError says that one lies outside."""
        rows, count = np.asarray(indices, np.int64), len(self)
        if outside := rows[(rows < -count) | (rows >= count)].tolist():
            raise IndexError(f"index {outside[0]} of a dataset of {count} images")
        return rows % count

    def pixels(self, indices: Sequence[int], side: int) -> np.ndarray:
        """(B, side, side, 3) uint8: whole images resized to a square; see `decoded`."""
        source, rows = self.decoded(side).source(self._rows(indices))
        return source[rows]

    def images(self, indices: Sequence[int], device: Device = "cpu") -> Tensor:
        """(B, 3, H, W) float32, normalised, in the evaluation geometry; bytes travel to `device`, not floats."""
        source, rows = self.decoded(self.geometry.side).source(self._rows(indices))
        corners, flips = np.full((len(rows), 2), self.geometry.offset), np.zeros(len(rows), bool)
        return cut_images(source, rows, corners, flips, self.geometry.size, torch.device(device))

    def target(self, index: int) -> Target:
        """What belongs to one image in the evaluation geometry; where it has masks, their instances have the boxes."""
        sample, mask = self.samples[index], None
        boxes: Sequence[Sequence[float]] = sample.boxes
        if files := sample.masks:
            boxes, size = instance_boxes(files.root, files.paths, files.levels[0])
            pixels = read_mask(files.root, files.paths, files.ignore, self.geometry.side, files.levels)
            mask = torch.from_numpy(self.geometry.crop(pixels).copy())
        else:
            size = sample.size or (image_size(sample.path or "") if boxes else (1, 1))
        return Target(sample.label, self.geometry.boxes(boxes, size), mask, sample.id)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a dataset of {len(self)} images")
        return self.images([index])[0].contiguous(), self.target(index % len(self))

    def train_batches(
        self, batch_size: int, seed: int, epoch: int, device: Device = "cpu", rank=0, world_size=1, skip=0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled (images, labels): resize to 256/224 of the size, random crop, random horizontal flip.

        Everything drawn depends on (seed, epoch) and the batch size alone, and is the same on every device and for
        every number of processes, so an epoch can be repeated exactly after an interruption. A last batch of a single
        image is left out (batch normalisation cannot train on one value per channel).

        Args:
            batch_size: images of a global batch, all processes together.
            device: where the batches go. On CUDA all decoded pixels stay there, up to a third of its free memory.
            rank, world_size: each global batch is cut into `world_size` contiguous shares; this process gets number
                `rank`. A share is empty where a last batch has fewer images than there are processes.
            skip: global batches to leave out at the beginning, without decoding them.

        Yields:
            images (b, 3, S, S) float32, channels last, normalised, and labels (b,) int64, on `device`.

        Raises: WsolkitError: an argument out of range; unreadable images, all of them.
        """
        if batch_size < 1 or skip < 0:
            raise WsolkitError(f"batch_size must be at least 1 and skip at least 0, but are {batch_size} and {skip}")
        require(0 <= rank < world_size, f"rank must be one of 0 to {world_size - 1} (world_size - 1), but is {rank}")
        side = self.geometry.enlarged
        self.prepare(side)
        drawn = draw_epoch(len(self), batch_size, side - self.geometry.size, seed, epoch)
        shares = [share_of(bounds, rank, world_size) for bounds in drawn.bounds[skip:]]
        return epoch_batches(self.decoded(side), self.labels, self.geometry.size, drawn, shares, torch.device(device))
