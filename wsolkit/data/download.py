"""Fetching data sets: a download that resumes, size and checksum, safe unpacking; safe to interrupt and rerun at any moment.

What exists under its final name is whole: the archive is downloaded to a folder beside its place, the data set is unpacked
likewise, and each is renamed as the last step.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pooch
import requests
from filelock import Timeout
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import alone
from wsolkit.data.catalogue import Archive, archive_of

BLOCK = 1 << 14  # an interruption loses less than that
SILENCE = 30.0  # seconds without a byte before a connection counts as lost
TRIES = 4  # in a row without progress, per address
PAUSE = 1.0  # seconds before the second try, doubled each time
WAIT_CODES = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers worth another try
MEMBERS = 1_000_000  # no dataset here has more files; a bomb of empty files would fill the disk's index


class DownloadError(OSError):
    """The dataset could not be fetched; the message says why and how to fetch it by hand."""


class UnsafeArchive(WsolkitError):
    """A member that must not be unpacked: an absolute path, "..", a link, a device, or more bytes than agreed."""


def fetch_dataset(name: str, root: str | Path, url: str | None = None) -> Path:
    """Fetch "cub" (1.15 GB) or "tiny_imagenet" (248 MB) into the folder `root` and return the dataset folder, ready for
    `load_dataset`. An archive that lies in `root` already is not downloaded again.

    Args:
        name: the dataset, one that has an archive in `wsolkit.data.catalogue`.
        root: the folder that is to hold the dataset folder (or the dataset folder itself, by its native name).
        url: http(s) address of a mirror, instead of the official ones; size and checksum must be those of the original.

    Raises:
        WsolkitError: an unknown dataset, or an address that is not http(s).
        DownloadError: no network, a wrong file, no room, no permission; the message says what to do.
    """
    return fetch(archive_of(name), root, url, name)


def fetch(archive: Archive, root: str | Path, url: str | None = None, name: str = "cub") -> Path:
    """Download (unless the archive lies in `root` already), check, unpack; see `fetch_dataset`."""
    urls = (url,) if url else archive.urls
    for address in urls:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WsolkitError(f"'{address}' is not an http or https address")
    root = Path(root).expanduser()
    root = root.parent if root.name == archive.folder else root
    target, packed, temporary = root / archive.folder, root / archive.name, root / f".{archive.folder}.unpacking"
    again = f"wsolkit data {name} --root {shlex.quote(str(root))}" + (f" --url {shlex.quote(url)}" if url else "")
    by_hand = (
        f"Fetch it with a browser: {urls[0]}\nput the file ({archive.size:,} bytes) at: {packed.absolute()}\n"
        f"and run again: {again}"
    )
    if target.exists():
        if missing := _missing(archive, target):
            raise DownloadError(f"{target} exists but lacks {missing}; move that folder away and run again: {again}")
        print(f"{target} is complete; nothing to fetch", flush=True)
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        with alone(root / f".{archive.name}.lock", timeout=0):
            if not packed.exists():
                _download(archive, urls, root, by_hand)
            elif fault := _fault(archive, packed):  # never deleted here: somebody may have put it there
                raise DownloadError(f"{packed} is not the expected archive: {fault}; delete it.\n{by_hand}")
            print(f"unpacking {packed}", flush=True)
            shutil.rmtree(temporary, ignore_errors=True)  # of an interrupted run; a link is never followed
            temporary.mkdir()
            try:
                unpack(packed, archive.kind, archive.folder, temporary, archive.unpacked_limit)
                if missing := _missing(archive, temporary / archive.folder):
                    raise UnsafeArchive(f"{packed} lacks {missing}")
                os.rename(temporary / archive.folder, target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except Timeout:
        raise DownloadError(f"{packed} is in use by another process that fetches it; wait for its end") from None
    except (UnsafeArchive, tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:
        advice = "delete it and fetch it from another place"
        raise DownloadError(f"{packed} cannot be unpacked: {error}; {advice}") from error
    except DownloadError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            advice = "make room and run again: what is there already is kept"
            raise DownloadError(f"the disk of {root} is full ({error}); {advice}") from error
        wrong = "no permission to write" if isinstance(error, PermissionError) else "cannot write"
        raise DownloadError(f"{wrong} in {root} ({error}); choose another folder with --root") from error
    print(f"{target} is ready ({packed.name} is no longer needed and may be deleted)", flush=True)
    return target


def _missing(archive: Archive, folder: Path) -> str:
    return ", ".join(item for item in archive.required if not (folder / item).exists())


def _fault(archive: Archive, path: Path) -> str:
    """What is wrong with the file, or nothing."""
    if (size := path.stat().st_size) != archive.size:
        return f"it has {size:,} bytes instead of {archive.size:,}"
    md5 = pooch.file_hash(str(path), alg="md5")
    return "" if md5 == archive.md5 else f"its MD5 is {md5} instead of {archive.md5}"


def part_of(root: Path, archive: Archive) -> Path:
    """Where an unfinished download lies: in a folder of its own."""
    return root / f".{archive.name}.download" / f"{archive.name}.part"


def _download(archive: Archive, urls: tuple[str, ...], root: Path, by_hand: str) -> None:
    part = part_of(root, archive)
    part.parent.mkdir(exist_ok=True)
    needed = archive.size - (part.stat().st_size if part.exists() else 0)
    if needed > (free := shutil.disk_usage(root).free):
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")
    reasons = []
    try:
        for address in urls:
            try:
                downloader = _resuming(archive, part)
                whole = pooch.retrieve(address, f"md5:{archive.md5}", archive.name, part.parent, downloader=downloader)
                os.replace(whole, root / archive.name)
                return
            except requests.RequestException as error:
                reasons.append(f"{address}: {error}")
            except ValueError as error:  # of pooch, which names both checksums and has deleted the file
                wrong = f"{archive.name} from {address} is not the expected file: {error}"
                raise DownloadError(f"{wrong}\n{by_hand}") from error
        raise DownloadError(f"could not fetch {archive.name} ({'; '.join(reasons)}).\n{by_hand}")
    finally:
        if not part.exists() or not part.stat().st_size:
            shutil.rmtree(part.parent, ignore_errors=True)


class _WrongFile(requests.RequestException):
    """The server offers something else than the archive; asking again would not help."""


def _resuming(archive: Archive, part: Path) -> Any:
    """A downloader for pooch that goes on where an earlier one stopped, since pooch's own begins anew: it appends to `part`
    and renames that when it has its full size."""

    def download(address: str, output: str, _: Any) -> None:
        retry = Retry(TRIES - 1, backoff_factor=PAUSE, status_forcelist=WAIT_CODES, raise_on_status=False)
        bar = {"total": archive.size, "desc": archive.name, "mininterval": 0.1 if sys.stderr.isatty() else 30}
        with requests.Session() as session, open(part, "ab") as file, tqdm(**bar, unit="B", unit_scale=True) as shown:
            for scheme in ("http://", "https://"):  # requests follows redirects to no other scheme
                session.mount(scheme, HTTPAdapter(max_retries=retry))
            tries = 0
            while (here := file.seek(0, os.SEEK_END)) != archive.size:
                if here > archive.size:
                    file.truncate(0)
                    continue
                try:
                    tries += 1
                    append(session, address, file, here, shown)
                    raise requests.ConnectionError("the connection ended early")
                except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, requests.Timeout):
                    if file.seek(0, os.SEEK_END) > here:  # it moves: slow lines are not given up
                        tries = 0
                    elif tries >= TRIES:
                        raise
                    else:
                        time.sleep(PAUSE * 2**tries)
            shown.update(archive.size - shown.n)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, output)

    def append(session: requests.Session, address: str, file: Any, here: int, shown: tqdm) -> None:
        """Append what comes to the file, which holds `here` bytes; begin it anew where that does not fit."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={here}-"} if here else {})
        with session.get(address, headers=headers, stream=True, timeout=SILENCE) as response:
            begin, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            ranged = response.status_code == 206
            if response.status_code == 416 or (ranged and begin.split("-")[0] != str(here)):
                file.truncate(0)  # the server knows no such rest, or sent another range than was asked for
                return
            response.raise_for_status()
            if not ranged:
                total = response.headers.get("Content-Length", "")
                if here:  # the server does not know ranges and sends all of it
                    file.truncate(0)
            if total.isdecimal() and int(total) != archive.size:
                raise _WrongFile(f"the server offers {int(total):,} bytes instead of {archive.size:,}")
            for block in response.iter_content(BLOCK):
                file.write(block)
                file.flush()
                shown.update(file.tell() - shown.n)
                if file.tell() > archive.size:
                    file.truncate(0)
                    raise _WrongFile(f"the server sends more than {archive.size:,} bytes")

    return download


