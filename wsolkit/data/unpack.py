"""Unpacking archives that come from a network: nothing is written outside the folder, and no more than a limit."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

BLOCK = 1 << 20
MEMBERS = 1_000_000  # no dataset here has more files; a bomb of empty files would fill the disk's index


class UnsafeArchive(ValueError):
    """A member that must not be unpacked: an absolute path, "..", a link, a device, or more bytes than agreed."""


def unpack(archive: Path, kind: str, folder: str, target: Path, limit: int) -> None:
    """Write the files of `archive` that lie in its top folder `folder` below `target` (which must be new and private).

    Modes, owners and times of the archive are not taken over; whatever lies beside `folder` is checked and left out.

    Raises:
        UnsafeArchive: naming the member.
        tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError: the archive is damaged or the disk full.
    """
    written = 0
    for count, (name, is_folder, stream) in enumerate(_members(archive, kind, target)):
        parts = _safe_parts(name)
        if count >= MEMBERS:
            raise UnsafeArchive(f"{archive} holds more than {MEMBERS:,} files")
        if not parts or parts[0] != folder:
            continue
        path = target.joinpath(*parts)
        if is_folder:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with stream, open(path, "wb") as file:
            while block := stream.read(BLOCK):  # counted as it comes: the sizes in the headers can lie
                written += len(block)
                if written > limit:
                    raise UnsafeArchive(f"{archive} unpacks to more than {limit:,} bytes")
                file.write(block)


def _members(archive: Path, kind: str, target: Path) -> Iterator[tuple[str, bool, IO[bytes] | None]]:
    if kind == "zip":
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                form = stat.S_IFMT(info.external_attr >> 16)
                if form not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise UnsafeArchive(f"{archive}: '{info.filename}' is a link or a device")
                yield info.filename, info.is_dir(), None if info.is_dir() else packed.open(info)
        return
    with tarfile.open(archive, "r:*") as packed:
        for info in packed:
            if not (info.isfile() or info.isdir()):
                raise UnsafeArchive(f"{archive}: '{info.name}' is a link or a device")
            _safe_parts(info.name)
            if hasattr(tarfile, "data_filter"):  # the standard library's own rules too, where this Python has them
                try:
                    tarfile.data_filter(info, os.fspath(target))
                except tarfile.FilterError as error:
                    raise UnsafeArchive(f"{archive}: {error}") from error
            yield info.name, info.isdir(), None if info.isdir() else packed.extractfile(info)


def _safe_parts(name: str) -> list[str]:
    """The folders and the file of a member's name; what could leave the target on any system is refused."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or any(sign in name for sign in ("\\", ":", "\0")):
        raise UnsafeArchive(f"unsafe path {name!r} in the archive")
    return [part for part in parts if part not in ("", ".")]


def remove(folder: Path) -> None:
    """Remove what an interrupted run left, if anything; a link is removed and never followed."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
