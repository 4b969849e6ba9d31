"""From decoded pixels to the batches of a training run: what an epoch draws; crop, flip and normalise whole batches.

What is drawn depends on (seed, epoch) alone and is drawn by numpy, so every device sees the same images. On the CPU a
compiled loop reads the decoded pixels once and writes normalised floats, one or two batches ahead of the training step.
On CUDA the decoded pixels of all images lie on the device where they fit, and whole batches are gathered there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsolkit.common.code import compiled
from wsolkit.data.decoded import DecodedPixels, ahead

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DEVICE_SHARE = 1 / 3  # of the free memory of a CUDA device that decoded pixels may take: a training step needs the rest
UPLOAD = 256  # images copied to the device at a time

Batch = tuple[Tensor, Tensor]


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


AS_THEY_ARE = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
# (256, 3) float32, what normalising makes of each grey level of each channel. Looked up instead of computed, the values
# are the same on every device, and the CPU reads one byte and writes one float per value.
_MEAN, _STD = np.array([IMAGENET_MEAN, IMAGENET_STD], np.float32)
LEVELS = (AS_THEY_ARE / np.float32(255) - _MEAN) / _STD


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

    Raises:
        IndexError: a row or a window lies outside `source`.
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
