"""Ground-truth masks of wsolevaluation: one file per instance, and one for the region that does not count."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from wsolkit.common.errors import WsolkitError

IGNORE = 255


def read_mask(
    root: str | Path, paths: Iterable[str], ignore: str | None = None, size: int | tuple[int, int] = 224
) -> np.ndarray:
    """(H, W) uint8: 0 background, 1 object, 255 ignore, as wsolevaluation (Choe et al., CVPR 2020) reads them.

    Every file is read as grey values 0 to 255 and resized on its own to the frame with OpenCV's nearest neighbour; what
    is above 0.5 then, so any value but 0, belongs to it. The object is the union of the instances, and the ignored region
    the ignore mask without the object. Other nearest-neighbour rules (Pillow's) pick other pixels.

    Args:
        root: the folder that the paths are relative to.
        paths: one mask file per instance, at least one.
        ignore: the file of the ignored region; None or "" where nothing is ignored.
        size: side of a square frame, or (H, W), in pixels.

    Raises:
        WsolkitError: `paths` is empty, or a file is not an image.
        FileNotFoundError: a file is missing.
    """
    frame = (size, size) if isinstance(size, int) else (size[0], size[1])
    covered = np.logical_or.reduce([_resized(grey, frame) for grey in _instances(root, paths)])
    mask = covered.astype(np.uint8)
    if ignore:
        mask[_resized(_grey(Path(root) / ignore), frame) & ~covered] = IGNORE
    return mask


def instance_boxes(root: str | Path, paths: Iterable[str]) -> tuple[list[tuple[float, ...]], tuple[int, int]]:
    """The bounding box (x0, y0, x1, y1) of each instance that is not empty, inclusive corners, in pixels of the first mask
    file (to whose size those of another size are scaled), and its (width, height)."""
    instances = _instances(root, paths)
    height, width = instances[0].shape
    boxes: list[tuple[float, ...]] = []
    for grey in instances:
        y, x = np.nonzero(grey)
        if len(x):
            across, down = width / grey.shape[1], height / grey.shape[0]
            boxes.append((x.min() * across, y.min() * down, x.max() * across, y.max() * down))
    return boxes, (width, height)


def _instances(root: str | Path, paths: Iterable[str]) -> list[np.ndarray]:
    instances = [_grey(Path(root) / path) for path in paths]
    if not instances:
        raise WsolkitError(f"a mask below {root} needs at least one file, but there is no path")
    return instances


def _grey(path: Path) -> np.ndarray:
    """(h, w) uint8, as the file has it."""
    if not path.is_file():  # OpenCV says nothing but None
        raise FileNotFoundError(f"{path}: the mask is missing; put it there or remove its line from localization.txt")
    try:
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    except cv2.error:  # more pixels than OpenCV opens
        grey = None
    if grey is None:
        raise WsolkitError(f"{path}: not a readable mask; replace the file or remove its line from localization.txt")
    return grey


def _resized(grey: np.ndarray, frame: tuple[int, int]) -> np.ndarray:
    """(H, W) bool. Resized as float32, as there: OpenCV's code for other types may pick other pixels."""
    return cv2.resize(grey.astype(np.float32), frame[::-1], interpolation=cv2.INTER_NEAREST) > 0.5
