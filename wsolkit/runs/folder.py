"""The folder of a run: what its files are called, what they hold, and whether it is complete. No torch here.

A method's report lies in OUT/runs/<dataset>/<backbone>/<method>/, and the training runs that it needs in folders
train-<variant>-<8 hex digits> beside it. The result (METRICS, or TRAINED for a training run) is written last and by rename.
This module alone knows the files and their formats; arrays are read by the classes that write them (`ScoreMaps`, the
per-image table, checkpoints).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import read_json, write_json
from wsolkit.methods.registry import VARIANTS

TRAINING_PREFIX = "train-"  # of the folders of training runs
METRICS = "metrics.json"  # of a report
TRAINED = "run.json"  # of a training run
WEIGHTS, CHECKPOINT, HISTORY = "best.pt", "last.pt", "history.csv"
MAPS = "maps"  # of a training run: the score maps that were made with its network
PER_IMAGE, PLAIN_CAM = "per_image.csv", "plain_cam.csv"  # the second is that of plain CAM on the same images
GALLERY, GALLERIES = "gallery", "galleries"
GALLERY_TABLE, GALLERY_MAPS = "galleries.json", "maps.npz"  # in galleries/
NOTEBOOK, RUNNING = "notebook.ipynb", "running.ipynb"
LOG, EXECUTIONS, PAGE, FAILURE, LOCK = "log.txt", "executions.jsonl", "page.json", "failure.json", ".lock"
TRAINING_PAGE, INDEX, SWEEP = (
    "train.html",
    "index.html",
    "sweep.yaml",
)  # of a training run, of OUT, of OUT/runs/<dataset>

HISTORY_COLUMNS = ("epoch", "train_loss", "train_top1", "val_loss", "val_top1")


def training_name(variant: str, key: str) -> str:
    """The name of a training run's folder."""
    return f"{TRAINING_PREFIX}{variant}-{key[:8]}"


def is_trained(folder: Path) -> bool:
    """Whether a training run left its record and its network; without the network it goes on from its checkpoint."""
    return (folder / TRAINED).is_file() and (folder / WEIGHTS).is_file()


def is_complete(folder: Path, done: Path, fingerprint: str) -> bool:
    """True where the numbers on disk were made from the same parameters, data, code and notebook, and nothing went wrong."""
    if done.name == TRAINED and not is_trained(folder):
        return False
    content = content_of(done)
    good = content.get("status") == "completed" and content.get("fingerprint") == fingerprint
    return good and not (folder / FAILURE).exists()


def is_fresh(folder: Path, done: Path, html: Path, fingerprint: str, page: str) -> bool:
    """True where the numbers are complete, and their page was written from them with these templates
    (`fingerprints.page_state`)."""
    written = content_of(folder / PAGE)
    current = (written.get("page"), written.get("fingerprint")) == (page, fingerprint)
    return current and html.exists() and is_complete(folder, done, fingerprint)


def seconds_of(folder: Path, done: Path) -> float | None:
    """How long the run in a folder took: as a job, or else (run by plain papermill) by its own account; None where it is
    not known."""
    content = content_of(done)
    taken = content_of(folder / PAGE).get("seconds") or content.get("wall_seconds") or content.get("seconds")
    return taken if isinstance(taken, int | float) else None


def records_like(record: Path, places: Iterable[Path]) -> list[Path]:
    """The same report's metrics.json, or the run.json of all training runs of the same variant, in other folders of runs
    (OUT/runs, OUT/seed-N/runs), the newest of each first."""
    runs, backbone, name = record.parents[3], record.parents[1], record.parent.name
    name = name.rpartition("-")[0] + "-*" if record.name == TRAINED else name
    pattern = (backbone.relative_to(runs) / name / record.name).as_posix()
    return [path for place in places for path in sorted(place.glob(pattern), key=lambda path: -path.stat().st_mtime)]


