"""Progress in a real kernel: a line of text that is replaced where a person looks, plain lines in batch, nothing elsewhere."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from wsolkit.common.progress import progress

CODE = """
import wsolkit.common.progress as p
p.PLAIN_SECONDS = {seconds}
first = list(p.progress(range(3), "count", unit="sheep"))
second = list(p.progress(iter("ab"), "letters", total=5, done=3))
"""


def outputs(monkeypatch, seconds, **environment):
    for name in ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG", "WSOLKIT_BATCH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    last = "assert first == [0, 1, 2] and second == ['a', 'b']; import sys; assert 'ipywidgets' not in sys.modules"
    cells = [nbformat.v4.new_code_cell(CODE.format(seconds=seconds)), nbformat.v4.new_code_cell(last)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3").execute()
    return notebook.cells[0].outputs


def test_a_bar_in_a_notebook_is_one_line_that_is_replaced(monkeypatch):
    (shown,) = outputs(monkeypatch, 0.0, JPY_SESSION_NAME="a.ipynb")
    assert shown.output_type == "display_data" and set(shown.data) == {"text/plain"}
    assert shown.data["text/plain"].startswith("letters: 100%") and "5/5" in shown.data["text/plain"]
    assert "\r" not in shown.data["text/plain"]


@pytest.mark.parametrize("environment", [{}, {"JPY_SESSION_NAME": "a.ipynb", "WSOLKIT_BATCH": "1"}])
def test_plain_lines_in_batch(monkeypatch, environment):
    shown = outputs(monkeypatch, 0.0, **environment)
    assert {(one.output_type, one.get("name")) for one in shown} == {("stream", "stdout")}
    text = "".join(one.text for one in shown)
    lines = text.splitlines()
    assert lines[2].startswith("count: 3 of 3 sheep, ") and lines[4].startswith("letters: 5 of 5 images, ")
    assert len(lines) == 5 and "\r" not in text


def test_short_work_says_nothing_in_batch(monkeypatch):
    assert outputs(monkeypatch, 1e9) == []


def test_a_script_and_other_processes_show_nothing(capsys):
    items = [1, 2]
    assert progress(items, "count") is items and progress(items, "count", quiet=True) is items
    assert capsys.readouterr() == ("", "")
