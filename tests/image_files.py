"""Image files that several test files make."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image


def pattern(width, height, box):
    """A black picture with a white box of inclusive corners."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0 : y1 + 1, x0 : x1 + 1] = 255
    return Image.fromarray(pixels)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names(files):
    return [file.name.as_posix() for file in files]


def too_deep(folder):
    """Folders in one another until the path is longer than the system takes: no one can list the last, not even root."""
    place = os.open(folder, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("d" * 250, dir_fd=place)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
