"""The two doors install the same packages, the tested versions lie inside the ranges, and make explains itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CONDA_NAMES = {
    "pytorch": "torch",
    "matplotlib-base": "matplotlib",
    "nbconvert-core": "nbconvert",
    "py-opencv": "opencv-python-headless",
    "python-build": "build",
}


def project_requirements() -> dict[str, str]:
    text = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|test) = \[(.*?)\]", text, re.S | re.M)
    assert len(lists) == 2
    found = [Requirement(item) for block in lists for item in re.findall(r'"([^"]+)"', block)]
    return {canonicalize_name(r.name): str(r.specifier) for r in found}


def conda_requirements() -> tuple[dict[str, str], list[str]]:
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert content["channels"] == ["conda-forge"]
    pip = next(item["pip"] for item in content["dependencies"] if isinstance(item, dict))
    found = [Requirement(item) for item in content["dependencies"] if isinstance(item, str) and item != "pip"]
    found += [Requirement(item) for item in pip if not item.startswith("-")]
    return {canonicalize_name(CONDA_NAMES.get(r.name, r.name)): str(r.specifier) for r in found}, pip


def test_environment_yml_and_pyproject_name_the_same_packages_and_ranges():
    conda, pip = conda_requirements()
    python = conda.pop("python")
    assert python == "<3.15,>=3.11"
    assert conda == project_requirements()
    assert "--editable ." in pip, "the package itself comes through pip"


def test_tested_versions_lie_inside_the_ranges_and_name_no_address():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    pins = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    versions = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in pins}
    for name, specifier in project_requirements().items():
        assert name in versions, f"{name} has no tested version"
        assert Requirement(f"{name}{specifier}").specifier.contains(versions[name], prereleases=True), name


def test_every_import_of_the_package_is_a_declared_requirement():
    provided = {"cv2": "opencv-python-headless", "PIL": "pillow", "pytorch_grad_cam": "grad-cam", "bs4": "beautifulsoup4",
                "IPython": "ipykernel", "jupyter_client": "ipykernel", "nbformat": "nbconvert", "traitlets": "nbconvert",
                "yaml": "pyyaml", "pydantic_core": "pydantic", "urllib3": "requests"}  # fmt: skip
    import ast
    import sys

    declared = {*project_requirements(), "fiftyone"}  # which is used where it is installed
    for path in (ROOT / "wsolkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top != "wsolkit" and top not in sys.stdlib_module_names:
                    assert canonicalize_name(provided.get(top, top)) in declared, f"{path.name} imports {top}"


def test_make_help_lists_every_target():
    said = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.+)", (ROOT / "Makefile").read_text(), re.M)[1].split()
    parts_of_test = {"test-notebooks", "test-modules"}
    assert set(re.findall(r"^  make ([\w-]+) +\S", said, re.M)) == set(phony) - parts_of_test
    assert {"reports", "check", "test", "install", "lint", "types"} <= set(phony)


def test_old_python_is_refused_with_one_clear_line(tmp_path):
    fake = tmp_path / "python-old"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    command = ["make", "-C", str(ROOT), "install", f"PYTHON={fake}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "older than Python 3.11" in done.stdout


def test_planning_a_sweep_does_not_import_torch():
    code = "import sys, wsolkit, wsolkit.sweep.scheduler, wsolkit.cli.main; sys.exit('torch' in sys.modules)"
    import sys

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_public_names_exist():
    import wsolkit as wk

    for name in wk.__all__:
        assert getattr(wk, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = wk.nothing
