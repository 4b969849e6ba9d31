"""Files that are either whole or absent: every result is written beside its place and renamed into it. And locks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from wsolkit.common.errors import WsolkitError, require

SHOWN = 20  # entries that an error lists before it only counts
HEAD = 8192  # bytes at the beginning of a file


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` when the block ends well, else remove it.

    Raises: OSError: nothing can be written there.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the path of a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        wrong = f"{path} cannot be written, as {path.parent} is no folder; choose another path"
        raise NotADirectoryError(wrong) from None
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    part.touch(exist_ok=False)
    try:
        yield part
        with open(part, "rb+") as file:  # data must be on disk before the name is: a crash may not leave an empty file
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full disk, say: Python does not know of which file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: str | Path, timeout: float = -1, busy: str = "") -> Iterator[None]:
    """Hold the lock file `path` (its folder is made where it is absent), and remove it at the end.

    It is removed while it is held. A process that had opened the file before and waits for it then gets a lock on a
    file without a name; filelock (from version 4) notices that and starts over, so no two processes ever hold the lock.

    Args:
        timeout: seconds to wait; negative is for ever.
        busy: an error to raise at once where another process holds the lock; "" is to wait.

    Raises: filelock.Timeout: another process still holds it. WsolkitError: the same, with the text of `busy`.

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
    try:
        lock = FileLock(path, 0 if busy else timeout).acquire()
    except Timeout:
        if not busy:
            raise
        raise WsolkitError(busy) from None
    with lock:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes no open file
                path.unlink()


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    with atomic_path(path) as part:
        part.write_bytes(data)


def atomic_write_text(path: str | Path, text: str) -> None:
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_save_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Save arrays as a compressed .npz; object arrays are refused, since they could only be read back with pickle."""
    for key, array in arrays.items():
        if np.asarray(array).dtype == object:
            raise TypeError(f"{path}: array '{key}' has dtype object; save numbers, booleans or fixed-width strings")
    with atomic_path(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes names for its own options


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON that every parser reads: NaN and infinity become null."""
    atomic_write_text(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path, advice: str = "delete it and run again") -> Any:
    """The content of a JSON file, whose objects name no key twice (of two values the first would be lost)."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except FileNotFoundError:
        raise
    except (ValueError, RecursionError, OSError) as error:  # OSError: a folder, say
        why = getattr(error, "strerror", None) or error
        raise WsolkitError(f"{path} is not readable JSON ({why}); {advice}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key '{next(name for name in names if names.count(name) > 1)}' is written twice")
    return made


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that is written twice in a mapping (the first would be lost) and
    whole numbers that are others than they look."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for number, key in enumerate(keys):
            if key.value in [other.value for other in keys[:number]]:
                again = f"(again in line {key.start_mark.line + 1}); keep one of the two"
                raise WsolkitError(f"key '{key.value}' is written twice {again}")
        return super().construct_mapping(node, deep)

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """A whole number; not 010, which is 8 to YAML, nor 1:30, which is 90."""
        number, text = self.construct_yaml_int(node), node.value.lstrip("+-")
        if ":" in text or re.fullmatch("0[0-9_]+", text):
            read = f"{node.value} in line {node.start_mark.line + 1} is the number {number} to YAML"
            raise WsolkitError(f"{read}; write that, or put it in quotes")
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; WsolkitError names the file, and the line and column of what is wrong."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = f" is not readable YAML{place}: " + str(getattr(error, "problem", error)).splitlines()[0]
    except RecursionError:
        problem = " is nested too deeply; expected a mapping of keys to values"
    except UnicodeDecodeError:
        problem = " is not a text file in UTF-8; write it anew"
    except WsolkitError as error:
        problem = f": {error}"
    except ValueError as error:  # a number of thousands of digits, a date that is none
        problem = f" holds a value that cannot be read ({error}); mend it"
    raise WsolkitError(f"{path}{problem}")


def given_path(path: Any, expected: str) -> Path:
    """A path that somebody gave, with ~ replaced; `expected` is what it should be.

    Raises: WsolkitError: it is empty (a variable of a shell that is not set, say), ~ of nobody, or no path at all.
    """
    try:
        text = os.fspath(path)
        if wrong := "it is empty" if not text else "it holds a null character" if "\0" in text else "":
            raise ValueError(wrong)
        return Path(text).expanduser()
    except (TypeError, RuntimeError, ValueError) as error:
        raise WsolkitError(f"{path!r:.60} is no path ({error}); expected {expected}") from None


def check_out(out: str | Path) -> Path:
    """The folder to write results to, made by whoever writes.

    Raises: WsolkitError: before any work, nothing can be written there.
    """
    out = given_path(out, "a folder for the results (--out)")
    there = next(place for place in (out, *out.absolute().parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryFile(dir=there):  # unlike a look at permissions, true for every file system
            return out
    except OSError as error:
        wrong = f"{there}: {error.strerror}"
        raise WsolkitError(f"no results can be written to {out} ({wrong}); choose another folder (--out)") from None


def keep_foreign(files: Mapping[Path, str]) -> None:
    """Refuse to replace what the kit did not write: files and, of each, a text that the kit writes near its beginning.

    Raises: WsolkitError: one of them is there without that text.
    """
    for path, mark in files.items():
        if os.path.lexists(path):
            head = path.read_bytes()[:HEAD].decode(errors="replace") if path.is_file() else ""
            require(mark in head, f"{path} was not written by wsolkit, and stays: move it, or choose another --out")


def listing(items: Sequence, separator: str = ", ") -> str:
    """At most 20 items, then a count of the others: what an error about many entries names."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return separator.join(map(str, items[:SHOWN])) + more


def digest(value: Any) -> str:
    """A short, stable hash of a JSON-like value: equal values give equal digests on every machine."""
    text = json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _finite(value: Any) -> Any:
    """Plain values: no arrays, and None for what is not finite."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def files_below(folder: str, name: str = "", above: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """(relative name, path) of all files below a folder, in order; a link back to a folder above is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from files_below(entry.path, f"{name}{entry.name}/", (*above, real))
        elif entry.is_file():
            yield f"{name}{entry.name}", entry.path
