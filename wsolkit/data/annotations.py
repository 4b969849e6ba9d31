"""What readers of annotation files share: folders, tables of text, boxes; one error for all that is wrong in a file."""

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


def existing_folder(path: str | Path | None, needed: str) -> Path:
    """The folder, with ~ replaced. `needed` says what it is for.

    Raises:
        WsolkitError: `path` is None. FileNotFoundError: there is no such folder.
    """
    if path is None:
        raise WsolkitError(needed)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}; {needed}")
    return folder


def find_root(root: str | Path | None, dataset: str) -> Path:
    """The folder of a data set that has an archive, given itself or its parent.

    Raises:
        WsolkitError: `root` is None.
        FileNotFoundError: it does not exist or lacks one of the files that the catalogue names; says how to fetch them.
    """
    archive = archive_of(dataset)
    name, first = archive.folder, archive.required[0]
    fetch = f"fetch the dataset with `wsolkit data {dataset} --root {shlex.quote(str(root or 'DIR'))}`"
    folder = existing_folder(root, f"dataset '{dataset}' needs root=, the {name} folder or its parent; {fetch}")
    if not (folder / first).exists() and (folder / name).is_dir():
        folder = folder / name
    if missing := [item for item in archive.required if not (folder / item).exists()]:
        whole = len(missing) == len(archive.required)
        lacks = f"holds neither {first} nor {name}/{first}" if whole else f"lacks {', '.join(missing)}"
        raise FileNotFoundError(f"{folder} {lacks}; expected the native {name} layout; {fetch}")
    return folder


def file_names(folder: Path) -> set[str]:
    """Names in `folder`, empty where there is none: one directory read is far quicker than asking for each file."""
    try:
        return set(os.listdir(folder))
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


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of every line that is not blank; CRLF and a byte order mark are taken off."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; put it there, or fetch the dataset again") from None
    except UnicodeDecodeError as error:
        raise WsolkitError(f"{path} is no UTF-8 text ({error}); replace the file") from error
    for number, line in enumerate(text.split("\n"), 1):
        if stripped := line.strip():
            yield number, stripped


def columns(*kinds: Callable, separator: str | None = ",", right: bool = False, make: Callable = tuple) -> Parser:
    """A parser (line -> key and value) of lines of columns. The text of each goes through one of `kinds`, which raises
    ValueError where it stands for nothing; `make` makes one value of several. Where there are more separators (None is
    any white space), the last column holds them, or the first one if `right`.

    Example:
        >>> columns(str, int, int, right=True)("a, b.png,40,30")
        ('a, b.png', (40, 30))
    """

    def parse(line: str) -> tuple[Any, Any]:
        fields = (line.rsplit if right else line.split)(separator, len(kinds) - 1)
        key, *values = [kind(field) for kind, field in zip(kinds, fields, strict=True)]
        return key, values[0] if len(values) == 1 else make(values)

    return parse


def read_table(
    path: Path, parse: Parser, expected: str, known: dict | None = None, complete: bool = True, problem: Any = None
) -> dict[Any, Any]:
    """Read a text file with a line for each key.

    Args:
        parse: a line -> (key, value); raises ValueError where the line is malformed (see `columns`).
        expected: what the lines must be, for the error.
        known: the keys that count, each with itself as value: lines about other keys must be well-formed and are
            ignored. Its strings take the place of the equal ones of the file, which saves memory. None takes every key.
        complete: each known key must have a line.
        problem: (key, earlier values or None, new value) -> what is wrong with the new one, or "". With it, a key may
            have several lines, and the answer has the list of their values. None: each key has one line.

    Raises:
        WsolkitError: names the file, the first 20 lines that are malformed or repeated, and keys without a line.
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
        earlier = table.get(key)
        wrong = problem(key, earlier, value) if problem else "" if earlier is None else f"{key} is there already"
        if wrong:
            problems.append(f"line {number} ({wrong})")
        elif problem:
            table.setdefault(key, []).append(value)
        else:
            table[key] = value
    if known is not None and complete:
        problems += [f"no line for {key}" for key in known if key not in table]
    refuse(path, problems, f"expected {expected}")
    return table


def refuse(path: Path, problems: list[str], advice: str) -> None:
    """Raise one error about all problems of a file (the first 20 are listed) if there is any."""
    if problems:
        count = f"{len(problems)} entries are" if len(problems) > 1 else "one entry is"
        raise WsolkitError(f"{path}: {count} wrong: {listing(problems)}; {advice}")


def is_inside(relative: str) -> bool:
    """Whether a path of an annotation file stays below the folder it is relative to, in its one plain spelling."""
    parts = relative.replace("\\", "/").split("/")
    return not {"", ".", ".."} & set(parts) and ":" not in parts[0] and "\0" not in relative


def checked(kind: Callable[[str], Any], allowed: Callable[[Any], Any]) -> Callable[[str], Any]:
    """The function `kind` of a text, which then also raises ValueError for values that are not `allowed`."""

    def read(text: str) -> Any:
        if not allowed(value := kind(text)):
            raise ValueError
        return value

    return read


inside = checked(str, is_inside)  # the path itself


def whole(text: str) -> int:
    """A whole number from 0, of at most nine digits; ValueError otherwise."""
    text = text.strip()
    if not text.isdecimal() or len(text) > 9:
        raise ValueError
    return int(text)


def corners(fields: Iterable[str | float]) -> Box:
    """Four texts or numbers as x0, y0, x1, y1; ValueError where they are not finite or the wrong way round."""
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
