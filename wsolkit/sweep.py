"""The grid of runs: what is stale, in which order, how many at a time. No torch import here.

A training is one job, a report another; a report waits for the trainings it looks at. Each job is a process of its own
(`wsolkit.execute`) with a log file, started by a pool: that of this machine, or that of a cluster. Whether a job is done is
read from the files it leaves, never from a notebook.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .config import RunConfig
from .execute import WORKING_CODE, is_fresh, note_failure
from .files import read_json, write_json
from .index import write_index
from .lease import this_machine
from .methods import (
    STUDY_METHODS,
    TRAIN_NOTEBOOK,
    label_of,
    method_slug,
    notebook_of,
    notebooks_folder,
    poolings_of,
    undefined,
)
from .pools import INTERRUPTED, LocalPool, gpus, run_job
from .staleness import code_state

RETRIES = 3  # of a job that its pool has lost


@dataclass(frozen=True)
class Job:
    """One notebook to run. `done` is the file that proves it, `key` what it must say, `needs` the names of other jobs."""

    name: str
    notebook: Path
    parameters: dict[str, Any]
    config: dict[str, Any]
    folder: Path
    done: Path
    key: str
    html: Path
    title: str
    needs: tuple[str, ...] = ()

    def fresh(self) -> bool:
        """True where the result on disk is complete and was made from the same parameters, data, code and notebook."""
        return is_fresh(self.folder, self.done, self.html, self.key)


def plan(
    config: RunConfig, backbones: Iterable[str], methods: Iterable[str], limits: dict[str, int]
) -> tuple[list[Job], list[Job]]:
    """All jobs of a grid in an order that can be run, and the reports that are not defined on their backbone.

    Args:
        config: what all runs share.
        limits: images per method; the name "" is for all methods.
    """
    jobs: dict[str, Job] = {}
    impossible = []
    for backbone in dict.fromkeys(backbones):
        base = config.for_backbone(backbone)
        reports = []
        for method in dict.fromkeys(methods):
            own = replace(base, limit=limits.get(method, limits.get("", base.limit)))
            poolings = poolings_of(method, backbone)
            job = _report_job(own, method, poolings)
            if undefined(method, backbone):
                impossible.append(job)
                continue
            for pooling in poolings:
                for wanted in filter(None, (base.starts_from(pooling), pooling)):
                    training = _train_job(base, wanted)
                    jobs.setdefault(training.name, training)
            reports.append(job)
        jobs.update({job.name: job for job in reports})
    return list(jobs.values()), impossible


def _train_job(config: RunConfig, pooling: str) -> Job:
    folder = config.training_folder(pooling)
    name = f"{config.dataset}/{config.backbone}/train {pooling}"
    config = replace(config, limit=0)
    start = config.starts_from(pooling)
    return Job(
        name, notebooks_folder() / TRAIN_NOTEBOOK, {**config.to_dict(), "pooling": pooling},
        {**config.to_dict(), "pooling": pooling}, folder, folder / "run.json", config.training_key(pooling),
        folder / "train.html", f"Training {config.backbone} with {label_of(pooling)} on {config.dataset}",
        (f"{config.dataset}/{config.backbone}/train {start}",) if start else (),
    )  # fmt: skip


def _report_job(config: RunConfig, method: str, poolings: tuple[str, ...]) -> Job:
    folder = config.runs_folder / method_slug(method)
    notebook = notebook_of(method)
    parameters = config.to_dict()
    if method not in STUDY_METHODS:
        parameters["method"] = method
    html = config.out_folder / config.dataset / config.backbone / f"{method_slug(method)}.html"
    needs = tuple(f"{config.dataset}/{config.backbone}/train {pooling}" for pooling in poolings)
    return Job(
        f"{config.dataset}/{config.backbone}/{method}", notebook, parameters, {**config.to_dict(), "method": method},
        folder, folder / "metrics.json", config.report_key(method, poolings, notebook), html,
        f"{method} on {config.backbone}, {config.dataset}", needs,
    )  # fmt: skip


class Sweep:
    """Runs jobs in a pool; the first Ctrl-C stops scheduling, a second kills what runs.

    Args:
        workers: jobs at a time, where the pool has no opinion.
        pool: any `concurrent.futures.Executor` (default: processes on this machine); it is shut down at the end. It may have
            a method capacity() that says how many jobs it takes now; an OSError from there ends the sweep.
        token: path of a file that lives as long as the sweep wants its jobs to run; a pool of other machines needs one that
            they can see.
        extra: more content for each job, see `wsolkit.execute`.
    """

    def __init__(
        self, jobs: list[Job], workers: int = 1, say: Callable[[str], None] = print, pool: Executor | None = None,
        token: Path | None = None, extra: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.jobs = {job.name: job for job in jobs}
        self.pool = pool or LocalPool(workers)
        self.capacity: Callable[[], int] = getattr(self.pool, "capacity", lambda: workers)
        self.token = token or Path(tempfile.gettempdir()) / f".sweep-{uuid.uuid4().hex}"
        self.extra = extra or {}
        self.say = say
        self.outcome: dict[str, str] = {}  # job -> "" (good) or its error
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
                    for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                        self._collect(running.pop(future), future, waiting)
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
                running[self.pool.submit(run_job, self._content(job))] = job

    def _content(self, job: Job) -> dict[str, Any]:
        return {
            "notebook": str(job.notebook), "parameters": job.parameters, "config": job.config, "folder": str(job.folder),
            "done": str(job.done), "fingerprint": job.key, "html": str(job.html), "title": job.title,
            "token": str(self.token), **self.extra,
        }  # fmt: skip

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
        note_failure(job.folder, error, job.config)
        self._record(job, error)

    def _record(self, job: Job, error: str, seconds: float = 0.0) -> None:
        self.outcome[job.name] = error
        word = "done" if not error else error if error == INTERRUPTED else f"FAILED {error.splitlines()[-1][:200]}"
        self.say(f"[{len(self.outcome)}/{len(self.jobs)}] {job.name}  {seconds:.0f} s  {word}")

    def kill(self) -> None:
        """Tell the running jobs to end, wherever they are."""
        self.token.unlink(missing_ok=True)


def run_sweep(
    config: RunConfig, backbones: Iterable[str], methods: Iterable[str], limits: dict[str, int] | None = None,
    jobs: int | None = None, say: Callable[[str], None] = print, dask: str = "", timeout: float = 60.0,
) -> int:  # fmt: skip
    """Run a grid and write OUT/index.html and OUT/results.csv; returns the exit code (0 good, 1 something failed, 130
    interrupted). One failing report does not stop the others.

    Args:
        jobs: at a time; None is one, or with `dask` as many as the cluster has threads; 0 is one per core, four at most.
        dask: address of a Dask scheduler (or its scheduler file), whose workers share the folders of this machine.
        timeout: seconds to wait for the scheduler and, whenever it has none, for a worker.
    """
    begin = time.time()
    config = RunConfig.make(**{**config.given, "out": str(config.out_folder)})  # one place, whoever looks
    todo, impossible = plan(config, backbones, methods, limits or {})
    pool = _pool(config, jobs, dask, timeout)  # before anything is written
    home = config.out_folder / "runs" / config.dataset
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(home / ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        pool.shutdown()
        raise ValueError(
            f"another sweep of {config.dataset} is writing to {config.out_folder}; wait for it or choose another out"
        ) from None
    with lock:
        for job in impossible:
            reason = undefined(job.config["method"], job.config["backbone"])
            for old in (job.html, job.done):
                old.unlink(missing_ok=True)
            note_failure(job.folder, reason, job.config, status="undefined")
            say(f"{job.name}  not defined: {reason}")
        for left in home.glob(
            ".sweep-*"
        ):  # of a sweep on this machine that was killed: its jobs end, wherever they are
            if _host_of(left) == this_machine():
                left.unlink(missing_ok=True)
        token = home / f".sweep-{uuid.uuid4().hex}"
        extra = {"code": code_state(WORKING_CODE)} if dask else {}
        sweep = Sweep(todo, say=say, pool=pool, token=token, extra=extra)
        previous = (
            signal.signal(signal.SIGTERM, lambda *_: (sweep.kill(), sys.exit(143))) if _in_main_thread() else None
        )
        try:
            errors = sweep.run()
        finally:
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)
            index = write_index(config.out_folder)
    say(
        f"{len(sweep.outcome)} of {len(todo)} runs in {time.time() - begin:.0f} s"
        + (f", {len(errors)} failed" if errors else "")
    )
    say(f"index: {index}")
    return 130 if sweep.stopping else int(bool(errors))


def _host_of(token: Path) -> str:
    try:
        return read_json(token).get("host", "")
    except (OSError, ValueError):
        return ""


def _pool(config: RunConfig, jobs: int | None, dask: str, timeout: float) -> Executor:
    if dask:
        from .dask_pool import DaskPool

        return DaskPool(dask, jobs or 0, timeout)
    return LocalPool(1 if jobs is None else jobs or automatic_jobs(), gpus() if config.device in ("", "cuda") else [])


def automatic_jobs() -> int:
    """One per core, four at most (several single-threaded networks beat one with several threads), or one per GPU."""
    return max(1, min(4, os.cpu_count() or 1), len(gpus()))


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
