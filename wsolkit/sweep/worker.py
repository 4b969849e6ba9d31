"""One notebook in one process: `python -m wsolkit.sweep.worker JOB.json`, started by the sweep. No torch import here.

The job names the notebook, its parameters and where things go. The notebook runs through papermill; what it produced is
judged by metrics.json (or a training's run.json) alone, because a notebook's own metadata says "completed" even after a
killed kernel. Then the HTML report is written. Where the numbers are there already (plain papermill made them, or only the
look of pages changed), the page alone is written.

Whoever started this process may be killed, on this machine or on another, and the job may be started again meanwhile. So
this process holds the lease of its folder while it runs, ends when nobody waits for it any more, and leaves a line in
executions.jsonl when it begins and when it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from wsolkit.common.code import code_state
from wsolkit.common.files import read_json, write_json
from wsolkit.runs.folder import is_complete, is_fresh, note_failure, note_page, seconds_of
from wsolkit.sweep.lease import BEAT, STALE, Lease

FAILED, TAKEN_OVER, STOPPED = 3, 75, 130  # exit codes; with FAILED there is a failure.json
WORKING_CODE = (".",)  # what a job runs


def main(arguments: list[str] | None = None) -> int:
    """Run one job: the path of its job.json, or "-" for the same content on standard input."""
    source = (arguments or sys.argv[1:])[0]
    job = json.load(sys.stdin) if source == "-" else read_json(source)
    guard = Guard(job)
    threading.Thread(target=guard.watch, daemon=True).start()
    guard.enter()
    folder, done = Path(job["folder"]), Path(job["done"])
    if is_fresh(folder, done, job.get("html"), job["fingerprint"], job.get("page", "")):  # by the one we waited for
        guard.leave("was done")
        return 0
    complete = is_complete(folder, done, job["fingerprint"])
    # a report is written from the files of its run, the page of a training from its executed notebook (which then trains nothing)
    page_only = complete and (done.name == "metrics.json" or (folder / "notebook.ipynb").exists())
    if not page_only:
        # the old page must not stand beside new numbers
        for stale in (job.get("html"), folder / "failure.json", folder / "running.ipynb"):
            if stale:
                Path(stale).unlink(missing_ok=True)
    write_json(folder / "job.json", job)
    _write_output_to(folder / "log.txt", os.O_APPEND if page_only else os.O_TRUNC)
    begin = time.time() - (seconds_of(folder, done) or 0.0 if complete else 0.0)
    error = ""
    try:
        _check_code(job.get("code"))
        if not page_only:
            try:
                run_notebook(job["notebook"], folder / "running.ipynb", job["parameters"], (guard.lease.file,))
            finally:  # notebook.ipynb is never that of an execution that was stopped half-way
                if (folder / "running.ipynb").exists():
                    os.replace(folder / "running.ipynb", folder / "notebook.ipynb")
        if not done.exists():
            error = f"the notebook ended without writing {done.name}; see {folder / 'notebook.ipynb'}"
        elif read_json(done).get("fingerprint") != job["fingerprint"]:
            error = "code, data or notebook changed while this was running; run the sweep again"
    except Exception as caught:
        guard.wait_if_ending()
        error = _message(caught)
        traceback.print_exc()
    if error:
        note_failure(folder, error, job["config"])
        print(f"failed: {error}", file=sys.stderr)
    if job.get("html") and (page_only or (folder / "notebook.ipynb").exists()):
        try:
            from wsolkit.report.report import write_report

            footer = dict(job["config"], **_facts(done), wall_time=f"{time.time() - begin:.0f} s")
            write_report(folder, job["html"], job["title"], footer, error or None, job.get("home"))
        except Exception as caught:
            traceback.print_exc()
            if not error:
                error = f"the report could not be written: {_message(caught)}"
                note_failure(folder, error, job["config"])
    if not error:
        seconds = seconds_of(folder, done) if page_only else time.time() - begin
        note_page(folder, job["fingerprint"], job.get("page", ""), seconds)
    guard.leave("failed" if error else "page written" if page_only else "done")
    return FAILED if error else 0


class Guard:
    """Keeps the lease of the folder alive, and ends this process and its kernel when the one who started it is gone, when
    the sweep wants its jobs to stop (its token, a file, is no longer there), or when another machine has taken over."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.folder, self.token = Path(job["folder"]), job.get("token")
        self.parent = os.getppid()
        self.lease = Lease(self.folder, job.get("stale", STALE))
        self.beat = min(BEAT, self.lease.stale / 10)
        self.held = False
        self.ending = threading.Event()

    def enter(self) -> None:
        self.lease.acquire()
        self.held = True
        self._note("start")

    def leave(self, outcome: str) -> None:
        self.wait_if_ending()
        self._note("end", outcome)
        self.held = False
        self.lease.release()

    def wait_if_ending(self) -> None:
        """What goes wrong while this process is being ended is no failure of the job."""
        if self.ending.is_set():
            threading.Event().wait()

    def watch(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(0.5)
            if os.getppid() != self.parent:
                self._end(STOPPED, "the process that started this one is gone")
            if self.token and _is_gone(self.token):
                self._end(STOPPED, "stopped by the sweep")
            if self.held and time.monotonic() - last > self.beat:
                last = time.monotonic()
                if not self.lease.touch():
                    self._end(TAKEN_OVER, "another machine has taken over")

    def _end(self, code: int, outcome: str) -> None:
        import psutil

        self.ending.set()
        try:
            children = psutil.Process().children(recursive=True)
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            psutil.wait_procs(children, timeout=10)
            if self.held:
                self._note("end", outcome)
                self.lease.release()
        except OSError as error:  # the folder was removed, or the disk is full: no reason to stay
            print(f"{outcome}; {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)

    def _note(self, event: str, outcome: str = "") -> None:
        """One line in executions.jsonl: who worked here, and when."""
        line = {
            "event": event,
            "time": time.time(),
            "lease": self.lease.number,
            "host": self.lease.host,
            "pid": os.getpid(),
        }
        line |= {"outcome": outcome} if outcome else {}
        with open(self.folder / "executions.jsonl", "ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")


def _is_gone(path: str) -> bool:
    """Whether a file was removed; a file system that does not answer is no reason to stop."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _write_output_to(log: Path, mode: int) -> None:
    """Everything that this process and its children print goes into the log from here on."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | mode, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def _check_code(expected: str | None) -> None:
    found = code_state(WORKING_CODE) if expected else None
    if found != expected:
        where = f"{os.uname().nodename}, {Path(__file__).parent}"
        raise ValueError(f"this machine ({where}) has other code of wsolkit ({found}) than the sweep ({expected}); "
                         "give all machines the same version, and do not change it while a sweep runs")  # fmt: skip


def run_notebook(
    notebook: str | Path, output: str | Path, parameters: dict[str, Any], keep_open: tuple[int, ...] = ()
) -> None:
    """Execute a notebook through papermill with a kernel on ipc sockets (TCP ports race when several kernels start).

    keep_open: open files that the kernel inherits.
    """
    import papermill
    from jupyter_client.manager import AsyncKernelManager

    class Manager(AsyncKernelManager):
        async def start_kernel(self, **options: Any) -> None:
            await super().start_kernel(**{**options, "pass_fds": keep_open})

    known = set(papermill.inspect_notebook(str(notebook)))
    unknown = sorted(set(parameters) - known)
    if unknown:  # papermill itself only warns, and the value is lost
        raise ValueError(f"{notebook} has no parameter {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wsolkit-") as sockets:
        manager = Manager(kernel_name="python3", transport="ipc", ip=os.path.join(sockets, "kernel"))
        papermill.execute_notebook(
            str(notebook), str(output), parameters, kernel_name="python3", progress_bar=False, log_output=True,
            start_timeout=120, km=manager,
        )  # fmt: skip


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
