"""An executed notebook as HTML: a page of its own, or the chapter of a method's report. Code is folded.

Whatever a notebook holds passes CLEANER, an allowlist applied by nh3 (ammonia), and formulas become MathML: pages need
no network.
"""

from __future__ import annotations

import html
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import nh3
from bs4 import BeautifulSoup
from jinja2 import pass_context
from markupsafe import Markup
from nbconvert.exporters import HTMLExporter
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_write_text
from wsolkit.report.pages import TEMPLATES, render, unique_id

LABELS = {"injected-parameters": "Code: the parameters of this run", "parameters": "Code: default parameters"}
# what a report shows from the run's files, and what is for a reader of the notebook only
NOT_IN_REPORTS = {"in-report", "exercise", *LABELS}
REMOVED = {  # tags that remove parts of cells
    "remove_cell_tags": {"remove-cell", "remove_cell", "papermill-error-cell-tag", "exercise"},
    "remove_input_tags": {"hide-input", "hide_input", "remove-input", "remove_input"},
    "remove_all_outputs_tags": {"hide-output", "remove-output", "remove_output"},
}


def _words(text: str) -> set[str]:
    return set(text.split())


MATHML = _words("""math mrow mi mn mo ms mtext mspace msub msup msubsup munder mover munderover mmultiscripts
    mprescripts mfrac msqrt mroot mtable mtr mtd mstyle mpadded mphantom menclose""")
# dropped with their content: their text is code, not something to read
SILENT = _words("""script style template noscript iframe object embed applet noframes noembed textarea xmp title head
    link meta base""")
MATH_ATTRIBUTES = _words("""display mathvariant displaystyle scriptlevel stretchy fence form separator accent
    accentunder movablelimits symmetric largeop minsize maxsize lspace rspace width height depth linethickness
    columnalign rowalign columnspacing rowspacing columnlines rowlines frame xmlns linebreak columnspan rowspan
    notation mathsize mathcolor""")
ATTRIBUTES = nh3.ALLOWED_ATTRIBUTES | dict.fromkeys(MATHML, MATH_ATTRIBUTES) | {
    "*": _words("id class style title lang dir role aria-label aria-hidden aria-describedby tabindex"),
    "details": {"open"},
    "ol": {"start", "type"},
    "time": {"datetime"},
}  # fmt: skip
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


# An allowlist: no scripts, handlers, style sheets, frames or forms. Links lead to http(s), mailto and relative
# addresses; images are data URIs; text, tables, figures and MathML stay.
CLEANER = nh3.Cleaner(
    tags=nh3.ALLOWED_TAGS | MATHML | {"section", "tfoot"},
    clean_content_tags=SILENT,
    attributes=ATTRIBUTES,
    attribute_filter=_attribute,
    url_schemes={"http", "https", "mailto", "data"},  # data only where _attribute says so: images
    link_rel=None,
    filter_style_properties=STYLES,
)


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
    soup = BeautifulSoup(CLEANER.clean(converted), "html.parser")
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
    inner = re.fullmatch(r"(\$\$|\\\[|\\\(|\$)(.+?)(\$\$|\\\]|\\\)|\$)", text.strip(), re.DOTALL)
    formula = inner[2].replace(r"\displaystyle", "") if inner else text
    return f'<div class="formula">{mathml(formula, display=True)}</div>'


class _Renderer(IPythonRenderer):
    """nbconvert's Markdown renderer, with formulas as MathML and no anchor signs after headings."""

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


@pass_context
def markdown2html(context, source: str) -> str:
    """nbconvert's filter: Markdown as HTML that still has to pass CLEANER; `\\$` is a dollar sign."""
    attachments = context.get("cell", {}).get("attachments", {})
    renderer = _Renderer(escape=False, exclude_anchor_links=True, attachments=attachments)
    return MarkdownWithMath(renderer=renderer).render(source)


def last_lines(text: str) -> str:
    """A stream as a terminal would show it: of what carriage returns overwrote (progress bars), the last state."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def tidy(body: str, title: str, reserved: Sequence[str] = ("contents", "top")) -> tuple[str, str, list[dict[str, Any]]]:
    """Give a page body its structure; returns (body, subtitle, contents).

    The body's first h1 becomes the subtitle ("" when it repeats `title`), further ones become h2: the page has its own.
    Headings get unique ids; tables a box that scrolls and `scope` on their headers; images a non-empty alt text.
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
    headings = soup.find_all(["h2", "h3"])
    others = [element for element in soup.find_all(id=True) if element.name not in ("h2", "h3")]
    taken = Counter([*reserved, *(str(element["id"]) for element in others)])
    contents = []
    for heading in headings:
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
    for image in soup.find_all("img"):
        if not image.get("src"):  # an address outside the page was removed: its description remains
            image.name = "span"
            image.string = f"[image not included: {image.get('alt') or 'no description'}]"
            image.attrs = {"class": "missing"}
        elif not str(image.get("alt") or "").strip():
            image["alt"] = "Image made by the code above, without a description"
    return str(soup), subtitle, contents


