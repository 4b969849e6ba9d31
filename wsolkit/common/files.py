"""Files that are either whole or absent: every result is written beside its place and renamed into it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from wsolkit.common.errors import WsolkitError

SHOWN = 20  # entries that an error lists before it only counts


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` when the block ends well, remove it otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    part.touch(exist_ok=False)
    try:
        yield part
        with open(
            part, "rb+"
        ) as file:  # the data must be on disk before the name is: a crash may not leave an empty file
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


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
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes names for its own options
    atomic_write_bytes(path, buffer.getvalue())


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON that every parser reads: NaN and infinity become null."""
    atomic_write_text(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WsolkitError(f"{path} is not readable JSON ({error}); delete it and run again") from error


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that is written twice in a mapping (the first would be lost)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key.value in seen:
                again = f"(again in line {key.start_mark.line + 1}); keep one of the two"
                raise WsolkitError(f"key '{key.value}' is written twice {again}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; WsolkitError names the file, and the line and column of what is wrong."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = f" is not readable YAML{place}: " + str(getattr(error, "problem", error)).splitlines()[0]
    except (UnicodeDecodeError, RecursionError) as error:
        problem = " is nested too deeply" if isinstance(error, RecursionError) else " is not a text file in UTF-8"
    except WsolkitError as error:
        problem = f": {error}"
    raise WsolkitError(f"{path}{problem}")


def listing(items: Sequence, separator: str = ", ") -> str:
    """At most 20 items, then a count of the others: what an error about many entries names."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return separator.join(map(str, items[:SHOWN])) + more


def digest(value: Any) -> str:
    """A short, stable hash of a JSON-like value: equal values give equal digests on every machine."""
    text = json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


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
