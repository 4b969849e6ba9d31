"""The folder of a run: what its files are called, what they hold, and whether it is complete. No torch here.

A method's report lies in OUT/runs/<dataset>/<backbone>/<method>/, and the training runs that it needs in folders
train-<variant>-<8 hex digits> beside it. The result (METRICS, or TRAINED for a training run) is written last and by
rename. This module alone knows the files and their formats; arrays are read by the classes that write them
(`ScoreMaps`, the per-image table, checkpoints), galleries by `wsolkit.runs.galleries`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import read_json, write_json
from wsolkit.evaluation.results import BLANK_POINT, OPERATING_POINTS, Count, EvalResult, Positive, first_fault
from wsolkit.methods.registry import VARIANTS
from wsolkit.training import HISTORY, HISTORY_COLUMNS, WEIGHTS

TRAINING_PREFIX = "train-"  # of the folders of training runs
METRICS = "metrics.json"  # of a report
TRAINED = "run.json"  # of a training run
MAPS = "maps"  # of a training run: the score maps that were made with its network
PER_IMAGE, PLAIN_CAM = "per_image.csv", "plain_cam.csv"  # the second is that of plain CAM on the same images
FOUND = "found_boxes.csv"  # the boxes of all test images, those without a true one too
GALLERY, GALLERIES = "gallery", "galleries"
NOTEBOOK, RUNNING = "notebook.ipynb", "running.ipynb"
LOG, EXECUTIONS, PAGE, FAILURE, LOCK = "log.txt", "executions.jsonl", "page.json", "failure.json", ".lock"
TRAINING_PAGE, INDEX, SWEEP = "train.html", "index.html", "sweep.yaml"  # of a training run, OUT, OUT/runs/<dataset>
DATA = "data.json"  # in OUT/runs/<dataset> too: what the check of the data said before the sweep


def training_name(variant: str, key: str) -> str:
    """The name of a training run's folder."""
    return f"{TRAINING_PREFIX}{variant}-{key[:8]}"


def is_trained(folder: Path) -> bool:
    """Whether a training run left its record, whole, and its network; else it goes on from its checkpoint."""
    return content_of(folder / TRAINED).get("status") == "completed" and (folder / WEIGHTS).is_file()


def is_complete(folder: Path, done: Path, fingerprint: str) -> bool:
    """True where the numbers on disk come from the same parameters, data, code and notebook, and nothing went wrong."""
    if done.name == TRAINED and not is_trained(folder):
        return False
    content = content_of(done)
    good = content.get("status") == "completed" and content.get("fingerprint") == fingerprint
    return good and not (folder / FAILURE).exists() and not missing(folder, content)


def missing(folder: Path, content: dict[str, Any]) -> list[str]:
    """The files in the folder of a report that its metrics.json names and that are not there any more."""
    names = content.get("files")
    return [str(name) for name in names if not (folder / str(name)).is_file()] if isinstance(names, list) else []


def is_fresh(folder: Path, done: Path, html: Path, fingerprint: str, page: str) -> bool:
    """True where the numbers are complete, and their page was written from them with these templates
    (`parameters.page_state`)."""
    written = content_of(folder / PAGE)
    current = (written.get("page"), written.get("fingerprint")) == (page, fingerprint)
    return current and html.exists() and is_complete(folder, done, fingerprint)


def seconds_of(folder: Path, done: Path) -> float | None:
    """How long the run in a folder took: as a job, or else (run by plain papermill) by its own account; None where that
    is not known."""
    content = content_of(done)
    taken = content_of(folder / PAGE).get("seconds") or content.get("wall_seconds") or content.get("seconds")
    return taken if isinstance(taken, int | float) else None


def records_like(record: Path, places: Iterable[Path]) -> list[Path]:
    """The same report's metrics.json, or the run.json of all training runs of the same variant, in other folders of
    runs (OUT/runs, OUT/seed-N/runs), the newest of each first."""
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
    """Leave failure.json, which tells the index what went wrong (or, with status "undefined", why there is nothing)."""
    write_json(folder / FAILURE, {"status": status, "error": error, "config": config, "log": LOG})


def note_page(folder: Path, fingerprint: str, page: str, seconds: float | None) -> None:
    """Leave in `folder` what its page was written from (a result's fingerprint) and with (`parameters.page_state`),
    and how long the run took."""
    write_json(folder / PAGE, {"page": page, "fingerprint": fingerprint, "seconds": seconds})


def content_of(path: Path) -> dict[str, Any]:
    """What a JSON file says; {} where it is absent or damaged."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _given(values: Any) -> Any:
    """The fields of a JSON object that are not null, which is the same as absent."""
    return {key: item for key, item in values.items() if item is not None} if isinstance(values, dict) else values


class _Object(BaseModel):
    """A JSON object whose known fields are checked; null is the same as absent, other fields are kept as they are."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, validate_default=True)
    _null_is_absent = model_validator(mode="before")(_given)


def _whole(result: EvalResult) -> EvalResult:
    """A result with all the keys that a page shows, None where there is no number."""
    points = result.operating_points
    result.operating_points = {name: BLANK_POINT | (points.get(name) or {}) for name in OPERATING_POINTS}
    result.centre_box = dict.fromkeys(("gt_known_loc", "top1_loc", "best_on_test")) | result.centre_box
    result.curve = {"thresholds": [], "gt_known_loc": []} | result.curve
    if len(result.curve["thresholds"]) != len(result.curve["gt_known_loc"]):
        raise ValueError("thresholds and gt_known_loc of the curve should be lists of equal lengths")
    return result


Stored = Annotated[EvalResult, BeforeValidator(_given), AfterValidator(_whole)]
Points = Annotated[float, Field(strict=True, ge=-100, le=100)]  # a difference of two percentages
Checked = TypeVar("Checked", bound=_Object)