def write_result(path: Path, made_from: dict[str, Any], fingerprint: str, content: dict[str, Any]) -> None:
    """Write metrics.json or run.json, which means "completed"; the failure of an earlier try is forgotten.

    Args:
        made_from: all that the result depends on; fingerprint: its digest.
    """
    write_json(path, {"status": "completed", "fingerprint": fingerprint, "made_from": made_from, **content})
    (path.parent / FAILURE).unlink(missing_ok=True)


def forget_result(folder: Path) -> None:
    """Remove what an earlier run of a report must not leave beside the files of the one that is being written."""
    for name in (METRICS, FAILURE, NOTEBOOK, PLAIN_CAM):
        (folder / name).unlink(missing_ok=True)


def note_failure(folder: Path, error: str, config: dict[str, Any], status: str = "failed") -> None:
    """Leave failure.json, from which the index tells what went wrong (or, with status "undefined", why there is nothing)."""
    write_json(folder / FAILURE, {"status": status, "error": error, "config": config, "log": LOG})


def note_page(folder: Path, fingerprint: str, page: str, seconds: float | None) -> None:
    """Leave in `folder` what its page was written from (a result's fingerprint) and with (`fingerprints.page_state`), and
    how long the run took."""
    write_json(folder / PAGE, {"page": page, "fingerprint": fingerprint, "seconds": seconds})


def content_of(path: Path) -> dict[str, Any]:
    """What a JSON file says; {} where it is absent or damaged."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def maps_of(folder: Path) -> dict[str, Path]:
    """The files of the score maps by split ("test", "val") behind the report in `folder`; most lie in its training run's
    maps/, where other reports read them too."""
    return {split: folder / path for split, path in content_of(folder / METRICS).get("maps", {}).items()}


class _Object(BaseModel):
    """A JSON object whose known fields are checked; null is the same as absent, other fields are kept as they are."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        return {key: item for key, item in values.items() if item is not None} if isinstance(values, dict) else values


Percent = Annotated[float, Field(ge=0, le=100)]
Points = Annotated[float, Field(ge=-100, le=100)]  # a difference of two percentages
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Checked = TypeVar("Checked", bound=_Object)


class OperatingPoint(_Object):
    """Accuracy at one threshold."""

    threshold: Share | None = None
    gt_known_loc: Percent | None = None
    top1_loc: Percent | None = None
    top5_loc: Percent | None = None


class OperatingPoints(_Object):
    fixed: OperatingPoint = OperatingPoint()
    validation: OperatingPoint = OperatingPoint()
    best_on_test: OperatingPoint = OperatingPoint()


class CentreBox(_Object):
    gt_known_loc: Percent | None = None
    top1_loc: Percent | None = None
    best_on_test: Percent | None = None


class Curve(_Object):
    """Accuracy (percent) against the threshold; both are empty where there is none."""

    thresholds: list[Percent] = []
    gt_known_loc: list[Percent] = []

    @model_validator(mode="after")
    def _same_lengths(self) -> Curve:
        if len(self.thresholds) != len(self.gt_known_loc):
            raise WsolkitError("thresholds and gt_known_loc should be lists of equal lengths")
        return self


class StoredResult(_Object):
    """What `EvalResult.to_dict` wrote: metrics in percent, None where they do not apply."""

    n_images: Count | None = None
    n_val: Count | None = None
    n_classes: Count | None = None
    top1_cls: Percent | None = None
    top5_cls: Percent | None = None
    gt_known_loc: Percent | None = None
    top1_loc: Percent | None = None
    top5_loc: Percent | None = None
    max_box_acc: Percent | None = None
    max_box_acc_v2: Percent | None = None
    max_box_acc_v2_parts: dict[str, Percent] = {}
    pxap: Percent | None = None
    threshold: Share | None = None
    percentile: Percent | None = None
    interval: Share | None = None
    operating_point: str = "fixed"
    operating_points: OperatingPoints = OperatingPoints()
    centre_box: CentreBox = CentreBox()
    curve: Curve = Curve()
    intervals: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)] | None] = {}
    failures: dict[str, Count] = {}
    seconds_per_image: Positive | None = None
    peak_memory_mb: Positive | None = None
    conditions: dict[str, Any] = {}
    protocol: str = ""
    dataset: str = ""


