"""An executed notebook as HTML: a page that stands alone, or the chapter of a method's report. Code is folded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import pass_context
from markupsafe import Markup
from nbconvert.exporters import HTMLExporter
from nbconvert.filters import strip_ansi
from traitlets.config import Config

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_write_text
from wsolkit.report import markup

LABELS = {"injected-parameters": "Code: the parameters of this run", "parameters": "Code: default parameters"}
# what a report shows from the run's files, and what is for a reader of the notebook only
NOT_IN_REPORTS = {"in-report", "exercise", *LABELS}
REMOVED = {  # tags that remove parts of cells
    "remove_cell_tags": {"remove-cell", "remove_cell", "papermill-error-cell-tag", "exercise"},
    "remove_input_tags": {"hide-input", "hide_input", "remove-input", "remove_input"},
    "remove_all_outputs_tags": {"hide-output", "remove-output", "remove_output"},
}


class _Exporter(HTMLExporter):
    """nbconvert's HTML exporter with this package's template, Markdown and tag rules."""

    def __init__(self) -> None:
        super().__init__(
            config=Config({"TagRemovePreprocessor": {"enabled": True, **REMOVED}}),
            template_name="basic",
            extra_template_paths=[str(markup.TEMPLATES)],
            template_file="notebook.html.j2",
            exclude_input_prompt=True,
            exclude_output_prompt=True,
            filters={"last_lines": last_lines, "latex_output": markup.latex_output},
        )

    @pass_context
    def markdown2html(self, context, source):
        return markup.markdown_to_html(source, context.get("cell", {}).get("attachments", {}))


def last_lines(text: str) -> str:
    """A stream as a terminal would show it: of what carriage returns overwrote (progress bars), the last state."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def as_text(value: Any) -> str:
    """A footer value on one line: nested parameters as `name = value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {as_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value))
    return "not known" if value is None else str(value)


def notebook_to_html(
    notebook_path: str | Path,
    html_path: str | Path,
    title: str,
    footer: Mapping[str, Any],
    banner: str | None = None,
    home: str | Path | None = None,
) -> Path:
    """Write an executed notebook as one self-contained page and return its path.

    title: the page's only h1; the notebook's own first heading becomes its subtitle.
    footer: what the table at the end shows, in order (seed, parameters, versions, git commit, device, wall time, ...);
        values may be dicts or lists.
    banner: a note at the top, for example that fewer images were used. Errors in the outputs get their own.
    home: the index page to link back to; by default the next index.html or `runs` folder above html_path, or else the
        place it has in OUT/<dataset>/<backbone>/<method>.html.
    Cells tagged `hide-input` show no code, `remove-cell` nothing. The page is written by rename.
    FileNotFoundError and ValueError name a notebook that is absent or cannot be read.
    """
    html_path = Path(html_path)
    body, errors = _body(_read(notebook_path))
    if errors:
        body = re.sub(r'<section class="cell stopped"', r'\g<0> id="error"', body, count=1)
    body, subtitle, contents = markup.tidy(body, title, reserved=("contents", "content", "top", "run", "error"))
    values: dict[str, Any] = {
        "title": title,
        "subtitle": subtitle,
        "home": home_of(html_path, home),
        "contents": contents,
    }
    values |= {"banner": banner, "errors": errors[:1], "body": Markup(body)}
    values["footer"] = [(name, as_text(value)) for name, value in footer.items()]
    atomic_write_text(html_path, markup.render("report.html.j2", **values))
    return html_path


def chapter(
    notebook_path: str | Path, title: str, reserved: tuple[str, ...]
) -> tuple[Markup, str, list[dict[str, Any]]]:
    """An executed notebook as a part of another page: (body, subtitle, contents), headings one level down.

    Cells tagged `in-report` or `exercise` and the cells of parameters are left out. reserved: ids of that page.
    FileNotFoundError and ValueError as for `notebook_to_html`.
    """
    notebook = _read(notebook_path)
    notebook.cells = [cell for cell in notebook.cells if not NOT_IN_REPORTS & set(cell.metadata.get("tags", []))]
    body, subtitle, contents = markup.tidy(_body(notebook)[0], title, reserved)
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
    """The cells as clean HTML, parameter cells with labels and only the last injected one, and the errors among their
    outputs, without colours."""
    injected = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    notebook.cells = [cell for cell in notebook.cells if not any(cell is other for other in injected[:-1])]
    for cell in notebook.cells:
        for tag in set(cell.metadata.get("tags", [])) & set(LABELS):
            cell.metadata["wsolkit_label"] = LABELS[tag]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    errors = [
        {"name": strip_ansi(output.get("ename", "Error")), "value": strip_ansi(output.get("evalue", ""))}
        for output in outputs
        if output.output_type == "error"
    ]
    return markup.clean(_Exporter().from_notebook_node(notebook)[0]), errors


def home_of(html_path: Path, home: str | Path | None = None) -> str:
    """The address of the index page as seen from a page, with forward slashes; without `home`, by the page's place."""
    if home is not None:
        return os.path.relpath(home, html_path.parent).replace(os.sep, "/")
    for depth, folder in enumerate(list(html_path.resolve().parents)[:4]):
        if (folder / "index.html").is_file() or (folder / "runs").is_dir():
            return "../" * depth + "index.html"
    return "../../index.html"
