"""The command line: helps, trains, rebuilds the index, refuses in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsolkit.cli import _config, _limits, cli


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "wsolkit.cli", *map(str, arguments)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[1]), "HOME": "/tmp"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def test_every_command_explains_itself():
    shown = CliRunner().invoke(cli, ["--help"]).output
    for name in ("sweep", "train", "report", "data"):
        assert name in shown
        assert "Usage" in CliRunner().invoke(cli, [name, "--help"]).output
    sweep = CliRunner().invoke(cli, ["sweep", "--help"]).output
    for option in (
        "--dataset",
        "--root",
        "--backbones",
        "--methods",
        "--weights",
        "--epochs",
        "--out",
        "--jobs",
        "--limit",
    ):
        assert option in sweep


def test_train_leaves_a_checkpoint_and_says_where(tmp_path):
    done = run(
        "train", "--backbone", "mobilenet_v2", "--epochs", 1, "--per-class", 2, "--size", 48, "--out", tmp_path / "o"
    )
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().splitlines()[-1])
    assert (folder / "best.pt").is_file() and (folder / "run.json").is_file()
    assert "epoch 1/1" in done.stdout, "one line per epoch"
    again = run(
        "train", "--backbone", "mobilenet_v2", "--epochs", 1, "--per-class", 2, "--size", 48, "--out", tmp_path / "o"
    )
    assert again.returncode == 0 and "epoch 1/1" not in again.stdout, "a finished training is not repeated"


def test_report_works_without_any_run(tmp_path):
    done = run("report", "--out", tmp_path)
    assert done.returncode == 0 and (tmp_path / "index.html").is_file()
    assert (
        "wsolkit sweep" in (tmp_path / "index.html").read_text()
        or "make reports" in (tmp_path / "index.html").read_text()
    )


def test_paths_count_from_where_the_caller_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").write_bytes(b"")
    config = _config({"root": "data", "weights": "w.pth", "out": None, "epochs": 3, "dataset": "cub"})
    assert config.root == str(tmp_path / "data") and config.weights == str(tmp_path / "w.pth")
    assert config.out == str(tmp_path / "reports") and config.epochs == 3


def test_limits():
    assert _limits(("score_cam=16", "Grad-CAM++=4,cam=2")) == {"score_cam": 16, "grad_cam++": 4, "cam": 2}
    assert _limits(("20",)) == {"": 20}
    for wrong in ("cam=0", "cam=-1", "cam=x", "=", "cam="):
        with pytest.raises(ValueError, match="--limit"):
            _limits((wrong,))


def test_errors_are_one_line_with_exit_code_two(tmp_path):
    done = run("train", "--dataset", "cub", "--weights", "none", "--out", tmp_path / "o")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr
    assert "root" in done.stderr and not (tmp_path / "o").exists()
