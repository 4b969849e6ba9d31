"""`make bench`: what `wsolkit annotate` takes beside decoding and the bare pass of a network, and how its memory grows.

Speed: `write_boxes` (read, localise, cut, certainty, thumbnail, file) and a bare loop (decode, resize, feature map,
logits and map; no box, no file) take turns on the same images. Seconds are processor time, of the process and of the
system for it, which other programs disturb least, and by the clock. Weights are random: speed does not depend on them.

Memory: whole calls on N hard links to a few photographs, with a tiny network, each in a process of its own. Peaks are
those of the process, with libraries and mapped files.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from localisation import goal, machine, spread
from PIL import Image
from training import paint

import wsolkit as wk
from wsolkit.annotate.annotate import METHOD, annotate
from wsolkit.annotate.localise import Rule, write_boxes
from wsolkit.common.memory import keep_freed_memory
from wsolkit.data.base import normalise
from wsolkit.data.images import read_image
from wsolkit.methods.maps import answers, feature_map
from wsolkit.methods.registry import resolve
from wsolkit.networks.split import rest_of
from wsolkit.runs.run import Trained

BAR, BATCH, CLASSES = 1.15, 16, 10
PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data" / "imagenette_wsol" / "images"
TINY = {"weights": "none", "backbone": "resnet18", "width": 0.125, "size": 32, "epochs": 1}
CALLS = {
    "train": "a tiny network trained and all boxes made",
    "localise": "a checkpoint taken and all boxes made",
    "finish": "the same again: files and pages only",
}


def make_pictures(root: Path, count: int) -> Path:
    """ROOT/<class>/<number>.jpg: hard links to photographs, or to painted ones where there are none."""
    (originals := root.with_name(f"{root.name} originals")).mkdir(parents=True)
    given = sorted(PHOTOGRAPHS.rglob("*.jp*g"), key=lambda path: path.name)[:200]
    files = [path.read_bytes() for path in given]
    files = files or [(originals / paint(originals, index)).read_bytes() for index in range(16)]
    for index, content in enumerate(files):
        (originals / f"{index}").write_bytes(content)
    for index in range(count):
        (folder := root / f"class {index % CLASSES}").mkdir(parents=True, exist_ok=True)
        os.link(originals / f"{index % len(files)}", folder / f"{index:06d}.jpg")
    return root


def samples_of(root: Path) -> list[tuple[str, wk.data.images.Sample]]:
    return [("test", sample) for split in ("train", "val", "test")
            for sample in wk.load_dataset("folder", split, root=root).samples]  # fmt: skip


def bare(trained: Trained, samples: list, rule: Rule) -> None:
    """What no implementation can do without: pixels, the pass of the network, and the map."""
    side = (trained.geometry or wk.Geometry()).side
    for start in range(0, len(samples), BATCH):
        own = [sample for _, sample in samples[start : start + BATCH]]
        read = (read_image(sample.path).resize((side, side), Image.Resampling.BILINEAR) for sample in own)
        images = normalise(np.stack([np.asarray(image) for image in read]))
        features = feature_map(trained.model, images)
        with torch.inference_mode():
            rest_of(trained.model, images)(features.clone())
        labels = torch.tensor([sample.label for sample in own])
        answers(trained.model, images, labels, [rule.method], features=features)


def speed(folder: Path, backbone: str, size: int, count: int, rounds: int) -> None:
    samples = samples_of(make_pictures(folder / "pictures", count))
    model = wk.build_model(backbone, CLASSES, weights="none", stride=32).eval()
    trained = Trained(model, [f"class {k}" for k in range(CLASSES)], wk.Geometry(size), Path(), {})
    entry = resolve(METHOD)
    rule = Rule(entry.map, entry.fixed_threshold(entry.percentile), entry.percentile)
    taken = {"bare": np.zeros((rounds, 2)), "annotate": np.zeros((rounds, 2))}
    for number in range(-1, rounds):  # the first one warms up
        for name, seconds in taken.items():
            begin = np.array([time.process_time(), time.perf_counter()])
            if name == "bare":
                bare(trained, samples, rule)
            else:
                write_boxes(folder / f"{number}.jsonl", trained, samples, rule, BATCH)
            if number >= 0:
                seconds[number] = np.array([time.process_time(), time.perf_counter()]) - begin
    print(f"\n{backbone}, {size} px, {METHOD}, {count} images, {rounds} rounds: ms an image (10th to 90th percentile)")
    for name, seconds in taken.items():
        processor, clock = (spread(1e3 * seconds[:, k] / count, 1) for k in (0, 1))
        print(f"  {name:<9} {processor:>24} of processor time {clock:>24} by the clock")
    slow, fast = taken["annotate"], taken["bare"]
    goal("annotate takes, in processor time, the bare loop's", slow[:, 0], fast[:, 0], BAR, at_most=True)
    goal("annotate takes, by the clock, the bare loop's", slow[:, 1], fast[:, 1], BAR, at_most=True)


def call(folder: Path, kind: str) -> tuple[float, float]:
    """One call in a process of its own: seconds of processor time, and the peak of memory in MB (2**20 bytes)."""
    os.environ["WSOLKIT_CACHE"] = str(folder / "cache")
    torch.set_num_threads(1)
    out = folder / ("trained" if kind == "train" else "taken")
    given = TINY if kind == "train" else {"checkpoint": next((folder / "trained").rglob("best.pt"))}
    annotate(folder / "pictures", out, ["coco", "voc", "labelstudio"], device="cpu", **given)
    return time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def memory(folder: Path, counts: list[int]) -> None:
    print("\nseconds of processor time and peak of memory (MB) of a call, with the import")
    peaks = {}
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for count in counts:
            make_pictures(folder / f"{count}" / "pictures", count)
            for kind, text in CALLS.items():
                seconds, peaks[count, kind] = pool.submit(call, folder / f"{count}", kind).result()
                print(f"  {count:>7} images, {text:<44} {seconds:8.1f} s {peaks[count, kind]:8.0f} MB", flush=True)
    few, many = counts[0], counts[-1]
    for kind, text in CALLS.items():
        print(
            f"  kB for each further image, {text}: {1024 * (peaks[many, kind] - peaks[few, kind]) / (many - few):.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--sizes", type=int, nargs="*", default=[224, 448], help="input sides (default 224 448)")
    parser.add_argument("--images", type=int, default=192, help="images of a round (default 192)")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="of the network (default 1)")
    parser.add_argument("--counts", type=int, nargs="*", default=[1000, 10_000], metavar="N",
                        help="images of the calls whose memory is measured (default 1000 10000)")  # fmt: skip
    asked = parser.parse_args()
    keep_freed_memory()  # as the command does
    torch.set_num_threads(asked.threads)
    machine("cpu")
    with tempfile.TemporaryDirectory() as name:
        for size in asked.sizes:
            speed(Path(name) / f"{size}", asked.backbone, size, asked.images, asked.rounds)
        if asked.counts:
            memory(Path(name), sorted(asked.counts))


if __name__ == "__main__":
    main()
