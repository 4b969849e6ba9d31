"""What becomes stale when one constant changes: on a copy of the package, edited line by line; keys are computed in a process of
their own, as a sweep plans."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEYS = """
import json, sys
from pathlib import Path
from wsolkit.common.paths import notebooks_folder
from wsolkit.methods.registry import declared
from wsolkit.runs.fingerprints import page_state
from wsolkit.runs.parameters import RunConfig
config = RunConfig.make(classes=4)
variants = {name: config.training_key(name) for name in ("gap", "tap", "has", "cutmix", "adl", "acol")}
reports = {}
for name in ("cam", "rethinking_cam", "grad_cam", "grad_cam++", "score_cam", "layer_cam", "has", "cutmix", "adl", "acol", "hires_cam"):
    method = declared(name)
    parts = config.report_parts(name, method.variants_on("resnet18"), notebooks_folder() / method.chapter)
    reports[name] = {key: value for key, value in parts.items() if key != "trainings"}
assert "torch" not in sys.modules, "a sweep plans without torch"
print(json.dumps([variants, reports, page_state()]))
"""
ALL_VARIANTS = {"gap", "tap", "has", "cutmix", "adl", "acol"}
ALL_METHODS = {
    "cam",
    "rethinking_cam",
    "grad_cam",
    "grad_cam++",
    "score_cam",
    "layer_cam",
    "has",
    "cutmix",
    "adl",
    "acol",
    "hires_cam",
}
NOTHING: set[str] = set()

# file, text, what it becomes -> training runs, scoring by itself (what a training run makes stale comes on top), page
CHANGES = [
    ("wsolkit/methods/rethinking_cam.py", "recipe.lr / 3", "recipe.lr / 30", {"tap"}, {"rethinking_cam"}, False),
    ("wsolkit/methods/rethinking_cam.py", 'pooling="tap"', 'pooling="gap"', {"tap"}, {"rethinking_cam"}, False),
    ("wsolkit/methods/acol.py", 'pooling="acol"', 'pooling="gap"', {"acol"}, {"acol"}, False),
    ("wsolkit/methods/has.py", "rate: float = 0.5", "rate: float = 0.4", {"has"}, {"has"}, False),
    ("wsolkit/methods/has.py", "masked_fill_(hidden[:, None], 0.0)", "masked_fill_(hidden[:, None], 0.5)", {"has"}, {"has"}, False),
    ("wsolkit/methods/adl.py", "gamma: float = 0.8", "gamma: float = 0.9", {"adl"}, {"adl"}, False),
    ("wsolkit/methods/layer_cam.py", "clamp(min=0)", "clamp(min=0.1)", NOTHING, {"layer_cam"}, False),
    ("wsolkit/methods/cam.py", "return context.class_weights", "return -context.class_weights", NOTHING, ALL_METHODS, False),
    ("wsolkit/methods/smoothing.py", "_LARGEST = 2**24", "_LARGEST = 2**20", NOTHING, ALL_METHODS, False),
    ("wsolkit/training/recipe.py", "LEAST_STEPS = 16", "LEAST_STEPS = 8", ALL_VARIANTS, NOTHING, False),
    ("wsolkit/training/recipe.py", "BATCH, LR = 40, 3e-3", "BATCH, LR = 40, 2e-3", ALL_VARIANTS, NOTHING, False),
    ("wsolkit/data/synthetic.py", "CANVAS = 128", "CANVAS = 64", ALL_VARIANTS, NOTHING, False),
    ("wsolkit/networks/pooling.py", "tau: float = 0.1", "tau: float = 0.2", ALL_VARIANTS, NOTHING, False),
    ("wsolkit/runs/parameters.py", '"lr": 0.03', '"lr": 0.3', ALL_VARIANTS, NOTHING, False),
    ("wsolkit/boxes/extract.py", "threshold", "threshold", NOTHING, NOTHING, False),
    ("notebooks/04_grad_cam.ipynb", "## Summary", "## Sum", NOTHING, {"grad_cam"}, False),
    ("wsolkit/cli/main.py", "--plan", "--plans", NOTHING, NOTHING, False),
]  # fmt: skip


def keys(folder: Path):
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", KEYS], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    for name in ("wsolkit", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder, keys(folder)


@pytest.mark.parametrize("name,old,new,variants,methods,page", CHANGES, ids=[f"{c[0]} {c[1]}" for c in CHANGES])
def test_exactly_what_depends_on_a_constant_becomes_stale(copy, name, old, new, variants, methods, page):
    folder, before = copy
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text, "choose another constant"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    try:
        after = keys(folder)
    finally:
        path.write_text(text, encoding="utf-8")
    assert {key for key in before[0] if before[0][key] != after[0][key]} == variants
    assert {key for key in before[1] if before[1][key] != after[1][key]} == methods
    assert (before[2] != after[2]) is page
