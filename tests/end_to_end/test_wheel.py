"""The wheel, installed away from the repository: it holds everything, and a study starts in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from wsolkit.sweep import jobs as spec

ROOT = Path(__file__).resolve().parents[2]
SWEEP = (ROOT / "wsolkit/cli/study/sweep.yaml").read_text(encoding="utf-8")


def call(*command: str, cwd: Path, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path or "")}
    environment.pop("WSOLKIT_OUT", None)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    unwanted = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for folder in ("wsolkit", "notebooks"):
        shutil.copytree(ROOT / folder, source / folder, ignore=unwanted)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(source / "dist"), cwd=source)
    return next((source / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site-packages")
    options = ("--no-deps", "--no-index", "--quiet", "--target", str(folder))
    call(sys.executable, "-m", "pip", "install", *options, str(wheel), cwd=folder)
    return folder


def test_the_wheel_holds_modules_templates_and_notebooks_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {path for path in (ROOT / "wsolkit").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    wanted = {path.relative_to(ROOT).as_posix() for path in package}
    wanted |= {f"wsolkit/notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert names == wanted and "wsolkit/py.typed" in names


def test_a_study_starts_in_an_empty_folder(installed, tmp_path):
    where = {"cwd": tmp_path, "path": installed}
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    code = "import wsolkit, sys; print(wsolkit.__version__, wsolkit.__file__, 'torch' in sys.modules)"
    assert call(sys.executable, "-c", code, **where).split() == [version, f"{installed}/wsolkit/__init__.py", "False"]

    count = 2 + len(list((ROOT / "notebooks").glob("*.ipynb")))
    assert f"{count} files written" in call(sys.executable, "-m", "wsolkit", "init", "study", **where)
    study = tmp_path / "study"
    assert {path.name for path in study.iterdir()} == {"notebooks", "sweep.yaml", "README.md"}
    (study / "sweep.yaml").write_text("per_class: 5\nsize: 32\nmethods: [cam]\nbackbones: [resnet18]\n")
    (study / "README.md").unlink()
    said = call(sys.executable, "-m", "wsolkit", "init", "study", **where)
    assert "1 file written" in said and "kept as they are: sweep.yaml, notebooks/00_tour.ipynb" in said
    assert (study / "sweep.yaml").read_text().startswith("per_class"), "a file that is there is never written"

    where["cwd"] = study
    plan = call(sys.executable, "-m", "wsolkit", "sweep", "--file", "sweep.yaml", "--plan", **where)
    assert "train" in plan and "resnet18/cam" in plan and not (study / "reports").exists()
    code = (
        "from wsolkit.common.code import notebooks_folder, project_path; print(notebooks_folder(), project_path('x'))"
    )
    (study / "notebooks" / "below").mkdir()
    where["cwd"] = study / "notebooks" / "below"
    assert call(sys.executable, "-c", code, **where).split() == [f"{study}/notebooks", f"{study}/x"]
    where["cwd"] = tmp_path
    assert call(sys.executable, "-c", code, **where).split()[0] == f"{installed}/wsolkit/notebooks"


def test_the_sweep_file_of_a_new_study_is_valid(tmp_path):
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (grid,) = spec.grids(spec.read(tmp_path / "sweep.yaml"))
    assert len(grid.methods) == 5 and grid.dataset == "synthetic"
    (tmp_path / "sweep.yaml").write_text(
        re.sub(r"^# (\w+:)", r"\1", SWEEP, flags=re.M)
    )  # what is commented out works too
    (grid,) = spec.grids(spec.read(tmp_path / "sweep.yaml"))
    assert grid.epochs == 50
