"""What every dataset is made of: samples in original pixels, one geometry that image, boxes and mask go through."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

SPLITS = ("train", "val", "test")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ORIENTATION = 0x0112  # the EXIF tag
CACHE_BYTES = 3 * 2**30  # decoded pixels kept in memory per dataset; above it images are decoded again each time


@dataclass(frozen=True)
class Sample:
    """One image as the annotation files know it.

    Attributes:
        id: unique within the dataset, also the name in result files.
        label: class index, 0-based.
        boxes: ground-truth boxes (x0, y0, x1, y1) in original pixels.
        path: the image file; None where the picture is drawn by code.
    """

    id: str
    label: int
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    path: Path | None = None


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
            raise ValueError(f"geometry must be 'resize' or 'crop', but is '{self.kind}'")
        if not isinstance(self.size, int) or self.size < 8:
            raise ValueError(f"the input size must be an integer of at least 8 pixels, but is {self.size!r}")

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
        """(n, 4) boxes in original pixels of an image of `original` (width, height) -> (n, 4) int64 in the input frame."""
        if len(boxes) == 0:
            return torch.zeros((0, 4), dtype=torch.int64)
        width, height = original
        extent = np.array([width, height] * 2, dtype=np.float64)
        # corner * side / size in this order, as the published protocol: another order can truncate differently
        scaled = np.trunc(np.asarray(boxes, dtype=np.float64) * self.side / extent).astype(np.int64) - self.offset
        if self.kind == "resize":
            return torch.from_numpy(scaled)
        inside = (scaled[:, 2:] >= 0).all(axis=1) & (scaled[:, :2] < self.size).all(axis=1)
        if inside.any():  # an object that the crop cut away cannot be found; the last one is kept so that none is lost
            scaled = scaled[inside]
        return torch.from_numpy(scaled.clip(0, self.size - 1))

    def crop(self, pixels: np.ndarray) -> np.ndarray:
        """Cut the central window out of (..., side, side, C) or (side, side) pixels."""
        if self.offset == 0 and self.side == self.size:
            return pixels
        window = slice(self.offset, self.offset + self.size)
        return pixels[..., window, window, :] if pixels.ndim > 2 else pixels[window, window]


def read_image(path: Path) -> Image.Image:
    """Open any image as RGB, as it is shown (EXIF rotation applied); a file that cannot be decoded is named."""
    with _named(path), Image.open(path) as image:
        if image.mode.startswith("I;16"):  # Pillow clips sixteen bits at 255 instead of scaling them
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return ImageOps.exif_transpose(image).convert("RGB")


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an opened image as it is shown, so after the rotation that its EXIF data may ask for."""
    turned = image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    return image.size[::-1] if turned else image.size


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what reading an image can raise into one error that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: the image is missing; fetch the dataset again or remove the entry") from None
    except Exception as error:  # PIL raises many kinds for damaged files (OSError, SyntaxError, struct.error, ...)
        raise ValueError(f"{path}: not a readable image ({error}); replace the file or remove its entry") from error


