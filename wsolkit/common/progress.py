"""Progress: a bar where somebody looks, plain lines in a notebook that runs in batch, nothing elsewhere; and a line
that a command rewrites on a terminal."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TextIO

from tqdm import tqdm

PLAIN_SECONDS = 30.0  # between two plain lines
# set by JupyterLab, VS Code and Colab, and by nothing that runs notebooks in batch
SESSIONS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")


def progress(
    items: Iterable, text: str, total: int | None = None, unit: str = "images", done: int = 0, quiet: bool = False
) -> Iterable:
    """`items`, one by one, with a bar for whoever looks at it.

    In a terminal the bar is on stderr and goes when it is full. In JupyterLab it is one line of text below the cell,
    which the next bar of the same cell replaces; it needs no widgets. Where a notebook runs in batch (papermill,
    nbconvert) there is a plain line every 30 seconds instead, so that short work says nothing. In a script there is
    nothing.

    Args:
        text: what is being done, in a few words.
        total: number of items; None is `len(items)`, where there is one. done: items that were done earlier.
        unit: what an item is, in the plural. quiet: no sign at all (processes but the first).
    """
    if total is None and isinstance(items, Sized):
        total = done + len(items)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    in_notebook = hasattr(shell, "kernel")
    if quiet or not (in_notebook or sys.stderr.isatty()):
        return items
    options: dict[str, Any] = {"desc": text, "total": total, "unit": f" {unit}", "initial": done}
    if not in_notebook:
        return tqdm(items, leave=False, **options)
    # whether a person opened the notebook, rather than a program that runs it
    opened = not os.environ.get("WSOLKIT_BATCH") and any(os.environ.get(name) for name in SESSIONS)
    return _Line(items, shell, **options) if opened else _plain(items, text, total, unit, done)


class _Line(tqdm):
    """tqdm as one line of text, replaced in place; a saved notebook keeps the last state, without carriage returns."""

    cell: Any = None  # that showed a bar last
    handle: Any = None  # of its line

    def __init__(self, items: Iterable, shell: Any, **options: Any) -> None:
        if _Line.handle is None or _Line.cell != shell.execution_count:
            from IPython.display import display

            _Line.cell, _Line.handle = shell.execution_count, display({"text/plain": ""}, raw=True, display_id=True)
        super().__init__(items, file=io.StringIO(), ncols=88, leave=True, ascii=False, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        _Line.handle.update({"text/plain": str(self) if msg is None else msg}, raw=True)


def _plain(items: Iterable, text: str, total: int | None, unit: str, done: int) -> Iterator:
    begin = last = time.monotonic()
    for count, item in enumerate(items, done + 1):
        yield item
        now = time.monotonic()
        if now - last >= PLAIN_SECONDS:
            last = now
            print(f"{text}: {count} of {total or '?'} {unit}, {now - begin:.0f} s", flush=True)


class StatusLine(tqdm):
    """Lines that stay, and below them, on a terminal only, one line that is rewritten (and cut to its width).

    `close` takes that line away for good; lines that stay may still come.

    Args:
        say: prints a line that stays.
        stream: where both go; no terminal gets the lines that stay and nothing else.
    """

    def __init__(self, say: Callable[[str], None] = print, stream: TextIO | None = None) -> None:
        self.print, self.stream = say, stream or sys.stdout
        super().__init__(bar_format="{desc}", file=self.stream, leave=False, disable=None, dynamic_ncols=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        with self.external_write_mode(self.stream):
            self.print(self._printable(text))

    def show(self, text: str) -> None:
        """Replace the line that is rewritten; "" takes it away."""
        self.set_description_str(self._printable(text))

    def _printable(self, text: str) -> str:
        """Without control characters, and with "?" for what the stream's encoding has no character for."""
        encoding = getattr(self.stream, "encoding", None) or "ascii"
        return "".join(c if c.isprintable() else " " for c in text).encode(encoding, "replace").decode(encoding)


def about(seconds: float) -> str:
    """A length of time as one would say it: about 40 s, about 3 min, about 2 h 10 min."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 100 else f"about {minutes // 60} h {minutes % 60} min"
