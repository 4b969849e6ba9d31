"""A sweep on a Dask cluster: a real scheduler and real workers on loopback; one is killed, nothing is lost or run twice."""

from __future__ import annotations

import csv
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from small_jobs import GOOD, events, tiny_job, until

from wsolkit.cli.main import cli

pytest.importorskip("distributed", reason="dask.distributed is not installed: pip install 'wsolkit[dask]'")

from wsolkit.sweep.scheduler import DaskPool, Sweep, differences, facts

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 1500.0  # seconds; only an error takes so long


class Cluster:
    """A scheduler and workers of one thread each, as processes on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, []
        self.file = folder / "scheduler.json"
        self.bare = folder / "bare"  # where Python finds no wsolkit that works
        self.bare.mkdir()
        (self.bare / "wsolkit.py").write_text("raise ImportError('this machine has no wsolkit')\n")
        self.scheduler = self.start("scheduler", "--port", "0", package=self.bare)
        until(self.file.exists, PATIENCE)

    def start(self, kind: str, *options: str, package: Path = ROOT) -> subprocess.Popen:
        command = [
            *(sys.executable, "-m", f"distributed.cli.dask_{kind}", "--host", "127.0.0.1", "--no-dashboard"),
            *("--scheduler-file", str(self.file), *options),
        ]
        environment = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
        with open(self.folder / f"{kind}-{len(self.processes)}.log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.folder)
        self.processes.append(process)
        return process

    def worker(self, **more) -> subprocess.Popen:
        local = self.folder / f"local-{len(self.processes)}"
        return self.start("worker", "--no-nanny", "--nthreads", "1", "--local-directory", str(local), **more)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    folder = tmp_path / "cluster"
    folder.mkdir()
    cluster = Cluster(folder)
    yield cluster
    cluster.stop()


def sweep_command(cluster: Cluster, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "wsolkit", "sweep", "--backbones", "resnet18", "--methods", "cam"),
        *("--per-class", "2", "--classes", "2", "--size", "32", "--width", "0.125", "--epochs", "1", "--limit", "4"),
        *("--dask", str(cluster.file), "--dask-timeout", str(PATIENCE), "--out", str(out)),
    ]


def test_a_sweep_outlives_a_killed_worker(cluster, tmp_path):
    workers = {process.pid: process for process in (cluster.worker(), cluster.worker())}
    out = tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(tmp_path / "said", "wb") as said:
        sweep = subprocess.Popen(sweep_command(cluster, out), stdout=said, stderr=said, env=environment, cwd=tmp_path)
    try:

        def training():
            for folder in (out / "runs/synthetic/resnet18").glob("train-gap-*"):
                for event in events(folder):
                    if psutil.pid_exists(event["pid"]) and psutil.Process(event["pid"]).children():
                        return event
            return None

        begun = until(training, PATIENCE)  # its kernel is there: it is in the middle of the work
        victim = psutil.Process(begun["pid"]).ppid()
        os.kill(victim, signal.SIGKILL)
        assert sweep.wait(timeout=PATIENCE) == 0, (tmp_path / "said").read_text()
    finally:
        sweep.kill()
    said = (tmp_path / "said").read_text()
    assert "2 workers on 1 hosts, 2 threads" in said and "2 of 2 runs" in said

    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [(row["method"], row["status"]) for row in rows] == [("cam", "completed")]
    folders = [path.parent for path in sorted(out.rglob("executions.jsonl"))]
    assert len(folders) == 2
    for folder in folders:
        lines = events(folder)
        assert [line["event"] for line in lines] == ["start", "end"] * (len(lines) // 2), "one after the other"
        assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
        assert all(a["pid"] == b["pid"] for a, b in zip(lines[::2], lines[1::2], strict=True))
        outcomes = [line["outcome"] for line in lines[1::2]]
        assert outcomes[-1] == "done"
        if folder.name.startswith("train-"):
            assert outcomes == ["the process that started this one is gone", "done"]
            assert lines[0] == begun
        else:
            assert outcomes == ["done"]
    assert victim in workers and workers[victim].wait(60) == -signal.SIGKILL
    (other,) = (process for pid, process in workers.items() if pid != victim)
    assert other.poll() is None, "the other worker is still there, for the next sweep"
    assert not list(out.rglob(".lock")) and not list(out.rglob(".seen-*")) and not list(out.rglob("*.part"))


def test_clusters_that_cannot_run_a_sweep_are_told_in_one_error(cluster, tmp_path):
    pool = DaskPool(str(cluster.file), timeout=0.5)
    with pytest.raises(ConnectionError, match=r"has no workers \(waited 0.5 s\).*dask worker"):
        pool.check(tmp_path, print)
    pool.shutdown()

    shutil.copytree(ROOT / "wsolkit", tmp_path / "other" / "wsolkit", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "other" / "wsolkit" / "files.py", "a", encoding="utf-8") as file:
        file.write("\nCHANGED = True\n")
    cluster.worker(package=tmp_path / "other")
    cluster.worker(package=cluster.bare)
    pool = DaskPool(str(cluster.file), timeout=PATIENCE)
    until(lambda: pool.capacity() == 2, PATIENCE)
    with pytest.raises(ValueError, match="cannot run this sweep") as caught:
        pool.check(tmp_path, print)
    pool.shutdown()
    assert "wsolkit" in str(caught.value) and "but" in str(caught.value) and "no wsolkit" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_every_difference_is_named(tmp_path):
    token = tmp_path / "token"
    token.touch()
    own = facts(str(token))
    assert own["wsolkit"] and differences(own, dict(own)) == []
    token.unlink()
    (line,) = differences(own, facts(str(token)))
    assert line.startswith(f"{tmp_path} not seen") and "a shared file system" in line
    assert differences(own, {**own, "python": "3.8", "torch": None}) == [
        f"python 3.8, but {own['python']} here", f"torch None, but {own['torch']} here",
    ]  # fmt: skip


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "tcp://x:y", "absent.json"])
def test_no_scheduler_is_one_error(capfd, address):
    with pytest.raises(ConnectionError, match=f"no Dask scheduler at {address} within 0.3 s") as caught:
        DaskPool(address, timeout=0.3)
    assert len(str(caught.value).splitlines()) == 1
    gc.collect()
    assert capfd.readouterr() == ("", ""), "nothing else is said"


def test_no_scheduler_leaves_no_files(tmp_path):
    words = ["sweep", "--per-class", "2", "--classes", "2", "--size", "32", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, [*words, "--dask", "tcp://127.0.0.1:9", "--dask-timeout", "1"])
    assert "no Dask scheduler at tcp://127.0.0.1:9 within 1 s" in str(done.exception)
    assert isinstance(done.exception, OSError), "the entry point makes one line of it"
    assert not (tmp_path / "out").exists()


def test_the_end_of_the_scheduler_ends_the_sweep(cluster, tmp_path):
    """The worker ends with its scheduler, the job with the worker, and the sweep says so; what is done stays done."""
    cluster.worker()
    jobs = [
        tiny_job(tmp_path, "first", GOOD),
        tiny_job(tmp_path, "endless", "import time; time.sleep(600)", needs=("first",)),
    ]
    pool = DaskPool(str(cluster.file), timeout=PATIENCE)
    until(pool.capacity, PATIENCE)
    pool.client._timeout = 1.0  # how long the client tries to find the scheduler again
    killer = threading.Thread(
        target=lambda: (until(lambda: events(jobs[1].folder), PATIENCE), cluster.scheduler.kill()), daemon=True
    )
    killer.start()
    with pytest.raises(ConnectionError, match=r"the Dask scheduler at .* is gone"):
        Sweep(jobs, pool=pool, say=lambda line: None).run()
    assert jobs[0].fresh()
    end = until(lambda: events(jobs[1].folder)[1:], PATIENCE)
    assert end[0]["event"] == "end" and end[0]["outcome"] in (
        "stopped by the sweep", "the process that started this one is gone",
    )  # fmt: skip
    assert not (jobs[1].folder / "failure.json").exists(), "a run that was stopped is not a failed one"


def test_a_killed_sweep_ends_its_jobs(cluster, tmp_path):
    """SIGKILL of the process that asked for the job, and that takes no leave: Dask forgets the job, and its worker ends it."""
    cluster.worker()
    job = tiny_job(tmp_path, "endless", "import time; time.sleep(600)")
    code = (
        "import json, sys; from concurrent.futures import wait; from wsolkit.sweep.scheduler import DaskPool\n"
        "from wsolkit.sweep.worker import run_job\n"
        "wait([DaskPool(sys.argv[1], timeout=60).submit(run_job, json.loads(sys.argv[2]))])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(cluster.file), json.dumps(job.content())]
    client = subprocess.Popen(command, env=environment)
    until(lambda: events(job.folder), PATIENCE)
    client.kill()
    client.wait()
    _, end = until(lambda: events(job.folder)[1:] and events(job.folder), PATIENCE)
    assert end["outcome"] == "stopped by the sweep"
    until(lambda: not psutil.pid_exists(end["pid"]), 60)  # its last line is written a moment before it ends
    assert not (job.folder / "failure.json").exists() and not (job.folder / ".lock").exists()
