"""What every dataset is made of: samples in original pixels, one geometry that image, boxes and mask go through."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from wsolkit.common.cores import cores
from wsolkit.data.batches import (
    AS_THEY_ARE,
    as_images,
    denormalise,
    draw_epoch,
    epoch_batches,
    normalise,
    normalised_on_device,
    share_of,
    windows,
)
from wsolkit.data.bit_depth import eight_bits
from wsolkit.data.decoded import DecodedPixels, cache_folder
from wsolkit.data.samples import SPLITS, Geometry, Sample, Target, select_classes, stratified_split

__all__ = [
    "SPLITS",
    "Geometry",
    "Sample",
    "Target",
    "WSOLDataset",
    "denormalise",
    "displayed_size",
    "normalise",
    "read_image",
    "select_classes",
    "stratified_split",
]

ORIENTATION = 0x0112  # the EXIF tag
SMALL_BYTES = 64 * 2**20  # decoded pixels that are kept in memory only; more go to a file, see `decoded`
CACHE_BYTES = 3 * 2**30  # where no file can be: above it images are decoded again each time


def read_image(path: Path) -> Image.Image:
    """Open any image as RGB, as it is shown (EXIF rotation applied); a file that cannot be decoded is named."""
    with _named(path), Image.open(path) as image:
        return eight_bits(ImageOps.exif_transpose(image), image.format).convert("RGB")


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
    _cache: dict[int, tuple[np.ndarray, np.ndarray]] = field(
        init=False, default_factory=dict, repr=False
    )  # in memory, by side
    _files: dict[int, DecodedPixels | None] = field(init=False, default_factory=dict, repr=False)  # on disk, by side
    _held: dict[tuple[int, str], torch.Tensor] = field(init=False, default_factory=dict, repr=False)  # on a device

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

    def prepare(self, side: int | None = None) -> None:
        """Decode all images now, to the file that `pixels` reads (None: at the side of evaluation). Training does this by
        itself; datasets that are drawn or small need no file."""
        self._whole(self.geometry.side if side is None else side, len(self))

    def pixels(self, indices: Sequence[int], side: int) -> np.ndarray:
        """(B, side, side, 3) uint8: whole images resized to a square.

        They are decoded once, in threads: to a file that later runs read too, or, where the dataset is drawn or small or
        there is no room for a file, kept in memory while they fit.
        """
        rows = np.arange(len(self))[np.asarray(indices, dtype=np.int64)]
        if (whole := self._whole(side, len(rows))) is not None:
            return whole[rows]
        if side not in self._cache and len(self) * side * side * 3 <= CACHE_BYTES:
            self._cache[side] = (np.empty((len(self), side, side, 3), np.uint8), np.zeros(len(self), bool))
        if side not in self._cache:
            return np.stack(_in_threads(lambda i: self._square(self.samples[i], side), rows))
        store, known = self._cache[side]
        missing = [i for i in dict.fromkeys(rows.tolist()) if not known[i]]
        for i, image in zip(missing, _in_threads(lambda i: self._square(self.samples[i], side), missing), strict=True):
            store[i] = image
            known[i] = True
        return store[rows]

    def source(self, indices: Sequence[int], side: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the pixels of some images lie, without a copy if they are decoded: ((n, side, side, 3) uint8, rows of it)."""
        rows = np.arange(len(self))[np.asarray(indices, dtype=np.int64)]
        if (whole := self._whole(side, len(rows))) is not None:
            return whole, rows
        return self.pixels(rows, side), np.arange(len(rows))

    def _whole(self, side: int, asked: int) -> np.ndarray | None:
        """The pixels of all images, once there is a file of them or all are in memory."""
        if side not in self._files:
            cache = cache_folder()
            small = len(self) * side * side * 3 <= SMALL_BYTES
            drawn = type(self).load is not WSOLDataset.load or any(sample.path is None for sample in self.samples)
            self._files[side] = None if small or drawn or cache is None else DecodedPixels(
                f"{self.name} {self.split}", self.samples, side, lambda sample: self._square(sample, side), cache
            )  # fmt: skip
        file = self._files[side]
        if file is not None and (pixels := file.get(asked)) is not None:
            return pixels
        store, known = self._cache.get(side, (None, None))
        return store if store is not None and known.all() else None

    def _square(self, sample: Sample, side: int) -> np.ndarray:
        image, _ = self.load(sample)
        return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cache": {}, "_files": {}, "_held": {}}  # a copy finds or makes its own pixels

    def images(self, indices: Sequence[int], device: str | torch.device = "cpu") -> torch.Tensor:
        """(B, 3, H, W) float32, normalised, in the evaluation geometry; bytes travel to `device`, floats are made there."""
        source, rows = self.source(indices, self.geometry.side)
        corners, flips = np.full((len(rows), 2), self.geometry.offset), np.zeros(len(rows), bool)
        drawn = (source, rows, corners, flips, self.geometry.size)
        if torch.device(device).type == "cpu":
            return as_images(windows(*drawn))
        return normalised_on_device(torch.from_numpy(windows(*drawn, AS_THEY_ARE)).to(device))

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

        Everything drawn depends on (seed, epoch) and the batch size alone, and is the same on every device and for every
        number of processes, so an epoch can be repeated exactly after an interruption. A last batch of a single image is
        left out (batch normalisation cannot train on one value per channel).

        Args:
            batch_size: images of a global batch, all processes together.
            device: where the batches go. On CUDA all decoded pixels stay there while they take a third of its free memory.
            rank, world_size: each global batch is cut into `world_size` contiguous shares; this process gets number `rank`.
                A share is empty where a last batch has fewer images than there are processes.
            skip: global batches to leave out at the beginning, without decoding them.

        Yields:
            images (b, 3, S, S) float32, channels last, normalised, and labels (b,) int64, on `device`.

        Raises:
            ValueError: an argument out of range; unreadable images, all of them.
        """
        if batch_size < 1 or skip < 0:
            raise ValueError(f"batch_size must be at least 1 and skip at least 0, but are {batch_size} and {skip}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be one of 0 to {world_size - 1} (world_size - 1), but is {rank}")
        side = self.geometry.enlarged
        self.prepare(side)
        drawn = draw_epoch(len(self), batch_size, side - self.geometry.size, seed, epoch)
        shares = [share_of(bounds, rank, world_size) for bounds in drawn.bounds[skip:]]
        return epoch_batches(self, drawn, shares, torch.device(device))


def _in_threads(function: Callable, items: Sequence) -> list:
    """Map in threads: decoding and resizing release the interpreter lock."""
    if len(items) < 4:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(8, cores())) as pool:
        return list(pool.map(function, items))
