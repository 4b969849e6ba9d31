"""Every chapter on every shape of data: boxes in validation, test, both or neither, masks, several objects, few images,
one image of a class, two classes and many, landscape, portrait and grey images. Then what a sweep makes of them.

Papermill runs each notebook from its first cell to its last, with an empty namespace; all do so in one kernel, since to import
the package takes as long as a chapter."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from bs4 import BeautifulSoup
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from PIL import Image

from wsolkit.report.index import write_index
from wsolkit.report.method_page import write_report
from wsolkit.sweep.jobs import SweepFile

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("cam", "rethinking_cam", "grad_cam", "grad_cam++", "score_cam", "layer_cam", "has")
OTHERS = ("00_tour", "08_compare", "10_write_your_own_cam", "16_labels_to_detector")  # chapters that no sweep runs
OWN = {"16_labels_to_detector": {"steps": 3}}  # parameters of a chapter's own, by its name
NEEDS = {"val": ("04", "05", "06", "07", "10")}  # chapters with an experiment that needs the boxes of a split
NEEDS["test"] = ("00", "02", "03", "08", "09", "16", *NEEDS["val"])
NEEDS["train"] = ("16",)
KINDS = {"": "test", "validation ": "val", "training ": "train"}  # how a sentence names a split
PAGES = ("cam", "rethinking_cam", "score_cam")  # whose reports are written and looked at
LOCATED = ("top5_loc", "gt_known_loc", "top1_loc", "max_box_acc", "max_box_acc_v2")
OBJECTS = ((4, 5, 17, 16), (20, 19, 33, 31))  # corners in pixels, inclusive
SMALL = {"weights": "none", "width": 0.125, "size": 32, "epochs": 1, "batch_size": 8, "limit": 3}
LEFT_OUT = re.compile(
    r": left out, since (\d+) of (\d+) (validation |training )?images? ha(?:s|ve) no ground-truth box\."
)
RESET = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("%reset -f")])


@dataclass(frozen=True)
class Shape:
    """What a data set is like.

    images: of each class, by split; without "val" a share of the training images is held out. known: what localization.txt
    holds, by split ("boxes" or "masks"). size: (width, height). objects: in each image. methods, others: whose chapters run.
    dataset: "metadata", or "folder", where a split with boxes has them in every second image.
    """

    images: dict[str, tuple[int, ...]]
    known: dict[str, str] = field(default_factory=dict)
    size: tuple[int, int] = (36, 36)
    mode: str = "RGB"
    objects: int = 1
    methods: tuple[str, ...] = METHODS
    others: tuple[str, ...] = OTHERS
    dataset: str = "metadata"

    def write(self, folder: Path) -> dict[str, str]:
        """Write images, metadata and masks; the parameters of a run that name them."""
        rng, places = np.random.default_rng(0), {name: folder / name for name in ("root", "metadata", "masks")}
        for split, counts in self.images.items():
            lines: dict[str, list[str]] = {"image_ids": [], "class_labels": [], "localization": []}
            for label, number in [(label, number) for label, count in enumerate(counts) for number in range(count)]:
                name = (
                    f"{split}/{label}-{number}.png" if self.dataset == "metadata" else f"{split}/{label}/{number}.png"
                )
                pixels = np.full((*self.size[::-1], 3), rng.integers(20, 80, 3), np.uint8)
                for place, (x0, y0, x1, y1) in enumerate(OBJECTS[: self.objects]):
                    pixels[y0 : y1 + 1, x0 : x1 + 1, label % 3] += 150
                    mask = np.zeros(self.size[::-1], np.uint8)
                    mask[y0 : y1 + 1, x0 : x1 + 1] = 255
                    file, kind = f"{split}/{label}-{number}-{place}.png", self.known.get(split)
                    save(places["masks"] / file, Image.fromarray(mask) if kind == "masks" else None)
                    row = {"boxes": f"{name},{x0},{y0},{x1},{y1}", "masks": f"{name},{file},"}.get(kind)
                    lines["localization"] += [row] if row else []
                save(places["root"] / name, Image.fromarray(pixels).convert(self.mode))
                lines["image_ids"].append(name)
                lines["class_labels"].append(f"{name},{label}")
            for file, rows in lines.items():
                path = places["metadata"] / split / f"{file}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                if rows:
                    path.write_text("\n".join(rows) + "\n")
        if self.dataset == "folder":
            lines = (places["metadata"] / "test" / "localization.txt").read_text().splitlines(keepends=True)
            (places["root"] / "boxes.csv").write_text("".join(lines[::2]))
            return {"root": str(places["root"])}
        if "masks" not in self.known.values():
            del places["masks"]
        return {name: str(path) for name, path in places.items()}


def save(path: Path, image: Image.Image | None) -> None:
    if image is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


SHAPES = {
    "no boxes, two classes, few images, portrait, grey": Shape(
        {"train": (4, 4), "val": (1, 1), "test": (1, 2)}, size=(40, 60), mode="L"
    ),
    "masks in test, boxes in val, many classes, one image of each, several objects, landscape": Shape(
        dict.fromkeys(("train", "val", "test"), (1,) * 120), {"train": "boxes", "val": "boxes", "test": "masks"}, (60, 40), objects=2
    ),
    "boxes in test, one image of a class": Shape(
        {"train": (1, 8, 4), "test": (2, 2, 2)}, {"test": "boxes"}, methods=("rethinking_cam", "grad_cam++"), others=("08_compare",)
    ),
    "class folders, boxes in some test images": Shape(
        {"train": (6, 6, 6), "test": (3, 3, 3)}, {"test": "boxes"}, methods=("cam", "has"), others=OTHERS[:2], dataset="folder"
    ),
    "boxes in val": Shape(
        {"train": (6, 6, 6), "val": (3, 3, 3), "test": (3, 3, 3)}, {"val": "boxes"}, methods=("score_cam",), others=OTHERS[2:]
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def kernel():
    """A manager of one kernel, which papermill starts with the first notebook and leaves running."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="wsolkit-") as sockets:
        for name in ("OMP_NUM_THREADS", "WSOLKIT_THREADS"):
            patch.setenv(name, "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        yield manager
        run_sync(manager.shutdown_kernel)(now=True)


def execute(kernel, notebook: Path, output: Path, parameters: dict) -> str:
    """Run a notebook through papermill; the error that ended it, or ""."""
    how = {"km": kernel, "kernel_name": "python3", "progress_bar": False, "request_save_on_cell_execute": False}
    papermill.execute_notebook(RESET, None, **how)
    try:
        papermill.execute_notebook(str(notebook), str(output), parameters, **how)
    except papermill.PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue} in {error.source.splitlines()[:1]}"
    return ""


