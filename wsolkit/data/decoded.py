"""Decoded pixels on disk: every image of a split, resized to one square, in a file that epochs and processes share.

A folder of the cache holds `<identity>.npy`, (N, side, side, 3) uint8, and pixels.json, which is written last and says
which .npy counts. The folder's name tells images (by path) and side; the identity also their sizes and modification
times, so changed images are decoded again and replace the old file. A .npy that pixels.json does not name, or a
half-written one, is never read: the next build removes it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL
from filelock import FileLock, Timeout

from wsolkit.common.code import code_state
from wsolkit.common.cores import cores
from wsolkit.common.files import atomic_path, digest, read_json, write_json
from wsolkit.common.progress import progress
from wsolkit.data.batches import ahead

if TYPE_CHECKING:
    from wsolkit.data.samples import Sample

FORMAT = 1  # of the files
READING = ("bit_depth.py", "data/base.py")  # where this code changes, images are decoded again
RESAMPLING = "bilinear"
ABOUT = "pixels.json"
ROOM = 256 * 2**20  # bytes that a build leaves free on the disk
CHECKED = 32  # images, spread over the file, whose checksums are compared when it is opened
ENOUGH = 4  # the file is made once a quarter of the images was asked for: a look at a few does not decode them all


def cache_folder() -> Path | None:
    """Where decoded pixels lie: $WSOLKIT_CACHE/decoded, else $XDG_CACHE_HOME/wsolkit/decoded, else below ~/.cache. None
    where WSOLKIT_CACHE is set to nothing: pixels are kept in memory only."""
    chosen = os.environ.get("WSOLKIT_CACHE")
    if chosen == "":
        return None
    base = chosen or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "wsolkit")
    return Path(os.path.abspath(os.path.expanduser(base))) / "decoded"


class DecodedPixels:
    """The pixels of one split at one side.

    Args:
        title: dataset and split, for people.
        samples: the images, all with a path.
        side: in pixels.
        square: a sample -> (side, side, 3) uint8; ValueError or OSError, naming the file, where it cannot be read.
        cache: see `cache_folder`.
    """

    def __init__(
        self, title: str, samples: Sequence[Sample], side: int, square: Callable[[Sample], np.ndarray], cache: Path
    ) -> None:
        self.title, self.samples, self.side, self.square = title, samples, side, square
        self.shape = (len(samples), side, side, 3)
        paths = [[sample.id, os.path.abspath(sample.path)] for sample in samples]
        self.folder = cache / digest({"side": side, "images": paths})
        self.pixels: np.ndarray | None = None
        self.asked, self.looked, self.failed = 0, False, False

    def get(self, asked: int) -> np.ndarray | None:
        """All pixels, read-only, or None while there is no file. `asked` more images are wanted now: the file is made when
        that adds up to a quarter of them.

        Raises:
            ValueError: some images cannot be read; names every one of them.
        """
        if self.pixels is not None or self.failed:
            return self.pixels
        if not self.looked:
            self.looked, self.pixels = True, self._open(self._identity())
        self.asked += asked
        if self.pixels is None and self.asked * ENOUGH >= len(self.samples):
            try:
                self.pixels = self._build()
            except OSError as error:
                self.failed = True
                reason = error.strerror or error
                warnings.warn(f"{self.folder}: no file of decoded pixels of {self.title} ({reason}); images are decoded on "
                              "demand instead, which is slower. Make room (`wsolkit data cache --clear`) or set "
                              "WSOLKIT_CACHE to a folder that can be written to", stacklevel=2)  # fmt: skip
        return self.pixels

    def _identity(self) -> str:
        """Digest of everything that the pixels depend on."""
        stamps = []
        for sample in self.samples:
            try:
                info = os.stat(sample.path)
                stamps.append([sample.id, info.st_size, info.st_mtime_ns])
            except OSError:  # reading it will tell
                stamps.append([sample.id, -1, 0])
        return digest([FORMAT, RESAMPLING, PIL.__version__, code_state(READING), self.shape, stamps])

    def _open(self, identity: str) -> np.ndarray | None:
        """The file, if it is whole and of these images."""
        try:
            about = read_json(self.folder / ABOUT)
            if [about["format"], about["identity"]] != [FORMAT, identity]:
                return None
            pixels = np.load(self.folder / f"{identity}.npy", mmap_mode="r", allow_pickle=False)
            if (pixels.shape, pixels.dtype, pixels.flags.c_contiguous) != (self.shape, np.uint8, True):
                return None
            same = about["checksums"] == [zlib.crc32(pixels[i]) for i in self._checked()]
            return np.asarray(pixels) if same else None
        except (OSError, ValueError, EOFError, KeyError, TypeError):  # absent or damaged, in whatever way
            return None

    def _checked(self) -> list[int]:
        return np.linspace(0, len(self.samples) - 1, min(CHECKED, len(self.samples))).astype(int).tolist()

    def _build(self) -> np.ndarray:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(self.folder) + ".lock"):
            self.folder.mkdir(exist_ok=True)
            identity = self._identity()
            if (pixels := self._open(identity)) is not None:
                return pixels  # another process made it while this one waited
            empty(self.folder)
            need, free = int(np.prod(self.shape)), shutil.disk_usage(self.folder).free
            if need + ROOM > free:
                raise OSError(
                    errno.ENOSPC, f"it takes {need / 2**20:.0f} MiB and there are {free / 2**20:.0f} MiB free"
                )
            checksums = self._write(self.folder / f"{identity}.npy")
            if self._identity() != identity:
                raise OSError(errno.EAGAIN, "the images changed while they were read")
            write_json(self.folder / ABOUT, {
                "format": FORMAT, "identity": identity, "title": self.title, "images": len(self.samples),
                "side": self.side, "resampling": RESAMPLING, "pillow": PIL.__version__, "checksums": checksums,
                "folder": os.path.commonpath([os.path.dirname(os.path.abspath(s.path)) for s in self.samples]),
            })  # fmt: skip
            if (pixels := self._open(identity)) is None:
                raise OSError(errno.EIO, "what was written could not be read again")
            return pixels

    def _write(self, path: Path) -> list[int]:
        """Decode in threads, write in order. Written, not mapped: a full disk is then an error and no crash."""
        threads = min(16, cores())
        checked, checksums, unreadable = set(self._checked()), [], []
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
                raise ValueError(f"{self.title}: {len(unreadable)} of {len(self.samples)} images cannot be read:\n"
                                 + "\n".join(map(str, unreadable)))  # fmt: skip
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


# -- the cache as a whole ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One folder of the cache: bytes on disk, and, where `usable`, what pixels.json says of it."""

    folder: Path
    bytes: int
    usable: bool = False
    title: str = ""
    images: int = 0
    side: int = 0
    source: str = ""


def entries(cache: Path) -> list[Entry]:
    """What lies in the cache, in the order of its names; other things in the folder are passed over."""
    folders = sorted(cache.iterdir()) if cache.is_dir() else []
    return [_entry(folder) for folder in folders if folder.is_dir() and re.fullmatch("[0-9a-f]{16}", folder.name)]


def _entry(folder: Path) -> Entry:
    size = sum(path.stat().st_size for path in folder.iterdir())
    try:
        about = read_json(folder / ABOUT)
        usable = about["format"] == FORMAT and (folder / f"{about['identity']}.npy").is_file()
        return Entry(folder, size, usable, about["title"], about["images"], about["side"], about["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return Entry(folder, size)


def clear_entry(folder: Path) -> bool:
    """Remove one folder of the cache; False where a process is making its file now. One that reads it keeps what it has."""
    try:
        with FileLock(str(folder) + ".lock", timeout=0):
            empty(folder)
            folder.rmdir()
            return True
    except Timeout:
        return False
