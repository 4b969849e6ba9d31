"""One execution at a time in a folder: processes of this machine by a lock, other machines by leases that grow old."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from small_jobs import events, tiny_job, until

from wsolkit.sweep.lease import Lease
from wsolkit.sweep.pools import INTERRUPTED, run_job
from wsolkit.sweep.worker import STOPPED

ROOT = Path(__file__).resolve().parents[2]
TICKING = """
import json, os, pathlib, time
with open(pathlib.Path(where).parent / "ticks", "a", buffering=1) as ticks:
    for _ in range(TICKS):
        print(os.getpid(), time.time(), file=ticks)
        time.sleep(0.02)
pathlib.Path(where, 'metrics.json').write_text(json.dumps({'status': 'completed', 'fingerprint': 'key', 'result': {}}))
"""


def content(job, **more):
    return {
        "notebook": str(job.notebook), "parameters": job.parameters, "config": job.config, "folder": str(job.folder),
        "done": str(job.done), "fingerprint": job.key, "html": None, "title": job.title, **more,
    }  # fmt: skip


def in_background(lease: Lease) -> tuple[threading.Thread, threading.Event]:
    got = threading.Event()
    thread = threading.Thread(target=lambda: (lease.acquire(0.01), got.set()), daemon=True)
    thread.start()
    return thread, got


def test_processes_of_one_machine_take_turns(tmp_path):
    """Four processes, thirty turns each, on a counter that would lose counts if two were inside at once."""
    (tmp_path / "count").write_text("0")
    code = (
        "import pathlib, sys, time\nfrom wsolkit.sweep.lease import Lease\n"
        "count = pathlib.Path(sys.argv[1], 'count')\n"
        "for _ in range(30):\n"
        "    lease = Lease(sys.argv[1]); lease.acquire(0.001)\n"
        "    old = int(count.read_text()); time.sleep(0.001); count.write_text(str(old + 1)); lease.release()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(command, env=environment) for _ in range(4)]
    assert [process.wait(timeout=1500) for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "120"
    assert [path.name for path in tmp_path.glob(".lease-*.json")] == [".lease-120.json"]


class OtherMachine(Lease):
    """A lease of a machine to which the lock is not passed on."""

    def _locked(self) -> bool:
        return True


def test_another_machine_waits_while_the_holder_lives_and_takes_over_when_it_is_silent(tmp_path):
    holder = OtherMachine(tmp_path, host="a")
    holder.acquire()
    other = OtherMachine(tmp_path, stale=1.0, host="b")
    _, got = in_background(other)
    for _ in range(30):
        assert holder.touch() and not got.wait(0.1), "a holder that is heard of keeps the folder"
    assert got.wait(1500), "it is silent now"
    assert not holder.touch(), "it was cut off, and learns so"
    assert other.touch() and other.number == 2
    holder.release()
    assert other.touch(), "what was cut off cannot give away the lease of another"


def test_a_released_lease_binds_nobody_at_once(tmp_path):
    first = OtherMachine(tmp_path, host="a")
    first.acquire()
    other = OtherMachine(tmp_path, host="b")
    _, got = in_background(other)
    assert not got.wait(0.3)
    first.release()
    assert got.wait(1500) and other.number == 2


def test_of_many_machines_that_wait_one_takes_over_at_a_time(tmp_path):
    OtherMachine(tmp_path, host="dead").acquire()
    waiting = [OtherMachine(tmp_path, stale=1.0, host=f"machine {i}") for i in range(8)]
    inside: list[str] = []
    overlaps = []

    def work(lease):
        lease.acquire(0.01)
        inside.append(lease.host)
        for _ in range(5):
            time.sleep(0.02)
            if not lease.touch() or inside != [lease.host]:
                overlaps.append(list(inside))
        inside.remove(lease.host)
        lease.release()

    threads = [threading.Thread(target=work, args=(lease,)) for lease in waiting]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(1500)
    assert not overlaps and sorted(lease.number for lease in waiting) == list(range(2, 10))


def test_a_number_is_never_given_twice(tmp_path):
    slow = OtherMachine(tmp_path, host="slow")
    for host in "ab":
        lease = OtherMachine(tmp_path, host=host)
        lease.acquire()
        lease.release()
    assert not slow._take(1), "it looked before the others came"
    assert slow.number == 0 and [path.name for path in tmp_path.glob(".lease-*")] == [".lease-2.json"]
    slow.acquire()
    assert slow.number == 3


def test_the_kernel_of_a_killed_process_has_ended_before_the_next_one_starts(tmp_path):
    """SIGKILL of the process that holds the lease: its kernel lives on for a moment, and the next one waits for that."""
    job = tiny_job(tmp_path, "ticking", TICKING.replace("TICKS", "40"))
    endless = tiny_job(tmp_path, "ticking", TICKING.replace("TICKS", "100000"))
    ticks = job.folder.parent / "ticks"
    first = threading.Thread(target=run_job, args=(content(endless),))
    first.start()
    until(lambda: ticks.exists() and ticks.read_text().count("\n") > 3)
    (start,) = events(job.folder)
    job = tiny_job(tmp_path, "ticking", TICKING.replace("TICKS", "40"))
    os.kill(start["pid"], signal.SIGKILL)
    assert run_job(content(job))[0] == ""
    first.join(1500)
    kernels = [line.split() for line in ticks.read_text().splitlines()]
    order = list(dict.fromkeys(pid for pid, _ in kernels))
    assert len(order) == 2
    assert max(float(t) for pid, t in kernels if pid == order[0]) < min(
        float(t) for pid, t in kernels if pid == order[1]
    )
    assert [event["event"] for event in events(job.folder)] == ["start", "start", "end"]


def test_who_waited_for_the_same_job_does_not_repeat_it(tmp_path):
    job = tiny_job(tmp_path, "ticking", TICKING.replace("TICKS", "40"))
    threads = [threading.Thread(target=run_job, args=(content(job),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(1500)
    assert len({line.split()[0] for line in (job.folder.parent / "ticks").read_text().splitlines()}) == 1
    assert [event.get("outcome") for event in events(job.folder)] == [None, "done", None, "was done"]


def test_other_code_than_that_of_the_sweep_is_refused(tmp_path):
    job = tiny_job(tmp_path, "ticking", TICKING.replace("TICKS", "1"))
    error, _ = run_job(content(job, code="0123456789abcdef"))
    assert "has other code of wsolkit" in error and "0123456789abcdef" in error and not job.done.exists()


def test_a_process_that_cannot_start_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\ncat > /dev/null\necho 'no module named wsolkit' >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    job = tiny_job(tmp_path, "ticking", TICKING)
    assert run_job(content(job))[0] == "the process ended with code 1: no module named wsolkit"


def test_a_process_ends_when_its_folder_is_gone(tmp_path):
    """Its last line cannot be written (nor on a full disk); once it stayed then, and the sweep waited for it for ever."""
    code = (
        "import shutil, sys, threading, time; from wsolkit.sweep.worker import Guard\n"
        "guard = Guard({'folder': sys.argv[1], 'token': sys.argv[1] + '/token'}); guard.enter()\n"
        "threading.Thread(target=guard.watch, daemon=True).start()\n"
        "shutil.rmtree(sys.argv[1]); time.sleep(600)"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run/token").touch()
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == STOPPED and "stopped by the sweep; [Errno 2]" in done.stderr


def test_ctrl_c_that_reaches_a_job_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\ncat > /dev/null\nkill -INT $$\n")
    (tmp_path / "python").chmod(0o755)
    job = tiny_job(tmp_path, "ticking", TICKING)
    assert run_job(content(job))[0] == INTERRUPTED and not (job.folder / "failure.json").exists()
