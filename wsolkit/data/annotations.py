"""What the readers of annotation files share: lines and tables of text, names of images, boxes; one error about all that is wrong."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import listing
from wsolkit.data.catalogue import archive_of

Box = tuple[float, float, float, float]
Parser = Callable[[str], tuple[Any, Any]]


# -- folders and names -------------------------------------------------------------------------------------------------


def find_root(root: str | Path | None, dataset: str) -> Path:
    """The folder of a data set that has an archive, given itself or its parent.

    Raises:
        WsolkitError: `root` is None.
        FileNotFoundError: it does not exist or lacks one of the files that the catalogue names; says how to fetch them.
    """
    archive = archive_of(dataset)
    name, first = archive.folder, archive.required[0]
    fetch = f"fetch the dataset with `wsolkit data {dataset} --root"
    if root is None:
        raise WsolkitError(f"dataset '{dataset}' needs root=, the {name} folder; {fetch} DIR`")
    folder = existing_folder(root, f"expected the {name} folder or its parent; {fetch} {shlex.quote(str(root))}`")
    if not (folder / first).exists() and (folder / name).is_dir():
        folder = folder / name
    if missing := [item for item in archive.required if not (folder / item).exists()]:
        whole = len(missing) == len(archive.required)
        lacks = f"holds neither {first} nor {name}/{first}" if whole else f"lacks {', '.join(missing)}"
        advice = f"expected the native {name} layout; {fetch} {shlex.quote(str(root))}`"
        raise FileNotFoundError(f"{folder} {lacks}; {advice}")
    return folder


def existing_folder(path: str | Path, advice: str) -> Path:
    """The folder, with ~ replaced; FileNotFoundError, saying what is wrong and the advice, where there is none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}; {advice}")
    return folder


def is_inside(relative: str) -> bool:
    """Whether a path of an annotation file stays below the folder it is relative to, in its one plain spelling."""
    parts = relative.replace("\\", "/").split("/")
    return not {"", ".", ".."} & set(parts) and ":" not in parts[0] and "\0" not in relative


def inside(relative: str) -> str:
    """The path itself; ValueError unless `is_inside`."""
    if not is_inside(relative):
        raise ValueError
    return relative


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
        count = f"{len(missing)} of the annotated images are missing: {listing(missing)}"
        raise FileNotFoundError(f"{folder}: {count}; fetch the dataset again or remove their lines")


# -- lines and tables --------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of every line that is not blank; CRLF and a byte order mark are taken off."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise WsolkitError(f"{path} is no UTF-8 text ({error}); replace the file") from error
    for number, line in enumerate(text.split("\n"), 1):
        if stripped := line.strip():
            yield number, stripped


def read_table(
    path: Path,
    parse: Parser,
    expected: str,
    known: dict | None = None,
    complete: bool = True,
    add: Callable | None = None,
) -> dict[Any, Any]:
    """Read a text file with a line for each key.

    Args:
        parse: a line -> (key, value); raises ValueError where the line is malformed.
        expected: what the lines must be, for the error.
        known: the keys that count, each with itself as value: lines about other keys must be well-formed and are ignored.
            Its strings take the place of the equal ones of the file, which saves memory. None takes every key.
        complete: each known key must have a line.
        add: (key, earlier value or None, new value) -> the value that both lines together give; raises ValueError, saying
            what is wrong, where they do not go together. None: each key has one line.

    Raises:
        WsolkitError: names the file and the first 20 lines that are malformed or repeated, and known keys without a line.
    """
    table: dict[Any, Any] = {}
    problems = []
    for number, line in read_lines(path):
        try:
            key, value = parse(line)
        except ValueError:
            problems.append(f"line {number} {line[:120]!r}")
            continue
        if known is not None and (key := known.get(key)) is None:
            continue
        if add is None and key in table:
            problems.append(f"line {number} ({key} is there already)")
            continue
        try:
            table[key] = add(key, table.get(key), value) if add else value
        except ValueError as error:
            problems.append(f"line {number} ({error})")
    if known is not None and complete:
        problems += [f"no line for {key}" for key in known if key not in table]
    refuse(path, problems, f"expected {expected}")
    return table


def refuse(path: Path, problems: list[str], advice: str) -> None:
    """Raise one error about all problems of a file (the first 20 are listed) if there is any."""
    if problems:
        count = f"{len(problems)} entries are" if len(problems) > 1 else "one entry is"
        raise WsolkitError(f"{path}: {count} wrong: {listing(problems)}; {advice}")


def whole(text: str) -> int:
    """A whole number from 0, of at most nine digits; ValueError otherwise."""
    text = text.strip()
    if not text.isdecimal() or len(text) > 9:
        raise ValueError
    return int(text)


# -- boxes -------------------------------------------------------------------------------------------------------------


def corners(fields: Sequence[str | float]) -> Box:
    """Four texts or numbers as x0, y0, x1, y1; ValueError where they are not finite numbers or the wrong way round."""
    x0, y0, x1, y1 = map(float, fields)
    if not (-math.inf < x0 <= x1 < math.inf and -math.inf < y0 <= y1 < math.inf):
        raise ValueError
    return x0, y0, x1, y1


def touches(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a box (x0, y0, x1, y1) holds at least one pixel of an image of `size` (width, height)."""
    return box[0] < size[0] and box[1] < size[1] and box[2] >= 0 and box[3] >= 0


def cut(box: Box, size: tuple[int, int]) -> Box:
    """The box without what lies beyond the last column and row of an image of `size` (width, height)."""
    return max(box[0], 0), max(box[1], 0), min(box[2], size[0] - 1), min(box[3], size[1] - 1)


def refuse_outside(path: Path, boxes: Mapping[str, Sequence[Box]], sizes: Mapping[str, tuple[int, int]]) -> None:
    """Raise one error about all images of `boxes` that one of their boxes does not touch."""
    if outside := [key for key, own in boxes.items() if not all(touches(box, sizes[key]) for box in own)]:
        count = f"boxes of {len(outside)} images lie outside the image"
        raise WsolkitError(f"{path}: {count}: {listing(outside)}; mend them")
