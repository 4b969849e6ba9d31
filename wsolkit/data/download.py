"""Fetching datasets: resumable download, size and checksum, safe unpacking; safe to interrupt and rerun at any moment.

What exists under its final name is whole: the archive is downloaded to `<name>.part`, the folder unpacked beside its
place, and each is renamed as the last step.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from tarfile import TarError
from typing import IO
from zipfile import BadZipFile

from wsolkit.data.transfer import check_scheme, download
from wsolkit.data.unpack import UnsafeArchive, remove, unpack


class DownloadError(OSError):
    """The dataset could not be fetched; the message says why and how to fetch it by hand."""


@dataclass(frozen=True)
class Archive:
    """A dataset's archive.

    Attributes:
        dataset: its name for `wsolkit data` and `load_dataset`.
        name: file name of the archive.
        urls: addresses, tried in order.
        size: bytes.
        md5: checksum, hexadecimal.
        folder: the folder in the archive that is the dataset.
        kind: "tgz" or "zip".
        required: files and folders without which the dataset is not complete.
        unpacked_limit: bytes above which unpacking stops.
    """

    dataset: str
    name: str
    urls: tuple[str, ...]
    size: int
    md5: str
    folder: str
    kind: str
    required: tuple[str, ...] = ()
    unpacked_limit: int = 8 * 2**30


# Sizes and checksums are those that independent public data loaders check these downloads against (for CUB e.g.
# TDeVries/cub2011_dataset, for Tiny-ImageNet e.g. Avalanche's tiny_imagenet); they agree with one another.
ARCHIVES = {
    "cub": Archive(
        dataset="cub",
        name="CUB_200_2011.tgz",
        urls=("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",),
        size=1_150_585_339,
        md5="97eceeb196236b17998738112f37df78",
        folder="CUB_200_2011",
        kind="tgz",
        required=(
            "images.txt",
            "image_class_labels.txt",
            "train_test_split.txt",
            "bounding_boxes.txt",
            "classes.txt",
            "images",
        ),
    ),
    "tiny_imagenet": Archive(
        dataset="tiny_imagenet",
        name="tiny-imagenet-200.zip",
        urls=(
            "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        ),
        size=248_100_043,
        md5="90528d7ca1a48142e341f4ef8d21d0de",
        folder="tiny-imagenet-200",
        kind="zip",
        required=("wnids.txt", "words.txt", "train", "val/val_annotations.txt", "val/images"),
    ),
}


def fetch_dataset(name: str, root: str | Path, url: str | None = None) -> Path:
    """Fetch "cub" or "tiny_imagenet" into the folder `root` and return the dataset folder, ready for `load_dataset`.

    Args:
        name: the dataset.
        root: the folder that is to hold the dataset folder (or the dataset folder itself, by its native name).
        url: http(s) address of a mirror, instead of the official ones; size and checksum must be those of the original.

    Raises:
        ValueError: an unknown dataset, or an address that is not http(s).
        DownloadError: no network, a wrong file, no room, no permission; the message says what to do.
    """
    if name not in ARCHIVES:
        raise ValueError(f"dataset '{name}' has nothing to fetch; choose from {', '.join(ARCHIVES)}")
    return fetch(ARCHIVES[name], root, url)


def fetch_cub(root: str | Path, url: str | None = None) -> Path:
    """CUB-200-2011 (1.15 GB, 11,788 photographs); see `fetch_dataset`."""
    return fetch_dataset("cub", root, url)


def fetch_tiny_imagenet(root: str | Path, url: str | None = None) -> Path:
    """Tiny-ImageNet-200 (248 MB, 200 classes of 64 x 64 pixels); see `fetch_dataset`."""
    return fetch_dataset("tiny_imagenet", root, url)


def fetch(archive: Archive, root: str | Path, url: str | None = None) -> Path:
    """Download (unless the archive lies in `root` already), check, unpack; see `fetch_dataset`."""
    urls = (url,) if url else archive.urls
    for address in urls:
        check_scheme(address)
    root = Path(root).expanduser()
    root = root.parent if root.name == archive.folder else root
    target, packed, temporary = root / archive.folder, root / archive.name, root / f".{archive.folder}.unpacking"
    if target.exists():
        if missing := [item for item in archive.required if not (target / item).exists()]:
            raise DownloadError(
                f"{target} exists but lacks {', '.join(missing)}; move that folder away and run again: "
                + _command(archive, root, url)
            )
        print(f"{target} is complete; nothing to fetch", flush=True)
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not packed.exists():
            _download(archive, urls, root, url)
        with open(packed, "rb") as file:
            _lock(file, packed)
            if not target.exists():  # another process may have finished while this one downloaded
                _check_by_hand(archive, packed, url)
                print(f"unpacking {packed}", flush=True)
                remove(temporary)
                temporary.mkdir()
                try:
                    unpack(packed, archive.kind, archive.folder, temporary, archive.unpacked_limit)
                    if missing := [x for x in archive.required if not (temporary / archive.folder / x).exists()]:
                        raise UnsafeArchive(f"{packed} lacks {', '.join(missing)}")
                    os.rename(temporary / archive.folder, target)
                finally:
                    remove(temporary)
    except DownloadError:
        raise
    except (UnsafeArchive, TarError, BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DownloadError(
            f"{packed} cannot be unpacked: {error}; delete it and fetch it from another place"
        ) from error
    except OSError as error:
        raise DownloadError(_explain(error, root)) from error
    print(f"{target} is ready ({packed.name} is no longer needed and may be deleted)", flush=True)
    return target


def _explain(error: OSError, root: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {root} is full ({error}); make room and run again: what is there already is kept"
    if isinstance(error, PermissionError):
        return f"no permission to write in {root} ({error}); choose another folder with --root"
    return f"cannot write in {root} ({error}); choose another folder with --root"


def _command(archive: Archive, root: Path, url: str | None) -> str:
    mirror = f" --url {shlex.quote(url)}" if url else ""
    return f"wsolkit data {archive.dataset} --root {shlex.quote(str(root))}{mirror}"


def _by_hand(archive: Archive, root: Path, url: str | None) -> str:
    return (
        f"Fetch it with a browser: {url or archive.urls[0]}\n"
        f"put the file ({archive.size:,} bytes) at: {(root / archive.name).absolute()}\n"
        f"and run again: {_command(archive, root, url)}"
    )


def _lock(file: IO, path: Path) -> None:
    """Let one process at a time work on the file; the system releases the lock however the process ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DownloadError(f"{path} is in use by another process that fetches it; wait for that one to end") from None
    except OSError:  # a file system without locks
        return


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fault(archive: Archive, path: Path) -> str | None:
    """What is wrong with the file, or None."""
    if (size := path.stat().st_size) != archive.size:
        return f"it has {size:,} bytes instead of {archive.size:,}"
    if (md5 := _md5(path)) != archive.md5:
        return f"its MD5 is {md5} instead of {archive.md5}"
    return None


