"""What runs the jobs of a sweep: one function on plain data, and the pool of this machine. No torch import here.

A pool is a `concurrent.futures.Executor`; one that has a method `capacity` says itself how many jobs it takes at a time,
one that has a method `kill` can end what runs. `wsolkit.sweep.dask_pool` has the one for many machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wsolkit.common.cores import cores, gpus
from wsolkit.runs.folder import FAILURE, LOG, content_of, note_failure
from wsolkit.sweep.worker import FAILED, STOPPED

INTERRUPTED = "interrupted"  # the outcome of a job that was stopped; nothing is wrong with it


def run_job(
    job: dict[str, Any], threads: int = 1, environment: dict[str, str] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[str, float]:  # fmt: skip
    """Run one job in a process of its own and wait for it: (error or "", seconds).

    A process, because the kernel of a notebook may crash, and because whoever calls this (a thread here, a worker of a
    cluster) is used for many jobs. It ends when its standard input does, be it that the caller is killed.

    Args:
        job: what `wsolkit.sweep.worker` takes.
        threads: for numerical libraries.
        environment: variables for this process only, e.g. CUDA_VISIBLE_DEVICES.
        stop: asked twice a second whether the job is to be ended.
    """
    begin = time.time()
    variables = {
        **{name: str(threads) for name in ("OMP_NUM_THREADS", "WSOLKIT_THREADS")},
        **{"WSOLKIT_BATCH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
    }
    with tempfile.TemporaryFile() as printed:  # until the process writes into its log
        process = subprocess.Popen(
            [sys.executable, "-m", "wsolkit.sweep.worker"], stdin=subprocess.PIPE, stdout=printed, stderr=subprocess.STDOUT,
            env=os.environ | variables | (environment or {}), start_new_session=True,  # Ctrl-C is for us alone
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )  # fmt: skip
        with contextlib.suppress(OSError), process.stdin as stdin:  # it may have ended already
            stdin.write(json.dumps(job).encode() + b"\n")
            stdin.flush()
            while process.poll() is None:
                if stop():
                    stdin.write(b"stop")
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
        process.wait()
        printed.seek(0)
        said = printed.read().decode(errors="replace").strip()
    return _error(process.returncode, job, said), time.time() - begin


def _error(code: int, job: dict[str, Any], said: str) -> str:
    folder = Path(job["folder"])
    if code == 0:
        return ""
    if code in (STOPPED, -signal.SIGINT):  # Ctrl-C can reach a process before it has a session of its own
        return INTERRUPTED
    if code == FAILED:
        return content_of(folder / FAILURE).get("error", "failed, and its failure.json is gone")
    last = f": {said.splitlines()[-1]}" if said else f"; see {folder / LOG}"
    error = f"the process ended with code {code}{last}"
    with contextlib.suppress(OSError):
        note_failure(folder, error, job["config"])
    return error


class LocalPool(ThreadPoolExecutor):
    """Processes on this machine, started from threads; each of the jobs that run at a time has its share of cores, and
    where there are several GPUs, one of them."""

    def __init__(self, workers: int, devices: Sequence[str] = ()) -> None:
        super().__init__(workers)
        self.workers, self.killed = workers, threading.Event()
        self.slots: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for number in range(workers):
            self.slots.put({"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if len(devices) > 1 else {})

    def capacity(self) -> int:
        return self.workers

    def kill(self) -> None:
        """End what runs."""
        self.killed.set()

    def submit(self, function, /, *args, **kwargs) -> Future:
        return super().submit(self._in_slot, function, *args, **kwargs)

    def _in_slot(self, function, *args, **kwargs):
        slot, threads = self.slots.get(), max(1, cores() // self.workers)
        try:
            return function(*args, threads=threads, environment=slot, stop=self.killed.is_set, **kwargs)
        finally:
            self.slots.put(slot)


def workers_of(jobs: int | None) -> int:
    """Jobs at a time on this machine: None is one; 0 is one per core, four at most (several single-threaded networks beat
    one with several threads), or one per GPU."""
    return 1 if jobs is None else jobs or max(min(4, cores()), len(gpus()))
