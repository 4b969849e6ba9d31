"""A data set as training and evaluation use it: images of one geometry, labels, boxes, masks, and batches of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from wsolkit.common.errors import WsolkitError
from wsolkit.data.batches import cut_images, draw_epoch, epoch_batches, share_of
from wsolkit.data.decoded import DecodedPixels
from wsolkit.data.images import image_size, instance_boxes, read_image, read_mask
from wsolkit.data.samples import Geometry, Sample, Target

Device = str | torch.device


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
        if not self.samples:
            wrong = f"dataset '{self.name}' has no image for split '{self.split}' of the chosen classes"
            raise WsolkitError(f"{wrong}; check its files, the root and the classes")

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

    def subset(self, indices: Sequence[int]) -> WSOLDataset:
        """The same split cut to `indices`, in that order."""
        small = copy.copy(self)
        small.samples = [self.samples[i] for i in indices]
        small.__post_init__()
        return small

    def spread(self, n: int | None, seed: int = 0) -> np.ndarray:
        """(min(n, N),) indices in a seeded order that takes the classes in turn, so any beginning of it is balanced."""
        if n is not None and n < 1:
            raise WsolkitError(f"the number of images must be at least 1, but is {n}")
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

    def pixels(self, indices: Sequence[int], side: int) -> np.ndarray:
        """(B, side, side, 3) uint8: whole images resized to a square; see `decoded`."""
        source, rows = self.decoded(side).source(np.arange(len(self))[np.asarray(indices, np.int64)])
        return source[rows]

    def images(self, indices: Sequence[int], device: Device = "cpu") -> torch.Tensor:
        """(B, 3, H, W) float32, normalised, in the evaluation geometry; bytes travel to `device`, not floats."""
        source, rows = self.decoded(self.geometry.side).source(np.arange(len(self))[np.asarray(indices, np.int64)])
        corners, flips = np.full((len(rows), 2), self.geometry.offset), np.zeros(len(rows), bool)
        return cut_images(source, rows, corners, flips, self.geometry.size, torch.device(device))

    def target(self, index: int) -> Target:
        """What belongs to one image in the evaluation geometry; where it has masks, their instances have the boxes."""
        sample, mask = self.samples[index], None
        boxes: Sequence[Sequence[float]] = sample.boxes
        if files := sample.masks:
            boxes, size = instance_boxes(files.root, files.paths)
            pixels = read_mask(files.root, files.paths, files.ignore, self.geometry.side)
            mask = torch.from_numpy(self.geometry.crop(pixels).copy())
        else:
            size = sample.size or (image_size(sample.path or "") if boxes else (1, 1))
        return Target(sample.label, self.geometry.boxes(boxes, size), mask, sample.id)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a dataset of {len(self)} images")
        return self.images([index])[0].contiguous(), self.target(index % len(self))

    def train_batches(
        self, batch_size: int, seed: int, epoch: int, device: Device = "cpu", rank=0, world_size=1, skip=0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
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

        Raises:
            WsolkitError: an argument out of range; unreadable images, all of them.
        """
        if batch_size < 1 or skip < 0:
            raise WsolkitError(f"batch_size must be at least 1 and skip at least 0, but are {batch_size} and {skip}")
        if not 0 <= rank < world_size:
            raise WsolkitError(f"rank must be one of 0 to {world_size - 1} (world_size - 1), but is {rank}")
        side = self.geometry.enlarged
        self.prepare(side)
        drawn = draw_epoch(len(self), batch_size, side - self.geometry.size, seed, epoch)
        shares = [share_of(bounds, rank, world_size) for bounds in drawn.bounds[skip:]]
        return epoch_batches(self.decoded(side), self.labels, self.geometry.size, drawn, shares, torch.device(device))