def said(notebook: Path) -> str:
    """What the outputs of an executed notebook say, images left out."""
    texts = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            html = BeautifulSoup(data.get("text/html", ""), "html.parser")
            texts += [output.get("text", ""), html.get_text(" ") or data.get("text/plain", "")]
            texts += [image.get("alt", "") for image in html.find_all("img")]
    return re.sub(r"\s+", " ", " ".join(texts))


@dataclass
class Ran:
    """All chapters on one data set: the jobs of a sweep, the notebook and the error of each chapter, by its name."""

    shape: Shape
    out: Path
    jobs: list
    notebooks: dict[str, Path]
    errors: dict[str, str]


@pytest.fixture(scope="module", params=SHAPES, ids=lambda name: name.replace(", ", " "))
def ran(request, kernel, tmp_path_factory):
    shape, folder = SHAPES[request.param], tmp_path_factory.mktemp("shape")
    given = {"dataset": shape.dataset, "out": str(folder / "out"), **SMALL, **shape.write(folder)}
    grid = SweepFile.make(**given, backbone="resnet18", backbones=("resnet18",), methods=shape.methods)
    jobs, impossible = grid.plan()
    assert not impossible
    ran = Ran(shape, folder / "out", jobs, {}, {})
    for job in jobs:
        if not job.trains or job.parameters["variant"] == "gap":  # the chapters of methods train the others
            run_one(ran, kernel, job.notebook, job.parameters)
    config = SweepFile.make(**given, backbone="resnet18")
    for notebook in (ROOT / "notebooks" / f"{name}.ipynb" for name in shape.others):
        run_one(ran, kernel, notebook, config.for_notebook(notebook) | OWN.get(notebook.stem, {}))
    return ran


def run_one(ran: Ran, kernel, notebook: Path, parameters: dict) -> None:
    ran.notebooks[notebook.stem] = ran.out / f"{notebook.stem}.ipynb"
    ran.out.mkdir(exist_ok=True)
    if error := execute(kernel, notebook, ran.notebooks[notebook.stem], parameters):
        ran.errors[notebook.stem] = error


def test_every_chapter_runs(ran):
    assert len(ran.notebooks) == 1 + len(ran.shape.methods + ran.shape.others)
    assert not ran.errors, "\n".join(f"{name}: {error}" for name, error in ran.errors.items())


def test_what_needs_boxes_says_that_it_is_left_out_and_nothing_else_does(ran):
    for name, notebook in ran.notebooks.items():
        text = said(notebook)
        lacking = {split for split, names in NEEDS.items() if name[:2] in names and split not in ran.shape.known}
        sentences = LEFT_OUT.findall(text)
        assert {KINDS[kind] for *_, kind in sentences} == lacking, name
        assert all(empty == total for empty, total, _ in sentences)
        assert not re.search(r"\bnan\b", text, re.IGNORECASE), name


def test_a_sweep_has_all_of_their_reports(ran):
    located = "test" in ran.shape.known
    for job in ran.jobs:
        assert job.complete(), f"a sweep would run {job.name} again"
    for job in (job for job in ran.jobs if not job.trains):
        result, method = json.loads(job.done.read_text())["result"], job.config["method"]
        measured = {name for name in LOCATED if result[name] is not None}
        assert measured == (set(LOCATED[result["n_classes"] <= 5 :]) if located else set()), method
        assert (result["pxap"] is not None) == (ran.shape.known.get("test") == "masks"), method
        if method not in PAGES:
            continue
        shutil.copy(ran.notebooks[job.notebook.stem], job.folder / "notebook.ipynb")
        page = BeautifulSoup(write_report(job.folder, job.html, job.title, home=job.home).read_text(), "html.parser")
        cards = [card.get_text(" ", strip=True) for card in page.select(".card")]
        assert sum("not measured" in card for card in cards) == (0 if located else 3) and len(cards) == 4
        assert bool(page.find(id="iou")) == bool(page.find(id="classes")) == located and page.find(id="experiment")
    write_index(ran.out)
    with open(ran.out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["completed"] * len(ran.shape.methods)
    assert all(bool(row["gt_known_loc"]) == located and row["top1_cls"] for row in rows)