def normalise(pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 with ImageNet mean 0 and standard deviation 1."""
    tensor = torch.as_tensor(np.ascontiguousarray(pixels) if isinstance(pixels, np.ndarray) else pixels)
    tensor = tensor.movedim(-1, -3).to(torch.float32).div_(255.0)
    tensor = tensor.sub_(torch.tensor(IMAGENET_MEAN).view(3, 1, 1)).div_(torch.tensor(IMAGENET_STD).view(3, 1, 1))
    # a batch stays in the layout of the pixels, channels last: the one in which convolutions run fastest on CPUs
    return tensor.contiguous(memory_format=torch.channels_last if tensor.ndim == 4 else torch.contiguous_format)


def denormalise(image: torch.Tensor) -> np.ndarray:
    """(..., 3, H, W) normalised float -> (..., H, W, 3) uint8, for figures."""
    image = image.detach().cpu().float().movedim(-3, -1)
    image = image * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
    return (image * 255.0).round().clamp(0, 255).to(torch.uint8).numpy()


def stratified_split(labels: Sequence[int], share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (rest, held-out): of each class `share`, rounded, at least one where the class has two or more."""
    if not 0.0 < share < 1.0:
        raise ValueError(f"the validation share must lie strictly between 0 and 1, but is {share}")
    labels = np.asarray(labels)
    held: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            count = min(len(members) - 1, max(1, round(share * len(members))))
            order = np.random.default_rng([seed, int(label)]).permutation(members)
            held.extend(order[:count].tolist())
    mask = np.zeros(len(labels), dtype=bool)
    mask[held] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


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
    _cache: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError(
                f"dataset '{self.name}', split '{self.split}' has no image; check the root and the classes"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        size = f"{self.geometry.size} px, {self.geometry.kind}"
        return f"WSOLDataset({self.name}, {self.split}, {len(self)} images, {len(self.classes)} classes, {size})"

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        return np.array([sample.label for sample in self.samples], dtype=np.int64)

    @property
    def ids(self) -> list[str]:
        return [sample.id for sample in self.samples]

    @property
    def localised(self) -> bool:
        """Whether every image has a ground-truth box: only then can a threshold be chosen or GT-known Loc be measured."""
        return all(sample.boxes for sample in self.samples)

    def load(self, sample: Sample) -> tuple[Image.Image, np.ndarray | None]:
        """The original RGB image and its mask ((H, W) uint8, same size) or None."""
        return read_image(sample.path), None

    def sibling(self, split: str) -> WSOLDataset:
        """Another split of the same data with the same options."""
        if self.opener is None:
            raise ValueError(f"dataset '{self.name}' was built by hand: pass its '{split}' split explicitly")
        return self.opener(split)

    def subset(self, indices: Sequence[int]) -> WSOLDataset:
        """The same split cut to `indices`, in that order."""
        small = copy.copy(self)
        small.samples = [self.samples[i] for i in indices]
        small._cache = {}
        small.__post_init__()
        return small

    def spread(self, n: int | None, seed: int = 0) -> np.ndarray:
        """(min(n, N),) indices in a seeded order that takes the classes in turn, so any beginning of it is balanced."""
        if n is not None and n < 1:
            raise ValueError(f"the number of images must be at least 1, but is {n}")
        rng = np.random.default_rng([seed, 77])
        queues = [rng.permutation(np.flatnonzero(self.labels == label)).tolist() for label in np.unique(self.labels)]
        order: list[int] = []
        while any(queues):
            order.extend(queue.pop(0) for queue in queues if queue)
        return np.array(order[:n], dtype=np.int64)

    def pixels(self, indices: Sequence[int], side: int) -> np.ndarray:
        """(B, side, side, 3) uint8: whole images resized to a square, decoded in threads and kept in memory while they fit."""
        if side not in self._cache and len(self) * side * side * 3 <= CACHE_BYTES:
            self._cache[side] = (np.empty((len(self), side, side, 3), np.uint8), np.zeros(len(self), bool))
        if side not in self._cache:
            return np.stack(_in_threads(lambda i: self._square(i, side), indices))
        store, known = self._cache[side]
        missing = [int(i) for i in dict.fromkeys(map(int, indices)) if not known[i]]
        for i, image in zip(missing, _in_threads(lambda i: self._square(i, side), missing), strict=True):
            store[i] = image
            known[i] = True
        return store[np.asarray(indices, dtype=np.int64)]

    def _square(self, index: int, side: int) -> np.ndarray:
        image, _ = self.load(self.samples[int(index)])
        return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))

    def images(self, indices: Sequence[int]) -> torch.Tensor:
        """(B, 3, H, W) float32, normalised, in the evaluation geometry."""
        return normalise(self.geometry.crop(self.pixels(indices, self.geometry.side)))

    def target(self, index: int) -> Target:
        sample = self.samples[index]
        mask = None
        if sample.path is not None and type(self).load is WSOLDataset.load:
            with _named(sample.path), Image.open(sample.path) as image:  # only the header is read
                original = displayed_size(image)
        else:
            image, mask = self.load(sample)
            original = image.size
        if mask is not None:
            side = self.geometry.side
            mask = np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))
            mask = torch.from_numpy(self.geometry.crop(mask).copy())
        return Target(sample.label, self.geometry.boxes(sample.boxes, original), mask, sample.id)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a dataset of {len(self)} images")
        index %= len(self)
        return self.images([index])[0].contiguous(), self.target(index)

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        skip: int = 0,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch of shuffled (images, labels): resize to 256/224 of the size, random crop, random horizontal flip.

        Everything drawn depends on (seed, epoch) alone, so an epoch can be repeated exactly after an interruption. A last
        batch of a single image is left out (batch normalisation cannot train on one value per channel).
        """
        rng = np.random.default_rng([seed, epoch, 1])
        order, size, side = rng.permutation(len(self)), self.geometry.size, self.geometry.enlarged
        labels = self.labels
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            if len(chosen) == 1 and len(order) > 1:
                continue
            corners = rng.integers(0, side - size + 1, (len(chosen), 2))
            flips = rng.random(len(chosen)) < 0.5
            if start < skip * batch_size:
                continue
            share = np.array_split(np.arange(len(chosen)), world_size)[rank]
            chosen, corners, flips = chosen[share], corners[share], flips[share]
            batch = np.empty((len(chosen), size, size, 3), np.uint8)
            whole = self.pixels(chosen, side)
            for k, ((top, left), flip) in enumerate(zip(corners, flips, strict=True)):
                window = whole[k, top : top + size, left : left + size]
                batch[k] = window[:, ::-1] if flip else window
            yield normalise(batch).to(device), torch.from_numpy(labels[chosen]).to(device)


def _in_threads(function: Callable, items: Sequence) -> list:
    """Map in threads: decoding and resizing release the interpreter lock."""
    if len(items) < 4:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def select_classes(names: Sequence[str], wanted: Sequence[str | int] | int | None) -> list[int]:
    """Indices of the wanted classes: None is all, an integer the first so many, else a list of names or 0-based indices."""
    if wanted is None:
        return list(range(len(names)))
    if isinstance(wanted, str):
        wanted = [wanted]
    if isinstance(wanted, int):
        if not 2 <= wanted <= len(names):
            raise ValueError(f"classes={wanted}: expected a number between 2 and {len(names)}")
        return list(range(wanted))
    chosen = []
    for item in wanted:
        index = int(item) if str(item).isdecimal() else next((i for i, n in enumerate(names) if n == item), -1)
        if not 0 <= index < len(names):
            raise ValueError(f"class '{item}' is not in the dataset; it has e.g. {', '.join(map(str, names[:5]))}")
        chosen.append(index)
    if len(set(chosen)) != len(chosen) or len(chosen) < 2:
        raise ValueError(f"classes must be at least two different ones, but are {list(wanted)}")
    return chosen
