"""What a person sees while a sweep runs: one line that is rewritten on a terminal, and an index that grows. No torch here."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

PAUSE = 20.0  # seconds between two index pages of a running sweep, at least


class StatusLine:
    """Lines that stay, and below them, on a terminal only, one line that is rewritten (and cut to the terminal's width).

    Args:
        say: prints a line that stays.
        stream: where both go; no terminal gets the lines that stay and nothing else.
    """

    def __init__(self, say: Callable[[str], None] = print, stream: TextIO | None = None) -> None:
        self.print, self.stream = say, stream or sys.stdout
        self.bar = tqdm(bar_format="{desc}", file=self.stream, leave=False, disable=None, dynamic_ncols=True)
        self.live = not self.bar.disable

    def say(self, text: str) -> None:
        """A line that stays."""
        with tqdm.external_write_mode(self.stream):
            self.print(self._printable(text))

    def show(self, text: str) -> None:
        """Replace the line that is rewritten; "" takes it away."""
        self.bar.set_description_str(self._printable(text))

    def close(self) -> None:
        """Take the line away for good; lines that stay may still come."""
        self.bar.close()

    def _printable(self, text: str) -> str:
        """Without control characters, and with "?" for what the stream's encoding has no character for."""
        encoding = getattr(self.stream, "encoding", None) or "ascii"
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
