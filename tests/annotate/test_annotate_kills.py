"""`annotate` that is killed with SIGKILL at ten random moments and called again leaves the bytes of an uninterrupted call.

A call is a fork of this file started as a script (`serve`), so that torch is imported once, not eleven times.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

KILLS = 10
COUNT = 12  # images of a class
BLOCK = 4  # images between two writes, so that there are six
FORMATS = ("coco", "voc", "csv")


def draw(root: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["path,x0,y0,x1,y1"]
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number in range(COUNT):
            pixels = rng.integers(0, 60, (30, 44, 3), dtype=np.uint8)
            pixels[6:24, 8:30, label] += 160
            Image.fromarray(pixels).save(root / name / f"{number}.png")
            lines.append(f"{name}/{number}.png,8,6,29,23")
    (root / "boxes.csv").write_text("\n".join(lines) + "\n")


def fork(root: Path, out: Path) -> int:
    """Start a call in a process of its own; returns its id."""
    from wsolkit.annotate.annotate import annotate

    if pid := os.fork():
        return pid
    code = 1
    try:
        small = {"weights": "none", "backbone": "mobilenet_v2", "width": 0.125, "size": 32, "epochs": 1}
        annotate(root, out, FORMATS, method="cam", device="cpu", **small)
        code = 0
    finally:
        os._exit(code)


def check(out: Path) -> None:
    """What a killed call leaves: whole files, and a summary only when all else is there."""
    if (out / "coco").exists():
        json.loads((out / "coco" / "annotations.json").read_text())
    if (out / "summary.json").exists():
        assert json.loads((out / "summary.json").read_text())["images"] == 2 * COUNT
        assert all((out / name).is_dir() for name in (*FORMATS, "review"))


def serve(folder: Path) -> None:
    import torch

    import wsolkit.annotate.localise
    from wsolkit.data.base import Geometry, WSOLDataset
    from wsolkit.data.class_folders import open_folder  # noqa: F401  imported once, for all forks
    from wsolkit.data.images import Sample

    torch.set_num_threads(1)
    wsolkit.annotate.localise.BLOCK = BLOCK
    chance, root = random.Random(0), folder / "pictures"
    draw(root)
    one = WSOLDataset("folder", "train", ["cat", "dog"], [Sample("a", 0, (), root / "cat/0.png")] * 2, Geometry(32))
    list(one.train_batches(2, 0, 0))  # compiled once
    begin = time.monotonic()
    assert os.waitpid(fork(root, folder / "whole"), 0)[1] == 0
    length = time.monotonic() - begin
    kills, calls = 0, []
    while kills < KILLS:
        assert len(calls) < 60, "calls end before they are killed"
        calls.append(f"cut-{len(calls)}")
        out, ended = folder / calls[-1], False
        while not ended:
            pid = fork(root, out)
            if kills < KILLS:
                time.sleep(chance.uniform(0, length))
                os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            ended = os.WIFEXITED(status)
            assert not ended or status == 0, f"{out.name} failed"
            kills += not ended
            check(out)
    (folder / "answer.json").write_text(json.dumps({"kills": kills, "calls": calls}))


def content(out: Path) -> dict[str, bytes]:
    """All files but those of the training run, whose times differ, with the name of the folder taken out."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.relative_to(out).parts[0] != "training"]
    return {str(path.relative_to(out)): path.read_bytes().replace(str(out).encode(), b"OUT") for path in files}


def test_ten_kills_change_no_byte(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["kills"] == KILLS
    whole = content(tmp_path / "whole")
    assert {"boxes.jsonl", "summary.json", "coco/annotations.json", "review/cat.html"} <= set(whole)
    for name in answer["calls"]:
        assert content(tmp_path / name) == whole, name
    assert not list(tmp_path.glob("*.lock"))


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
