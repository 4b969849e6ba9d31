"""The check of the data before a sweep: what is wrong with images and annotations, and how well a centre box does.

It lies in this wing because the centre box is that of a report (`evaluation`), and because code below `data` counts in
the key of every training run, where a new sentence here should retrain nothing. No torch until data are opened.

What the readers refuse is an error, as is an image that cannot be read: a sweep would end there. All else is a warning.
So are test images that are among the training images too: published data sets have some, no network is harmed, and an
error could not be passed over. They come first among the warnings.
"""

from __future__ import annotations

import hashlib
import shlex
import warnings
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wsolkit.common.code import code_state
from wsolkit.common.cores import cores
from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import digest, write_json
from wsolkit.common.parameters import told_of
from wsolkit.common.progress import progress
from wsolkit.data.catalogue import DATASETS, SPLITS
from wsolkit.runs import folder as files
from wsolkit.runs.folder import DataCheck, Finding
from wsolkit.runs.parameters import RunConfig

if TYPE_CHECKING:  # it imports torch
    from wsolkit.data.base import WSOLDataset

FOLDERS = ("root", "metadata", "masks")
FIELDS = RunConfig.model_fields
PARAMETERS = [name for name in RunConfig.names() if name in FOLDERS or told_of(FIELDS[name], "stage") == "data"]
CHECKER = ("data", "runs/data_check.py")  # code that decides what a check says
EXAMPLES = 3  # of each finding
LENGTH = 160  # characters of an example, at most
UNEQUAL = 10  # the largest class has so many times the images of the smallest: worth a warning
TINY = 0.01  # of the image: a box that covers less is smaller than two cells of a map of 14 x 14
Case = tuple[str, str]  # split, example


class CheckedImage(NamedTuple):
    """An image as the annotations know it, and as it is.

    Attributes:
        split, id, label: of its sample.
        boxes: ground truth (x0, y0, x1, y1), inclusive corners, in pixels of an image of `extent` (width, height).
        size: (width, height) as it is shown. content: digest of its pixels. Both are empty where it cannot be read, and
            `problem` says why.
        given: boxes as its files give them, which a reader may cut at the border; none of masks.
    """

    split: str
    id: str
    label: int
    boxes: Any = ()
    extent: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    content: str = ""
    problem: str = ""
    given: Any = ()

    @property
    def largest(self) -> float:
        """The share of the image that its largest box covers."""
        boxes = np.asarray(self.boxes, float)
        return float((boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1).max() / np.prod(self.extent))


def check_data(**parameters: Any) -> DataCheck:
    """Read every image of all splits once; compare images, annotations and splits with each other.

    Args:
        parameters: those of `RunConfig` that say which data: dataset, root, metadata, masks, classes, ...

    Returns:
        Findings (errors and warnings), a table of the splits, and a sentence on the centre box, whose side is chosen
        on validation images. str() of it is one page of text, however large the data set.

    Raises: WsolkitError, FileNotFoundError: an argument is wrong, or no split can be opened at all.

    Example:
        >>> print(check_data(dataset="synthetic", per_class=2).findings)
        []
    """
    config = RunConfig.make(**parameters)
    refused: dict[str, Exception] = {}
    data = {split: own for split in SPLITS if (own := _open(config, split, refused)) is not None}
    if not data:
        raise next(iter(refused.values()))
    images = {split: list(_read_images(dataset, _given_boxes(config, split))) for split, dataset in data.items()}
    findings: list[Finding] = []
    explained: set[str] = set()  # messages of readers, of which the findings say more
    for errors, text, cases in _problems(data, images, refused):
        findings += _told(errors, text, cases)
        explained |= {str(refused[split]) for split, _ in cases if split in errors and split in refused}
    for message in dict.fromkeys(map(str, refused.values())):
        if message in explained:
            continue
        splits = " and ".join(split for split, error in refused.items() if str(error) == message)
        findings.append(Finding(level="error", text=f"{splits} cannot be opened: {_short(message, 3 * LENGTH)}"))
    folders = [value for name in FOLDERS if (value := getattr(config, name))]
    return DataCheck(
        title=", ".join([DATASETS[config.dataset].title, *folders]),
        made_from=made_from(config),
        splits={split: _row(dataset, images[split]) for split, dataset in data.items()},
        centre_box=_centre_box(data, images, refused) if "test" in data and "test" not in refused else "",
        findings=sorted(findings, key=lambda finding: finding.level),
    )


