"""A grid of runs at work: which job next, how many at a time, and what is said about it. No torch import here.

A training is one job, a report another (`wsolkit.sweep.jobs`); a report waits for the trainings it looks at. Each job is a process
of its own (`wsolkit.sweep.worker`) with a log file, started by a pool: that of this machine, or that of a cluster. Whether a job
is done is read from the files it leaves, never from a notebook.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wsolkit.common.code import code_state
from wsolkit.common.files import write_json
from wsolkit.methods.registry import declared
from wsolkit.report.index import write_index
from wsolkit.runs.folder import content_of, note_failure
from wsolkit.runs.parameters import RunConfig
from wsolkit.sweep.jobs import Grid, Job, plan
from wsolkit.sweep.lease import this_machine
from wsolkit.sweep.pools import INTERRUPTED, LocalPool, gpus, run_job, workers_of
from wsolkit.sweep.reasons import expected_seconds
from wsolkit.sweep.spec import store
from wsolkit.sweep.status import LiveIndex, StatusLine, about
from wsolkit.sweep.worker import WORKING_CODE

__all__ = ["Job", "Sweep", "plan", "run_grids", "run_sweep"]

RETRIES = 3  # of a job that its pool has lost


class Sweep:
    """Runs jobs in a pool; the first Ctrl-C stops scheduling, a second kills what runs.

    Args:
        workers: jobs at a time, where the pool has no opinion.
        pool: any `concurrent.futures.Executor` (default: processes on this machine); it is shut down at the end. It may have
            a method capacity() that says how many jobs it takes now; an OSError from there ends the sweep.
        token: path of a file that lives as long as the sweep wants its jobs to run; a pool of other machines needs one that
            they can see.
        extra: more content for each job, see `wsolkit.sweep.worker`.
        index: what writes the index, when there are new reports.
    """

    def __init__(
        self, jobs: list[Job], workers: int = 1, say: Callable[[str], None] = print, pool: Executor | None = None,
        token: Path | None = None, extra: dict[str, Any] | None = None, index: LiveIndex | None = None,
    ) -> None:  # fmt: skip
        self.jobs = {job.name: job for job in jobs}
        self.pool = pool or LocalPool(workers)
        self.capacity: Callable[[], int] = getattr(self.pool, "capacity", lambda: workers)
        self.token = token or Path(tempfile.gettempdir()) / f".sweep-{uuid.uuid4().hex}"
        self.extra = extra or {}
        self.status, self.index = StatusLine(say), index
        self.say = self.status.say
        self.outcome: dict[str, str] = {}  # job -> "" (good) or its error
        self.expected: dict[str, float | None] = {}  # seconds, by earlier runs
        self.began: dict[str, float] = {}
        self.seconds: dict[str, float] = {}  # of the jobs that have ended well
        self.lost: Counter[str] = Counter()
        self.stopping = False

    def run(self) -> dict[str, str]:
        """Run what is stale; returns the error of every job that did not end well."""
        waiting = []
        for job in self.jobs.values():
            if job.fresh():
                self.outcome[job.name] = ""
            else:
                waiting.append(job)
                self.expected[job.name] = expected_seconds(job)
        up_to_date = len(self.outcome)
        if self.outcome:
            self.say(f"{len(self.outcome)} of {len(self.jobs)} runs are up to date")
        running: dict[Future, Job] = {}
        write_json(self.token, {"sweep": self.token.name, "host": this_machine()})
        try:
            if check := getattr(self.pool, "check", None):
                check(self.token, self.say)
            while waiting or running:
                try:
                    room = self.capacity()
                    self._submit(waiting, running, room)
                    if not running and room:
                        break
                    if not running:  # nobody is there to take a job at the moment
                        time.sleep(0.5)
                    if self.status.live:
                        self.status.show(self._progress(waiting, list(running.values()), room))
                    for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                        self._collect(running.pop(future), future, waiting)
                    if self.index:
                        self.index.update(len(self.outcome) - up_to_date)
                except KeyboardInterrupt:
                    if not self.stopping:
                        self.say("stopping: no new run is started; press Ctrl-C again to kill the running ones")
                    elif self.token.exists():
                        self.kill()
                    else:  # a third time: those that do not answer are given up
                        raise
                    self.stopping = True
                    waiting.clear()
        finally:
            self.kill()
            self.pool.shutdown()
            self.status.show("")
            if self.index:
                self.index.close()
        return {name: error for name, error in self.outcome.items() if error and error != INTERRUPTED}

    def _submit(self, waiting: list[Job], running: dict[Future, Job], room: int) -> None:
        for job in list(waiting):
            failed = [name for name in job.needs if self.outcome.get(name)]
            if failed:
                waiting.remove(job)
                error = f"not run, because {failed[0]} failed: {self.outcome[failed[0]]}"
                self._fail(job, error)
            elif len(running) < room and all(name in self.outcome for name in job.needs):
                waiting.remove(job)
                self.began[job.name] = time.monotonic()
                running[self.pool.submit(run_job, {**job.content(), "token": str(self.token), **self.extra})] = job

    def _progress(self, waiting: list[Job], running: list[Job], room: int) -> str:
        """One line: how many are done and failed, how long it may take, and what runs now."""
        failed = sum(bool(error) for error in self.outcome.values())
        words = [f"{len(self.outcome) - failed} of {len(self.jobs)} done"] + ([f"{failed} failed"] if failed else [])
        left = self._seconds_left(waiting, running, room)
        words += [] if left is None else [f"{about(left)} left"]
        common = set.intersection(*(set(name.split("/")[:-1]) for name in self.jobs))  # one data set, say
        names = ["/".join(part for part in job.name.split("/") if part not in common) for job in running]
        return ", ".join(words) + (f"; running {', '.join(names)}" if names else "")

    def _seconds_left(self, waiting: list[Job], running: list[Job], room: int) -> float | None:
        """From earlier runs and from those of this sweep; None where there are none yet."""
        known = {name: seconds for name, seconds in self.expected.items() if seconds is not None} | self.seconds
        alike: defaultdict[str, list[float]] = defaultdict(list)
        for name, seconds in known.items():
            for kind in self._kinds(name):
                alike[kind].append(seconds)
        if not alike:
            return None
        times, now = [], time.monotonic()
        for job in (*waiting, *running):
            some = next(alike[kind] for kind in self._kinds(job.name) if kind in alike)
            times.append(sum(some) / len(some))
            if job in running:
                times[-1] = max(0.0, times[-1] - (now - self.began[job.name]))
        return max(sum(times) / max(1, room), *times, 0.0)

    def _kinds(self, name: str) -> tuple[str, ...]:
        """What the time of a job may be judged by: itself, the same one on other networks, trainings or reports, anything."""
        return name, name.rpartition("/")[2], self.jobs[name].done.name, ""

    def _collect(self, job: Job, future: Future, waiting: list[Job]) -> None:
        try:
            error, seconds = future.result()
        except CancelledError:  # not by us: the pool has lost it
            self.lost[job.name] += 1
            if self.stopping:
                self._record(job, INTERRUPTED)
            elif self.lost[job.name] <= RETRIES:
                self.say(f"{job.name} was lost and is run again")
                waiting.insert(0, job)
            else:
                self._fail(job, f"lost {self.lost[job.name]} times; the pool's own log may tell why")
        except Exception as error:  # of the pool, not of the notebook
            self._fail(job, f"{type(error).__name__}: {error}")
        else:
            if error == INTERRUPTED and not self.stopping:  # its token or lease was taken away, but not by us
                self._fail(job, "stopped from outside this sweep, perhaps by another one; run the sweep again")
            else:
                self._record(job, error, seconds)

    def _fail(self, job: Job, error: str) -> None:
        with contextlib.suppress(OSError):  # its folder cannot be written; the others still run
            note_failure(job.folder, error, job.config)
        self._record(job, error)

    def _record(self, job: Job, error: str, seconds: float = 0.0) -> None:
        self.outcome[job.name] = error
        if not error:
            self.seconds[job.name] = seconds
        word = "done" if not error else error if error == INTERRUPTED else f"FAILED {error.splitlines()[-1][:200]}"
        self.say(f"[{len(self.outcome)}/{len(self.jobs)}] {job.name}  {seconds:.0f} s  {word}")

    def kill(self) -> None:
        """Tell the running jobs to end, wherever they are."""
        self.token.unlink(missing_ok=True)


def run_sweep(
    config: RunConfig, backbones: Iterable[str], methods: Iterable[str], limits: dict[str, int] | None = None,
    jobs: int | None = None, say: Callable[[str], None] = print, dask: str = "", timeout: float = 60.0,
) -> int:  # fmt: skip
    """`run_grids` for one data set and the configuration's seed."""
    return run_grids([Grid(config, tuple(backbones), tuple(methods), limits or {})], jobs, say, dask, timeout)


