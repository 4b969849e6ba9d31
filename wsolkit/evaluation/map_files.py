"""Score maps and predictions as files: one .npy per image, as wsolevaluation keeps them, and predictions.csv beside them."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from wsolkit.boxes.preparation import frame, prepare_map
from wsolkit.common.files import atomic_path, atomic_write_text, listing
from wsolkit.evaluation.measuring import default_workers
from wsolkit.evaluation.metrics import same_lengths

PREDICTIONS = "predictions.csv"
ROUNDING = 1e-6  # by which a map in [0, 1] may leave it


class MapFolder(Sequence):
    """The maps of a list of images, each read when it is asked for: (h, w) arrays."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.load(self.paths[index], allow_pickle=False)


def open_score_maps(
    folder: str | Path,
    ids: Sequence[str],
    size: int | Sequence[int],
    image_sizes: dict[str, tuple[int, int]] | None = None,
    subset: bool = False,
) -> tuple[MapFolder, bool, list[str]]:
    """The maps of `ids` below a folder, all of them checked: (maps, ready, problems).

    The map of image `a/b.jpg` is `a/b.jpg.npy` (wsolevaluation's name) or `a/b.npy`: a real array (h, w) without NaN and
    infinity, whose shape is that of most maps of the set, the frame `size`, or the image's own (height, width).
    ready: all have the frame's size and values in [0, 1], so that they can be scored as they are.
    problems: one line for each missing or unusable map, and for each .npy file that belongs to no image (unless
    `subset`). FileNotFoundError without the folder.
    """
    folder, shape = Path(folder).expanduser(), frame(size)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {what}; expected a folder with one .npy score map per image")
    there = {
        os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")
        for parent, _, names in _walk(folder)
        for name in names
        if name.endswith(".npy")
    }
    files: dict[str, str] = {}
    for name in ids:
        stem = os.path.splitext(name)[0]
        files[name] = next((path for path in (f"{name}.npy", f"{stem}.npy") if path in there), "")
    problems = [f"{name}: no map {name}.npy" for name in ids if not files[name]]
    uses = Counter(path for path in files.values() if path)
    problems += [f"{path}: the map of {count} images" for path, count in uses.items() if count > 1]
    if not subset:
        problems += [
            f"{path}: a map of no image of the metadata (subset passes over such)" for path in sorted(there - set(uses))
        ]

    found = [name for name in ids if files[name]]
    with ThreadPoolExecutor(default_workers()) as pool:
        looks = list(pool.map(lambda name: _look(folder / files[name]), found))
    shapes = Counter(look[0] for look in looks if not isinstance(look, str))
    usual = shapes.most_common(1)[0][0] if shapes else shape
    ready = not problems and usual == shape
    for name, look in zip(found, looks, strict=True):
        if isinstance(look, str):
            problems.append(f"{name}: {look}")
            continue
        own = (image_sizes or {}).get(name, (0, 0))[::-1]
        if look[0] not in (usual, shape, own):
            problems.append(f"{name}: shape {look[0]}, expected {usual} like most of the maps")
        ready &= look[0] == shape and look[1]
    return MapFolder([folder / files[name] for name in ids if files[name]]), ready, problems


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk that follows links to folders, each folder once."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        where = os.path.realpath(parent)
        if where in seen:
            folders.clear()
            continue
        seen.add(where)
        yield parent, folders, names


def _look(path: Path) -> tuple[tuple[int, int], bool] | str:
    """The shape of a map and whether it lies in [0, 1], or what is wrong with it."""
    try:
        scores = np.load(path, allow_pickle=False)
    except Exception as error:  # a torn header fails in many ways; objects, which need pickle, are a ValueError
        return f"not a readable .npy file ({error})"
    if not isinstance(scores, np.ndarray) or scores.dtype.kind not in "fiub":
        return f"real numbers are expected, got {getattr(scores, 'dtype', 'an archive')}"
    if scores.ndim != 2 or scores.size == 0:
        return f"shape {scores.shape}, expected (height, width)"
    low, high = float(scores.min()), float(scores.max())  # NaN anywhere makes both NaN
    if not np.isfinite([low, high]).all():
        bad = int((~np.isfinite(scores)).sum())
        return f"{bad} of {scores.size} values are NaN or infinite"
    return scores.shape, low >= -ROUNDING and high <= 1 + ROUNDING


def read_predictions(path: str | Path, ids: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Predicted labels of `ids` from a csv of lines `path,label` or `path,best,second,...`: (N, k) int64, problems.

    The same number of labels in every line, 0-based; a first line whose second cell is no number is a header. Lines of
    images that are not in `ids` are passed over. FileNotFoundError without the file.
    """
    path = Path(path).expanduser()
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; expected a csv of lines path,label") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable csv file ({error}); expected lines path,label") from error
    if lines and (len(lines[0][1]) < 2 or not lines[0][1][1].strip().isdecimal()):
        lines = lines[1:]
    width = len(lines[0][1]) if lines else 0
    table: dict[str, list[int]] = {}
    problems = []
    wanted = set(ids)
    for number, row in lines:
        labels = [cell.strip() for cell in row[1:]]
        if len(row) != width or width < 2 or not all(label.isdecimal() and len(label) < 10 for label in labels):
            problems.append(
                f"{path}, line {number}: {','.join(row)[:80]!r}, expected path,label with the labels from 0"
            )
        elif row[0] in table:
            problems.append(f"{path}, line {number}: a second line of {row[0]}")
        elif row[0] in wanted:
            table[row[0]] = [int(label) for label in labels]
    problems += [f"{name}: no line in {path}" for name in ids if name not in table]
    return np.array([table[name] for name in ids if name in table], np.int64).reshape(-1, max(width - 1, 1)), problems


def export_score_maps(maps, folder: str | Path, size: int | Sequence[int] | None = None) -> Path:
    """Write `ScoreMaps` as files: `<id>.npy` for every image, and predictions.csv with the five best labels.

    size None: the maps as they are, (h, w) float32, small; `wsolkit evaluate` grows them exactly as `wsolkit.evaluate`
    does. A size: grown and min-max normalised to [0, 1], (H, W) float64, as wsolevaluation's evaluator wants them.
    """
    folder = Path(folder).expanduser()
    same_lengths(ids=maps.ids, maps=maps.maps, logits=maps.logits)
    if strange := [name for name in maps.ids if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise ValueError(f"ids that are no paths below a folder: {listing(strange)}")
    for name, score_map in zip(maps.ids, maps.maps, strict=True):
        with atomic_path(folder / f"{name}.npy") as part, open(part, "wb") as file:
            np.save(file, score_map if size is None else prepare_map(score_map, size), allow_pickle=False)
    order = np.argsort(-maps.logits, axis=1, kind="stable")[:, :5]  # ties go to the lower class index
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(
        [n, *ranked] for n, ranked in zip(maps.ids, order.tolist(), strict=True)
    )
    atomic_write_text(folder / PREDICTIONS, lines.getvalue())
    return folder
