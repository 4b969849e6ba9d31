"""The jobs of a sweep on the workers of an existing Dask cluster, which share this machine's folders. No torch import here.

Dask runs a job again where a worker was lost (four times at most, its setting `distributed.scheduler.allowed-failures`);
that nothing runs twice at the same time is the business of `wsolkit.sweep.lease`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, wait
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from wsolkit.common.code import code_state
from wsolkit.common.errors import WsolkitError
from wsolkit.sweep.worker import WORKING_CODE

ANSWER = 10.0  # seconds that a scheduler may take for a short answer
SAME = ("python", "wsolkit", "dask", "distributed", "torch", "torchvision")  # must agree on all machines


class DaskPool(Executor):
    """The threads of a Dask cluster as an executor.

    Args:
        address: of the scheduler, such as tcp://10.0.0.7:8786, or the path of its scheduler file (.json).
        limit: jobs at a time; 0 is one for each thread of the cluster.
        timeout: seconds to wait for the scheduler, for the answers of its workers, and, whenever there is none, for a worker.

    Raises:
        ValueError: dask.distributed is not installed. ConnectionError: no scheduler there.
    """

    def __init__(self, address: str, limit: int = 0, timeout: float = 60.0) -> None:
        try:
            from distributed import Client
            from distributed.comm import get_address_host_port
        except ModuleNotFoundError:
            raise WsolkitError(
                "a sweep on a Dask cluster needs dask.distributed: pip install 'wsolkit[dask]'"
            ) from None
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is raised
        self.address, self.limit, self.timeout = address, limit, timeout
        try:
            get_address_host_port(
                found := _resolved(address, timeout), strict=True
            )  # says what a client would not survive
            self.client = Client(found, timeout=timeout, set_as_default=False)
        except Exception as error:  # OSError, but a malformed address or another version raise anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ConnectionError(f"no Dask scheduler at {address} within {timeout:g} s ({reason}); give the address that "
                                  "`dask scheduler` prints, or its scheduler file") from error  # fmt: skip
        self.pool = self.client.get_executor(pure=False)
        self.threads, self.asked, self.heard = 0, float("-inf"), time.monotonic()

    def capacity(self) -> int:
        """Jobs that the cluster takes now; 0 where it has no worker at the moment.

        Raises:
            ConnectionError: the scheduler is gone, or there was no worker for `timeout` seconds.
        """
        if self.client.status in ("closing", "closed"):
            raise ConnectionError(f"the Dask scheduler at {self.address} is gone; what was finished is kept: start a "
                                  "scheduler and run the sweep again")  # fmt: skip
        if time.monotonic() - self.asked > 2.0:
            try:
                self.threads = sum(self.client.nthreads(callback_timeout=ANSWER).values())
            except Exception:  # no answer in time, or none at all while the client connects again
                self.threads = 0
            self.asked = time.monotonic()
            if self.threads:
                self.heard = self.asked
            elif self.asked - self.heard > self.timeout:
                raise ConnectionError(f"the Dask scheduler at {self.address} has no workers (waited {self.timeout:g} s); "
                                      "start some with `dask worker ADDRESS`")  # fmt: skip
        return min(self.limit or self.threads, self.threads)

    def check(self, token: Path, say: Callable[[str], None]) -> None:
        """Ask every worker what it has: the same packages and code, and the folder of the results.

        token: a file there.

        Raises:
            ConnectionError: no workers, or one that does not answer. ValueError: one that differs; all of them are named.
        """
        while not self.capacity():
            time.sleep(0.5)
        own = facts(str(token))
        asked = {name: self.client.get_executor(pure=False, workers=[name]).submit(questions(str(token)))
                 for name in self.client.nthreads()}  # fmt: skip
        if silent := wait(asked.values(), self.timeout).not_done:
            names = ", ".join(name for name, future in asked.items() if future in silent)
            raise ConnectionError(f"no answer within {self.timeout:g} s from Dask worker {names}; it may be busy with other "
                                  "work") from None  # fmt: skip
        problems = []
        for name, future in asked.items():
            try:
                problems += [f"{name}: {text}" for text in differences(own, future.result(), token)]
            except (Exception, CancelledError) as error:
                problems.append(f"{name}: {type(error).__name__}: {error} (is wsolkit installed there?)")
        if problems:
            raise WsolkitError("Dask workers that cannot run this sweep: " + "; ".join(problems))
        hosts = len({name.rsplit(":", 1)[0] for name in asked})
        say(f"Dask cluster {self.address}: {len(asked)} workers on {hosts} hosts, {self.threads} threads")

    def submit(self, function, /, *args, **kwargs) -> Future:
        return self.pool.submit(in_worker(function), *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; what still runs there is given up (the sweep has told it to stop)."""
        with contextlib.suppress(Exception):  # there may be nobody left to take leave of
            self.pool.shutdown(wait=False)
            self.client.close(timeout=ANSWER)


def in_worker(function: Callable) -> Callable:
    """The function as it is sent: a worker imports it by its name in the thread that runs it, and gives each job its share
    of the worker's cores.

    Nested, because Dask sends the code of nested functions. It would send a name for others, and a scheduler or worker
    that cannot import it while it reads the message ends, without a word to us.
    """
    module, name = function.__module__, function.__qualname__

    def run(*args: Any, **kwargs: Any) -> Any:
        import importlib
        import os

        from distributed import get_worker

        from wsolkit.common.cores import cores

        share = max(1, cores() // get_worker().state.nthreads)
        threads = int(os.environ.get("WSOLKIT_THREADS") or share)
        return getattr(importlib.import_module(module), name)(*args, threads=threads, **kwargs)

    return run


def facts(token: str) -> dict[str, str | None]:
    """What must be the same wherever jobs of a sweep run. The token's content is None where the file cannot be seen."""
    found: dict[str, str | None] = {"python": f"{sys.version_info[0]}.{sys.version_info[1]}"}
    for name in SAME[2:]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    try:
        content = Path(token).read_text(encoding="utf-8")
    except OSError:
        content = None
    return {**found, "wsolkit": code_state(WORKING_CODE), "token": content}


def questions(token: str) -> Callable[[], dict[str, str | None]]:
    """A function that finds the facts in a new process, which is what a job will be: a worker may be older than the code.
    Nested for the reason that `in_worker` gives."""

    def ask() -> dict[str, str | None]:
        import json
        import subprocess
        import sys

        code = "import json, sys; from wsolkit.sweep.dask_pool import facts; print(json.dumps(facts(sys.argv[1])))"
        done = subprocess.run([sys.executable, "-c", code, token], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
        return json.loads(done.stdout)

    return ask


def differences(own: dict[str, str | None], other: dict[str, str | None], token: Path) -> list[str]:
    """One line for each fact in which a worker (other) differs from this machine (own)."""
    found = [f"{name} {other.get(name)}, but {own[name]} here" for name in SAME if other.get(name) != own[name]]
    if other.get("token") != own["token"]:
        found.append(f"cannot see {token.parent}: the workers need the same folder (a shared file system)")
    return found


def _resolved(address: str, timeout: float) -> str:
    """The address itself, or what a scheduler file says, which may be about to be written."""
    if not address.endswith(".json"):
        return address
    path, end = Path(address), time.monotonic() + timeout
    while True:
        try:
            return json.loads(path.read_text(encoding="utf-8"))["address"]
        except (OSError, ValueError, KeyError) as error:
            if time.monotonic() > end:
                raise FileNotFoundError(f"{path} is absent or no scheduler file ({type(error).__name__})") from None
        time.sleep(0.2)
