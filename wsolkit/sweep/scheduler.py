"""A grid of runs at work: which job next, how many at a time, and what is said about it. No torch import here.

A report waits for the training runs whose networks it uses. Each job is a process of its own (`wsolkit.sweep.worker`)
with a log file, started by a pool: that of this machine, or of a cluster. Whether it is done is read from its files.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

from wsolkit.common.code import code_state
from wsolkit.common.cores import cores, gpus
from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import alone, check_out
from wsolkit.common.progress import StatusLine, about
from wsolkit.report.index import keep_foreign_pages, write_index
from wsolkit.runs.data_check import check_before
from wsolkit.runs.folder import LOCK, content_of, note_failure
from wsolkit.sweep.jobs import Job, Say, SweepFile, expected_seconds, store, undefined
from wsolkit.sweep.worker import INTERRUPTED, run_job

ANSWER = 10.0  # seconds that Dask's scheduler may take for a short answer
PACKAGES = ("dask", "distributed", "torch", "torchvision")  # must agree on all machines of a cluster
PAUSE = 20.0  # seconds between two index pages of a running sweep, at least; one that takes long is written more rarely


class LocalPool(ThreadPoolExecutor):
    """Processes on this machine, started from threads; each of the jobs that run at a time has its share of cores, and
    where there are several GPUs, one of them."""

    def __init__(self, workers: int, devices: Sequence[str] = ()) -> None:
        self.own, self.killed, self.threads = threading.local(), threading.Event(), max(1, cores() // workers)
        self.kill = self.killed.set  # ends what runs
        turns = cycle([{"CUDA_VISIBLE_DEVICES": name} for name in devices] if len(devices) > 1 else [{}])
        super().__init__(workers, initializer=lambda: setattr(self.own, "environment", next(turns)))

    def submit(self, function, /, *args, **kwargs) -> Future:
        def run() -> Any:
            own = self.own.environment  # of the thread, which runs one job at a time
            return function(*args, threads=self.threads, environment=own, stop=self.killed.is_set, **kwargs)

        return super().submit(run)


class DaskPool(Executor):
    """The threads of an existing Dask cluster, whose workers share this machine's folders, as an executor.

    Dask decides who runs what. It runs the job of a lost worker again, three times at most (its setting
    `distributed.scheduler.allowed-failures`, by default 3). When the sweep leaves, Dask forgets the jobs that run,
    and the workers end them.

    Args:
        address: of the scheduler, such as tcp://10.0.0.7:8786, or the path of its scheduler file (.json).
        limit: jobs at a time; 0 is one for each thread of the cluster.
        timeout: seconds to wait for the scheduler, its workers' answers, and, whenever there is none, for a worker.

    Raises:
        WsolkitError: dask.distributed is not installed.
        ConnectionError: no scheduler there.
    """

    def __init__(self, address: str, limit: int = 0, timeout: float = 60.0) -> None:
        try:
            from distributed import Client
            from distributed.comm import get_address_host_port
        except ModuleNotFoundError:
            raise WsolkitError("a Dask cluster needs dask.distributed: pip install 'wsolkit[dask]'") from None
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is raised
        self.address, self.limit, self.timeout = address, limit, timeout
        self.threads, self.heard = 0, time.monotonic()
        try:
            resolved = "" if address.endswith(".json") else address
            while not (resolved := resolved or content_of(Path(address)).get("address", "")):
                if time.monotonic() - self.heard > timeout:  # a scheduler file may be about to be written
                    raise FileNotFoundError(f"{address} is absent or no scheduler file")
                time.sleep(0.2)
            get_address_host_port(resolved, strict=True)  # says what a client would not survive
            self.client: Any = Client(resolved, timeout=timeout, set_as_default=False)
        except Exception as error:  # OSError, but a malformed address or another version raise anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            hint = "give the address that `dask scheduler` prints, or its scheduler file"
            raise ConnectionError(f"no Dask scheduler at {address} within {timeout:g} s ({reason}); {hint}") from error
        self.pool = self.client.get_executor(pure=False)

    def capacity(self) -> int:
        """Jobs that the cluster takes now; 0 where it has no worker at the moment.

        Raises: ConnectionError: the scheduler is gone, or there was no worker for `timeout` seconds.
        """
        if self.client.status in ("closing", "closed"):
            hint = "what was finished is kept: start a scheduler and run the sweep again"
            raise ConnectionError(f"the Dask scheduler at {self.address} is gone; {hint}")
        self.threads = 0
        with contextlib.suppress(Exception):  # no answer in time, or none at all while the client connects again
            self.threads = sum(self.client.nthreads(callback_timeout=ANSWER).values())
        self.heard = time.monotonic() if self.threads else self.heard
        if time.monotonic() - self.heard > self.timeout:
            waited = f"(waited {self.timeout:g} s); start some with `dask worker ADDRESS`"
            raise ConnectionError(f"the Dask scheduler at {self.address} has no workers {waited}")
        return min(self.limit or self.threads, self.threads)

    def check(self, folder: Path, say: Say) -> None:
        """Ask every worker what it has: the same packages and code, and the folder of the results.

        Raises:
            ConnectionError: there are no workers.
            WsolkitError: one that differs; all of them are named.
        """

        def ask(path: str) -> dict[str, str]:  # nested for the reason that `submit` gives
            from wsolkit.sweep.scheduler import facts

            return facts(path)

        while not self.capacity():
            time.sleep(0.5)
        with tempfile.NamedTemporaryFile(prefix=".seen-", dir=folder) as token:
            own, answers = facts(token.name), self.client.run(ask, token.name, on_error="return")
        problems = [f"{name}: {text}" for name, answer in answers.items() for text in differences(own, answer)]
        require(not problems, "Dask workers that cannot run this sweep: " + "; ".join(problems))
        hosts = len({name.rpartition(":")[0] for name in answers})
        say(f"Dask cluster {self.address}: {len(answers)} workers on {hosts} hosts, {self.threads} threads")

    def submit(self, function, /, *args, **kwargs) -> Future:
        """Run `function` with its share of a worker's cores as `threads`, and with `stop`, which says whether Dask has
        cancelled it."""
        module, name = function.__module__, function.__qualname__

        # Nested, because Dask sends the code of nested functions. It would send a name for others, and a scheduler or
        # worker that cannot import it while it reads the message ends, without a word to us.
        def run(*args: Any, **kwargs: Any) -> Any:
            import importlib

            from distributed import get_worker

            from wsolkit.common.cores import chosen_threads, cores

            worker = get_worker()
            key = worker.get_current_task()

            def cancelled() -> bool:
                task = worker.state.tasks.get(key)
                return task is None or task.state == "cancelled"

            threads = chosen_threads() or max(1, cores() // worker.state.nthreads)
            return getattr(importlib.import_module(module), name)(*args, threads=threads, stop=cancelled, **kwargs)

        return self.pool.submit(run, *args, **kwargs)

    def kill(self) -> None:
        """End what runs: Dask forgets it, and the workers notice."""
        with contextlib.suppress(Exception):  # there may be nobody left to tell
            self.pool.shutdown(wait=False)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; what still runs there is given up."""
        self.kill()
        with contextlib.suppress(Exception):
            self.client.close(timeout=ANSWER)


