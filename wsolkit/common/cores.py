"""How many cores and which GPUs this process may use: the only place that counts them. No torch import here."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
from pathlib import Path, PurePosixPath

from wsolkit.common.errors import is_digits, require

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def cores(groups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Cores that this process may use: those of the machine, less what CPU affinity (taskset, Slurm, Dask) and the CPU
    quota of a container (Docker's `--cpus`, Kubernetes' limits) take away.

    Args:
        groups: where Linux mounts its control groups (version 2); absent on other systems.
        membership: the file in which Linux says to which group this process belongs.

    Returns:
        a number of at least 1. A quota of 2.5 cores counts as 2: a third thread would be held up half of the time.

    Example:
        >>> cores() >= 1
        True
    """
    if counted := getattr(os, "process_cpu_count", None):  # Python 3.13: affinity, and -X cpu_count
        allowed = counted()
    elif hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count()
    return max(1, int(min(allowed or 1, _quota(groups, membership))))


def _quota(groups: Path, membership: Path) -> float:
    """The smallest CPU quota, in cores, of this process's control group and those around it, or infinity."""
    own = next((line for line in _text(membership).splitlines() if line.startswith("0::")), "").removeprefix("0::/")
    around = (PurePosixPath(own), *PurePosixPath(own).parents)  # the path may be that of the host: the root is last
    limits = [_text(groups / group / "cpu.max").split() for group in around]
    known = [limit for limit in limits if len(limit) == 2 and limit[0].isdigit()]  # "max": no quota
    return min((int(share) / int(period) for share, period in known), default=float("inf"))


def _text(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8")
    return ""


def gpus() -> list[str]:
    """Names of the CUDA devices of this machine as CUDA_VISIBLE_DEVICES takes them; [] where there is none.

    They are those of CUDA_VISIBLE_DEVICES where it is set, else the UUIDs that `nvidia-smi -L` lists (numbers would
    depend on CUDA_DEVICE_ORDER).
    """
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = (name.strip() for name in given.split(","))
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))  # CUDA stops reading there too
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU \d+: .*\(UUID: (GPU-[\w-]+)\)", listed.stdout, re.M) if listed.returncode == 0 else []


def torchrun_processes() -> int:
    """The number of processes that torchrun started together, from its variable WORLD_SIZE; 1 without torchrun."""
    count = _number("WORLD_SIZE", "number of processes: unset it, or use torchrun", os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        advice = "use torchrun, which sets it, or unset WORLD_SIZE"
        most = {"RANK": count - 1, "LOCAL_RANK": count - 1, "MASTER_PORT": 65535}  # else the others are waited for
        for name, last in most.items():
            given = os.environ.get(name, "0" if name == "LOCAL_RANK" else "")
            _number(name, f"whole number of 0 to {last}: {advice}", given, 0, last)
        require(os.environ.get("MASTER_ADDR"), f"the environment variable MASTER_ADDR is not set: {advice}")
    return count


def chosen_threads() -> int | None:
    """The number of threads that the variable WSOLKIT_THREADS asks for; None where it is not set."""
    text = os.environ.get("WSOLKIT_THREADS")
    return _number("WSOLKIT_THREADS", "number of threads: unset it, or set it to 1 or more", text) if text else None


def _number(name: str, need: str, text: str, least: int = 1, most: int = 10**9) -> int:
    good = is_digits(text) and least <= int(text) <= most
    require(good, f"the environment variable {name} is {text[:20]!r}, no {need}")
    return int(text)