def check_before(config: RunConfig) -> str:
    """Check the data of a sweep, unless OUT/runs/<dataset>/data.json holds a check of the same data, and keep it there.

    Returns:
        One line about its warnings, "" where there is none.

    Raises: WsolkitError: the page of text, where there are errors; then nothing is written.
    """
    if (check := _kept(config)) is None:
        check = check_data(**config.given)
        require(not check.errors, f"the data cannot be used as they are:\n{check}")
        write_json(config.runs_folder.parent / files.DATA, check.model_dump())
    return _note(check, config)


def said_before(config: RunConfig) -> str:
    """One line about the check that `check_before` has kept, or about its absence; no image is read."""
    if (check := _kept(config)) is None:
        return f"note: the data of {config.dataset} are not checked yet; a sweep begins with {_command(config)}"
    return _note(check, config) or f"note: the data of {config.dataset} were checked, without a finding"


def _kept(config: RunConfig) -> DataCheck | None:
    with suppress(WsolkitError):  # a damaged one counts as none
        check = files.read_data_check(config.runs_folder.parent)
        return check if check and digest(check.made_from) == digest(made_from(config)) else None
    return None


def _note(check: DataCheck, config: RunConfig) -> str:
    if not check.warnings:
        return ""
    return f"note: {check.warnings[0].text}. Warnings about the data: {len(check.warnings)}, see {_command(config)}"


def made_from(config: RunConfig) -> dict[str, Any]:
    """All that a check depends on."""
    return config.data_parts() | {"checker": code_state(CHECKER)}


def _command(config: RunConfig) -> str:
    """The command that prints the page."""
    asked = {name: value for name, value in config.given.items() if name in PARAMETERS}
    values = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in asked.items()}
    options = [f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in values.items()]
    return " ".join(["wsolkit data check", *options])


def _open(config: RunConfig, split: str, refused: dict[str, Exception]) -> WSOLDataset | None:
    """A split; where its reader refuses it, which `refused` notes, as it opens leniently, or None."""
    from wsolkit.data.readers import leniently
    from wsolkit.runs.run import Run

    try:
        return Run(config).dataset(split)
    except (WsolkitError, OSError) as error:
        refused[split] = error
    with suppress(WsolkitError, OSError), leniently():
        return Run(config).dataset(split)
    return None


def _given_boxes(config: RunConfig, split: str) -> dict[str, Any]:
    """The boxes of a split's images as its files give them."""
    from wsolkit.data.readers import leniently
    from wsolkit.runs.run import Run

    if not config.root:  # drawn, not read
        return {}
    with leniently():
        return {sample.id: sample.boxes for sample in Run(config).dataset(split).samples}


def _read_images(dataset: WSOLDataset, given: Mapping[str, Any]) -> Iterator[CheckedImage]:
    """Every image of a split, decoded once, in threads. given: see there, by id."""
    from wsolkit.data.decoded import ahead
    from wsolkit.data.images import instance_boxes

    def read(sample: Any) -> CheckedImage:
        known, masks = CheckedImage(dataset.split, sample.id, sample.label), sample.masks
        try:
            image = dataset.load(sample)[0]
            truth = instance_boxes(masks.root, masks.paths, masks.levels[0]) if masks else (sample.boxes, sample.size)
            boxes, extent = truth
        except (ValueError, OSError) as error:
            empty = sample.path is not None and sample.path.is_file() and not sample.path.stat().st_size
            reason = "the file is empty" if empty else str(error.__cause__ or error).partition(";")[0]
            return known._replace(problem=reason.removeprefix(f"{sample.path}: "))
        content = hashlib.blake2b(image.tobytes(), digest_size=16, salt=str(image.width).encode()).hexdigest()
        own = known._replace(boxes=boxes, extent=extent or image.size, size=image.size, content=content)
        return own._replace(given=() if masks else given.get(sample.id, boxes))

    threads = min(16, cores())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large images and broken EXIF are worth no line each
        read_ahead = ahead(read, dataset.samples, 4 * threads, threads)
        yield from progress(read_ahead, f"check {dataset.split}", len(dataset))