def notebook_to_html(
    notebook_path: str | Path,
    html_path: str | Path,
    title: str,
    footer: Mapping[str, Any],
    banner: str | None = None,
    home: str | Path | None = None,
) -> Path:
    """Write an executed notebook as one self-contained page, by rename. Cells tagged `hide-input` show no code,
    `remove-cell` nothing.

    Args:
        title: the page's only h1; the notebook's own first heading becomes its subtitle.
        footer: what the table at the end shows, in order (seed, parameters, versions, git commit, device, wall time);
            values may be dicts or lists.
        banner: a note at the top, for example that fewer images were used. Errors in the outputs get their own.
        home: the index page to link back to; by default the next index.html or `runs` folder above html_path, or else
            the place it has in OUT/<dataset>/<backbone>/<method>.html.

    Returns:
        The page's path.

    Raises: FileNotFoundError, WsolkitError: they name a notebook that is absent or cannot be read.
    """
    html_path = Path(html_path)
    body, errors = _body(_read(notebook_path))
    if errors:
        body = re.sub(r'<section class="cell stopped"', r'\g<0> id="error"', body, count=1)
    body, subtitle, contents = tidy(body, title, reserved=("contents", "content", "top", "run", "error"))
    page = render(
        "report.html.j2", title=title, subtitle=subtitle, home=home_of(html_path, home), contents=contents,
        banner=banner, errors=errors[:1], body=Markup(body), footer=footer,
    )  # fmt: skip
    atomic_write_text(html_path, page)
    return html_path


def chapter(path: Path, title: str, reserved: Sequence[str]) -> tuple[Markup, str, list[dict[str, Any]]]:
    """An executed notebook as a part of another page: (body, subtitle, contents), headings one level down.

    Cells tagged `in-report` or `exercise` and the cells of parameters are left out. reserved: ids of that page.

    Raises: FileNotFoundError, WsolkitError: as `notebook_to_html` does.
    """
    notebook = _read(path)
    notebook.cells = [cell for cell in notebook.cells if not NOT_IN_REPORTS & set(cell.metadata.get("tags", []))]
    body, subtitle, contents = tidy(_body(notebook)[0], title, reserved)
    body = re.sub(r"<(/?)h([2-5])\b", lambda tag: f"<{tag[1]}h{int(tag[2]) + 1}", body)
    return Markup(body), subtitle, [entry | {"level": 3} for entry in contents if entry["level"] == 2]


def _read(path: str | Path):
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; execute the notebook first")
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises JSON, validation and attribute errors, by its version
        raise WsolkitError(f"{path} is not a readable notebook ({error}); execute it again") from error


def _body(notebook) -> tuple[str, list[dict[str, str]]]:
    """The cells as clean HTML, parameter cells with labels and only the last injected one; errors among the outputs."""
    injected = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    notebook.cells = [cell for cell in notebook.cells if not any(cell is other for other in injected[:-1])]
    for cell in notebook.cells:
        for tag in set(cell.metadata.get("tags", [])) & set(LABELS):
            cell.metadata["wsolkit_label"] = LABELS[tag]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    failed = [output for output in outputs if output.output_type == "error"]
    errors = [{"name": item.get("ename", "Error"), "value": item.get("evalue", "")} for item in failed]
    exporter = HTMLExporter(
        config=Config({"TagRemovePreprocessor": {"enabled": True, **REMOVED}}),
        template_name="basic",
        extra_template_paths=[str(TEMPLATES)],
        template_file="notebook.html.j2",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        filters={write.__name__: write for write in (last_lines, latex_output, markdown2html)},
    )
    colourless = [{name: strip_ansi(text) for name, text in error.items()} for error in errors]
    return CLEANER.clean(exporter.from_notebook_node(notebook)[0]), colourless


def home_of(html_path: Path, home: str | Path | None = None) -> str:
    """The address of the index page as seen from a page, with forward slashes; without `home`, by the page's place."""
    if home is not None:
        return os.path.relpath(home, html_path.parent).replace(os.sep, "/")
    for depth, folder in enumerate(list(html_path.resolve().parents)[:4]):
        if (folder / "index.html").is_file() or (folder / "runs").is_dir():
            return "../" * depth + "index.html"
    return "../../index.html"
