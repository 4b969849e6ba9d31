"""How pages write numbers, and when they call two of them different: the one rule of the index and of every report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CHANCE = 0.05
FEW = 6  # images: with fewer, not even a difference on every one of them has a p below CHANCE (2 / 2**n)
MINUS = "\u2212"


def plain(value: float | None, digits: int = 1) -> str:
    return "\u2013" if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS) if round(value, digits) else f"{0:.{digits}f}"


def between(ends: Sequence[float] | None, sign: bool = False) -> str:
    """ "18.8 to 27.0", or "" where there is no interval."""
    write = signed if sign else plain
    return "" if ends is None else f"{write(ends[0])} to {write(ends[1])}"


def spread(value: float | None, ends: Sequence[float] | None) -> str:
    """An interval of a share in percent. Where all images are alike no resample differs, and "0.0 to 0.0" would promise
    what a few images cannot: then it says so."""
    return "none of them" if value == 0 else "all of them" if value == 100 else between(ends)


def seconds(value: float | None) -> str:
    """A short time in a unit that suits it: "1.1 ms", "0.25 s", "3 min 20 s", "2 h 5 min"."""
    if value is None:
        return "\u2013"
    if value < 0.0995:
        return f"{value * 1000:.1f} ms" if value < 0.00995 else f"{value * 1000:.0f} ms"
    if value < 59.5:
        return f"{value:.2g} s" if value < 9.95 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def times(ratio: float) -> str:
    """How long something takes beside something else, as people write it: "about 80 times as long". Differences below a
    fifth may come from what else the machine did, and are not claimed."""
    if 0.8 < ratio < 1.25:
        return "about as long"
    return f"about {float(f'{ratio:.{1 if ratio >= 10 else 2}g}'):g} times as long"


def ordinal(value: float) -> str:
    """ "90th", "91st", "97.5th"."""
    end = value % 10 if value % 100 not in (11, 12, 13) else 0
    return f"{value:g}{'st' if end == 1 else 'nd' if end == 2 else 'rd' if end == 3 else 'th'}"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun if count == 1 else noun + 's'}"


def listed(items: Sequence[str], word: str = "and") -> str:
    return f" {word} ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def verdict(paired: dict[str, Any]) -> str:
    """ "better", "worse", "equal" (no image differs), "open" (not significantly different), or "" where no interval is known.

    A difference counts where its interval lies on one side of zero and, where there is an exact test, its p is small. A few
    images show no significant difference: there an interval may have no width at all.
    """
    difference, low, high = (paired.get(name) for name in ("difference", "low", "high"))
    if difference is None or low is None or high is None:
        return ""
    if difference == low == high == 0:
        return "equal"
    chance, n = paired.get("p"), paired.get("n")
    few = n is not None and n < FEW
    if low <= 0 <= high or few or (chance is not None and chance >= CHANCE):
        return "open"
    return "better" if difference > 0 else "worse"


VERDICTS = {
    "better": "better",
    "worse": "worse",
    "open": "not significantly different",
    "equal": "the same on every image",
    "": "no interval known",
}
