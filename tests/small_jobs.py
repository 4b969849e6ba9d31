"""Jobs of one cell for the machinery of sweeps, and what tests ask of them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import nbformat

from wsolkit.sweep.jobs import Job

GOOD = (
    "import json, pathlib\n"
    "pathlib.Path(where, 'metrics.json').write_text(json.dumps({'status': 'completed', 'fingerprint': 'key', 'result': {}}))"
)


def tiny_job(folder: Path, name: str, body: str, needs=()) -> Job:
    """A job whose notebook has one cell of code, `body`, which knows the run's folder as `where`."""
    cells = [
        nbformat.v4.new_code_cell("where = ''  # folder", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(body),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
    notebook = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), notebook)
    home = folder / "runs" / "d" / "b" / name
    config = {"dataset": "d", "backbone": "b", "method": name}
    html = folder / "d/b" / f"{name}.html"
    return Job(name, notebook, {"where": str(home)}, config, home, home / "metrics.json", "key", html, name, needs)


def events(folder: Path) -> list[dict]:
    """The lines of a run's executions.jsonl."""
    path = folder / "executions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(condition, seconds=1500.0):
    """Wait until `condition()` is true; its value."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return answer


def maps_of(folder: Path) -> dict[str, Path]:
    """The files of the score maps by split behind the report in `folder`."""
    content = json.loads((folder / "metrics.json").read_text())
    return {split: folder / path for split, path in content["maps"].items()}
