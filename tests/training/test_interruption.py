"""Real processes killed with SIGKILL at ten random moments end, resumed, with the bits of an uninterrupted training.

A training run is a fork of this file started as a script (`serve`), so that torch is imported once, not eleven times.
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

import torch

from wsolkit.training.checkpoints import checksum, read

KILLS = 10


def data() -> list:
    import wsolkit as wk

    return [wk.load_dataset("synthetic", split, size=32, classes=3, per_class=12) for split in ("train", "val")]


def train(out: Path, splits: list) -> None:
    """Crops, flips, dropout and batch normalisation; a checkpoint after every step."""
    import wsolkit as wk

    model = wk.build_model("vgg16_fc", 3, weights="none", width=0.0625, batch_norm=True)
    out.mkdir(exist_ok=True)
    (out / "started").touch()
    wk.fit(model, *splits, out=out, epochs=3, batch_size=8, lr=0.02, checkpoint_seconds=1e-9)


def fork(out: Path, splits: list) -> int:
    """Start a training run in a process of its own; returns its id as soon as it trains."""
    (out / "started").unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train(out, splits)
            code = 0
        finally:
            os._exit(code)
    while not (out / "started").exists() and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        time.sleep(0.001)
    return pid


def check(out: Path) -> None:
    """What a killed training leaves: whole files, and best.pt never ahead of last.pt."""
    if (out / "last.pt").exists():
        best = read(out / "last.pt")["progress"]["best"]
        if (out / "best.pt").exists():
            assert read(out / "best.pt")["epoch"] <= best["epoch"]
    else:
        assert not (out / "previous.pt").exists() and not (out / "best.pt").exists()


def serve(folder: Path) -> None:
    torch.set_num_threads(1)
    chance, splits = random.Random(0), data()
    list(splits[0].train_batches(8, 0, 0)), splits[1].images(range(len(splits[1])))  # drawn once, for all forks
    begin = time.monotonic()
    assert os.waitpid(fork(folder / "whole", splits), 0)[1] == 0
    length = time.monotonic() - begin
    kills, trainings = 0, []
    while kills < KILLS:
        assert len(trainings) < 60, "training runs end before they are killed"
        trainings.append(f"cut-{len(trainings)}")
        out, ended = folder / trainings[-1], False
        while not ended:
            pid = fork(out, splits)
            if kills < KILLS:
                time.sleep(chance.uniform(0, length))
                os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            ended = os.WIFEXITED(status)
            assert not ended or status == 0, f"{out.name} failed"
            kills += not ended
            check(out)
    (folder / "answer.json").write_text(json.dumps({"kills": kills, "trainings": trainings}))


def state(folder: Path) -> dict:
    return torch.load(folder / "last.pt", weights_only=True)


def test_ten_kills_change_no_bit(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["kills"] == KILLS
    whole = tmp_path / "whole"
    for name in answer["trainings"]:
        cut = tmp_path / name
        for kind in ("model", "optimiser"):
            assert checksum(state(cut)[kind]) == checksum(state(whole)[kind]), f"{name}: {kind}"
        histories = [[{**row, "seconds": 0} for row in state(folder)["progress"]["history"]] for folder in (whole, cut)]
        assert histories[0] == histories[1] and len(histories[0]) == 3
        best = [torch.load(folder / "best.pt", weights_only=True) for folder in (whole, cut)]
        assert best[0]["epoch"] == best[1]["epoch"] and checksum(best[0]["model"]) == checksum(best[1]["model"])
        assert not list(cut.glob(".*.part")), "half-written files are removed"


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
