"""A lock that leaves no file: removing it never lets two holders in."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import alone, atomic_path

HOLDER = """
import sys, time
from pathlib import Path
from wsolkit.common.files import alone
path, turns = Path(sys.argv[1]), int(sys.argv[2])
for _ in range(turns):
    with alone(path):
        inside = path.with_name("inside")
        with open(inside, "x"):  # FileExistsError where another one is inside
            pass
        time.sleep(0.001)
        inside.unlink()
"""


def test_processes_that_wait_are_never_inside_together(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "work.lock"), "40"]
    processes = [subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    assert list(tmp_path.iterdir()) == []


def test_a_waiting_one_goes_in_when_the_holder_leaves(tmp_path):
    seen = []

    def wait():
        with alone(tmp_path / "new" / "work.lock"):
            seen.append("second")

    with alone(tmp_path / "new" / "work.lock"):
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.3)
        seen.append("first")
    thread.join(30)
    assert seen == ["first", "second"] and list((tmp_path / "new").iterdir()) == []


def test_what_another_holds_is_a_timeout(tmp_path):
    with FileLock(tmp_path / "work.lock"), pytest.raises(Timeout), alone(tmp_path / "work.lock", timeout=0):
        pass
    with FileLock(tmp_path / "work.lock"), pytest.raises(WsolkitError, match="wait for it"):  # noqa: SIM117
        with alone(tmp_path / "work.lock", busy="wait for it"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["work.lock"], "that of the other one stays"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, whose disk is always full")
def test_a_full_disk_is_named_with_the_file_and_nothing_stays(tmp_path):
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*result\.json'"),
        atomic_path(tmp_path / "result.json"),
        open("/dev/full", "w") as full,
    ):
        full.write("x" * 10_000)
        full.flush()
    assert not [*tmp_path.iterdir()]