def _problems(
    data: Mapping[str, WSOLDataset], images: Mapping[str, list[CheckedImage]], refused: Container[str]
) -> Iterator[tuple[Container[str], str, list[Case]]]:
    """(the splits where it is an error, what is wrong, where) of every kind of problem, cases or none."""
    from wsolkit.data.images import same_shape
    from wsolkit.data.readers import FEW, alike, all_shares, beyond, is_share, misread, placed, touches

    classes = next(iter(data.values())).classes
    known = set(classes) - {*SPLITS}
    every = list(chain.from_iterable(images.values()))
    unreadable = [(p.split, f"{p.id} ({p.problem})") for p in every if p.problem]
    yield SPLITS, "images that cannot be read", unreadable

    shown = [p for p in every if not p.problem]
    first: dict[str, CheckedImage] = {}
    same = [(p, other) for p in shown if (other := first.setdefault(p.content, p)) is not p]
    leaked = [(p.split, f"{p.id} = {other.id} of {other.split}") for p, other in same if other.split != p.split]
    yield (), "images that are in an earlier split too, so that accuracies are too high", leaked

    counts = {split: Counter(p.label for p in own) for split, own in images.items()}
    trained, anywhere = counts.get("train", Counter()), set().union(*counts.values())
    if trained:
        strange = [(split, classes[label]) for split, own in counts.items() for label in own if label not in trained]
        yield (), "classes without a training image, which no network can know", strange
    groups = [("train", group) for group in alike(classes)]
    yield (), "names of classes that are nearly the same: are they one class?", groups
    alone = [("train", classes[label]) for label in trained if len(trained) == 1]
    yield (), "a class alone, from which a classifier learns nothing: add images without its object", alone

    pair = "{} ({} x {} instead of {} x {})".format
    odd = [(p.split, pair(p.id, *p.size, *p.extent)) for p in shown if not same_shape(p.extent, p.size)]
    text = "images of another shape than is stated (where EXIF tags turn them: `wsolkit data convert --turn`)"
    yield refused, text, odd

    boxed = [p for p in shown if len(p.boxes)]
    drawn = {split: [box for p in boxed if p.split == split for box in p.boxes] for split in images}
    in_shares = {split for split, own in drawn.items() if own and all_shares(own)}
    scaled = [p.split in in_shares or any(map(is_share, p.given)) for p in boxed]
    cases = [(p, next(filter(is_share, p.given), p.boxes[0])) for p, share in zip(boxed, scaled, strict=True) if share]
    text = "boxes that seem to be shares of the sides, not pixels (--unit share of `wsolkit data convert` takes them)"
    yield refused, text, [(p.split, placed(p.id, box)) for p, box in cases]

    boxed = [p for p, share in zip(boxed, scaled, strict=True) if not share]
    pairs = [(p, box) for p in boxed for box in p.given]
    outside = [(p, box) for p, box in pairs if not touches(box, p.extent)]
    yield refused, "boxes outside of their image", _boxes(outside)
    pairs = [(p, box) for p, box in pairs if touches(box, p.extent)]
    far = {s for s in images if misread((p.id, box, p.extent) for p, box in pairs if p.split == s)}
    text = "boxes that reach far beyond their image, as most of their split do: the files seem to hold something else"
    yield refused, text, _boxes((p, box) for p, box in pairs if p.split in far and beyond(box, p.extent)[1])
    few = [(p, box) for p, box in pairs if p.split not in far and beyond(box, p.extent)[0]]
    yield (), f"boxes that reach more than {FEW} pixels beyond their image", _boxes(few)

    bare = [(p.split, p.id) for p in shown if p.split != "train" and not len(p.boxes)]
    some = {p.split for p in shown if len(p.boxes)}
    text = "images without a box (Loc is of the others alone; a threshold is chosen where all, or ten, of val have one)"
    yield {split for split in some if split in refused}, text, [case for case in bare if case[0] in some]
    text = "images without a box, as all of their split (no Loc is measured; no true box chooses a threshold)"
    yield (), text, [case for case in bare if case[0] not in some]

    named = [(p, other) for p, other in same if p.label != other.label]
    pair = "{} ({}) = {} ({})".format
    labelled = [(p.split, pair(p.id, classes[p.label], other.id, classes[other.label])) for p, other in named]
    yield (), "images with the pixels of another one, but not its label", labelled
    twice = [(p, other) for p, other in same if (p.split, p.label) == (other.split, other.label)]
    again = [(p.split, f"{p.id} = {other.id}") for p, other in twice]
    yield (), "images with the pixels of another one of their split", again

    parents = [(p, p.id.rpartition("/")[0].rpartition("/")[2]) for p in every]
    misplaced = [p for p, name in parents if name in known and name != classes[p.label]]
    text = "images in a folder with the name of another class"
    yield (), text, [(p.split, f"{p.id} ({classes[p.label]})") for p in misplaced]

    lacking = [
        (split, name) for split, own in counts.items() for label, name in enumerate(classes)
        if label not in own and (label in trained or (split == "train" and label not in anywhere))
    ]  # fmt: skip
    yield (), "classes without an image", lacking
    for split, own in counts.items():
        (most, high), (least, low) = own.most_common()[0], own.most_common()[-1]
        if high >= UNEQUAL * low:
            text = f"very unequal classes ({high / low:.0f} to 1)"
            yield (), text, [(split, f"{high} images of {classes[most]}, {low} of {classes[least]}")]

    small = [(p.split, f"{p.id} ({100 * p.largest:.2g} %)") for p in boxed if p.largest < TINY]
    yield (), f"images whose objects all cover less than {100 * TINY:g} % of the image", small


