"""What runs jobs: any executor, the pool of this machine, and which GPU a job gets."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest
from small_jobs import GOOD, tiny_job

from wsolkit.common.cores import cores, gpus
from wsolkit.sweep.scheduler import LocalPool, Sweep
from wsolkit.sweep.worker import INTERRUPTED

LISTED = """GPU 0: NVIDIA H200 (UUID: GPU-11111111-aaaa-bbbb-cccc-000000000000)
  MIG 1g.18gb     Device  0: (UUID: MIG-22222222-aaaa-bbbb-cccc-000000000000)
GPU 1: NVIDIA H200 (UUID: GPU-33333333-aaaa-bbbb-cccc-000000000000)
"""


@pytest.mark.parametrize(
    "visible,found",
    [("0,1", ["0", "1"]), ("GPU-1a, GPU-2b", ["GPU-1a", "GPU-2b"]), ("1,-1,0", ["1"]), ("", []), ("-1", [])],
)
def test_gpus_that_are_visible(monkeypatch, visible, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == found


def test_gpus_of_the_machine_by_their_uuids(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == [], "no driver here"
    (tmp_path / "listed").write_text(LISTED)
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = -L ] && while read -r line; do echo "$line"; done < {tmp_path / "listed"}\n'
    )
    program.chmod(0o755)
    assert gpus() == ["GPU-11111111-aaaa-bbbb-cccc-000000000000", "GPU-33333333-aaaa-bbbb-cccc-000000000000"]
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert gpus() == []


def test_jobs_at_a_time_are_spread_over_the_gpus():
    together = threading.Barrier(4)

    def job(threads, environment, stop):
        together.wait(600)  # four run at a time
        return environment["CUDA_VISIBLE_DEVICES"], threads

    with LocalPool(4, ["GPU-a", "GPU-b"]) as pool:
        found = [future.result(600) for future in [pool.submit(job) for _ in range(8)]]
    assert sorted(name for name, _ in found[:4]) == sorted(name for name, _ in found[4:])
    assert sorted(name for name, _ in found) == ["GPU-a"] * 4 + ["GPU-b"] * 4
    assert {threads for _, threads in found} == {max(1, cores() // 4)}
    with LocalPool(2, ["GPU-a"]) as pool:
        assert pool.submit(lambda threads, environment, stop: environment).result(600) == {}, "one GPU is everyone's"


@pytest.mark.slow
def test_a_sweep_runs_in_any_executor(tmp_path):
    job = tiny_job(tmp_path, "one", GOOD)
    assert Sweep([job], workers=1, say=lambda line: None, pool=ProcessPoolExecutor(1)).run() == {}
    assert job.fresh()


def test_a_job_that_others_stopped_is_an_error(tmp_path):
    class Stopping(ProcessPoolExecutor):
        def submit(self, function, /, *args, **kwargs):
            return super().submit(tuple, [INTERRUPTED, 0.0])

    errors = Sweep([tiny_job(tmp_path, "one", GOOD)], say=lambda line: None, pool=Stopping(1)).run()
    assert errors["one"].startswith("stopped from outside")


def test_a_pool_that_breaks_is_an_error_of_its_jobs(tmp_path):
    class Broken(ProcessPoolExecutor):
        def submit(self, function, /, *args, **kwargs):
            return super().submit(os._exit, 3)

    errors = Sweep([tiny_job(tmp_path, "one", GOOD)], say=lambda line: None, pool=Broken(1)).run()
    assert errors["one"].startswith("BrokenProcessPool")
