"""One execution at a time in a folder, among all processes of all machines that share it. No torch import here.

On one machine a file lock decides. The processes that an execution starts inherit it, so it is free only when the last of
them has ended, whoever was killed first. Not every shared file system passes locks on to other machines; between machines
numbered lease files decide: the newest one counts, its holder touches it every few seconds, and it may be replaced when it
says that it was released, or when it was not touched for a long time (by the clock of the one who waits, so clocks need
not agree). A holder that was cut off meanwhile finds a newer lease than its own, and ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from pathlib import Path

from wsolkit.common.files import read_json, write_json

BEAT, STALE = 5.0, 120.0  # seconds between two touches, and without one until another machine may take over
_NAME = re.compile(r"\.lease-(\d+)\.json")


class Lease:
    """The right to work in a folder.

    Args:
        folder: made where it is absent.
        stale: seconds without a touch after which a lease of another machine counts as abandoned.
        host: name of this machine; by default host name and boot.
    """

    def __init__(self, folder: str | Path, stale: float = STALE, host: str | None = None) -> None:
        self.folder, self.stale, self.host = Path(folder), stale, host or this_machine()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = os.open(self.folder / ".lease.lock", os.O_RDWR | os.O_CREAT, 0o666)
        self.number = 0

    def acquire(self, pause: float = 0.2) -> None:
        """Wait until nobody else works here, then take the lease. Looks every `pause` seconds."""
        while not self._locked():
            time.sleep(pause)
        seen, silent, looked = None, 0.0, time.monotonic()
        while True:
            last = self._last()
            mark, now = self._mark(last), time.monotonic()
            # time in which we were stopped ourselves says nothing about the other one
            silent = 0.0 if mark != seen else silent + min(now - looked, 2 * pause)
            seen, looked = mark, now
            if (self._free(last) or silent > self.stale) and self._take(last + 1):
                return
            time.sleep(pause)

    def touch(self) -> bool:
        """Say that this execution is alive; False when another has taken over."""
        try:
            os.utime(self._path(self.number))
        except FileNotFoundError:
            return False
        except OSError:  # a file system that is away for a while; the others cannot see us either
            return True
        return self._last() == self.number

    def release(self) -> None:
        """Let the next one in. The file stays, so that a number is never given twice."""
        if self.touch():
            write_json(self._path(self.number), {"host": self.host, "pid": os.getpid(), "released": True})
        os.close(self.file)

    def _locked(self) -> bool:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _path(self, number: int) -> Path:
        return self.folder / f".lease-{number}.json"

    def _numbers(self) -> list[int]:
        found = (_NAME.fullmatch(name) for name in os.listdir(self.folder))
        return sorted(int(match[1]) for match in found if match)

    def _last(self) -> int:
        return max(self._numbers(), default=0)

    def _mark(self, number: int) -> tuple[int, int]:
        try:
            return number, self._path(number).stat().st_mtime_ns
        except OSError:
            return number, 0

    def _free(self, number: int) -> bool:
        """Whether lease `number` binds nobody: none was given yet, it was released, or it is one of this machine (whose
        lock we hold, so its processes have ended)."""
        if number == 0:
            return True
        try:
            content = read_json(self._path(number))
        except (OSError, ValueError):  # just being written, or replaced
            return False
        return bool(content.get("released")) or content.get("host") == self.host

    def _take(self, number: int) -> bool:
        """Create lease `number`; False where somebody else was faster."""
        try:
            with open(self._path(number), "x", encoding="utf-8") as file:
                file.write(f'{{"host": "{self.host}", "pid": {os.getpid()}}}\n')
        except FileExistsError:
            return False
        if self._last() != number:  # we looked long ago: others came and went meanwhile
            self._path(number).unlink(missing_ok=True)
            return False
        self.number = number
        for old in self._numbers():
            if old < number:
                self._path(old).unlink(missing_ok=True)
        return True


def this_machine() -> str:
    """Name of this machine since it was started (processes of an earlier boot have ended)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()} {boot}".strip()
