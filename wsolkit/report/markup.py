"""HTML that needs no network: Markdown with MathML, sanitising, and the frame that every page shares.

Whatever text comes from outside (identifiers, error messages, notebook outputs) reaches a page either through jinja2's
autoescape or through `clean`, an allowlist applied by nh3 (ammonia). Pages also carry a Content-Security-Policy that forbids
every request and every script but the package's own (named by their hashes), so that a mistake here would do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import nh3
from bs4 import BeautifulSoup
from markupsafe import Markup
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image

from wsolkit.report import numbers

TEMPLATES = Path(__file__).parent / "templates"
CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = "report.css"  # of every page


def _words(text: str) -> set[str]:
    return set(text.split())


MATHML = _words("""math mrow mi mn mo ms mtext mspace msub msup msubsup munder mover munderover mmultiscripts
    mprescripts mfrac msqrt mroot mtable mtr mtd mstyle mpadded mphantom menclose""")
TAGS = MATHML | _words("""a abbr article b blockquote br caption cite code col colgroup dd del details dfn div dl dt em
    figcaption figure h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark nav ol p pre q s samp section small span strong sub
    summary sup table tbody td tfoot th thead time tr u ul var""")
# dropped with their content: their text is code, not something to read
SILENT = _words("""script style template noscript iframe object embed applet noframes noembed textarea xmp title head
    link meta base""")
MATH_ATTRIBUTES = _words("""display mathvariant displaystyle scriptlevel stretchy fence form separator accent
    accentunder movablelimits symmetric largeop minsize maxsize lspace rspace width height depth linethickness
    columnalign rowalign columnspacing rowspacing columnlines rowlines frame xmlns linebreak columnspan rowspan
    notation mathsize mathcolor""")
ATTRIBUTES = dict.fromkeys(MATHML, MATH_ATTRIBUTES) | {
    "*": _words("id class style title lang dir role aria-label aria-hidden aria-describedby tabindex"),
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "details": {"open"},
    "ol": {"start", "type"},
    "td": {"colspan", "rowspan", "headers"},
    "th": {"colspan", "rowspan", "headers", "scope"},
    "col": {"span"},
    "colgroup": {"span"},
    "time": {"datetime"},
}
STYLES = _words("""text-align vertical-align width max-width min-width height max-height margin margin-left margin-right
    margin-top margin-bottom padding font-weight font-style font-size font-family white-space border border-collapse
    text-decoration color background-color display""")
ADDRESSES = {
    "href": re.compile(r"(?:https?://|mailto:|#|[^:]*(?:[/?#]|$))", re.IGNORECASE),
    "src": re.compile(r"data:image/(?:png|jpeg|gif|webp|svg\+xml)[;,]", re.IGNORECASE),
}
LIMITS = {"max", "min", "lim", "sup", "inf", "argmax", "argmin", "arg\u2009max", "arg\u2009min"}


def _attribute(tag: str, name: str, value: str) -> str | None:
    """nh3 asks this for every attribute of the allowlist: an address only where a page may have it."""
    plain = re.sub(r"[\x00-\x20\x7f-\xa0\u200b-\u200f\u2028-\u202f\ufeff]", "", value)
    return value if name not in ADDRESSES or ADDRESSES[name].match(plain) else None


CLEANER = nh3.Cleaner(
    tags=TAGS,
    clean_content_tags=SILENT,
    attributes=ATTRIBUTES,
    attribute_filter=_attribute,
    url_schemes={"http", "https", "mailto", "data"},  # data only where _attribute says so: images
    link_rel=None,
    filter_style_properties=STYLES,
)


def clean(markup: str) -> str:
    """`markup` reduced to an allowlist: no scripts, handlers, style sheets, frames or forms.

    Links lead to http(s), mailto and relative addresses; images are data URIs; text, tables, figures and MathML stay.
    """
    return CLEANER.clean(markup)


# ------------------------------------------------------------------------------------------------ formulas


def mathml(formula: str, display: bool = False) -> str:
    """LaTeX without its delimiters as a MathML element; `<code>` with the source where it cannot be converted."""
    from latex2mathml.converter import convert

    source = formula.strip()
    fallback = f'<code class="formula">{html.escape(source)}</code>'
    # latex2mathml knows align*, which looks the same, but not aligned
    latex = re.sub(r"\\(begin|end)\{(?:aligned|split|align)\}", r"\\\1{align*}", source)
    try:
        converted = convert(latex, display="block" if display else "inline")
    except Exception:  # its errors have no common base class, and IndexError or KeyError come as well
        return fallback
    soup = BeautifulSoup(clean(converted), "html.parser")
    if soup.math is None or re.search(r"\\[A-Za-z]", soup.get_text()):  # an unknown command comes back as text
        return fallback
    for number in soup.find_all("mn", mathvariant="double-struck"):  # browsers know mathvariant "normal" only
        number.string = "".join(chr(0x1D7D8 + int(c)) if c in "0123456789" else c for c in number.get_text())
    for sub in soup.find_all("msub") if display else []:  # set below the word, as TeX does in display formulas
        if (first := sub.find(True, recursive=False)) and first.name == "mo" and first.get_text() in LIMITS:
            sub.name = "munder"
    return str(soup.math)


def latex_output(text: str) -> str:
    """A text/latex output (`$...$`, `$$...$$`, `\\[...\\]` or an environment) as MathML."""
    stripped = text.strip()
    for left, right in (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)"), ("$", "$")):
        if stripped.startswith(left) and stripped.endswith(right) and len(stripped) > len(left + right):
            stripped = stripped[len(left) : -len(right)].replace(r"\displaystyle", "")
            break
    return f'<div class="formula">{mathml(stripped, display=True)}</div>'


class _Renderer(IPythonRenderer):
    """nbconvert's Markdown renderer, with formulas as MathML and no anchor signs after headings."""

    def __init__(self, **options: Any):
        super().__init__(escape=False, exclude_anchor_links=True, **options)

    def block_math(self, body: str) -> str:
        return f'<span class="formula">{mathml(body, display=True)}</span>'

    def inline_math(self, body: str) -> str:
        if body != body.strip():  # "from $5 to $6" is money
            return f"${html.escape(body, quote=False)}$"
        return mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        if name.rstrip("*") not in ("equation", "math", "displaymath"):
            body = f"\\begin{{{name}}}{body}\\end{{{name}}}"
        return self.block_math(body)

    def block_mermaidjs(self, code: str) -> str:
        return f"<pre><code>{html.escape(code)}</code></pre>"