def run_grids(
    grids: Sequence[Grid], jobs: int | None = None, say: Callable[[str], None] = print, dask: str = "",
    timeout: float = 60.0,
) -> int:  # fmt: skip
    """Run grids of one result folder OUT together and write OUT/index.html and OUT/results.csv; returns the exit code (0
    good, 1 something failed, 130 interrupted). One failing report does not stop the others.

    Args:
        grids: one for each data set.
        jobs: at a time; None is one, or with `dask` as many as the cluster has threads; 0 is one per core, four at most.
        dask: address of a Dask scheduler (or its scheduler file), whose workers share the folders of this machine.
        timeout: seconds to wait for the scheduler and, whenever it has none, for a worker.
    """
    begin = time.time()
    out = grids[0].config.out_folder  # one place, whoever looks
    grids = [replace(g, config=g.config.with_changes(out=str(out))) for g in grids]
    plans = [grid.plan() for grid in grids]
    todo = [job for jobs, _ in plans for job in jobs]
    pool = _pool(grids[0].config, jobs, dask, timeout)  # before anything is written
    with contextlib.ExitStack() as locks:
        for grid in grids:
            _lock(grid, locks, pool)
            _remove_tokens(grid.home)
            store(grid)
        for job in (job for _, jobs in plans for job in jobs):
            reason = declared(job.config["method"]).undefined(job.config["backbone"])
            for old in (job.html, job.done):
                old.unlink(missing_ok=True)
            note_failure(job.folder, reason, job.config, status="undefined")
            say(f"{job.name}  not defined: {reason}")
        token = grids[0].home / f".sweep-{uuid.uuid4().hex}"
        extra = {"code": code_state(WORKING_CODE)} if dask else {}
        index = LiveIndex(lambda: write_index(out))
        sweep = Sweep(todo, say=say, pool=pool, token=token, extra=extra, index=index)
        previous = (
            signal.signal(signal.SIGTERM, lambda *_: (sweep.kill(), sys.exit(143))) if _in_main_thread() else None
        )
        try:
            errors = sweep.run()
        finally:
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)
            page = write_index(out)
    say(
        f"{len(sweep.outcome)} of {len(todo)} runs in {time.time() - begin:.0f} s"
        + (f", {len(errors)} failed" if errors else "")
    )
    say(f"index: {page}")
    return 130 if sweep.stopping else int(bool(errors))


def _lock(grid: Grid, locks: contextlib.ExitStack, pool: Executor) -> None:
    """Keep other sweeps away from a data set's folder of runs until `locks` is closed."""
    grid.home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(grid.home / ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        pool.shutdown()
        raise ValueError(
            f"another sweep of {grid.config.dataset} is writing to {grid.config.out_folder}; wait for it or choose "
            "another out"
        ) from None
    locks.callback(lock.release)


def _remove_tokens(home: Path) -> None:
    """Those of sweeps on this machine that were killed: their jobs end, wherever they are."""
    for left in home.glob(".sweep-*"):
        if content_of(left).get("host") == this_machine():
            left.unlink(missing_ok=True)


def _pool(config: RunConfig, jobs: int | None, dask: str, timeout: float) -> Executor:
    if dask:
        from wsolkit.sweep.dask_pool import DaskPool

        return DaskPool(dask, jobs or 0, timeout)
    return LocalPool(workers_of(jobs), gpus() if config.device in ("", "cuda") else [])


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
