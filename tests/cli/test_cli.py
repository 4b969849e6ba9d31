"""The command line: helps, trains, rebuilds the index, refuses in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsolkit.cli.main import _limits, cli, main
from wsolkit.cli.options import given
from wsolkit.common.errors import WsolkitError
from wsolkit.runs.parameters import RunConfig


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "wsolkit", *map(str, arguments)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": "/tmp"}
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
        "--metadata",
        "--masks",
        "--backbones",
        "--methods",
        "--weights",
        "--epochs",
        "--out",
        "--jobs",
        "--limit",
    ):
        assert option in sweep
    for name in ("cub", "tiny_imagenet", "convert"):
        assert "Usage" in CliRunner().invoke(cli, ["data", name, "--help"]).output


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


def test_report_does_not_make_a_folder_of_a_typing_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["wsolkit", "report", "--out", str(tmp_path / "reprots")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and "reprots not found" in capsys.readouterr().err
    assert not (tmp_path / "reprots").exists()


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
    options = {"root": "data", "weights": "w.pth", "out": "reports", "epochs": 3, "lr": None, "dataset": "cub"}
    config = RunConfig.make(**given(options))
    assert config.root == str(tmp_path / "data") and config.weights == str(tmp_path / "w.pth")
    assert config.out == str(tmp_path / "reports") and config.epochs == 3
    config = RunConfig.make(**given({"metadata": "m", "masks": "../k", "dataset": "metadata"}))
    assert config.metadata == str(tmp_path / "m") and config.masks == str(tmp_path.parent / "k")


def test_limits():
    assert _limits(("score_cam=16", "Grad-CAM++=4,cam=2")) == {"score_cam": 16, "Grad-CAM++": 4, "cam": 2}
    assert _limits(("20",)) == {"": 20}
    for wrong in ("cam=0", "cam=-1", "cam=x", "=", "cam="):
        with pytest.raises(ValueError, match="--limit"):
            _limits((wrong,))


def test_errors_are_one_line_with_exit_code_two(tmp_path):
    done = run("train", "--dataset", "cub", "--weights", "none", "--out", tmp_path / "o")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr
    assert "root" in done.stderr and not (tmp_path / "o").exists()
    done = run("data", "convert", "coco", "absent.json", "--out", tmp_path / "o")
    assert (
        done.returncode == 2 and done.stderr == "error: absent.json does not exist\n" and not (tmp_path / "o").exists()
    )


@pytest.mark.parametrize("command", ["sweep", "train"])
@pytest.mark.parametrize(
    "option, value, words",
    [("--device", "tpu", "unknown device 'tpu'"), ("--out", "file", "choose another folder (--out)")],
)
def test_nothing_begins_on_an_unknown_device_or_in_a_file(tmp_path, monkeypatch, command, option, value, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    done = CliRunner().invoke(cli, [command, "--per-class", "2", option, value])
    assert isinstance(done.exception, WsolkitError) and words in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["cub", "tiny_imagenet"])
def test_data_fetches_by_name(monkeypatch, tmp_path, name):
    asked = []
    monkeypatch.setattr("wsolkit.data.download.fetch_dataset", lambda *a, **k: asked.append((a, k)) or tmp_path)
    done = CliRunner().invoke(cli, ["data", name, "--root", "data", "--url", "http://mirror"])
    assert done.output == f"ready: {tmp_path}\n" and asked == [((name, "data"), {"url": "http://mirror"})]
    assert CliRunner().invoke(cli, ["data", name]).exit_code == 2, "--root is needed"


def test_a_mistake_of_the_caller_is_one_line_and_a_fault_of_the_program_has_its_trace(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["wsolkit", "data", "cub", "--root", "data"])

    def fails(error):
        def fetch(*arguments, **options):
            raise error

        monkeypatch.setattr("wsolkit.data.download.fetch_dataset", fetch)

    for error in (WsolkitError("root is no folder; give another"), OSError("root is no folder; give another")):
        fails(error)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2 and capsys.readouterr().err == "error: root is no folder; give another\n"
    fails(ValueError("shapes do not fit"))
    with pytest.raises(ValueError, match="shapes do not fit"):
        main()