def markdown_to_html(source: str, attachments: dict | None = None) -> str:
    """Markdown as HTML that still has to pass `clean`; formulas outside code become MathML, `\\$` is a dollar sign."""
    return MarkdownWithMath(renderer=_Renderer(attachments=attachments or {})).render(source)


# ------------------------------------------------------------------------------------------------ structure


def unique_id(wanted: str, taken: Counter) -> str:
    """`wanted` as an id that no element has yet."""
    base = re.sub(r"[^\w-]+", "-", wanted.strip().lower()).strip("-") or "section"
    taken[base] += 1
    return base if taken[base] == 1 else unique_id(f"{base}-{taken[base]}", taken)


def tidy(body: str, title: str, reserved: Sequence[str] = ("contents", "top")) -> tuple[str, str, list[dict[str, Any]]]:
    """Give a page body its structure; returns (body, subtitle, contents).

    The body's first h1 becomes the subtitle ("" when it repeats `title`), further ones become h2: the page has its own.
    Headings get unique ids; tables a box that scrolls and `scope` on their headers; pictures a non-empty alt text.
    contents: {"level": 2 or 3, "id": str, "text": str} in order.
    """
    soup = BeautifulSoup(body, "html.parser")
    subtitle = ""
    for index, heading in enumerate(soup.find_all("h1")):
        heading.name = "h2"
        if index == 0:
            text = heading.get_text(" ", strip=True)
            subtitle = "" if text.casefold() == title.strip().casefold() else text
            heading.decompose()
    taken: Counter = Counter(reserved)
    for element in soup.find_all(id=True):
        if element.name not in ("h2", "h3"):
            taken[element["id"]] += 1
    contents = []
    for heading in soup.find_all(["h2", "h3"]):
        text = heading.get_text(" ", strip=True)
        heading["id"] = unique_id(str(heading.get("id") or text), taken)
        contents.append({"level": int(heading.name[1]), "id": heading["id"], "text": text})
    for table in soup.find_all("table"):
        table.attrs.pop("border", None)
        for cell in table.find_all("th", scope=False):
            wide = str(cell.get("colspan", "1")) != "1"
            cell["scope"] = ("colgroup" if wide else "col") if cell.find_parent("thead") else "row"
        if table.find_parent(class_="scroll") is None:
            table.wrap(soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))
    for picture in soup.find_all("img"):
        if not picture.get("src"):  # an address outside the page was removed: its words remain
            picture.name = "span"
            picture.string = f"[picture not included: {picture.get('alt') or 'no description'}]"
            picture.attrs = {"class": "missing"}
        elif not str(picture.get("alt") or "").strip():
            picture["alt"] = "Picture made by the code above, without a description"
    return str(soup), subtitle, contents


# ------------------------------------------------------------------------------------------------ pages


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.undefined = jinja2.StrictUndefined
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    written = [numbers.plain, numbers.signed, numbers.seconds, numbers.spread, numbers.between]
    written += [numbers.ordinal, numbers.counted, numbers.times]
    environment.filters |= {function.__name__: function for function in written}
    return environment


def render(template: str, *, styles: Sequence[str] = (), scripts: Sequence[str] = (), **values: Any) -> str:
    """A page from one of the package's templates; everything but `markupsafe.Markup` is escaped.

    styles, scripts: names of the package's own .css and .js files, put into the page after the shared style and at its
    end; the page's Content-Security-Policy lets exactly these scripts run.
    """
    css = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in (STYLE, *styles))
    code = [(TEMPLATES / name).read_text(encoding="utf-8") for name in scripts]
    policy = CONTENT_POLICY
    if code:
        policy += "; script-src " + " ".join(f"'{_digest(text)}'" for text in code)
    page = _environment().get_template(template)
    return page.render(css=Markup(css), policy=Markup(policy), scripts=[Markup(text) for text in code], **values)


def fragment(template: str, **values: Any) -> Markup:
    """A part of a page from one of the package's templates, escaped like `render`'s."""
    return Markup(_environment().get_template(template).render(**values))


def _digest(text: str) -> str:
    """A script's hash as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def image_uri(data: bytes) -> str:
    """A PNG or JPEG as a data URI; OSError or SyntaxError where it is no complete image, which a page would show as a gap."""
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
        image.load()
        return f"data:image/{str(image.format).lower()};base64,{base64.b64encode(data).decode('ascii')}"