def _check_by_hand(archive: Archive, packed: Path, url: str | None) -> None:
    if fault := _fault(archive, packed):  # never deleted here: somebody may have put it there
        raise DownloadError(
            f"{packed} is not the expected archive: {fault}; delete it.\n{_by_hand(archive, packed.parent, url)}"
        )


def _download(archive: Archive, urls: tuple[str, ...], root: Path, url: str | None) -> None:
    part = root / f"{archive.name}.part"
    with open(part, "ab") as file:
        _lock(file, part)
        here = file.seek(0, os.SEEK_END)
        if (free := shutil.disk_usage(root).free) < archive.size - here:
            raise OSError(errno.ENOSPC, f"{archive.size - here:,} bytes are needed, {free:,} are free")
        reasons = []
        for address in urls:
            if reason := download(address, archive.name, archive.size, file):
                reasons.append(f"{address}: {reason}")
            else:
                break
        else:
            raise DownloadError(
                f"could not fetch {archive.name} ({'; '.join(reasons)}).\n{_by_hand(archive, root, url)}"
            )
        file.flush()
        os.fsync(file.fileno())
        if fault := _fault(archive, part):
            part.unlink()
            raise DownloadError(
                f"{archive.name} from {address} is not the expected file: {fault}; it was deleted.\n"
                + _by_hand(archive, root, url)
            )
        os.replace(part, root / archive.name)
