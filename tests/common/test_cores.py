"""The cores that this process may use: affinity and the quota of a container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsolkit.common.cores import cores

NOWHERE = Path("/nonexistent")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="CPU affinity is set through Linux's call")
def test_affinity_counts():
    one_core = {min(os.sched_getaffinity(0))}
    code = f"import os; os.sched_setaffinity(0, {one_core}); from wsolkit.common.cores import cores; print(cores())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "1"


@pytest.mark.parametrize(
    "membership, files, quota",
    [
        ("0::/pod/box\n", {"pod/box/cpu.max": "250000 100000"}, 2),
        ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000", "pod/cpu.max": "100000 100000"}, 1),
        ("0::/seen/from/outside\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000"}, 64),
    ],
)
def test_the_quota_of_a_container_counts(tmp_path, monkeypatch, membership, files, quota):
    for name in ("process_cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    (tmp_path / "member").write_text(membership)
    for name, content in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(content + "\n")
    assert cores(tmp_path / "groups", tmp_path / "member") == quota


def test_elsewhere_the_machine_counts(monkeypatch):
    for name in ("process_cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    for count, answer in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda: count)  # noqa: B023
        assert cores(NOWHERE, NOWHERE) == answer
