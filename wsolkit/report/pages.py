"""What all pages share: templates with escaping and a policy, how numbers are written, and when two of them differ.

Text from outside (identifiers, error messages) reaches a page through jinja2's autoescape, that of notebooks through
`notebook_page.CLEANER`. A Content-Security-Policy forbids every request and every script but the package's
own (named by their hashes), so that a mistake here would do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"
CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = "report.css"  # of every page
CHANCE = 0.05
FEW = 6  # images: with fewer, not even a difference on every one of them has a p below CHANCE (2 / 2**n)
MINUS = "\u2212"


def plain(value: float | None, digits: int = 1) -> str:
    return "\u2013" if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS) if round(value, digits) else f"{0:.{digits}f}"


def between(ends: Sequence[float] | None, sign: bool = False) -> str:
    """ "18.8 to 27.0", or "" where there is no interval."""
    return "" if ends is None else " to ".join(map(signed if sign else plain, ends))


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
    endings: dict[float, str] = {1: "st", 2: "nd", 3: "rd"}
    return f"{value:g}{endings.get(end, 'th')}"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun if count == 1 else noun + 's'}"


def listed(items: Sequence[str]) -> Markup:
    """ "a", "a and b", "a, b and c"; what is no Markup is escaped."""
    return Markup(" and ").join(filter(None, [Markup(", ").join(items[:-1]), *items[-1:]]))


def verdict(paired: dict[str, Any]) -> str:
    """ "better", "worse", "equal" (no image differs), "open" (not significant), "" where no interval is known.

    A difference counts where its interval lies on one side of zero and, if there is an exact test, its p is small. Of a
    few images none counts: there an interval may have no width at all.
    """
    difference, low, high, chance, n = (paired.get(name) for name in ("difference", "low", "high", "p", "n"))
    if difference is None or low is None or high is None:
        return ""
    if difference == low == high == 0:
        return "equal"
    if low <= 0 <= high or (n is not None and n < FEW) or (chance is not None and chance >= CHANCE):
        return "open"
    return "better" if difference > 0 else "worse"


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
ENVIRONMENT.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
ENVIRONMENT.filters |= {
    write.__name__: write
    for write in (plain, signed, between, spread, seconds, times, ordinal, counted, listed, verdict)
}


def render(template: str, *, styles: Sequence[str] = (), scripts: Sequence[str] = (), **values: Any) -> str:
    """A page from one of the package's templates; everything but `markupsafe.Markup` is escaped.

    styles, scripts: names of the package's own .css and .js files, put into the page after the shared style and at its
    end; the page's Content-Security-Policy lets exactly these scripts run.
    """
    css, code = ([(TEMPLATES / name).read_text("utf-8") for name in names] for names in ((STYLE, *styles), scripts))
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in code]
    allowed = [f"'sha256-{digest}'" for digest in digests]
    policy = " ".join([f"{CONTENT_POLICY}; script-src", *allowed]) if allowed else CONTENT_POLICY
    shared = {"css": Markup("\n".join(css)), "policy": Markup(policy), "scripts": [Markup(text) for text in code]}
    return ENVIRONMENT.get_template(template).render(shared | values)


def fragment(template: str, **values: Any) -> Markup:
    """A part of a page from one of the package's templates, escaped like `render`'s; other templates take it as is."""
    return Markup(ENVIRONMENT.get_template(template).render(values))


def unique_id(wanted: str, taken: Counter) -> str:
    """`wanted` as an id that no element has yet."""
    base = re.sub(r"[^\w-]+", "-", wanted.strip().lower()).strip("-") or "section"
    taken[base] += 1
    return base if taken[base] == 1 else unique_id(f"{base}-{taken[base]}", taken)


def address(path: Path, html: Path) -> str:
    """The address of a file as seen from a page, with forward slashes; "" where it is not there."""
    return os.path.relpath(path, html.parent).replace(os.sep, "/") if path.is_file() else ""


def image_uri(data: bytes) -> str:
    """A PNG or JPEG as a data URI.

    Raises: OSError, SyntaxError: it is no complete image, which a page would show as a gap.
    """
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
        image.load()
        return f"data:image/{str(image.format).lower()};base64,{base64.b64encode(data).decode('ascii')}"