def _told(errors: Container[str], text: str, cases: list[Case]) -> Iterator[Finding]:
    """One finding about the cases that are errors, and one about those that are warnings."""
    for level in ("error", "warning"):
        own = [(split, case) for split, case in cases if (split in errors) == (level == "error")]
        if own:
            counts = Counter(split for split, _ in own)
            places = ", ".join(f"{count} of {split}" for split, count in counts.items())
            examples = [_short(case) for _, case in own[:EXAMPLES]]
            yield Finding(level=level, text=f"{text}: {places}", examples=examples, more=len(own) - len(examples))


def _boxes(cases: Iterable[tuple[CheckedImage, Any]]) -> list[Case]:
    from wsolkit.data.readers import placed

    return [(p.split, f"{placed(p.id, box)} in {p.extent[0]} x {p.extent[1]}") for p, box in cases]


def _short(text: str, length: int = LENGTH) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _row(dataset: WSOLDataset, images: list[CheckedImage]) -> dict[str, str]:
    """A split in a table: heading -> text."""
    counts = Counter(p.label for p in images).values()
    boxed = [p for p in images if len(p.boxes)]
    sizes = sorted({p.size for p in images if p.content}, key=np.prod) or [(0, 0)]
    several = sum(len(p.boxes) > 1 for p in boxed)
    return {
        "images": str(len(images)),
        "classes": f"{len(counts)} of {len(dataset.classes)}",
        "images of a class": _range(str(min(counts)), str(max(counts))),
        "width x height": _range(*("{} x {}".format(*size) for size in (sizes[0], sizes[-1]))),
        "with a box": str(len(boxed)),
        "with several": f"{several} ({100 * several / len(boxed):.0f} %)" if boxed else "",
        "middle object": f"{100 * np.median([p.largest for p in boxed]):.0f} % of the image" if boxed else "",
    }


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _centre_box(
    data: Mapping[str, WSOLDataset], images: Mapping[str, list[CheckedImage]], refused: Container[str]
) -> str:
    """How many test images a box of one size in the middle of each hits, as in a report on all of them; "" without
    boxes."""
    from wsolkit.evaluation.results import EvalResult
    from wsolkit.evaluation.scoring import fill_centre_box

    geometry = data["test"].geometry
    truths = {
        split: [geometry.boxes(p.boxes, p.extent).numpy() for p in own if len(p.boxes)] for split, own in images.items()
    }
    if not truths["test"]:
        return ""
    chosen = "val" in data and "val" not in refused and data["val"].localised
    result = EvalResult(frame=[geometry.size] * 2, gt_boxes=truths["test"])
    fill_centre_box(result, truths["val"] if chosen else None, None)
    how = f"chosen on {len(truths['val'])} validation images" if chosen else "half of the image's area"
    hits = f"{result.centre_box['gt_known_loc']:.1f} % of {len(truths['test'])} test images (GT-known Loc)"
    return f"The centre box, {result.centre_box['side']} of {geometry.size} px wide ({how}), hits {hits}."