def facts(token: str) -> dict[str, str]:
    """What must be the same wherever jobs of a sweep run; `token` is a file in the folder of the results.

    A worker keeps the code that it has read: after a change workers are started again.
    """
    seen = "seen" if Path(token).exists() else "not seen (all need the same folder, on a shared file system)"
    own = {"python": platform.python_version().rpartition(".")[0], "wsolkit": code_state((".",))}
    return own | {name: version(name) for name in PACKAGES} | {str(Path(token).parent): seen}


def differences(own: dict[str, str], other: dict[str, str] | Exception) -> list[str]:
    """One line for each fact in which a worker (other) differs from this machine (own), or for its error."""
    if isinstance(other, Exception):
        return [f"{type(other).__name__}: {other} (is wsolkit installed there?)"]
    return [f"{name} {other.get(name)}, but {own[name]} here" for name in own if other.get(name) != own[name]]


def workers_of(jobs: int | None) -> int:
    """Jobs at a time on this machine: None is one; 0 is one per core, four at most (several single-threaded networks
    beat one with several threads), or one per GPU."""
    return 1 if jobs is None else jobs or max(min(4, cores()), len(gpus()))


class Sweep:
    """Runs jobs in a pool; the first Ctrl-C stops scheduling, a second kills what runs.

    Args:
        workers: jobs at a time, where the pool has no opinion.
        pool: any `concurrent.futures.Executor` (default: processes on this machine), shut down at the end. It may
            have a method capacity() that says how many jobs it takes now (an OSError from there ends the sweep), and a
            method kill() that ends what runs.
        index: writes the index; called when there are new reports, but not all the time. What goes wrong in it is
            passed over: the index is written once more at the end.
    """

    def __init__(
        self, jobs: list[Job], workers: int = 1, say: Say = print, pool: Executor | None = None, index: Any = None
    ) -> None:
        self.jobs, self.pool, self.status = {job.name: job for job in jobs}, pool or LocalPool(workers), StatusLine(say)
        self.capacity: Callable[[], int] = getattr(self.pool, "capacity", lambda: workers)
        self.kill: Callable[[], None] = getattr(self.pool, "kill", lambda: None)
        self.say, self.index, self.next_index, self.interrupts = self.status.say, index, 0.0, 0
        self.waiting: list[Job] = []
        self.running: dict[Future, Job] = {}
        self.outcome: dict[str, str] = {}  # job -> "" (good) or its error
        self.expected: dict[str, float | None] = {}  # seconds, by earlier runs and those that have ended well
        self.began: dict[str, float] = {}

    def run(self) -> dict[str, str]:
        """Run what is stale; returns the error of every job that did not end well."""
        self.outcome = {job.name: "" for job in self.jobs.values() if job.fresh()}
        self.waiting = [job for job in self.jobs.values() if job.name not in self.outcome]
        self.expected = {job.name: expected_seconds(job) for job in self.waiting}
        if self.outcome:
            self.say(f"{len(self.outcome)} of {len(self.jobs)} runs are up to date")
        self.indexed = len(self.outcome)
        try:
            while self.waiting or self.running:
                try:
                    room = self.capacity()
                    self._start(room)
                    self.status.show(self._progress(room))
                    if not self.running:  # nobody is there to take a job at the moment
                        time.sleep(0.5)
                    for future in wait(self.running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                        self._collect(self.running.pop(future), future)
                    self._write_index()
                except KeyboardInterrupt:
                    self.interrupts += 1
                    self.waiting.clear()
                    if self.interrupts == 1:
                        self.say("stopping: no new run is started; press Ctrl-C again to kill the running ones")
                    elif self.interrupts == 2:
                        self.kill()
                    else:  # those that do not answer are given up
                        raise
        finally:
            self.kill()
            self.pool.shutdown()
            self.status.close()
        return {name: error for name, error in self.outcome.items() if error and error != INTERRUPTED}

    def _write_index(self) -> None:
        """Write the index when more runs have ended than at the last time, and that is long enough ago."""
        begin = time.monotonic()
        if self.index and len(self.outcome) > self.indexed and begin >= self.next_index:
            with contextlib.suppress(Exception):
                self.index()
            now = time.monotonic()
            self.indexed, self.next_index = len(self.outcome), now + max(PAUSE, 10 * (now - begin))

    def _start(self, room: int) -> None:
        for job in list(self.waiting):
            needs = [name for name in job.needs if name in self.jobs]
            if failed := [name for name in needs if self.outcome.get(name)]:
                self.waiting.remove(job)
                error = f"not run, because {failed[0]} failed: {self.outcome[failed[0]]}"
                self._record(job, error, noted=False)
            elif len(self.running) < room and all(name in self.outcome for name in needs):
                self.waiting.remove(job)
                self.began[job.name] = time.monotonic()
                self.running[self.pool.submit(run_job, job.content())] = job

    def _collect(self, job: Job, future: Future) -> None:
        try:
            error, seconds = future.result()
        except CancelledError:
            if not self.interrupts:  # by the pool of its own accord; where the whole pool is gone, `capacity` says so
                return self.waiting.insert(0, job)
            error, seconds = INTERRUPTED, 0.0
        except Exception as caught:  # of the pool, not of the notebook
            return self._record(job, f"{type(caught).__name__}: {caught}", noted=False)
        if error == INTERRUPTED and not self.interrupts:
            return self._record(job, "stopped from outside, perhaps by another sweep; run it again", noted=False)
        self._record(job, error, seconds)

    def _record(self, job: Job, error: str, seconds: float = 0.0, noted: bool = True) -> None:
        self.outcome[job.name] = error
        self.expected |= {} if error else {job.name: seconds}
        if not noted:
            with contextlib.suppress(OSError):  # its folder cannot be written; the others still run
                note_failure(job.folder, error, job.config)
        outcome = "done" if not error else error if error == INTERRUPTED else f"FAILED {error.splitlines()[-1][:200]}"
        self.say(f"[{len(self.outcome)}/{len(self.jobs)}] {job.name}  {seconds:.0f} s  {outcome}")

    def _progress(self, room: int) -> str:
        """One line: how many are done and failed, how long it may take, and what runs now."""
        failed, left = sum(map(bool, self.outcome.values())), self._seconds_left(room)
        line = f"{len(self.outcome) - failed} of {len(self.jobs)} done"
        line += (f", {failed} failed" if failed else "") + ("" if left is None else f", {about(left)} left")
        common = set.intersection(*(set(name.split("/")[:-1]) for name in self.jobs))  # one data set, say
        names = ["/".join(p for p in job.name.split("/") if p not in common) for job in self.running.values()]
        return line + (f"; running {', '.join(names)}" if names else "")

    def _seconds_left(self, room: int) -> float | None:
        """Seconds until all jobs have ended; None where no time is known. A job takes as long as an earlier run of it,
        or else the mean of the same method's or variant's jobs on other networks, of all training runs or all reports,
        or of all jobs."""

        def kinds(name: str) -> tuple[str, ...]:
            return name, name.rpartition("/")[2], self.jobs[name].done.name, ""

        alike: defaultdict[str, list[float]] = defaultdict(list)
        for name, seconds in self.expected.items():
            if seconds is not None:
                for kind in kinds(name):
                    alike[kind].append(seconds)
        if not alike:
            return None
        times, now = [0.0], time.monotonic()
        for job in (*self.waiting, *self.running.values()):
            mean = fmean(next(alike[kind] for kind in kinds(job.name) if kind in alike))
            times.append(max(0.0, mean - (now - self.began.get(job.name, now))))
        return max(sum(times) / max(1, room), *times)


def run_grids(
    grids: Sequence[SweepFile], jobs: int | None = None, say: Say = print, dask: str = "", timeout: float = 60.0
) -> int:
    """Run grids of one result folder OUT together and write OUT/index.html and OUT/results.csv. One failing report does
    not stop the others. Returns the exit code (0 good, 1 something failed, 130 interrupted).

    Args:
        grids: one for each data set.
        jobs: at a time; None is one, or with `dask` as many as the cluster has threads; 0 as `workers_of` says.
        say: prints a line.
        dask: address of a Dask scheduler (or its scheduler file), whose workers share the folders of this machine.
        timeout: seconds to wait for the scheduler and, whenever it has none, for a worker.

    Raises:
        WsolkitError: another sweep writes to OUT, workers of the cluster differ from this machine, or the data have
            errors (see `data_check`).
        ConnectionError: no scheduler, or no workers.
    """
    begin = time.time()
    out = check_out(grids[0].out_folder)
    keep_foreign_pages(out)
    plans = [grid.plan() for grid in grids]
    todo = [job for defined, _ in plans for job in defined]
    workers = workers_of(jobs)
    cluster = DaskPool(dask, jobs or 0, timeout) if dask else None  # before anything is written
    pool = cluster or LocalPool(workers, gpus() if grids[0].device in ("", "cuda") else [])
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown)
        for note in filter(None, [check_before(grid) for grid in grids if grid.root]):
            say(note)
        for grid in grids:
            busy = f"another sweep of {grid.dataset} is writing to {out}; wait for it or choose another out"
            stack.enter_context(alone(grid.home / LOCK, busy=busy))
            store(grid)
        if cluster:
            cluster.check(grids[0].home, say)
        for job in (job for _, impossible in plans for job in impossible):
            reason = undefined(job)
            job.html.unlink(missing_ok=True)
            job.done.unlink(missing_ok=True)
            note_failure(job.folder, reason, job.config, status="undefined")
            say(f"{job.name}  not defined: {reason}")
        sweep = Sweep(todo, workers, say, pool, lambda: write_index(out))
        if threading.current_thread() is threading.main_thread():
            previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what runs is killed on the way out
            stack.callback(signal.signal, signal.SIGTERM, previous)
        try:
            errors = sweep.run()
        finally:
            page = write_index(out)
    failed = f", {len(errors)} failed" if errors else ""
    say(f"{len(sweep.outcome)} of {len(todo)} runs in {time.time() - begin:.0f} s{failed}")
    say(f"index: {page}")
    return 130 if sweep.interrupts else int(bool(errors))
