"""The grid of runs: what is stale, in which order, in how many processes. No torch import here.

A training is one job, a report another; a report waits for the trainings it looks at. Each job is a process of its own
(`wsolkit.execute`) with a log file. Whether a job is done is read from the files it leaves, never from a notebook.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .config import RunConfig
from .execute import note_failure
from .files import read_json, write_json
from .index import write_index
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
        if not self.done.exists() or not self.html.exists() or (self.folder / "failure.json").exists():
            return False
        try:
            content = read_json(self.done)
        except ValueError:
            return False
        return content.get("status") == "completed" and content.get("fingerprint") == self.key


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
    """Runs jobs in processes; the first Ctrl-C stops scheduling, a second kills what runs."""

    def __init__(self, jobs: list[Job], workers: int = 1, say: Callable[[str], None] = print) -> None:
        self.jobs = {job.name: job for job in jobs}
        self.workers = workers
        self.say = say
        self.processes: set[subprocess.Popen] = set()
        self.outcome: dict[str, str] = {}  # job -> "" (good) or its error
        self.stopping = False
        self.killed = False

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
        with ThreadPoolExecutor(self.workers) as pool:
            while waiting or running:
                try:
                    self._submit(pool, waiting, running)
                    if not running:
                        break
                    done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._record(running.pop(future), future.result())
                except KeyboardInterrupt:
                    if self.stopping:
                        self.kill()
                    else:
                        self.say("stopping: no new run is started; press Ctrl-C again to kill the running ones")
                    self.stopping = True
                    waiting.clear()
        return {name: error for name, error in self.outcome.items() if error and error != "interrupted"}

    def _submit(self, pool: ThreadPoolExecutor, waiting: list[Job], running: dict[Future, Job]) -> None:
        for job in list(waiting):
            failed = [name for name in job.needs if self.outcome.get(name)]
            if failed:
                waiting.remove(job)
                error = f"not run, because {failed[0]} failed: {self.outcome[failed[0]]}"
                note_failure(job.folder, error, job.config)
                self._record(job, (error, 0.0))
            elif len(running) < self.workers and all(name in self.outcome for name in job.needs):
                waiting.remove(job)
                running[pool.submit(self._execute, job)] = job

    def _execute(self, job: Job) -> tuple[str, float]:
        """One process from start to end; returns (error or "", seconds)."""
        begin = time.time()
        job.folder.mkdir(parents=True, exist_ok=True)
        for stale in (job.html, job.folder / "failure.json"):  # the old page must not stand beside new numbers
            stale.unlink(missing_ok=True)
        log = job.folder / "log.txt"
        write_json(job.folder / "job.json", {
            "notebook": str(job.notebook), "parameters": job.parameters, "config": job.config, "folder": str(job.folder),
            "done": str(job.done), "fingerprint": job.key, "html": str(job.html), "title": job.title, "log": log.name,
        })  # fmt: skip
        threads = str(max(1, (os.cpu_count() or 1) // self.workers))
        environment = os.environ | {
            "OMP_NUM_THREADS": threads,
            "WSOLKIT_THREADS": threads,
            "WSOLKIT_BATCH": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "wsolkit.execute", str(job.folder / "job.json")],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip
            self.processes.add(process)
            code = process.wait()
            self.processes.discard(process)
        error = ""
        if code and self.killed:
            (job.folder / "failure.json").unlink(missing_ok=True)  # nothing is wrong with this run: it was stopped
            error = "interrupted"
        elif code:
            failure = job.folder / "failure.json"
            if not failure.exists():
                note_failure(job.folder, f"the process ended with code {code}; see {log}", job.config)
            error = read_json(failure)["error"]
        return error, time.time() - begin

    def _record(self, job: Job, outcome: tuple[str, float]) -> None:
        error, seconds = outcome
        self.outcome[job.name] = error
        word = "done" if not error else error if error == "interrupted" else f"FAILED {error.splitlines()[-1][:200]}"
        self.say(f"[{len(self.outcome)}/{len(self.jobs)}] {job.name}  {seconds:.0f} s  {word}")

    def kill(self) -> None:
        self.killed = True
        for process in list(self.processes):
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def run_sweep(
    config: RunConfig, backbones: Iterable[str], methods: Iterable[str], limits: dict[str, int] | None = None,
    jobs: int = 1, say: Callable[[str], None] = print,
) -> int:  # fmt: skip
    """Run a grid and write OUT/index.html and OUT/results.csv; returns the exit code (0 good, 1 something failed, 130
    interrupted). One failing report does not stop the others."""
    begin = time.time()
    todo, impossible = plan(config, backbones, methods, limits or {})
    lock = FileLock(str(config.out_folder / "runs" / config.dataset / ".lock"))
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
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
        sweep = Sweep(todo, jobs or automatic_jobs(), say)
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


def automatic_jobs() -> int:
    """One process per core, four at most: several single-threaded networks beat one with several threads."""
    return max(1, min(4, os.cpu_count() or 1))


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()
