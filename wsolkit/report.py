"""An executed notebook as one HTML page that stands alone: no network requests, no scripts, code folded.

The index over all runs is `wsolkit.index`; its functions are offered here too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from markupsafe import Markup

from wsolkit.files import atomic_write_text
from wsolkit.methods import method_slug
from wsolkit.rows import COLUMNS, read_rows

__all__ = ["COLUMNS", "method_slug", "notebook_to_html", "read_rows", "write_index"]

LABELS = {"injected-parameters": "Code: the parameters of this run", "parameters": "Code: default parameters"}


def write_index(out: str | Path) -> Path:
    """See `wsolkit.index.write_index` (imported on use: it draws, and so needs matplotlib)."""
    from wsolkit.index import write_index as write

    return write(out)


def last_lines(text: str) -> str:
    """A stream as a terminal would show it: of what carriage returns overwrote (progress bars), the last state."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def _exporter():
    """nbconvert's HTML exporter with this package's template, Markdown and tag rules."""
    from jinja2 import pass_context
    from nbconvert.exporters import HTMLExporter
    from traitlets.config import Config

    from wsolkit import markup

    class Exporter(HTMLExporter):
        @pass_context
        def markdown2html(self, context, source):
            return markup.markdown_to_html(source, context.get("cell", {}).get("attachments", {}))

    settings = Config()
    settings.TagRemovePreprocessor.enabled = True
    settings.TagRemovePreprocessor.remove_cell_tags = {"remove-cell", "remove_cell", "papermill-error-cell-tag"}
    settings.TagRemovePreprocessor.remove_input_tags = {"hide-input", "hide_input", "remove-input", "remove_input"}
    settings.TagRemovePreprocessor.remove_all_outputs_tags = {"hide-output", "remove-output", "remove_output"}
    return Exporter(
        config=settings,
        template_name="basic",
        extra_template_paths=[str(markup.HERE)],
        template_file="notebook.html.j2",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        filters={"last_lines": last_lines, "latex_output": markup.latex_output},
    )


def _prepare(notebook) -> list[dict[str, str]]:
    """Label the parameter cells and keep only the last injected one; returns the notebook's errors, without colours."""
    from nbconvert.filters import strip_ansi

    tags = [set(cell.metadata.get("tags", [])) for cell in notebook.cells]
    injected = [index for index, names in enumerate(tags) if "injected-parameters" in names]
    for cell, names in zip(notebook.cells, tags, strict=True):
        for tag in names & set(LABELS):
            cell.metadata["wsolkit_label"] = LABELS[tag]
    notebook.cells = [cell for index, cell in enumerate(notebook.cells) if index not in injected[:-1]]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [
        {"name": strip_ansi(output.get("ename", "Error")), "value": strip_ansi(output.get("evalue", ""))}
        for output in outputs
        if output.output_type == "error"
    ]


def _text(value: Any) -> str:
    """A footer value on one line: nested parameters as `name = value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
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
    from wsolkit import markup

    notebook_path, html_path = Path(notebook_path), Path(html_path)
    if not notebook_path.is_file():
        raise FileNotFoundError(f"{notebook_path} does not exist; execute the notebook first")
    try:
        notebook = nbformat.read(notebook_path, as_version=4)
    except Exception as error:  # nbformat raises JSON, validation and attribute errors, by its version
        raise ValueError(f"{notebook_path} is not a readable notebook ({error}); execute it again") from error
    errors = _prepare(notebook)
    body, _ = _exporter().from_notebook_node(notebook)
    body = markup.clean(body)
    if errors:
        body = re.sub(r'<section class="cell stopped"', r'\g<0> id="error"', body, count=1)
    body, subtitle, contents = markup.tidy(body, title, reserved=("contents", "content", "top", "run", "error"))
    page = markup.render(
        "report.html.j2",
        title=title,
        subtitle=subtitle,
        home=_home(html_path) if home is None else os.path.relpath(home, html_path.parent).replace(os.sep, "/"),
        contents=contents,
        banner=banner,
        errors=errors[:1],
        body=Markup(body),
        footer=[(name, _text(value)) for name, value in footer.items()],
    )
    atomic_write_text(html_path, page)
    return html_path


def _home(html_path: Path) -> str:
    """The index page as seen from `html_path`, with forward slashes."""
    above = list(html_path.resolve().parents)[:4]
    for depth, folder in enumerate(above):
        if (folder / "index.html").is_file() or (folder / "runs").is_dir():
            return "../" * depth + "index.html"
    return "../../index.html"
