"""Fetching data sets: a download that resumes, size and checksum, safe unpacking; safe to interrupt and to rerun.

What exists under its final name is whole: the archive is downloaded to a folder beside its place, the data set is
unpacked likewise, and each is renamed as the last step.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

import pooch
import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import alone, given_path
from wsolkit.data.catalogue import Archive, archive_of

BLOCK = 1 << 14  # an interruption loses less than that
SILENCE = 30.0  # seconds without a byte before a connection counts as lost
TRIES = 4  # in a row without progress, per address
PAUSE = 1.0  # seconds before the second try, doubled each time
WAIT_CODES = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers worth another try


class DownloadError(WsolkitError):
    """The dataset could not be fetched; the message says why and how to fetch it by hand."""


DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError)  # of archives


def fetch_dataset(name: str, root: str | Path, url: str | None = None) -> Path:
    """Fetch "cub" (1.15 GB), "tiny_imagenet" (248 MB) or "oxford_pets" (811 MB, by torchvision) into the folder `root`
    and return the dataset folder, ready for `load_dataset`. An archive that lies in `root` is not downloaded again.

    Args:
        name: the dataset, one that has an archive in `wsolkit.data.catalogue`.
        root: the folder that is to hold the dataset folder (or the dataset folder itself, by its native name).
        url: http(s) address of a mirror, instead of the official ones; size and checksum must be those of the original.
            Not for what torchvision fetches.

    Raises:
        WsolkitError: an unknown dataset, or an address that is not http(s).
        DownloadError: no network, a wrong file, no room, no permission; the message says what to do.
    """
    return fetch(archive_of(name), root, url, name)


def fetch(archive: Archive, root: str | Path, url: str | None = None, name: str = "cub") -> Path:
    """Download (unless the archive lies in `root` already), check, unpack; see `fetch_dataset`."""
    address = url or archive.url
    try:
        web = urlsplit(address).scheme in ("http", "https") and urlsplit(address).hostname
    except ValueError:  # brackets that do not close
        web = None
    require(not url or not archive.torchvision, f"torchvision fetches {name} from its own address; leave out --url")
    require(web or archive.torchvision, f"'{address}' is not an http or https address; give one (--url)")
    root = given_path(root, "a folder for the dataset (--root)")
    root = root.parent if root.name == archive.folder else root
    target, packed = root / archive.folder, root / archive.name
    again = f"run again: wsolkit data {name} --root {shlex.quote(str(root))}"
    again += f" --url {shlex.quote(url)}" if url else ""
    place = f"put the file ({archive.size:,} bytes) at: {packed.absolute()}"
    by_hand = f"Fetch it with a browser: {address}\n{place}\nand {again}"
    if target.exists():
        if missing := _missing(archive, target):
            raise DownloadError(f"{target} exists but lacks {missing}; move that folder away and {again}")
        print(f"{target} is complete; nothing to fetch", flush=True)
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        busy = f"{packed} is in use by another process that fetches it; wait for its end"
        with alone(root / f".{archive.name}.lock", busy=busy):
            if not archive.torchvision:
                if not packed.exists():
                    _download(archive, address, root, by_hand)
                elif (md5 := pooch.file_hash(str(packed), alg="md5")) != archive.md5:  # not ours to delete
                    wrong = f"its MD5 is {md5} instead of {archive.md5}; delete it"
                    raise DownloadError(f"{packed} is not the expected archive: {wrong}.\n{by_hand}")
                print(f"unpacking {packed}", flush=True)
            for stale in root.glob(f".{archive.folder}.unpacking*"):  # of interrupted runs; a link is never followed
                shutil.rmtree(stale, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{archive.folder}.unpacking", dir=root) as temporary:
                _by_torchvision(archive, temporary) if archive.torchvision else _unpack(packed, temporary)
                if missing := _missing(archive, Path(temporary, archive.folder)):
                    raise tarfile.ReadError(f"it lacks {missing}")
                os.rename(Path(temporary, archive.folder), target)
    except (OSError, *DAMAGED) as error:
        if isinstance(error, DAMAGED):
            wrong = f"{packed} cannot be unpacked: {error}; delete it and fetch it from another place"
        elif getattr(error, "errno", None) in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            wrong = f"the disk of {root} is full ({error}); make room and run again: what is there already is kept"
        else:
            wrong = f"cannot write in {root} ({error}); choose another folder with --root"
        raise DownloadError(wrong) from error
    left = f" ({packed.name} is no longer needed and may be deleted)" if packed.is_file() else ""
    print(f"{target} is ready{left}", flush=True)
    return target


def _missing(archive: Archive, folder: Path) -> str:
    return ", ".join(item for item in archive.required if not (folder / item).exists())


def part_of(root: Path, archive: Archive) -> Path:
    """Where an unfinished download lies: in a folder of its own."""
    return root / f".{archive.name}.download" / f"{archive.name}.part"


def _download(archive: Archive, address: str, root: Path, by_hand: str) -> None:
    part = part_of(root, archive)
    part.parent.mkdir(exist_ok=True)
    needed = archive.size - _size(part)
    if needed > (free := shutil.disk_usage(root).free):
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")
    try:
        downloader = _resuming(archive, part)
        whole = pooch.retrieve(address, f"md5:{archive.md5}", archive.name, part.parent, downloader=downloader)
        os.replace(whole, root / archive.name)
    except requests.RequestException as error:
        raise DownloadError(f"could not fetch {archive.name} ({address}: {error}).\n{by_hand}") from error
    except ValueError as error:  # of pooch, which names both checksums and has deleted the file
        wrong = f"{archive.name} from {address} is not the expected file: {error}"
        raise DownloadError(f"{wrong}\n{by_hand}") from error
    finally:
        if not _size(part):
            shutil.rmtree(part.parent, ignore_errors=True)


def _resuming(archive: Archive, part: Path) -> Any:
    """A downloader for pooch that goes on where an earlier one stopped: it appends to `part`, and renames it last."""

    def download(address: str, output: str, _: Any) -> None:
        retry = Retry(TRIES - 1, backoff_factor=PAUSE, status_forcelist=WAIT_CODES, raise_on_status=False)
        bar = {"total": archive.size, "desc": archive.name, "mininterval": 0.1 if sys.stderr.isatty() else 30}
        with requests.Session() as session, tqdm(**bar, unit="B", unit_scale=True) as shown:
            for scheme in ("http://", "https://"):  # requests follows redirects to no other scheme
                session.mount(scheme, HTTPAdapter(max_retries=retry))
            tries = 0
            while (here := _size(part)) != archive.size:
                lost: requests.RequestException = requests.ConnectionError("the connection ended early")
                try:
                    append(session, address, here, shown)
                except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, requests.Timeout) as error:
                    lost = error
                tries = 0 if _size(part) > here else tries + 1  # it moves: slow lines are not given up
                if tries == TRIES:
                    raise lost
                time.sleep(PAUSE * 2**tries if tries else 0)
            shown.update(archive.size - shown.n)
        os.replace(part, output)

    def append(session: requests.Session, address: str, here: int, shown: tqdm) -> None:
        """Append what comes to the part, which holds `here` bytes; begin it anew where that does not fit."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={here}-"} if here else {})
        with session.get(address, headers=headers, stream=True, timeout=SILENCE) as response:
            begin, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            ranged = response.status_code == 206
            if response.status_code == 416 or here > archive.size or (ranged and begin.split("-")[0] != str(here)):
                part.unlink(missing_ok=True)  # the server knows no such rest, or sent another range than was asked for
                return
            response.raise_for_status()
            total = total if ranged else response.headers.get("Content-Length", "")
            if total.isdecimal() and int(total) != archive.size:
                raise requests.RequestException(f"the server offers {int(total):,} bytes instead of {archive.size:,}")
            with open(part, "ab" if ranged else "wb") as file:  # a server may not know ranges and send all of it
                for block in response.iter_content(BLOCK):
                    file.write(block)
                    file.flush()
                    shown.update(file.tell() - shown.n)
                    if file.tell() > archive.size:
                        file.truncate(0)
                        raise requests.RequestException(f"the server sends more than {archive.size:,} bytes")
                os.fsync(file.fileno())

    return download


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _by_torchvision(archive: Archive, target: str) -> None:
    """torchvision's own download; it compares checksums before it unpacks."""
    from torchvision import datasets

    try:
        getattr(datasets, archive.torchvision)(target, download=True)
    except (URLError, ConnectionError, TimeoutError, *DAMAGED) as error:
        wrong = f"torchvision could not fetch {archive.folder} ({error}); run again later"
        raise DownloadError(f"{wrong}, or put the folder {archive.folder} in place by hand") from error


def _unpack(archive: Path, target: str) -> None:
    """Its checksum is that of the official archive; both readers write nothing outside of `target` all the same."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(target)
    else:
        with tarfile.open(archive) as packed:
            packed.extractall(target, filter="data")
