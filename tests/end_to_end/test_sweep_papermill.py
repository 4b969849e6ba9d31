"""Plain papermill and the sweep: the same notebook, parameters and seed give the same result, wherever each is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_jobs import maps_of

from wsolkit.common.cores import cores
from wsolkit.runs.parameters import of_notebook
from wsolkit.sweep.jobs import SweepFile
from wsolkit.sweep.scheduler import Sweep

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"per_class": 2, "classes": 3, "size": 32, "width": 0.125, "epochs": 1, "backbone": "mobilenet_v2"}
COST = ("seconds_per_image", "peak_memory_mb", "timing")


def jobs_of(out: Path):
    """The training and the report of cam with a second seed, as a sweep over two seeds plans them."""
    grid = SweepFile.make(**SMALL, out=str(out), backbones="mobilenet_v2", methods=("cam",), seeds=(0, 1))
    return [job for job in grid.plan()[0] if job.name.startswith("seed-1/")]


def without_cost(value):
    if isinstance(value, dict):
        return {name: without_cost(item) for name, item in value.items() if name not in COST}
    return value


def test_plain_papermill_gives_the_same_result_and_a_sweep_takes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    said = []
    swept = jobs_of(tmp_path / "swept")
    assert not Sweep(swept, workers=cores(), say=said.append).run(), said  # so each has one thread
    elsewhere = tmp_path / "some" / "folder"
    elsewhere.mkdir(parents=True)
    (elsewhere / "p.yaml").write_text("per_class: 2\nclasses: 3\nsize: 32\n")
    command = [
        *(sys.executable, "-m", "papermill", str(ROOT / "notebooks" / "02_cam.ipynb"), "out.ipynb", "-f", "p.yaml"),
        *("-y", "{width: 0.125, backbone: mobilenet_v2}", "-p", "epochs", "1", "-p", "seed", "1"),
        *("-p", "out", "../../plain/seed-1", "--no-progress-bar"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WSOLKIT_THREADS": "1"}
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

    plain = jobs_of(tmp_path / "plain")
    ours, theirs = (json.loads(jobs[1].done.read_text()) for jobs in (swept, plain))
    assert ours["fingerprint"] == theirs["fingerprint"] == swept[1].key
    for part in ("result", "against", "extra", "made_from"):
        assert without_cost(ours.get(part)) == without_cost(theirs.get(part)), part
    assert (swept[1].folder / "per_image.csv").read_bytes() == (plain[1].folder / "per_image.csv").read_bytes()
    first, second = (np.load(maps_of(jobs[1].folder)["test"], allow_pickle=False) for jobs in (swept, plain))
    with first, second:
        assert all(np.array_equal(first[name], second[name]) for name in ("ids", "labels", "logits", "maps"))
    histories = [[line.rpartition(",")[0] for line in (jobs[0].folder / "history.csv").read_text().splitlines()]
                 for jobs in (swept, plain)]  # fmt: skip
    assert "seconds" in (swept[0].folder / "history.csv").read_text().splitlines()[0].rpartition(",")[2]
    assert histories[0] == histories[1]

    report = replace(plain[1], needs=())  # its training's page would take one notebook more
    before = report.done.stat().st_mtime_ns
    assert not report.fresh() and not report.html.exists()
    assert not Sweep([report], workers=1, say=said.append).run() and report.fresh()
    assert report.done.stat().st_mtime_ns == before, "only the page is written"
    outcomes = [
        json.loads(line).get("outcome") for line in (report.folder / "executions.jsonl").read_text().splitlines()
    ]
    assert outcomes == [None, "page written"]
    for job in (swept[1], report):
        assert 'href="../../../index.html"' in job.html.read_text(), "pages of all seeds lead to one index"


def test_a_parameter_that_a_notebook_does_not_know_is_an_error():
    cells = ["", "epochs = 0  # length", "# Parameters\nepoch = 3\n", "run"]
    with pytest.raises(ValueError, match="this notebook has no parameter epoch; did you mean 'epochs'"):
        of_notebook({"In": cells, "epochs": 0, "epoch": 3})
    cells[2] = "# Parameters\nepochs = 3\n"
    assert of_notebook({"In": cells, "epochs": 3, "np": os, "epoch": 3}) == {"epochs": 3}, "a reader's own variables"
    cells[1] = "%matplotlib inline\nmethod = ''"
    cells[2] = "# Parameters\nmethod = 'cam'\n"
    with pytest.raises(ValueError, match="has no parameter method; it has"):
        of_notebook({"In": cells, "method": "cam"})
    cells[2] = "# Parameters\nlr = 0.1\n"
    assert of_notebook({"In": cells, "lr": 0.1, "options": {"tau": 0.2}}) == {"lr": 0.1, "tau": 0.2}, (
        "without a line too"
    )
    with pytest.raises(ValueError, match=r"weights is None; write none \(lower case\)"):
        of_notebook({"weights": None})
