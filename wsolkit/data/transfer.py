"""One file over HTTP(S): resumed where it stopped, tried again with growing pauses."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import IO
from urllib.parse import urlsplit

BLOCK = 1 << 18
TIMEOUT = 30.0  # seconds without a byte before a connection counts as lost
TRIES = 4  # in a row without progress, per address
PAUSE = 1.0  # seconds before the second try, doubled each time
WAIT_CODES = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers worth another try


def check_scheme(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"'{address}' is not an http or https address")


def download(address: str, name: str, size: int, file: IO[bytes]) -> str | None:
    """Append what is missing to `file`. Returns None when it has its full size, else why this address failed."""
    tries, pause, reason = 0, PAUSE, "no connection"
    with _progress(name, size) as advance:
        while (here := file.seek(0, os.SEEK_END)) != size:
            if here > size:
                file.truncate(0)
                continue
            if tries:
                if tries >= TRIES:
                    return f"{reason}, {TRIES} tries"
                print(f"{name}: {reason}; trying again in {pause:g} s", flush=True)
                time.sleep(pause)
                pause *= 2
            tries += 1
            try:
                _append(address, size, file, here, advance)
                reason = "the connection ended early"
            except WrongFile as error:
                return str(error)
            except urllib.error.HTTPError as error:
                error.close()
                reason = f"HTTP {error.code} {error.reason}"
                if error.code == 416:  # the server knows no such rest: begin anew
                    file.truncate(0)
                elif error.code not in WAIT_CODES:
                    return reason
            except (urllib.error.URLError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            if file.seek(0, os.SEEK_END) - here > size // 100:  # it moves: slow lines are not given up
                tries, pause = 1, PAUSE
    return None


class WrongFile(Exception):
    """The server offers something else than the archive; asking again would not help."""


def _append(address: str, size: int, file: IO[bytes], here: int, advance: Callable) -> None:
    headers = {"User-Agent": "wsolkit", "Accept-Encoding": "identity"}
    if here:
        headers["Range"] = f"bytes={here}-"
    request = urllib.request.Request(address, headers=headers)
    with _open(address, request) as response:
        total = response.headers.get("Content-Length")
        if response.status == 206:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
            if match is None or int(match[1]) != here:
                file.truncate(0)
                raise http.client.HTTPException("the server sent another range than was asked for")
            total = match[2]
        elif here:  # the server does not know ranges and sends all of it
            file.truncate(0)
            here = 0
        if total and total.isdecimal() and int(total) != size:
            raise WrongFile(f"the server offers {int(total):,} bytes instead of {size:,}")
        advance(here)
        while block := _read(response):
            here += len(block)
            if here > size:
                file.truncate(0)
                raise WrongFile(f"the server sends more than {size:,} bytes")
            file.write(block)
            file.flush()
            advance(here)


def _open(address: str, request: urllib.request.Request) -> http.client.HTTPResponse:
    try:
        return _opener(address).open(request, timeout=TIMEOUT)
    except urllib.error.URLError:
        raise
    except OSError as error:  # e.g. a time-out while waiting for the answer
        raise http.client.HTTPException(f"no answer ({error})") from error


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(BLOCK)  # what has come so far, so that an interruption loses next to nothing
    except OSError as error:  # told apart from an error of the disk, which another try would not mend
        raise http.client.HTTPException(f"the connection was lost ({error})") from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, address):
        """Follow to http(s) only, and never from https down to http."""
        if urlsplit(address).scheme not in ("https", urlsplit(request.full_url).scheme):
            raise urllib.error.HTTPError(address, code, "refused: redirect to an unsafe address", headers, file)
        return super().redirect_request(request, file, code, message, headers, address)


def _opener(address: str) -> urllib.request.OpenerDirector:
    handlers: list = [_Redirects()]
    if urlsplit(address).hostname in ("localhost", "127.0.0.1", "::1"):
        handlers.append(urllib.request.ProxyHandler({}))  # no proxy can reach this machine's own loopback
    return urllib.request.build_opener(*handlers)


@contextlib.contextmanager
def _progress(name: str, size: int) -> Iterator:
    """Yield a function that takes the number of bytes that are here: a bar for a person, else a line every 10 %."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=size, unit="B", unit_scale=True, desc=name) as bar:
            yield lambda here: bar.update(here - bar.n)
        return
    shown = -1

    def line(here: int) -> None:
        nonlocal shown
        if (tenth := 10 * here // size) != shown:
            shown = tenth
            print(f"{name}: {here:,} of {size:,} bytes ({10 * tenth} %)", flush=True)

    yield line
