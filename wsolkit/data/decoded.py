"""Decoded pixels: every image of a split, resized to one square, decoded once and then read from a file or from memory.

The file is shared by epochs and processes. A folder of the cache holds `<identity>.npy`, (N, side, side, 3) uint8, and
pixels.json, which is written last and says which .npy counts. The folder's name tells images (by path) and side; the
identity also their sizes and modification times, so changed images are decoded again and replace the old file. A .npy
that pixels.json does not name, or a half-written one, is never read: the next build removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
from filelock import Timeout
from PIL import Image

from wsolkit.common.code import code_state
from wsolkit.common.cores import cores
from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import alone, atomic_path, digest, read_json, write_json
from wsolkit.common.progress import progress
from wsolkit.data.images import Sample, same_shape

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1  # of the files
READING = ("data/images.py",)  # where this code changes, images are decoded again
RESAMPLING = "bilinear"
ABOUT = "pixels.json"
SMALL_BYTES = 64 * 2**20  # decoded pixels that are kept in memory only; more go to a file
MEMORY_BYTES = 3 * 2**30  # where no file can be: above it images are decoded again each time
ROOM = 256 * 2**20  # bytes that a build leaves free on the disk
CHECKED = 32  # images, spread over the file, whose checksums are compared when it is opened
ENOUGH = 4  # the file is made once a quarter of the images was asked for: a look at a few does not decode them all
AHEAD = 2  # results made before they are asked for
DAMAGED = (OSError, ValueError, EOFError, KeyError, TypeError)  # what reading a file can raise that is absent or broken


def cache_folder() -> Path | None:
    """Where decoded pixels lie: $WSOLKIT_CACHE/decoded, else $XDG_CACHE_HOME/wsolkit/decoded, else below ~/.cache. None
    where WSOLKIT_CACHE is set to nothing: pixels are kept in memory only."""
    chosen = os.environ.get("WSOLKIT_CACHE")
    base = chosen or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "wsolkit")
    return None if chosen == "" else Path(os.path.abspath(os.path.expanduser(base))) / "decoded"


def ahead(function: Callable, items: Iterable, depth: int = AHEAD, threads: int = 1) -> Iterator:
    """function(item) for every item, in order, made by threads up to `depth` results before they are asked for."""
    waiting: deque = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # after an error, or when nobody wants the rest
            for future in waiting:
                future.cancel()


class DecodedPixels:
    """The pixels of one split at one side: in a file, in memory, or decoded each time.

    Args:
        title: dataset and split, for people.
        samples: the images.
        side: in pixels.
        load: a sample -> its image and something; ValueError or OSError, naming the file, where it cannot be read.
            Where samples have no file, since code draws them, pixels are not kept on disk, where they could grow stale.
    """

    def __init__(self, title: str, samples: Sequence[Sample], side: int, load: Callable[[Sample], tuple]) -> None:
        self.title, self.samples, self.side, self.load = title, samples, side, load
        self.shape = (len(samples), side, side, 3)
        self.checked = np.linspace(0, len(samples) - 1, min(CHECKED, len(samples))).astype(int).tolist()
        self.bytes, cache = int(np.prod(self.shape)), cache_folder()
        self.folder: Path | None = None  # of the file, where there is to be one
        if cache is not None and self.bytes > SMALL_BYTES and all(sample.place for sample in samples):
            self.paths = [os.path.abspath(sample.path or "") for sample in samples]
            images = [[sample.id, path] for sample, path in zip(samples, self.paths, strict=True)]
            self.folder = cache / digest({"side": side, "images": images})
        self.file = self._open(self.folder, self._identity()) if self.folder else None
        self.asked = 0
        self.memory: np.ndarray | None = None  # filled as images are asked for
        self.known = np.zeros(len(samples), bool)  # images that are in memory
        self.held: dict[str, Tensor] = {}  # device -> all pixels there, see `base.held_on`

    def square(self, sample: Sample) -> np.ndarray:
        """The pixels of one image, (side, side, 3) uint8; WsolkitError: its boxes are those of another shape."""
        image = self.load(sample)[0]
        if sample.boxes and sample.size and not same_shape(sample.size, image.size):
            pair = "{} x {} pixels instead of {} x {}".format(*image.size, *sample.size)
            raise WsolkitError(f"{sample.path}: {pair}, to which its boxes belong: give it boxes anew")
        return np.asarray(image.resize((self.side, self.side), Image.Resampling.BILINEAR))

    def whole(self, asked: int = 0) -> np.ndarray | None:
        """All pixels, (N, side, side, 3) uint8, or None while there is no file and not all are in memory.

        asked: images that are wanted now: the file is made when their sum is a quarter of all images.

        Raises: WsolkitError: some images cannot be read; names every one of them.
        """
        if self.folder is not None and self.file is None:
            self.asked += asked
            if self.asked * ENOUGH >= len(self.samples):
                try:
                    self.file = self._build(self.folder)
                except OSError as error:
                    wrong = f"no file of decoded pixels of {self.title} ({error.strerror or error}); images are decoded"
                    advice = "Make room (`wsolkit data cache --clear`) or set WSOLKIT_CACHE to a folder to write to"
                    warnings.warn(f"{self.folder}: {wrong} on demand instead, which is slower. {advice}", stacklevel=2)
                    self.folder = None  # no second try
        return self.memory if self.file is None and self.memory is not None and self.known.all() else self.file

    def source(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the pixels of some images lie, not copied if decoded: ((n, side, side, 3) uint8, rows of it)."""
        if (whole := self.whole(len(rows))) is not None:
            return whole, rows
        if self.memory is None and self.bytes <= MEMORY_BYTES:
            self.memory = np.empty(self.shape, np.uint8)
        missing = [i for i in dict.fromkeys(rows.tolist()) if self.memory is None or not self.known[i]]
        samples = [self.samples[i] for i in missing]
        # decoding and resizing release the interpreter's lock, so as many threads as cores do them
        many = len(samples) >= 4
        squares = ahead(self.square, samples, 2 * cores(), cores()) if many else map(self.square, samples)
        if self.memory is None:
            place = {index: k for k, index in enumerate(missing)}
            return np.stack(list(squares)), np.array([place[i] for i in rows.tolist()])
        for index, square in zip(missing, squares, strict=True):
            self.memory[index] = square
            self.known[index] = True
        return self.memory, rows

    @property
    def way(self) -> str:
        """Where an epoch's images come from, for people."""
        if self.file is not None:
            return "from a file of decoded pixels"
        return "from memory" if self.bytes <= MEMORY_BYTES else f"decoded in every epoch by {cores()} threads"

    def _identity(self) -> str:
        """Digest of everything that the pixels depend on."""
        stamps = [[sample.id, -1, 0] for sample in self.samples]
        for stamp, path in zip(stamps, self.paths, strict=True):
            with contextlib.suppress(OSError):  # reading it will tell
                info = os.stat(path)
                stamp[1:] = [info.st_size, info.st_mtime_ns]
        return digest([FORMAT, RESAMPLING, PIL.__version__, code_state(READING), self.shape, stamps])

    def _open(self, folder: Path, identity: str) -> np.ndarray | None:
        """The file, if it is whole and of these images."""
        with contextlib.suppress(*DAMAGED):
            about = read_json(folder / ABOUT)
            if [about["format"], about["identity"]] == [FORMAT, identity]:
                pixels = np.load(folder / f"{identity}.npy", mmap_mode="r", allow_pickle=False)
                same = (pixels.shape, pixels.dtype, pixels.flags.c_contiguous) == (self.shape, np.uint8, True)
                if same and about["checksums"] == [zlib.crc32(pixels[i]) for i in self.checked]:
                    return np.asarray(pixels)
        return None

    def _build(self, folder: Path) -> np.ndarray:
        with alone(f"{folder}.lock"):
            folder.mkdir(exist_ok=True)
            identity = self._identity()
            if (pixels := self._open(folder, identity)) is not None:
                return pixels  # another process made it while this one waited
            empty(folder)
            if self.bytes + ROOM > (free := shutil.disk_usage(folder).free):
                room = f"it takes {self.bytes / 2**20:.0f} MiB and there are {free / 2**20:.0f} MiB free"
                raise OSError(errno.ENOSPC, room)
            checksums = self._write(folder / f"{identity}.npy")
            about: dict[str, Any] = {"format": FORMAT, "identity": identity, "title": self.title, "side": self.side}
            about |= {"images": len(self.samples), "resampling": RESAMPLING, "pillow": PIL.__version__}
            common = os.path.commonpath([os.path.dirname(path) for path in self.paths])
            write_json(folder / ABOUT, about | {"checksums": checksums, "folder": common})
            if (pixels := self._open(folder, self._identity())) is None:
                raise OSError(errno.EAGAIN, "the images changed while they were read, or the file cannot be read again")
            return pixels

    def _write(self, path: Path) -> list[int]:
        """Decode in threads, write in order. Written, not mapped: a full disk is then an error and no crash."""
        threads, checked, checksums, unreadable = min(16, cores()), set(self.checked), [], []
        with atomic_path(path) as part, open(part, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": self.shape})
            rows = ahead(self._row, self.samples, 4 * threads, threads)
            for index, row in enumerate(progress(rows, f"decode {self.title}", len(self.samples))):
                if isinstance(row, Exception):
                    unreadable.append(row)
                elif not unreadable:
                    file.write(row)
                    if index in checked:
                        checksums.append(zlib.crc32(row))
            if unreadable:
                count = f"{len(unreadable)} of {len(self.samples)} images cannot be read"
                raise WsolkitError(f"{self.title}: {count}:\n" + "\n".join(map(str, unreadable)))
        return checksums

    def _row(self, sample: Sample) -> np.ndarray | Exception:
        try:
            return np.ascontiguousarray(self.square(sample))
        except (ValueError, OSError) as error:
            return error


def empty(folder: Path) -> None:
    """Remove what a folder of the cache holds, pixels.json first."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name != ABOUT):
        path.unlink(missing_ok=True)


def entries(cache: Path) -> list[tuple[Path, int, str]]:
    """(folder, bytes on disk, what its file holds or "" where none is usable) of each folder in the cache, in the order
    of their names; other things in the cache are passed over."""
    listed = []
    for folder in sorted(cache.iterdir()) if cache.is_dir() else []:
        if folder.is_dir() and re.fullmatch("[0-9a-f]{16}", folder.name):
            size, content = sum(path.stat().st_size for path in folder.iterdir()), ""
            with contextlib.suppress(*DAMAGED):
                about = read_json(folder / ABOUT)
                if about["format"] == FORMAT and (folder / f"{about['identity']}.npy").is_file():
                    content = "{title}, {images} images of {side} px from {folder}".format(**about)
            listed.append((folder, size, content))
    return listed


def clear_entry(folder: Path) -> bool:
    """Remove one folder of the cache; False where a process makes its file now. One that reads it keeps what it has."""
    with contextlib.suppress(Timeout), alone(f"{folder}.lock", timeout=0):
        empty(folder)
        folder.rmdir()
        return True
    return False
