"""One execution at a time in a folder, whoever was killed, and what becomes of a process that cannot start or must end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
from small_jobs import events, tiny_job, until

from wsolkit.sweep.worker import INTERRUPTED, STOPPED, run_job

ROOT = Path(__file__).resolve().parents[2]
TICKING = """
import json, os, pathlib, time
with open(pathlib.Path(where).parent / "ticks", "a", buffering=1) as ticks:
    for _ in range(TICKS):
        print(os.getpid(), time.time(), file=ticks)
        time.sleep(0.02)
pathlib.Path(where, 'metrics.json').write_text(json.dumps({'status': 'completed', 'fingerprint': 'key', 'result': {}}))
"""


def one_after_the_other(ticks: Path) -> list[str]:
    """The kernels that have ticked, two of them: the second began when the first had ended."""
    kernels = [line.split() for line in ticks.read_text().splitlines()]
    order = list(dict.fromkeys(pid for pid, _ in kernels))
    assert len(order) == 2
    times = [[float(moment) for pid, moment in kernels if pid == name] for name in order]
    assert max(times[0]) < min(times[1])
    return order


def test_the_kernel_of_a_killed_process_has_ended_before_the_next_one_starts(tmp_path):
    """SIGKILL of the process that holds the lock: its kernel lives on for a moment, and the next one waits for that."""
    job = tiny_job(tmp_path, "ticking", TICKING.replace("TICKS", "40"))
    endless = tiny_job(tmp_path, "ticking", TICKING.replace("TICKS", "100000"))
    ticks = job.folder.parent / "ticks"
    first = threading.Thread(target=run_job, args=(endless.content(),))
    first.start()
    until(lambda: ticks.exists() and ticks.read_text().count("\n") > 3)
    (start,) = events(job.folder)
    job = tiny_job(tmp_path, "ticking", TICKING.replace("TICKS", "40"))
    os.kill(start["pid"], signal.SIGKILL)
    assert run_job(job.content())[0] == ""
    first.join(1500)
    one_after_the_other(ticks)
    assert [event["event"] for event in events(job.folder)] == ["start", "start", "end"]


def test_who_waited_for_the_same_job_does_not_repeat_it(tmp_path):
    job = tiny_job(tmp_path, "ticking", TICKING.replace("TICKS", "40"))
    threads = [threading.Thread(target=run_job, args=(job.content(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(1500)
    assert len({line.split()[0] for line in (job.folder.parent / "ticks").read_text().splitlines()}) == 1
    assert [event.get("outcome") for event in events(job.folder)] == [None, "done", None, "was done"]


def test_a_process_that_cannot_start_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\nread -r job\necho 'no module named wsolkit' >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    job = tiny_job(tmp_path, "ticking", TICKING)
    assert run_job(job.content())[0] == "the process ended with code 1: no module named wsolkit"


def test_a_killed_sweep_leaves_no_process_behind_and_the_next_one_starts_after_its_kernel(tmp_path):
    """SIGKILL of the process that waits for the job: the job's process and the kernel end by themselves."""
    ticks = tmp_path / "runs/d/b/ticks"
    endless = tiny_job(tmp_path, "ticking", TICKING.replace("TICKS", "100000"))
    code = "import json, sys; from wsolkit.sweep.worker import run_job; run_job(json.loads(sys.argv[1]))"
    parent = subprocess.Popen([sys.executable, "-c", code, json.dumps(endless.content())])
    until(lambda: ticks.exists() and ticks.read_text().count("\n") > 3)
    parent.kill()
    parent.wait()
    again = tiny_job(tmp_path, "ticking", TICKING.replace("TICKS", "40"))
    assert run_job(again.content())[0] == ""
    first, second = one_after_the_other(ticks)
    assert not psutil.pid_exists(int(first)) and not psutil.pid_exists(int(second))
    outcomes = [event.get("outcome") for event in events(again.folder)]
    assert outcomes == [None, "the process that started this one is gone", None, "done"]
    assert not (again.folder / ".lock").exists()


def test_a_process_ends_when_its_folder_is_gone(tmp_path):
    """Its last line cannot be written (nor on a full disk); once it stayed then, and the sweep waited for it for ever."""
    code = (
        "import shutil, sys, time; from pathlib import Path; from wsolkit.sweep.worker import Execution\n"
        "with Execution(Path(sys.argv[1]), sys.stdin.buffer.raw).alone():\n"
        "    shutil.rmtree(sys.argv[1]); print('gone', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command, **pipes, text=True, cwd=ROOT)
    assert process.stdout.readline() == "gone\n"
    _, said = process.communicate("stop", timeout=300)
    assert process.returncode == STOPPED and "stopped by the sweep; [Errno 2]" in said


def test_ctrl_c_that_reaches_a_job_is_no_failure(tmp_path, monkeypatch):
    code = (
        "import os, signal; input(); signal.signal(2, signal.SIG_DFL); os.kill(os.getpid(), 2)"  # ignored after nohup
    )
    (tmp_path / "python").write_text(f"#!{sys.executable}\n{code}\n")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").chmod(0o755)
    job = tiny_job(tmp_path, "ticking", TICKING)
    assert run_job(job.content())[0] == INTERRUPTED and not (job.folder / "failure.json").exists()
