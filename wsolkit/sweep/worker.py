"""One notebook in a process of its own: `run_job` starts `python -m wsolkit.sweep.worker` and waits. No torch here.

The job, one line of JSON on standard input, names the notebook, its parameters and where things go. The notebook runs
through papermill; what it produced is judged by metrics.json (or a training run's run.json) alone, because its own
metadata says "completed" even after a killed kernel. Then the HTML report is written; that alone where numbers exist.

Whoever started this process may be killed, and the job may be started again meanwhile. So this process ends with its
standard input, which its starter keeps open for as long as it wants the job; it holds the lock of the run's folder,
which its kernel inherits, so that the lock is free only when both have ended; executions.jsonl says when it begins and
ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import psutil

from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import alone
from wsolkit.runs import folder as files

LITTLE = 2**20  # bytes
FAILED, STOPPED = 3, 130  # exit codes; with FAILED there is a failure.json
INTERRUPTED = "interrupted"  # the outcome of a job that was stopped; nothing is wrong with it


def run_job(
    job: dict[str, Any], threads: int = 1, environment: dict[str, str] | None = None, stop: Callable = lambda: False
) -> tuple[str, float]:
    """Run one job in a process of its own and wait for it: (error or "", seconds).

    A process, because the kernel of a notebook may crash, and whoever calls this (a thread, a worker of a cluster) is
    used for many jobs. It ends when its standard input does, be it that the caller is killed.

    Args:
        job: what `wsolkit.sweep.worker` takes.
        threads: for numerical libraries.
        environment: variables for this process only, e.g. CUDA_VISIBLE_DEVICES.
        stop: asked twice a second whether the job is to be ended.
    """
    begin, folder = time.time(), Path(job["folder"])
    variables = dict.fromkeys(("OMP_NUM_THREADS", "WSOLKIT_THREADS"), str(threads))
    variables |= dict.fromkeys(("WSOLKIT_BATCH", "PYDEVD_DISABLE_FILE_VALIDATION"), "1")
    options: dict[str, Any] = {"env": os.environ | variables | (environment or {}), "start_new_session": True}
    options["creationflags"] = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # Ctrl-C is for us alone
    with tempfile.TemporaryFile() as printed:  # until the process writes into its log
        options |= {"stdin": subprocess.PIPE, "stdout": printed, "stderr": subprocess.STDOUT}
        process: Any = subprocess.Popen([sys.executable, "-m", "wsolkit.sweep.worker"], **options)
        with contextlib.suppress(OSError), process.stdin as stdin:  # it may have ended already
            stdin.write(json.dumps(job).encode() + b"\n")
            stdin.flush()
            while process.poll() is None:
                if stop():
                    stdin.write(b"stop")
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
        code = process.wait()
        printed.seek(0)
        said = printed.read().decode(errors="replace").strip()
    if code in (0, STOPPED, -signal.SIGINT):  # Ctrl-C can reach a process before it has a session of its own
        error = INTERRUPTED if code else ""
    elif code == FAILED:
        error = files.content_of(folder / files.FAILURE).get("error", "failed, and its failure.json is gone")
    else:
        last = f": {said.splitlines()[-1]}" if said else f"; see {folder / files.LOG}"
        error = f"the process ended with code {code}{last}"
        if shutil.disk_usage(folder.parent if folder.parent.is_dir() else ".").free < LITTLE:
            error += f"; the disk of {folder} is full: make room and run the sweep again"
        with contextlib.suppress(OSError):
            files.note_failure(folder, error, job["config"])
    return error, time.time() - begin


def main() -> int:
    """Run the job that standard input names; returns the exit code."""
    told = FileIO(0, closefd=False)  # unbuffered: a thread that waits with a buffer would keep Python from ending
    job = json.loads(told.readline())
    job |= {name: Path(job[name]) for name in ("folder", "done", "html")}
    with Execution(job["folder"], told).alone() as execution:
        execution.outcome = _run(job, execution)
    return FAILED if execution.outcome == "failed" else 0


def _run(job: dict[str, Any], execution: Execution) -> str:
    """Do what is to be done of a job, and note what goes wrong; returns the outcome in a word or two."""
    folder, done, html, key = (job[name] for name in ("folder", "done", "html", "key"))
    if files.is_fresh(folder, done, html, key, job["page"]):  # by the one we waited for
        return "was done"
    complete = files.is_complete(folder, done, key)
    # a report is written from the files of its run, the page of a training run from its executed notebook
    page_only = complete and (done.name == files.METRICS or (folder / files.NOTEBOOK).exists())
    earlier = files.seconds_of(folder, done) if complete else None
    begin = time.time() - (earlier or 0.0)
    with open(folder / files.LOG, "ab" if page_only else "wb", buffering=0) as log:
        for stream in (sys.stdout, sys.stderr):  # what this process and its children print goes there from here on
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
    error = ""
    try:
        if not page_only:
            for stale in (html, folder / files.FAILURE):  # no old page is left beside new numbers
                stale.unlink(missing_ok=True)
            try:
                run_notebook(job["notebook"], folder / files.RUNNING, job["parameters"], execution.files())
            finally:  # notebook.ipynb is never that of an execution that was stopped half-way
                if (folder / files.RUNNING).exists():
                    os.replace(folder / files.RUNNING, folder / files.NOTEBOOK)
        require(done.exists(), f"the notebook ended without writing {done.name}; see {folder / files.NOTEBOOK}")
        same = files.content_of(done).get("fingerprint") == key
        require(same, "code, data or notebook changed while this ran, or differ here; run the sweep again")
    except Exception as caught:
        traceback.print_exc()
        error = _message(caught)
        with execution.ending:
            files.note_failure(folder, error, job["config"])  # before the page is written, which tells of it
    try:
        if page_only or (folder / files.NOTEBOOK).exists():
            from wsolkit.report.method_page import write_report

            made = files.content_of(done)
            versions = ", ".join(f"{name} {number}" for name, number in made.get("versions", {}).items())
            facts = {"versions": versions, "git_commit": made.get("commit", ""), "device": made.get("device", "")}
            footer = job["config"] | (facts if made else {}) | {"wall_time": f"{time.time() - begin:.0f} s"}
            write_report(folder, html, job["title"], footer, error or None, job["home"])
    except Exception as caught:
        traceback.print_exc()
        if not error:
            error = f"the report could not be written: {_message(caught)}"
            files.note_failure(folder, error, job["config"])
    if error:
        print(f"failed: {error}", file=sys.stderr)
        return "failed"
    files.note_page(folder, key, job["page"], earlier if page_only else time.time() - begin)
    return "page written" if page_only else "done"


class Execution:
    """The one execution at a time in a folder.

    Args:
        told: where the process that started this one can be heard. At its end this process and its kernel end: the
            other has died, or (when it has written something before) wants the job to stop. `ending` is held from then
            on: what goes wrong while this process is being ended is no failure of the job.
    """

    def __init__(self, folder: Path, told: FileIO) -> None:
        self.lock, self.told = folder / files.LOCK, told
        self.outcome, self.entered, self.ending = "", False, threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextlib.contextmanager
    def alone(self) -> Iterator[Execution]:
        """Wait until nobody else works in the folder, and keep it until the block ends."""
        with alone(self.lock):
            self.entered = True
            self._note("start")
            yield self
            with self.ending:
                self._note("end", self.outcome)
                self.entered = False

    def files(self) -> tuple[int, ...]:
        """The open lock file, to be inherited: on Unix the lock then lasts as long as the last of its owners. (On
        Windows it ends with this process, and a kernel that has lost its parent ends at once.)"""
        opened = psutil.Process().open_files() if os.name == "posix" else []
        return tuple(file.fd for file in opened if file.path == os.path.realpath(self.lock))

    def _watch(self) -> None:
        outcome = "stopped by the sweep" if self.told.read() else "the process that started this one is gone"
        self.ending.acquire()
        try:
            children = psutil.Process().children(recursive=True)
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            psutil.wait_procs(children, timeout=10)
            if self.entered:
                self._note("end", outcome)
                self.lock.unlink(missing_ok=True)
        except OSError as error:  # the folder was removed, or the disk is full: no reason to stay
            print(f"{outcome}; {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(STOPPED)

    def _note(self, event: str, outcome: str = "") -> None:
        """One line in executions.jsonl: who worked here, and when."""
        line = {"event": event, "time": time.time(), "host": platform.node(), "pid": os.getpid()}
        line |= {"outcome": outcome} if outcome else {}
        with open(self.lock.with_name(files.EXECUTIONS), "ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")


def run_notebook(notebook: str, output: Path, parameters: dict[str, Any], keep_open: tuple[int, ...] = ()) -> None:
    """Execute a notebook through papermill. (That it has no such parameter, a notebook of the kit says itself.)

    Args:
        output: where the executed notebook is written.
        parameters: of its cell tagged "parameters".
        keep_open: open files that the kernel inherits.
    """
    import papermill
    from jupyter_client.manager import AsyncKernelManager

    with tempfile.TemporaryDirectory(prefix="wsolkit-") as sockets:

        class Manager(AsyncKernelManager):
            async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]  # its stub has no coroutine
                if os.name == "posix":  # sockets in files: TCP ports race when several kernels start
                    self.transport, self.ip = "ipc", os.path.join(sockets, "kernel")
                await super().start_kernel(**options, pass_fds=keep_open)

        quiet = {"kernel_name": "python3", "progress_bar": False, "log_output": True, "start_timeout": 120}
        papermill.execute_notebook(notebook, str(output), parameters, **quiet, kernel_manager_class=Manager)


def _message(error: Exception) -> str:
    """One line for an error: the notebook's own error without papermill's long text around it, or our own message."""
    if name := getattr(error, "ename", ""):
        return f"{name}: {getattr(error, 'evalue', '')}"
    return str(error) if isinstance(error, WsolkitError) else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
