"""Sweep files: what they say, what the command line replaces, every mistake in one line, and the stored specification."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from wsolkit.cli.main import cli
from wsolkit.sweep.jobs import grids, read, section, store

GOOD = """
dataset: synthetic
backbones: [vgg16, resnet18]
methods: [cam, grad_cam_plusplus]
seeds: [0, 1, 2]
limits: {GradCAM++: 32}
limit: 100
recipe: quick
epochs: 3
lr: 1e-2
classes: [dodo, 5]
weights: none
jobs: 2
out: results
"""


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_says_what_options_say(file, tmp_path):
    content = read(file(GOOD))
    (grid,) = grids(content)
    assert (grid.backbones, grid.methods) == (("vgg16", "resnet18"), ("cam", "grad_cam++"))
    assert grid.limits == {"grad_cam++": 32, "": 100} and grid.seeds == (0, 1, 2) and content["jobs"] == 2
    config = grid
    assert (config.recipe, config.epochs, config.lr, config.classes) == ("quick", 3, 0.01, ["dodo", "5"])
    assert config.out == str(tmp_path / "results"), "paths start at the file's folder"
    jobs, _ = grid.plan()
    assert len(jobs) == 3 * 2 * 3 and {job.config["schedule"] for job in jobs} == {"cosine"}


def test_single_values_and_lists_in_one_line(file):
    (grid,) = grids(read(file("backbone: vgg16\nmethods: cam, has\nseed: 7\nroot:\n")))
    assert (grid.backbones, grid.methods, grid.seeds) == (("vgg16",), ("cam", "has"), (7,)) and grid.seed == 7
    (grid,) = grids(read(file("methods: [cam]\nseeds: 1,2\n")))
    assert grid.seeds == (1, 2) and grid.seed == 1


def test_the_command_line_wins(file):
    content = read(file(GOOD))
    given = section(
        {"epochs": 9, "methods": "cam", "seed": 5, "limit": 4, "backbones": "resnet50", "out": "/o"}, Path()
    )
    (grid,) = grids(content, given)
    assert (grid.epochs, grid.methods, grid.seeds, grid.limits) == (9, ("cam",), (5,), {"": 4})
    assert grid.backbones == ("resnet50",) and grid.out == "/o" and grid.recipe == "quick"


def test_several_data_sets_replace_what_is_common(file, tmp_path):
    content = read(file("""
        methods: [cam, score_cam]
        limits: {score_cam: 8}
        epochs: 5
        datasets:
          synthetic:
          cub: {root: birds, epochs: 7, methods: [cam], weights: none}
    """.replace("\n        ", "\n")))  # fmt: skip
    synthetic, cub = grids(content)
    assert (synthetic.epochs, cub.epochs) == (5, 7)
    assert (synthetic.limits, cub.limits) == ({"score_cam": 8}, {}) and cub.methods == ("cam",)
    assert cub.root == str(tmp_path / "birds") and (cub.weights, cub.size) == ("none", 224)
    assert [grid.epochs for grid in grids(content, {"epochs": 2})] == [2, 2]
    (only,) = grids(content, {"dataset": "cub"})
    assert only.dataset == "cub" and only.epochs == 7
    with pytest.raises(ValueError, match="'metadata' is none of the file's datasets synthetic, cub"):
        grids(content, {"dataset": "metadata"})


@pytest.mark.parametrize(
    "text,message",
    [
        ("epoch: 3", "unknown parameter 'epoch'; did you mean 'epochs'?"),
        ("method: cam", "unknown parameter 'method'; did you mean 'methods'?"),
        ("zzz: 3", "unknown parameter 'zzz'; `wsolkit sweep --help` lists the parameters"),
        ("on: 3", "unknown parameter 'True'"),
        ("epochs: many", "epochs must be a whole number, but is 'many'"),
        ("epochs: 2.5", "epochs must be a whole number, but is 2.5"),
        ("epochs: -2", "epochs must be at least 1, but is -2"),
        ("epochs: [3]", "epochs must be a whole number, but is [3]"),
        ("lr: .nan", "lr must be a number, but is nan"),
        ("weights: [none]", "weights must be text, but is ['none']"),
        ("weights: no", "weights must be text, but is False; YAML takes yes, no"),
        ("compile: 1", "compile must be true or false, but is 1"),
        ("classes: {a: 1}", "classes must be a number or a list of names or numbers, but is {'a': 1}"),
        ("classes: [true]", "classes must be a number or a list of names or numbers, but is [True]"),
        ("classes: true", "classes must be a number or a list of names or numbers, but is True"),
        ("dataset: cats", "unknown dataset 'cats'; choose from synthetic, cub"),
        ("recipe: magic", "unknown recipe 'magic'; choose from"),
        ("backbones: [vgg99]", "unknown backbone 'vgg99'; choose from"),
        ("backbones: {vgg16: 1}", "backbones must be a list of names with at least one entry, but is {'vgg16': 1}"),
        ("methods: []", "methods must be a list of names with at least one entry, but is empty"),
        ("methods: [cam, 3]", "unknown method '3'"),
        ("methods: [magic_cam]", "magic_cam"),
        ("methods: ['grad_cam[blur]']", "grad_cam[blur]: 'blur' is no smoothing; expected eigen, aug or option=value"),
        ("methods: cam, grad_cam[eigen,nwc=no]", "grad_cam has no option 'nwc'; its options are: ivr, layer"),
        (
            "methods: ['cam[aug]']\nlimits: {'cam[eigen]': 3}",
            "a limit is for cam[eigen], which is not among the methods",
        ),
        ("seeds: [0, -1]", "seeds must be at least 0, but is -1"),
        ("seeds: [true]", "seeds must be a list of whole numbers with at least one entry, but is [True]"),
        ("seed: 1\nseeds: [2]", "give 'seed' or 'seeds', not both"),
        ("jobs: -1", "jobs must be at least 0, but is -1"),
        ("limits: 3", "limits must be a mapping from methods to numbers of images, but is 3"),
        ("limits: {cam: 0}", "limits.cam must be at least 1, but is 0"),
        ("methods: [cam]\nlimits: {has: 3}", "a limit is for has, which is not among the methods cam"),
        ("dataset: cub\ndatasets: {cub: }", "give 'dataset' or 'datasets', not both"),
        ("limit: -3", "limit must be at least 0, but is -3"),
        ("methods: [cam]\nlimits: {cam: 1, CAM: 2}", "limits has two entries for one method: cam, CAM"),
        ("seed: -1", "seed must be at least 0 and at most 9.22337e+18, but is -1"),
        ("classes: 2.5", "classes must be a number or a list of names or numbers, but is 2.5"),
        ("tau: 'nan'", "tau must be a number, but is 'nan'"),
        ("tau: 1", "tau must be at least 0 and less than 1, but is 1"),
        ("width: -3", "width must be greater than 0 and at most 4, but is -3"),
        ("out: ~nobody-of-this-name/x", "'~nobody-of-this-name/x' is no path"),
        ('out: "a\\0b"', "is no path (it holds a null character); expected one for out"),
        ("a: \0", "is not readable YAML"),
        ("datasets: [cub]", "datasets must be a mapping from data sets to their keys, but is ['cub']"),
        (
            "datasets: {cob: }",
            "datasets: 'cob' is none of synthetic, cub, tiny_imagenet, oxford_pets, ilsvrc, folder, metadata; did you mean 'cub'?",
        ),
        ("datasets: {cub: {epoch: 3}}", "datasets.cub: unknown parameter 'epoch'; did you mean 'epochs'?"),
        ("datasets: {cub: {epochs: x}}", "datasets.cub: epochs must be a whole number, but is 'x'"),
        ("datasets: {cub: {seeds: [1]}}", "key 'datasets.cub.seeds' cannot be set for one data set; set it for all"),
        ("datasets: {cub: 5}", "datasets.cub must be a mapping of keys to values, but is 5"),
        ("epochs: 1\nlr: 2\nepochs: 3", "key 'epochs' is written twice (again in line 3)"),
        ("limits: {cam: 1, cam: 2}", "key 'cam' is written twice (again in line 1)"),
        ("", "the file must be a mapping of keys to values, but is empty"),
        ("- cam", "the file must be a mapping of keys to values, but is ['cam']"),
        ("epochs: [3", "is not readable YAML in line 1, column 11"),
        ("a: !!python/object:os.system x", "is not readable YAML in line 1"),
    ],
)
def test_every_mistake_is_one_error_that_names_the_file(file, text, message):
    path = file(text)
    result = CliRunner().invoke(cli, ["sweep", "--plan", "--file", str(path)])
    assert isinstance(result.exception, ValueError | FileNotFoundError), result.output
    said = str(result.exception)
    assert said.startswith(str(path)) and message in said and "\n" not in said, said


@pytest.mark.slow
def test_files_that_are_none(tmp_path):
    for path, problem in ((tmp_path / "absent.yaml", "does not exist"), (tmp_path, "is a directory")):
        result = CliRunner().invoke(cli, ["sweep", "--plan", "--file", str(path)])
        assert result.exit_code == 2 and str(path) in result.output and problem in result.output
        with pytest.raises(OSError, match=path.name):
            read(path)
    (tmp_path / "deep.yaml").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"deep\.yaml is nested too deeply"):
        read(tmp_path / "deep.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"b\.yaml is not"):
        read(tmp_path / "b.yaml")


@pytest.mark.parametrize("key", ["classes", "methods", "root", "limits"])
def test_a_few_lines_that_stand_for_a_billion_values(file, key):
    text = "&l0 [x, x, x, x, x, x, x, x, x]"
    for level in range(1, 10):
        text = f"&l{level} [{text}{f', *l{level - 1}' * 8}]"
    begin = time.process_time()
    with pytest.raises(ValueError, match=f"{key} must be") as caught:
        read(file(f"{key}: {text}\n"))
    assert len(str(caught.value)) < 500 and time.process_time() - begin < 5, "written out, it fills the memory"


def test_what_is_stored_can_be_read_again(file, tmp_path):
    (grid,) = grids(read(file(GOOD + "lr_steps: [2, 3]\n")))
    path = store(grid)
    assert path == tmp_path / "results/runs/synthetic/sweep.yaml" and not list(path.parent.glob(".*"))
    stored = yaml.safe_load(path.read_text())
    assert (stored["seeds"], stored["limits"], stored["limit"]) == ([0, 1, 2], {"grad_cam++": 32}, 100)
    assert stored["dataset"] == "synthetic" and "out" not in stored and "jobs" not in stored
    (again,) = grids(read(path), {"out": str(tmp_path / "results")})
    assert again == grid and [job.key for job in again.plan()[0]] == [job.key for job in grid.plan()[0]]


@pytest.mark.slow
def test_the_command_reads_the_file_and_the_plan_writes_nothing(file, tmp_path):
    path = file("methods: [cam]\nbackbones: [resnet18]\nper_class: 2\nsize: 32\nseeds: [1, 2]\nout: results\njobs: 2\n")
    command = [sys.executable, "-m", "wsolkit", "sweep", "--plan", "--file", str(path), "--methods", "grad_cam"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines[1:5]] == [
        *("synthetic/resnet18/train", "synthetic/resnet18/grad_cam"),
        *("seed-2/synthetic/resnet18/train", "seed-2/synthetic/resnet18/grad_cam"),
    ]
    assert lines[5] == "0 of 4 runs are up to date; 4 would run"
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


@pytest.mark.parametrize(
    "arguments,message",
    [(["--seeds", "1,x"], "seeds must be a list of whole numbers with at least one entry, but is 'x'"),
     (["--seeds", "1", "--seed", "2"], "give 'seed' or 'seeds', not both"),
     (["--methods", "cam,grad_cam[aug"], "method grad_cam[aug: close the bracket"),
     (["--seed", "-1"], "seed must be at least 0 and at most 9.22337e+18, but is -1"),
     (["--out", "~nobody-of-this-name/x"], "'~nobody-of-this-name/x' is no path")],
)  # fmt: skip
def test_wrong_options(arguments, message):
    result = CliRunner().invoke(cli, ["sweep", "--plan", *arguments])
    assert message in str(result.exception)


def test_rows_in_a_file(file, tmp_path):
    text = (
        "methods: [cam, 'score_cam[channels=8,aug]']\nlimits: {score_cam: 4, cam: 5}\nbackbone: vgg16\nout: results\n"
    )
    (grid,) = grids(read(file(text)))
    assert grid.methods == ("cam", "score_cam[aug+channels=8]") and grid.limits == {"score_cam": 4, "cam": 5}
    assert grids(read(file("methods: cam, score_cam[channels=8,aug]\n")))[0].methods == grid.methods
    (again,) = grids(read(store(grid)), {"out": str(tmp_path / "results")})
    assert (
        again == grid and "cam" not in grids({}, {"methods": ("score_cam[aug]",), "limits": {"score_cam": 4}})[0].limits
    )
