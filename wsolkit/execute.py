"""One notebook in one process: `python -m wsolkit.execute JOB.json`, started by the sweep. No torch import here.

The job names the notebook, its parameters and where things go. The notebook runs through papermill; what it produced is
judged by metrics.json (or a training's run.json) alone, because a notebook's own metadata says "completed" even after a
killed kernel. Then the HTML report is written.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from .files import read_json, write_json


def main(arguments: list[str] | None = None) -> int:
    job = read_json((arguments or sys.argv[1:])[0])
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    folder = Path(job["folder"])
    done = Path(job["done"])
    begin = time.time()
    error = ""
    try:
        run_notebook(job["notebook"], folder / "notebook.ipynb", job["parameters"])
        if not done.exists():
            error = f"the notebook ended without writing {done.name}; see {folder / 'notebook.ipynb'}"
        elif read_json(done).get("fingerprint") != job["fingerprint"]:
            error = "code, data or notebook changed while this was running; run the sweep again"
    except Exception as caught:
        error = _message(caught)
        traceback.print_exc()
    if error:
        note_failure(folder, error, job["config"])
        print(f"failed: {error}", file=sys.stderr)
    if job.get("html") and (folder / "notebook.ipynb").exists():
        try:
            from .report import notebook_to_html

            footer = dict(job["config"], **_facts(done), wall_time=f"{time.time() - begin:.0f} s")
            notebook_to_html(folder / "notebook.ipynb", job["html"], job["title"], footer, error or None)
        except Exception as caught:
            traceback.print_exc()
            if not error:
                error = f"the report could not be written: {_message(caught)}"
                note_failure(folder, error, job["config"])
    return 1 if error else 0


def _end_with(parent: int) -> None:
    """End when the sweep was killed: nobody would read this result, and a new sweep may write into the same folder.
    The kernel notices in turn that this process is gone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def run_notebook(notebook: str | Path, output: str | Path, parameters: dict[str, Any]) -> None:
    """Execute a notebook through papermill with a kernel on ipc sockets (TCP ports race when several kernels start)."""
    import papermill
    from jupyter_client.manager import AsyncKernelManager

    known = set(papermill.inspect_notebook(str(notebook)))
    unknown = sorted(set(parameters) - known)
    if unknown:  # papermill itself only warns, and the value is lost
        raise ValueError(f"{notebook} has no parameter {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wsolkit-") as sockets:
        manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=os.path.join(sockets, "kernel"))
        papermill.execute_notebook(
            str(notebook), str(output), parameters, kernel_name="python3", progress_bar=False, log_output=True,
            start_timeout=120, km=manager,
        )  # fmt: skip


def note_failure(folder: Path, error: str, config: dict[str, Any], status: str = "failed") -> None:
    """Leave failure.json, from which the index tells what went wrong (or, with status "undefined", why there is nothing)."""
    write_json(folder / "failure.json", {"status": status, "error": error, "config": config, "log": "log.txt"})


def _facts(done: Path) -> dict[str, Any]:
    """Version, commit and device of a completed run, for the footer."""
    if not done.exists():
        return {}
    content = read_json(done)
    versions = ", ".join(f"{name} {number}" for name, number in content.get("versions", {}).items())
    return {"versions": versions, "git_commit": content.get("commit", ""), "device": content.get("device", "")}


def _message(error: Exception) -> str:
    """The last word of an error: papermill wraps the notebook's own in a long text."""
    name, value = getattr(error, "ename", ""), getattr(error, "evalue", "")
    return f"{name}: {value}" if name else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
