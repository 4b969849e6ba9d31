"""One process at a time, decided by a file lock that the system releases when its holder dies, and that leaves no file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from wsolkit.common.errors import WsolkitError


@contextlib.contextmanager
def alone(path: str | Path, timeout: float = -1, busy: str = "") -> Iterator[None]:
    """Hold the lock file `path` (its folder is made where it is absent), and remove it at the end.

    It is removed while it is held. A process that had opened the file before and waits for it then gets a lock on a file
    without a name; filelock (from version 4) notices that and starts over, so no two processes ever hold the lock.

    Args:
        timeout: seconds to wait; negative is for ever.
        busy: an error to raise at once where another process holds the lock; "" is to wait.

    Raises:
        filelock.Timeout: another process still holds it. WsolkitError: the same, with the text of `busy`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with alone(f"{folder}/work.lock"):
        ...         print(len(list(Path(folder).iterdir())))
        ...     print(len(list(Path(folder).iterdir())))
        1
        0
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, 0 if busy else timeout)
    try:
        lock.acquire()
    except Timeout:
        if not busy:
            raise
        raise WsolkitError(busy) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file
            path.unlink()
        lock.release()