class Difference(_Object):
    """A paired difference in points with its 95 % interval, the number of images and the p-value."""

    difference: Points | None = None
    low: Points | None = None
    high: Points | None = None
    n: Count | None = None
    p: Share | None = None


class Against(_Object):
    """Differences to plain CAM and to the centre box, by metric; None where there is no such number."""

    cam: dict[str, Difference | None] = {}
    centre_box: dict[str, Difference | None] = {}


class GalleryImage(_Object):
    id: str = ""
    caption: str = ""
    file: str = ""

    def inside(self, folder: Path) -> Path | None:
        """The file; None where there is none, or where it lies outside of the run's folder."""
        base = folder.resolve()
        path = (base / self.file).resolve()
        return path if path.is_relative_to(base) and path.is_file() else None


class Metrics(_Object):
    """metrics.json of a completed report, as `Run.finish` writes it."""

    status: Literal["completed"]
    method: str = ""
    config: dict[str, Any] = {}
    result: StoredResult = StoredResult()
    plain_cam: StoredResult | None = None  # on the same images; None for plain CAM itself
    against: Against = Against()
    training: str = ""  # name of the folder, beside the report's
    plain_training: str = ""
    maps: dict[str, str] = {}
    gallery: list[GalleryImage] = []
    classes: list[str] = []
    extra: dict[str, Any] = {}
    versions: dict[str, str] = {}
    device: str = ""
    commit: str = ""
    wall_seconds: Positive | None = None
    finished: str = ""


class Failure(_Object):
    """failure.json: why there is no result."""

    status: str = "failed"  # or "undefined"
    error: str = ""
    config: dict[str, Any] = {}


def read_metrics(folder: Path) -> Metrics:
    """metrics.json of a completed report, checked.

    Raises:
        FileNotFoundError: there is none. WsolkitError: it names the file and the first field that is not what it should be.
    """
    return _read(Metrics, folder / METRICS)


def read_failure(folder: Path) -> Failure | None:
    """failure.json, checked as `read_metrics` does; None where nothing failed."""
    return _read(Failure, folder / FAILURE) if (folder / FAILURE).is_file() else None


def _read(kind: type[Checked], path: Path) -> Checked:
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}, got {first['input']!r:.80}"
    except ValueError as error:
        problem = str(error)
    raise WsolkitError(f"{path} is damaged: {problem}\nDelete it and run the sweep again.")


@dataclass(frozen=True)
class Training:
    """A training run: the name of its folder, its variant, rows of history.csv as numbers (NaN where empty), run.json."""

    name: str
    variant: str
    history: list[dict[str, float]]
    run: dict[str, Any]

    @property
    def label(self) -> str:
        """The variant as papers write it."""
        return VARIANTS[self.variant].label if self.variant in VARIANTS else self.variant


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a training run; {} where there is none (yet). WsolkitError names a file that is damaged."""
    run = read_json(folder / TRAINED) if (folder / TRAINED).is_file() else {}
    return run if isinstance(run, dict) else {}


def read_training(folder: Path) -> Training | None:
    """The training run in a folder; None where it has no history. WsolkitError names a file that is damaged."""
    try:
        with open(folder / HISTORY, newline="", encoding="utf-8") as file:
            history = [{key: float(line.get(key) or "nan") for key in HISTORY_COLUMNS} for line in csv.DictReader(file)]
        if not all(math.isfinite(row["epoch"]) for row in history):
            columns = ", ".join(HISTORY_COLUMNS)
            raise WsolkitError(f"{HISTORY} needs a number of the epoch in every row and the columns {columns}")
        run = read_run(folder)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise WsolkitError(f"{folder.name} could not be read: {error}") from error
    variant = str(run.get("variant") or folder.name.removeprefix(TRAINING_PREFIX).rsplit("-", 1)[0])
    return Training(folder.name, variant, history, run) if history else None
