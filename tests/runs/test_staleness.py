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

from wsolkit.methods.has import HaS
from wsolkit.methods.registry import Variant
from wsolkit.runs import parameters

ROOT = Path(__file__).resolve().parents[2]
KEYS = """
import json, os, sys
from pathlib import Path
import numpy, pandas, pydantic  # once for all
from wsolkit.common import code

def keys():
    from wsolkit.methods.registry import declared
    from wsolkit.runs.parameters import RunConfig, page_state

    config = RunConfig.make(classes=4)
    variants = {name: config.training_key(name) for name in ("gap", "tap", "has", "cutmix", "adl", "acol")}
    reports = {}
    for name in "cam rethinking_cam grad_cam grad_cam++ score_cam layer_cam has cutmix adl acol hires_cam".split():
        reports[name] = config.report_parts(declared(name))
        del reports[name]["trainings"]
    assert "torch" not in sys.modules, "a sweep plans without torch"
    return [variants, reports, page_state()]

code.code_state((".",))  # so that a process of its own for each change reads one file
for name, old, new in json.loads(sys.argv[1]):
    path = Path(name).resolve()
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{name} has no '{old}': choose another constant"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    if not os.fork():
        read = code._state
        code._state = lambda file, only: read.__wrapped__(file, only) if file == path else read(file, only)
        print(json.dumps(keys()), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
    path.write_text(text, encoding="utf-8")
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
    ("wsolkit/methods/rethinking_cam.py", 'Variant("tap", pooling="tap"', 'Variant("tap", pooling="gap"', {"tap"}, {"rethinking_cam"}, False),
    ("wsolkit/methods/acol.py", 'Variant("acol", "ACoL", pooling="acol"', 'Variant("acol", "ACoL", pooling="gap"', {"acol"}, {"acol"}, False),
    ("wsolkit/methods/has.py", "parameter(0.5,", "parameter(0.4,", {"has"}, {"has"}, False),
    ("wsolkit/methods/has.py", "masked_fill_(hidden[:, None], 0.0)", "masked_fill_(hidden[:, None], 0.5)", {"has"}, {"has"}, False),
    ("wsolkit/methods/adl.py", "parameter(0.8,", "parameter(0.9,", {"adl"}, {"adl"}, False),
    ("wsolkit/methods/layer_cam.py", "clamp(min=0)", "clamp(min=0.1)", NOTHING, {"layer_cam"}, False),
    ("wsolkit/methods/grad_cam_plusplus.py", "clamp(min=0)", "clamp(min=0.1)", NOTHING, {"grad_cam++", "hires_cam"}, False),
    ("wsolkit/methods/cam.py", "return context.class_weights", "return -context.class_weights", NOTHING, ALL_METHODS, False),
    ("wsolkit/methods/maps.py", "_LARGEST = 2**24", "_LARGEST = 2**20", NOTHING, ALL_METHODS, False),
    ("wsolkit/methods/psol.py", "return shares_of_boxes(", "return 1 - shares_of_boxes(", NOTHING, ALL_METHODS, False),  # pseudo boxes
    ("wsolkit/training/recipe.py", "LEAST_STEPS = 16", "LEAST_STEPS = 8", ALL_VARIANTS, NOTHING, False),
    ("wsolkit/training/recipe.py", "BATCH, LR = 40, 3e-3", "BATCH, LR = 40, 2e-3", ALL_VARIANTS, NOTHING, False),
    ("wsolkit/data/synthetic.py", "CANVAS = 128", "CANVAS = 64", ALL_VARIANTS, NOTHING, False),
    ("wsolkit/networks/models.py", "tau: float = 0.1", "tau: float = 0.2", ALL_VARIANTS, NOTHING, False),
    ("wsolkit/runs/parameters.py", '"warmup_epochs": 2', '"warmup_epochs": 3', ALL_VARIANTS, NOTHING, False),
    ("wsolkit/boxes/contours.py", "LEVELS = 256", "LEVELS = 255", NOTHING, ALL_METHODS, False),
    ("wsolkit/evaluation/scoring.py", "CENTRE_SHARE = 0.71", "CENTRE_SHARE = 0.7", NOTHING, ALL_METHODS, False),
    ("wsolkit/localisation/localise.py", "PART_SECONDS = 10.0", "PART_SECONDS = 5.0", NOTHING, ALL_METHODS, False),
    ("wsolkit/runs/run.py", "model.load_state_dict(own | shared)", "pass", ALL_VARIANTS, NOTHING, False),
    ("wsolkit/runs/run.py", '"no": None', '"no": True', ALL_VARIANTS, NOTHING, False),
    ("wsolkit/runs/run.py", "seed=self.config.seed, **how", "seed=1, **how", NOTHING, ALL_METHODS, False),
    ("wsolkit/runs/run.py", "MapStore(self.config, variant)", 'MapStore(self.config, "gap")', NOTHING, ALL_METHODS, False),
    ("wsolkit/runs/run.py", '"timeout": 10', '"timeout": 20', NOTHING, NOTHING, False),  # of asking git
    ("wsolkit/runs/galleries.py", "RANDOM, OTHERS = 8, 4", "RANDOM, OTHERS = 6, 4", NOTHING, ALL_METHODS, False),
    ("wsolkit/study/chapter.py", "INTERVAL = 0.001", "INTERVAL = 0.01", NOTHING, ALL_METHODS, False),
    ("notebooks/04_grad_cam.ipynb", "## Summary", "## In short", NOTHING, {"grad_cam"}, False),
    ("wsolkit/figures/__init__.py", 'COLOUR_MAP = "viridis"', 'COLOUR_MAP = "magma"', NOTHING, NOTHING, True),
    ("wsolkit/report/pages.py", "def ", "def changed_", NOTHING, NOTHING, True),
    ("wsolkit/report/templates/report.css", "{", "{ margin: 0;", NOTHING, NOTHING, True),
    ("wsolkit/evaluation/scoring.py", "# of the side when", "# of a side when", NOTHING, NOTHING, False),
    ("wsolkit/cli/main.py", "--plan", "--plans", NOTHING, NOTHING, False),
    ("wsolkit/sweep/scheduler.py", "def ", "def changed_", NOTHING, NOTHING, False),
]  # fmt: skip


class Rarer(HaS):
    """An objective that extends that of another method."""


def test_training_depends_on_the_objective_that_another_one_extends(monkeypatch):
    named = []
    monkeypatch.setattr(parameters, "code_state", named.extend)
    parameters.training_code(Variant("rarer", "Rarer", makes_objective=Rarer))
    assert "methods/has.py" in named


@pytest.mark.parametrize(
    "line",
    [
        "from wsolkit.methods.cam import cam",
        "from wsolkit.methods import cam",
        "from .cam import cam",
        "from . import cam",
    ],
)
def test_a_method_depends_on_another_one_however_that_is_imported(line, monkeypatch, tmp_path):
    (tmp_path / "methods").mkdir()
    for name, text in {"has": f"{line}\n", "cam": "", "layer_cam": ""}.items():
        (tmp_path / f"methods/{name}.py").write_text(text)
    monkeypatch.setattr(parameters, "PACKAGE", tmp_path)
    named = parameters._method_files.__wrapped__("wsolkit.methods.has")
    assert named == ["methods/cam.py", "methods/has.py"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """The keys of the package as it is, and after each change."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("wsolkit", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    changes = json.dumps([("pyproject.toml", "wsolkit", "wsolkit"), *(change[:3] for change in CHANGES)])
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KEYS, changes], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(CHANGES)), ids=[f"{name} {old}" for name, old, *_ in CHANGES])
def test_exactly_what_depends_on_a_constant_becomes_stale(keys, number):
    before, after = keys[0], keys[1 + number]
    *_, variants, methods, page = CHANGES[number]
    assert {name for name in before[0] if before[0][name] != after[0][name]} == variants
    assert {name for name in before[1] if before[1][name] != after[1][name]} == methods
    assert (before[2] != after[2]) is page
