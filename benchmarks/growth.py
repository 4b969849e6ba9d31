"""`make bench`: how time and memory of every stage grow with the number of images.

A metadata set of N test images is hard links to a few JPEGs, painted for the occasion. The network is a narrow resnet18
of 32 px: what a network costs for an image does not depend on N. Every N has a process of its own, in which all stages
run on a few images first. Memory is what a stage adds to the process beside mapped files, whose pages the system takes
back on its own. A slope is taken between the smallest and the largest N, so what is the same for every N is not in it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from training import paint

import wsolkit as wk
from wsolkit.common.cores import cores
from wsolkit.data import decoded
from wsolkit.methods.registry import study_methods
from wsolkit.report.index import write_index
from wsolkit.report.method_page import write_report
from wsolkit.runs.parameters import data_state
from wsolkit.runs.run import Run

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import run_trees

PAINTED, CLASSES, SIDE, FEW = 16, 10, 32, 64
BACKBONES = ("resnet18", "resnet50", "vgg16", "mobilenet_v2")
RUNS = 100  # a run in the index for so many images
LINKED = 1000  # images in a folder, as in a class of ImageNet
STAGES = {
    "open": "the split, with labels, sizes and boxes",
    "state": "the data's digest, for what is stale",
    "decode": "all images to the file of pixels",
    "epoch": "input of an epoch, without the network",
    "localise": "CAM of the narrow network",
    "evaluate": "every metric, boxes and threshold",
    "report": "files and page of the run",
    "index": f"the index of N / {RUNS} runs",
}
Measured = dict[str, tuple[float, float]]  # stage -> seconds, MB


def make_set(folder: Path, count: int) -> None:
    """Images and metadata: `count` test images, `FEW` of them also for training and validation."""
    painted, images = folder / "painted", folder / "images"
    painted.mkdir(parents=True)
    files = [painted / paint(painted, index) for index in range(PAINTED)]
    sizes = [wk.data.images.image_size(file) for file in files]
    for split, number in (("train", FEW), ("val", FEW), ("test", count)):
        lines: dict[str, list[str]] = {"image_ids": [], "class_labels": [], "image_sizes": [], "localization": []}
        for index in range(number):
            part, place = f"{split}/{index // LINKED:04d}", index % PAINTED
            (images / part).mkdir(parents=True, exist_ok=True)
            name = f"{part}/{index:07d}.jpg"
            os.link(files[place], images / name)
            width, height = sizes[place]
            lines["image_ids"].append(name)
            lines["class_labels"].append(f"{name},{index % CLASSES}")
            lines["image_sizes"].append(f"{name},{width},{height}")
            lines["localization"].append(f"{name},{40 + index % 50},40,300,{200 + index % 50}")
        (folder / "metadata" / split).mkdir(parents=True)
        for file, rows in lines.items():
            (folder / "metadata" / split / f"{file}.txt").write_text("".join(f"{row}\n" for row in rows))


def make_runs(out: Path, count: int) -> None:
    """Completed runs: four backbones, five seeds, and as many data sets as it takes."""
    names = study_methods()
    for number in range(count):
        rest, method = divmod(number, len(names))
        rest, backbone = divmod(rest, len(BACKBONES))
        dataset, seed = divmod(rest, 5)
        run_trees.run(out, f"data{dataset}", BACKBONES[backbone], names[method], seed=seed, gt=40.0 + number % 37)


class Stage:
    """Seconds, and megabytes (2**20 bytes) by which the memory that no file backs grew above its level at the start."""

    def __enter__(self) -> Stage:
        self.process, self.done = psutil.Process(), threading.Event()
        self.start = self.peak = self.private()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        self.begin = time.perf_counter()
        return self

    def private(self) -> int:
        memory = self.process.memory_info()
        return memory.rss - memory.shared

    def watch(self) -> None:
        while not self.done.wait(0.01):
            self.peak = max(self.peak, self.private())

    def __exit__(self, *_: object) -> None:
        self.taken = time.perf_counter() - self.begin, max(self.peak, self.private()) - self.start
        self.done.set()
        self.thread.join()


def stages(folder: Path, count: int) -> Measured:
    """Every stage once, on a set of `count` images made in `folder`."""
    make_set(folder, count)
    os.environ["WSOLKIT_CACHE"] = str(folder / "cache")
    decoded.SMALL_BYTES = 0  # few images take the way of many: through the file
    places = {"root": str(folder / "images"), "metadata": str(folder / "metadata"), "size": SIDE}
    about = {"backbone": "resnet18", "width": 0.125, "weights": "none", "epochs": 1, "batch_size": 16, "device": "cpu"}
    run = Run.start(dataset="metadata", out=str(folder / "out"), **places, **about)
    measured: Measured = {}

    def stage(name: str, function: Callable[[], Any]) -> Any:
        with Stage() as own:
            made = function()
        measured[name] = own.taken[0], own.taken[1] / 2**20
        return made

    def localise(model, data, method, smooth=(), indices=None, **_):
        return wk.localise(model, data, method, indices=indices, batch_size=64, progress=iter)

    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        model = run.model()
        test = stage("open", lambda: run.dataset("test"))
        stage("state", lambda: data_state(places["root"]) + data_state(places["metadata"]))
        stage("decode", lambda: test.prepare(test.geometry.enlarged))
        stage("epoch", lambda: sum(len(labels) for _, labels in test.train_batches(64, 0, 0)))
        test.prepare()
        maps = stage("localise", lambda: localise(model, test, "cam", indices=test.spread(None)))
        kept = {"localiser": lambda *given, **named: maps if given[1].split == "test" else localise(*given, **named)}
        result = stage("evaluate", lambda: run.evaluate("cam", **kept))
        page = folder / "out" / "page.html"
        stage("report", lambda: write_report(run.finish("cam", result).parent, page))
        make_runs(folder / "runs", max(2, count // RUNS))
        stage("index", lambda: write_index(folder / "runs"))
    return measured


def in_turn(count: int) -> Measured:
    """The stages on a few images, which compiles and imports what they need, then on `count`."""
    with tempfile.TemporaryDirectory() as folder:
        stages(Path(folder) / "few", FEW)
        return stages(Path(folder) / "many", count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000], metavar="N",
                        help="images of each set, two numbers at least (default 1000 10000)")  # fmt: skip
    counts = sorted(set(parser.parse_args().counts))
    if len(counts) < 2 or counts[0] < FEW:
        parser.error(f"--counts needs two different numbers of at least {FEW}")
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {cores()} cores, load {os.getloadavg()[0]:.1f}"
    )
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        every = []
        for count, measured in zip(counts, pool.map(in_turn, counts), strict=True):
            every.append(measured)
            print(f"\n{count} images", flush=True)
            for name, (seconds, megabytes) in measured.items():
                print(f"  {name:<9} {seconds:9.2f} s {megabytes:8.1f} MB   {STAGES[name]}", flush=True)
    span = counts[-1] - counts[0]
    print(f"\nslope from {counts[0]} to {counts[-1]} images, for each image")
    for name in STAGES:
        (less, little), (more, much) = (np.array(measured[name]) for measured in (every[0], every[-1]))
        print(f"  {name:<9} {1e3 * (more - less) / span:9.3f} ms {1024 * (much - little) / span:8.2f} kB")


if __name__ == "__main__":
    main()
