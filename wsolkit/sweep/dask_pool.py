"""The jobs of a sweep on the workers of an existing Dask cluster, which share this machine's folders. No torch import here.

Dask decides who runs what: it runs a job again where a worker was lost (four times at most, its setting
`distributed.scheduler.allowed-failures`), and forgets what runs when the sweep leaves, whereupon the workers end it.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wsolkit.common.code import code_state
from wsolkit.common.errors import WsolkitError
from wsolkit.runs.folder import content_of

ANSWER = 10.0  # seconds that a scheduler may take for a short answer
PACKAGES = ("dask", "distributed", "torch", "torchvision")  # must agree on all machines


class DaskPool(Executor):
    """The threads of a Dask cluster as an executor.

    Args:
        address: of the scheduler, such as tcp://10.0.0.7:8786, or the path of its scheduler file (.json).
        limit: jobs at a time; 0 is one for each thread of the cluster.
        timeout: seconds to wait for the scheduler, for the answers of its workers, and, whenever there is none, for a worker.

    Raises:
        WsolkitError: dask.distributed is not installed.
        ConnectionError: no scheduler there.
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
        self.threads, self.heard = 0, time.monotonic()
        try:
            while (resolved := _resolved(address)) is None:  # a scheduler file may be about to be written
                if time.monotonic() - self.heard > timeout:
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

        Raises:
            ConnectionError: the scheduler is gone, or there was no worker for `timeout` seconds.
        """
        if self.client.status in ("closing", "closed"):
            hint = "what was finished is kept: start a scheduler and run the sweep again"
            raise ConnectionError(f"the Dask scheduler at {self.address} is gone; {hint}")
        self.threads = 0
        with contextlib.suppress(Exception):  # no answer in time, or none at all while the client connects again
            self.threads = sum(self.client.nthreads(callback_timeout=ANSWER).values())
        now = time.monotonic()
        self.heard = now if self.threads else self.heard
        if now - self.heard > self.timeout:
            waited = f"(waited {self.timeout:g} s); start some with `dask worker ADDRESS`"
            raise ConnectionError(f"the Dask scheduler at {self.address} has no workers {waited}")
        return min(self.limit or self.threads, self.threads)

    def check(self, folder: Path, say: Callable[[str], None]) -> None:
        """Ask every worker what it has: the same packages and code, and the folder of the results.

        Raises:
            ConnectionError: there are no workers.
            WsolkitError: one that differs; all of them are named.
        """

        def ask(path: str) -> dict[str, str]:  # nested for the reason that `submit` gives
            from wsolkit.sweep.dask_pool import facts

            return facts(path)

        while not self.capacity():
            time.sleep(0.5)
        with tempfile.NamedTemporaryFile(prefix=".seen-", dir=folder) as token:
            own, answers = facts(token.name), self.client.run(ask, token.name, on_error="return")
        problems = [f"{name}: {text}" for name, answer in answers.items() for text in differences(own, answer)]
        if problems:
            raise WsolkitError("Dask workers that cannot run this sweep: " + "; ".join(problems))
        hosts = len({name.rpartition(":")[0] for name in answers})
        say(f"Dask cluster {self.address}: {len(answers)} workers on {hosts} hosts, {self.threads} threads")

    def submit(self, function, /, *args, **kwargs) -> Future:
        """Run `function` with its share of a worker's cores as `threads`, and with `stop`, which says whether Dask has
        cancelled it."""
        module, name = function.__module__, function.__qualname__

        # Nested, because Dask sends the code of nested functions. It would send a name for others, and a scheduler or worker
        # that cannot import it while it reads the message ends, without a word to us.
        def run(*args: Any, **kwargs: Any) -> Any:
            import importlib
            import os

            from distributed import get_worker

            from wsolkit.common.cores import cores

            worker = get_worker()
            key = worker.get_current_task()

            def cancelled() -> bool:
                task = worker.state.tasks.get(key)
                return task is None or task.state == "cancelled"

            threads = int(os.environ.get("WSOLKIT_THREADS") or max(1, cores() // worker.state.nthreads))
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
    """What must be the same wherever jobs of a sweep run; `token` is a file in the folder of the results. (A worker keeps the
    code that it has read: after a change workers are started again.)"""
    seen = "seen" if Path(token).exists() else "not seen (all need the same folder, on a shared file system)"
    own = {"python": platform.python_version().rpartition(".")[0], "wsolkit": code_state((".",))}
    return own | {name: version(name) for name in PACKAGES} | {str(Path(token).parent): seen}


def differences(own: dict[str, str], other: dict[str, str] | Exception) -> list[str]:
    """One line for each fact in which a worker (other) differs from this machine (own), or for its error."""
    if isinstance(other, Exception):
        return [f"{type(other).__name__}: {other} (is wsolkit installed there?)"]
    return [f"{name} {other.get(name)}, but {own[name]} here" for name in own if other.get(name) != own[name]]


def _resolved(address: str) -> str | None:
    """The address itself, or what a scheduler file says; None where it says nothing."""
    return content_of(Path(address)).get("address") if address.endswith(".json") else address
