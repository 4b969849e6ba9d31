"""What a person sees while a sweep runs: one line that is rewritten on a terminal, and an index that grows. No torch here."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import unicodedata
from collections.abc import Callable
from typing import Any, TextIO

PAUSE = 20.0  # seconds between two index pages of a running sweep, at least


class StatusLine:
    """Lines that stay, and below them, on a terminal only, one line that is rewritten.

    Args:
        say: prints a line that stays.
        stream: where both go; no terminal gets the lines that stay and nothing else.
    """

    def __init__(self, say: Callable[[str], None] = print, stream: TextIO | None = None) -> None:
        self.print, self.stream = say, stream or sys.stdout
        self.live = self.stream.isatty()
        self.text, self.drawn = "", 0  # what is wanted, and how many columns it took

    def say(self, text: str) -> None:
        """A line that stays; what is shown below it comes with the next `show`."""
        self.show("")
        self.print(_printable(text, self.stream))

    def show(self, text: str) -> None:
        """Replace the line that is rewritten; "" takes it away."""
        if text != self.text:
            self.text = text
            self._draw(text)

    def _draw(self, text: str) -> None:
        if not self.live:
            return
        # the last column stays free: terminals differ in whether a full line moves the cursor on
        line = shortened(_printable(text, self.stream), self._columns() - 1)
        width = columns_of(line)
        blank = " " * min(max(0, self.drawn - width), self._columns() - 1 - width)
        try:
            self.stream.write(f"\r{line}{blank}" + ("" if text else "\r"))
            self.stream.flush()
        except OSError:  # the terminal is gone, the sweep is not
            self.live = False
        self.drawn = width

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80


def columns_of(text: str) -> int:
    """Columns that a terminal takes for a text: East Asian wide characters take two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(bool(unicodedata.combining(c)) for c in text)


def shortened(text: str, columns: int) -> str:
    """A text that fits: its beginning and "..." where it is too long."""
    if columns_of(text) <= columns:
        return text
    while text and columns_of(text) > columns - 3:
        text = text[:-1]
    return (text + "...")[: max(0, columns)]


def _printable(text: str, stream: TextIO) -> str:
    """Without control characters, and with "?" for what the stream's encoding has no character for."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    text = "".join(c if c.isprintable() else " " for c in text)
    return text.encode(encoding, "replace").decode(encoding)


def about(seconds: float) -> str:
    """A length of time as one would say it: about 40 s, about 3 min, about 2 h 10 min."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 100 else f"about {minutes // 60} h {minutes % 60} min"


class LiveIndex:
    """Writes the index again while a sweep runs, in a thread, so that it can be watched.

    Args:
        write: writes the page. What goes wrong in it is passed over: the sweep writes the page once more at its end.
        pause: seconds between two pages; a page that takes long is written more rarely.
    """

    def __init__(self, write: Callable[[], Any], pause: float = PAUSE) -> None:
        self.write, self.pause = write, pause
        self.thread: threading.Thread | None = None
        self.written, self.next = 0, 0.0

    def update(self, finished: int) -> None:
        """Write the page when more runs have finished than at the last time, and that is long enough ago."""
        busy = self.thread is not None and self.thread.is_alive()
        if finished > self.written and not busy and time.monotonic() >= self.next:
            self.written = finished
            self.thread = threading.Thread(target=self._write, daemon=True)
            self.thread.start()

    def close(self) -> None:
        if self.thread is not None:
            self.thread.join()

    def _write(self) -> None:
        begin = time.monotonic()
        with contextlib.suppress(Exception):
            self.write()
        now = time.monotonic()
        self.next = now + max(self.pause, 10 * (now - begin))
