"""The command line: helps, trains, rebuilds the index, refuses in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from wsolkit.cli.main import _limits, cli, main
from wsolkit.cli.options import given
from wsolkit.common.errors import WsolkitError
from wsolkit.runs.parameters import RunConfig


def run(*arguments, cwd=None, encoding="utf-8", **variables):
    command = [sys.executable, "-m", "wsolkit", *map(str, arguments)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": "/tmp"}
    environment |= {"PYTHONIOENCODING": encoding, **variables}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, encoding=encoding)


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
    for name in ("cub", "tiny_imagenet", "oxford_pets", "convert"):
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


def test_the_next_step_of_init_is_a_command_for_any_folder(tmp_path):
    folder = tmp_path / "my study"
    assert f"cd '{folder}' && wsolkit sweep" in CliRunner().invoke(cli, ["init", str(folder)]).output


def test_report_does_not_make_a_folder_of_a_typing_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["wsolkit", "report", "--out", str(tmp_path / "reprots")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and "reprots not found" in capsys.readouterr().err
    assert not (tmp_path / "reprots").exists()


@pytest.fixture
def evaluation(tmp_path):
    """The words of a command that evaluates one map."""
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/a.npy", np.eye(7))
    (tmp_path / "meta/test").mkdir(parents=True)
    for name, line in (
        ("image_ids", ""),
        ("class_labels", ",0"),
        ("image_sizes", ",8,8"),
        ("localization", ",1,1,5,5"),
    ):
        (tmp_path / f"meta/test/{name}.txt").write_text(f"a.jpg{line}\n")
    return ["evaluate", "--scoremaps", str(tmp_path / "maps"), "--metadata", str(tmp_path / "meta"), "--size", "32"]


def test_what_the_kit_did_not_write_stays(evaluation, tmp_path):
    """In every command that writes into a folder of the user's choice; and a folder without runs has no report."""
    birds = ["--per-class", "2", "--size", "32", "--epochs", "1", "--methods", "cam", "--backbones", "mobilenet_v2"]
    commands = {
        "report": (["report"], ("index.html", "results.csv")),
        "sweep": (["sweep", *birds], ("index.html", "results.csv")),
        "evaluate": (evaluation, ("metrics.json", "per_image.csv", "slices.csv", "accuracy.svg")),
    }
    for command, (words, names) in commands.items():
        for name in names:
            site = tmp_path / f"{command}-{name}"
            site.mkdir()
            if command == "report":
                assert "holds no runs" in str(CliRunner().invoke(cli, [*words, "--out", str(site)]).exception)
                assert not [*site.iterdir()]
                (site / "runs/synthetic").mkdir(parents=True)
            (site / name).write_text("mine")
            done = CliRunner().invoke(cli, [*words, "--out", str(site)])
            assert f"{site / name} was not written by wsolkit" in str(done.exception), (command, name)
            assert [path.name for path in site.iterdir() if path.is_file()] == [name]
            assert (site / name).read_text() == "mine"
    out = str(tmp_path / "own")
    for _ in range(2):
        assert CliRunner().invoke(cli, [*evaluation, "--out", out]).exit_code == 0, "its own it replaces"


def test_a_terminal_that_cannot_show_a_character_shows_the_rest(evaluation, tmp_path):
    assert CliRunner().invoke(cli, [*evaluation, "--out", str(tmp_path / "a")]).exit_code == 0
    done = run("compare", tmp_path / "a", tmp_path / "a", "--names", "\u2265,b", encoding="cp1252")
    assert done.returncode == 0 and "?" in done.stdout and not done.stderr, done.stderr


def test_a_wrong_variable_of_torchrun_is_named(tmp_path):
    done = run("data", "cache", WORLD_SIZE="abc")
    assert done.returncode == 2 and done.stderr.startswith("error: the environment variable WORLD_SIZE is 'abc'")


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
        done.returncode == 2
        and done.stderr == "error: absent.json does not exist; give the file or folder to convert\n"
        and not (tmp_path / "o").exists()
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
