"""Reading the text files of native dataset folders: every complaint names the file and the line."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from wsolkit.common.files import listing


def find_root(root: str | Path | None, dataset: str, folder: str, required: Sequence[str]) -> Path:
    """The dataset folder, given itself or its parent.

    Raises:
        ValueError: `root` is None.
        FileNotFoundError: it does not exist or lacks one of the `required` files; the message says how to fetch them.
    """
    if root is None:
        raise ValueError(
            f"dataset '{dataset}' needs root=, the {folder} folder; fetch it with `wsolkit data {dataset} --root DIR`"
        )
    root = Path(root).expanduser()
    fetch = f"fetch the dataset with `wsolkit data {dataset} --root {shlex.quote(str(root))}`"
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"{root} {what}; expected the {folder} folder or its parent; {fetch}")
    nested = root / folder
    if not (root / required[0]).exists() and nested.is_dir():
        root = nested
    missing = [name for name in required if not (root / name).exists()]
    if len(missing) == len(required):
        raise FileNotFoundError(
            f"{root} holds neither {required[0]} nor {folder}/{required[0]}; expected the native {folder} layout; "
            + fetch
        )
    if missing:
        raise FileNotFoundError(f"{root} lacks {', '.join(missing)} of the native {folder} layout; {fetch}")
    return root


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of every line that is not blank; CRLF and a byte order mark are taken off."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 text file ({error}); fetch the dataset again") from error
    for number, line in enumerate(text.split("\n"), 1):
        if stripped := line.strip():
            yield number, stripped


def malformed(path: Path, number: int, line: str, expected: str) -> ValueError:
    return ValueError(f"{path}, line {number}: expected {expected}, but got {line[:120]!r}; mend or remove the line")


def finite(fields: Iterable[str]) -> list[float] | None:
    """The fields as finite numbers, or None if one of them is not."""
    try:
        values = [float(item) for item in fields]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def is_inside(relative: str) -> bool:
    """Whether a path of an annotation file stays below the folder it is relative to, in its one plain spelling."""
    parts = relative.replace("\\", "/").split("/")
    return not {"", ".", ".."} & set(parts) and ":" not in parts[0] and "\0" not in relative


def file_names(folder: Path) -> set[str]:
    """Names in `folder`, empty where there is none: one directory read is far quicker than asking for each file."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def require_images(folder: Path, paths: Iterable[str]) -> None:
    """Raise FileNotFoundError, listing the first 20, unless every relative path exists below `folder`."""
    known: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent not in known:
            known[parent] = file_names(folder / parent)
        if name not in known[parent]:
            missing.append(path)
    if missing:
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of the annotated images are missing: {listing(missing)}; "
            "fetch the dataset again or remove their lines"
        )


def refuse_options(dataset: str, options: dict) -> None:
    if options:
        raise ValueError(f"dataset '{dataset}' knows no option {', '.join(map(repr, options))}; remove it")