def unpack(archive: Path, kind: str, folder: str, target: Path, limit: int) -> None:
    """Write the files of `archive` that lie in its top folder `folder` below `target` (which must be new and private).

    Whatever lies beside `folder` is checked and left out. Sizes in the headers cannot lie: both readers stop there.

    Raises:
        UnsafeArchive: naming the member.
        tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError: the archive is damaged or the disk full.
    """

    def safe(members: Iterable[Any]) -> Iterator[Any]:
        total = 0
        for count, member in enumerate(members):
            if kind == "zip":
                name, size, form = member.filename, member.file_size, stat.S_IFMT(member.external_attr >> 16)
                plain = form in (0, stat.S_IFREG, stat.S_IFDIR)
            else:
                name, size, plain = member.name, member.size, member.isfile() or member.isdir()
            parts = name.split("/")
            if name.startswith("/") or ".." in parts or any(sign in name for sign in ("\\", ":", "\0")):
                raise UnsafeArchive(f"{archive}: unsafe path {name!r} in the archive")
            if not plain:
                raise UnsafeArchive(f"{archive}: '{name}' is a link or a device")
            if count >= MEMBERS:
                raise UnsafeArchive(f"{archive} holds more than {MEMBERS:,} files")
            if next((part for part in parts if part not in ("", ".")), "") == folder:
                total += size
                if total > limit:
                    raise UnsafeArchive(f"{archive} unpacks to more than {limit:,} bytes")
                yield member

    if kind == "zip":
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(target, safe(zipped.infolist()))
    else:
        with tarfile.open(archive, "r:*") as packed:  # one pass: a compressed archive is read in order
            packed.extractall(target, safe(packed), filter="data")