class Difference(_Object):
    """A paired difference in points with its 95 % interval, the number of images and the p-value."""

    difference: Points | None = None
    low: Points | None = None
    high: Points | None = None
    n: Count | None = None
    p: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None


class Against(_Object):
    """Differences to plain CAM and to the centre box, by metric; None where there is no such number."""

    cam: dict[str, Difference | None] = {}
    centre_box: dict[str, Difference | None] = {}


class GalleryImage(_Object):
    """An image in the gallery of metrics.json: its id, its caption and its file, below the run's folder."""

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
    made_from: dict[str, Any] = {}
    result: Stored
    plain_cam: Stored | None = None  # on the same images; None for plain CAM itself
    against: Against = Against()
    training: str = ""  # name of the folder, beside the report's
    plain_training: str = ""
    maps: dict[str, str] = {}  # split -> file of score maps; most lie in maps/ of the training run, for all reports
    gallery: list[GalleryImage] = []
    classes: list[str] = []
    extra: dict[str, Any] = {}
    versions: dict[str, str] = {}
    device: str = ""
    commit: str = ""
    wall_seconds: Positive | None = None
    finished: str = ""


class TrainingRecord(_Object):
    """run.json of a training run, as `Run` writes it."""

    made_from: dict[str, Any] = {}
    variant: str = ""
    config: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    best_epoch: Count | None = None
    seconds: Positive | None = None
    classes: list[Any] = []


class Failure(_Object):
    """failure.json: why there is no result."""

    status: str = "failed"  # or "undefined"
    error: str = ""
    config: dict[str, Any] = {}


class Finding(_Object):
    """One thing that is wrong with a data set, wherever in it that is.

    level: "error" (a sweep does not start) or "warning". text: what is wrong, and how often in which split. examples:
    all cases, of which three are kept and the `more` others counted.
    """

    level: Literal["error", "warning"]
    text: str
    examples: list[str] = []
    more: Count = 0

    def __str__(self) -> str:
        others = f" and {self.more} more" if self.more else ""
        return f"{self.level:9}{self.text}" + (f"\n{'':9}{'; '.join(self.examples)}{others}" if self.examples else "")


class DataCheck(_Object):
    """What `data_check.check_data` said of a data set; str() of it is one page of text.

    Attributes:
        title: the data set and its folders.
        made_from: what that rests on (`RunConfig.data_parts`, and a digest of the code that checks).
        splits: split -> the columns of a table, heading -> text.
        centre_box: a sentence on how well a box does that knows nothing; "" where there is no box to hit.
        findings: errors first.
    """

    title: str = ""
    made_from: dict[str, Any] = {}
    splits: dict[str, dict[str, str]] = {}
    centre_box: str = ""
    findings: list[Finding] = []

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "warning"]

    def __str__(self) -> str:
        headings = ["", *next(iter(self.splits.values()), {})]
        rows = [headings, *([split, *columns.values()] for split, columns in self.splits.items())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        count = f"errors: {len(self.errors)}, warnings: {len(self.warnings)}"
        return "\n".join([self.title, *table, *filter(None, [self.centre_box]), count, *map(str, self.findings)])


def read_metrics(folder: Path) -> Metrics:
    """metrics.json of a completed report, checked.

    Raises:
        FileNotFoundError: there is none. WsolkitError: it names the file and the first field that is not as it should.
    """
    return _read(Metrics, folder / METRICS)


def read_failure(folder: Path) -> Failure | None:
    """failure.json, checked as `read_metrics` does; None where nothing failed."""
    return _read(Failure, folder / FAILURE) if (folder / FAILURE).is_file() else None


def read_data_check(folder: Path) -> DataCheck | None:
    """data.json of OUT/runs/<dataset>, checked as `read_metrics` does; None where there is none."""
    return _read(DataCheck, folder / DATA) if (folder / DATA).is_file() else None


def _read(kind: type[Checked], path: Path) -> Checked:
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        raise WsolkitError(f"{path} is damaged: {first_fault(error)}; delete it and run the sweep again") from None


@dataclass(frozen=True)
class Training:
    """A training run: the name of its folder, its variant, history.csv's rows as numbers (NaN if empty), run.json."""

    name: str
    variant: str
    history: list[dict[str, float]]
    run: dict[str, Any]

    @property
    def label(self) -> str:
        """The variant as papers write it."""
        return VARIANTS[self.variant].label if self.variant in VARIANTS else self.variant


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a training run, checked; {} where there is none (yet). WsolkitError names a file that is damaged."""
    path = folder / TRAINED
    return _read(TrainingRecord, path).model_dump(exclude_unset=True) if path.is_file() else {}


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of a training run's history.csv as numbers, NaN where there is none.

    Raises: FileNotFoundError: there is none (yet). WsolkitError: it is damaged.
    """
    path = folder / HISTORY
    try:
        with open(path, newline="", encoding="utf-8") as file:
            history = [{key: float(line.get(key) or "nan") for key in HISTORY_COLUMNS} for line in csv.DictReader(file)]
    except (ValueError, csv.Error) as error:
        raise WsolkitError(f"{path} could not be read: {error}") from error
    needed = f"{path} needs a number of the epoch in every row and the columns {', '.join(HISTORY_COLUMNS)}"
    require(all(math.isfinite(row["epoch"]) for row in history), needed)
    return history


def read_training(folder: Path) -> Training | None:
    """The training run in a folder; None where it has no history. WsolkitError names a file that is damaged."""
    try:
        history, run = read_history(folder), read_run(folder)
    except FileNotFoundError:
        return None
    variant = str(run.get("variant") or folder.name.removeprefix(TRAINING_PREFIX).rsplit("-", 1)[0])
    return Training(folder.name, variant, history, run) if history else None
