"""torchrun: two processes train what one trains, one goes on where two were killed, and an error in one ends all."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wsolkit.runs.parameters import RunConfig
from wsolkit.runs.run import Run
from wsolkit.training.checkpoints import read

# neither batch normalisation nor dropout: with them the two draw and normalise differently; 28 images in batches of 5
SMALL = {"backbone": "vgg16", "width": 0.125, "batch_norm": "no", "size": 32, "classes": 4, "per_class": 7, "stride": 16,
         "epochs": 3, "batch_size": 5, "lr": 0.05, "accumulate": 2, "checkpoint_seconds": 1e-9, "device": "cpu"}  # fmt: skip
FAILING = """
import wsolkit as wk
from wsolkit.common.processes import process_group, rank
from wsolkit.training.recipe import Objective

class Failing(Objective):
    def change(self, images, labels):
        if rank() == 1:
            raise ValueError("picture 7 is broken")
        return images, labels

with process_group("cpu"):
    train = wk.load_dataset("synthetic", "train", size=32, classes=3, per_class=2)
    wk.fit(wk.build_model("vgg16", 3, weights="none", width=0.125), train, epochs=1, batch_size=6, objective=Failing())
    print("done")
"""

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch is built without torch.distributed or without gloo",
)


def torchrun(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    return subprocess.run([*command, *map(str, arguments)], env=environment, capture_output=True, text=True)


def history(folder: Path) -> list[dict[str, float]]:
    with open(folder / "history.csv") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_two_processes_give_the_metrics_of_one_and_one_goes_on_for_two(tmp_path):
    options = [part for name, value in SMALL.items() for part in (f"--{name.replace('_', '-')}", value)]
    done = torchrun("-m", "wsolkit", "train", *options, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert [line[:9] for line in lines[:-1]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"], (
        "the first process alone prints"
    )
    two = Path(lines[-1])
    assert json.loads((two / "run.json").read_text())["processes"] == 2

    config = RunConfig.make(**SMALL, out=str(tmp_path / "one"))
    model, one = Run(config).model("gap"), config.training_folder("gap")
    rows = history(one)
    assert len(rows) == 3 and rows[-1]["train_loss"] != rows[0]["train_loss"]
    for a, b in zip(rows, history(two), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
        assert (a["train_top1"], a["val_top1"]) == (b["train_top1"], b["val_top1"])
    for key, value in read(two / "last.pt")["model"].items():
        torch.testing.assert_close(value, read(one / "last.pt")["model"][key], rtol=1e-4, atol=1e-6)

    # as if the two had been killed before the end of the last epoch
    before = read(two / "previous.pt")["progress"]
    assert before["epoch"] == 2 and before["step"] == 6 and before["sums"][2] == 28
    for name in ("last.pt", "run.json"):
        (two / name).unlink()
    config = RunConfig.make(**SMALL, out=str(tmp_path / "two"))
    with pytest.warns(UserWarning, match=r"goes on from previous\.pt"):
        again = Run(config).model("gap")
    assert history(two)[-1] == pytest.approx(rows[-1], rel=1e-5)
    for key, value in again.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-4, atol=1e-6)


def test_an_error_in_one_process_ends_all(tmp_path):
    (tmp_path / "train.py").write_text(FAILING)
    done = torchrun(tmp_path / "train.py")
    assert done.returncode != 0 and "picture 7 is broken" in done.stderr and "done" not in done.stdout
