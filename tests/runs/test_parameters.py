"""Parameters: defaults by dataset, conversion, staleness, paths."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from wsolkit.common.code import _state, code_state, notebooks_folder, project_path
from wsolkit.common.errors import WsolkitError
from wsolkit.methods.registry import declared, resolve, study_methods, training_methods, variant
from wsolkit.runs.parameters import RunConfig, data_state, notebook_state, of_notebook
from wsolkit.runs.run import Run

ROOT = Path(__file__).resolve().parents[2]


def test_defaults_follow_dataset_and_start_weights():
    birds = RunConfig.make()
    assert (birds.size, birds.weights, birds.backbone_grad_scale, birds.stride) == (64, "none", 1.0, 8)
    cub = RunConfig.make(dataset="cub", backbone="vgg16")
    assert (cub.size, cub.weights, cub.width, cub.batch_norm) == (224, "imagenet", 1.0, "no")
    assert (cub.lr, cub.batch_size, cub.backbone_grad_scale, cub.stride, cub.epochs) == (0, 0, 0.1, 16, 50)
    scratch = RunConfig.make(dataset="cub", backbone="vgg16", weights="none")
    assert (scratch.batch_norm, scratch.backbone_grad_scale, scratch.schedule) == ("yes", 1.0, "cosine")
    assert RunConfig.make(backbone="mobilenet_v2").stride == 16, "it has no stride 8"
    assert RunConfig.make(epochs=40).tap_epochs == 10


def test_empty_values_are_not_given_and_given_ones_win():
    config = RunConfig.make(epochs=3, lr=0.0, weights="", classes=[], batch_size=0)
    assert config.epochs == 3 and config.lr > 0 and config.weights == "none" and config.classes == 0
    assert config.with_changes(backbone="vgg16").batch_norm == "yes"
    assert config.with_changes(backbone="vgg16").epochs == 3


@pytest.mark.parametrize(
    "wrong,message",
    [
        ({"epoch": 3}, "unknown parameter 'epoch'; did you mean 'epochs'"),
        ({"epochs": "many"}, "epochs must be a whole number, but is 'many'"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"frozen_size": 7}, "frozen_size must be at least 8, but is 7"),
        ({"frozen_stride": 7}, "resnet18 has no frozen_stride 7; choose from"),
        ({"dataset": "cats"}, "unknown dataset 'cats'; choose from synthetic, cub, tiny_imagenet"),
        ({"backbone": "alexnet"}, "unknown backbone 'alexnet'"),
        ({"backbone": "vgg16_fc", "stride": 8}, "vgg16_fc has no stride 8; choose from 16"),
    ],
)
def test_wrong_parameters_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        RunConfig.make(**wrong)


@pytest.mark.parametrize(
    "changes", [{"weights": "imagenet"}, {"epochs": 40}, {"recipe": "quick"}, {"backbone": "vgg16"}, {"epochs": 0}]
)
def test_changes_give_what_make_gives(changes):
    wishes = {"epochs": 8, "weights": "none", "limit": 3}
    expected = RunConfig.make(**{**wishes, **changes})
    assert RunConfig.make(**wishes).with_changes(**changes) == expected, "what was filled in is filled in anew"
    assert Run(RunConfig.make(**wishes)).with_changes(**changes).config == expected
    with pytest.raises(ValueError, match="epochs must be at least 1, but is -1"):
        RunConfig.make(**wishes).with_changes(epochs=-1)


def test_a_notebook_takes_options_beside_the_lines_of_its_cell():
    cell = {"epochs": 0, "seed": 3, "np": os}
    assert of_notebook({**cell, "options": {"lr": 0.1}}) == {"epochs": 0, "seed": 3, "lr": 0.1}
    with pytest.raises(ValueError, match="options names 'epochs', which has a line of its own"):
        of_notebook({**cell, "options": {"epochs": 3}})
    with pytest.raises(ValueError, match=r"options must be a mapping such as .*, but is \['lr'\]"):
        of_notebook({**cell, "options": ["lr"]})
    with pytest.raises(ValueError, match="unknown parameter 'lrs'; did you mean 'lr'"):
        RunConfig.make(**of_notebook({**cell, "options": {"lrs": 0.1}}))
    config = RunConfig.make(epochs=2, lr=0.1, tau=0.2)
    assert config.for_notebook(notebooks_folder() / "02_cam.ipynb")["options"] == {"lr": 0.1, "tau": 0.2}
    passed = config.for_notebook(notebooks_folder() / "03_rethinking_cam.ipynb")
    assert (passed["tau"], passed["epochs"], passed["options"]) == (0.2, 2, {"lr": 0.1})
    assert RunConfig.make(**of_notebook(passed)) == config


def test_a_parameter_is_added_in_two_places(tmp_path):
    """As CONTRIBUTING.md says: command line, sweep file, notebook, record and key of a copy of the package know it."""
    for folder in ("wsolkit", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## Add a parameter")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```diff\n # (\S+)\n(.*?)^```", section, re.M | re.S)
    assert len(blocks) == 2
    for name, block in blocks:
        text = (tmp_path / name).read_text("utf-8")
        lines = block.splitlines()
        before = "\n".join(line[1:] for line in lines if line[0] == " ")
        assert text.count(before) == 1
        text = text.replace(before, "\n".join(line[1:] for line in lines))
        (tmp_path / name).write_text(text, "utf-8")
    probe = """
        from pathlib import Path
        from click.testing import CliRunner
        from wsolkit.cli.main import cli
        from wsolkit.common.code import notebooks_folder
        from wsolkit.runs.parameters import RunConfig, of_notebook
        from wsolkit.sweep.jobs import section
        from wsolkit.training.recipe import Recipe
        for command in ("sweep", "train"):
            assert "--clip-norm FLOAT" in CliRunner().invoke(cli, [command, "--help"]).output
        assert section({"clip_norm": 1}, Path())["clip_norm"] == 1.0
        config = RunConfig.make(**of_notebook({"options": {"clip_norm": "1e-1"}}))
        assert config.for_notebook(notebooks_folder() / "01_train.ipynb")["options"] == {"clip_norm": 0.1}
        assert config.to_dict()["clip_norm"] == 0.1 and Recipe.of(config, 100).clip_norm == 0.1
        assert config.training_key("gap") != RunConfig.make().training_key("gap")
        try:
            RunConfig.make(clip_norm=-1)
        except ValueError as error:
            print(error)
    """
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(probe)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    expected = "clip_norm must be at least 0, but is -1 (largest norm of a step's gradients; 0 is none)\n"
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_classes_from_a_command_line():
    assert RunConfig.make(classes="10").classes == 10
    assert RunConfig.make(classes="a b, c").classes == ["a b", "c"]


def test_training_key_depends_on_what_a_training_depends_on():
    base = RunConfig.make()
    key = base.training_key("gap")
    assert key == RunConfig.make(limit=5, device="cpu", out="elsewhere").training_key("gap")
    for change in ({"epochs": 7}, {"seed": 1}, {"backbone": "vgg16"}, {"lr": 0.5}, {"size": 96}, {"classes": 4}):
        assert RunConfig.make(**change).training_key("gap") != key, change
    assert base.training_key("tap") != key
    other = base.with_changes(tau=0.5)
    assert other.training_key("gap") == key and other.training_key("tap") != base.training_key("tap")


def test_metadata_and_masks_are_data_like_the_root(monkeypatch, tmp_path):
    base = RunConfig.make(dataset="metadata")
    assert (base.size, base.weights, base.epochs) == (224, "imagenet", 50)
    monkeypatch.chdir(tmp_path)
    config = RunConfig.make(dataset="metadata", metadata="meta", masks="masks")
    assert config.metadata == str(tmp_path / "meta") and config.masks == str(tmp_path / "masks")
    with pytest.raises(FileNotFoundError, match="meta' not found"):
        config.training_key("gap")
    for name in ("meta", "masks"):
        (tmp_path / name).mkdir()

    def keys(**changes):
        data_state.cache_clear()
        changed = config.with_changes(**changes)
        return changed.training_key("gap"), changed.report_parts(declared("cam"))

    training, report = keys()
    assert keys() == (training, report)
    assert keys(masks="")[0] == training and keys(masks="")[1] != report, "a training run does not use masks"
    (tmp_path / "masks" / "a.png").write_bytes(b"1")
    assert keys()[0] == training and keys()[1] != report
    (tmp_path / "meta" / "classes.txt").write_bytes(b"1")
    assert keys()[0] != training
    training, _ = keys()
    (tmp_path / "meta").rename(tmp_path / "elsewhere")
    assert keys(metadata=str(tmp_path / "elsewhere"))[0] == training, "the content counts, not the place"


def test_report_key_depends_on_method_limit_and_notebook(tmp_path):
    base = RunConfig.make()
    notebook = tmp_path / "n.ipynb"
    notebook.write_text('{"cells": [{"cell_type": "code", "source": "a = 1"}]}')
    cam, grad_cam = (replace(declared(name), chapter=str(notebook)) for name in ("cam", "grad_cam"))
    key = base.report_parts(cam)
    assert key != base.report_parts(grad_cam)
    assert key != base.with_changes(limit=3).report_parts(cam)
    notebook.write_text('{"cells": [{"cell_type": "code", "source": "a = 2"}], "metadata": {}}')
    assert key != base.report_parts(cam)


def test_outputs_of_a_notebook_do_not_make_it_stale(tmp_path):
    a, b = tmp_path / "a.ipynb", tmp_path / "b.ipynb"
    a.write_text('{"cells": [{"cell_type": "code", "source": ["x = 1"], "outputs": []}]}')
    b.write_text('{"cells": [{"cell_type": "code", "source": "x = 1", "outputs": [{"text": "1"}], "id": "z"}]}')
    assert notebook_state(a) == notebook_state(b)


def test_the_same_data_elsewhere_is_the_same_and_links_are_followed(tmp_path):
    def state(folder):
        data_state.cache_clear()
        return data_state(str(folder))

    first, second = tmp_path / "first", tmp_path / "second"
    (first / "images").mkdir(parents=True)
    for number in range(3):
        (first / "images" / f"{number}.png").write_bytes(bytes([number]) * 5000)
    (first / "boxes.csv").write_text("0.png,owl,1,2,3,4\n" * 1000)
    shutil.copytree(first, second, copy_function=shutil.copyfile)
    os.utime(second / "images/0.png", (1, 1))
    assert state(first) == state(second), "names and content count, not the place and the time"
    shutil.move(second / "images", tmp_path / "elsewhere")
    (second / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(second), (second / "gone").symlink_to(tmp_path / "nowhere")
    assert state(first) == state(second), "a linked folder is part of the data; a link in a circle ends"
    (tmp_path / "elsewhere/1.png").write_bytes(b"\1" * 4999 + b"\2")
    assert state(first) != state(second), "same size, other end"
    (first / "images/1.png").write_bytes(b"\1" * 4999 + b"\2")
    assert state(first) == state(second)
    (first / "boxes.csv").write_text("0.png,owl,1,2,3,4\n" * 500 + "0.png,owl,1,2,3,5\n" + "0.png,owl,1,2,3,4\n" * 499)
    assert state(first) != state(second), "one digit in the middle of the annotations"
    before = state(first)
    for name in ("mask.bmp", "mask.tif", "mask.npy"):
        (first / name).write_bytes(b"\0" * 9000)
        added = state(first)
        (first / name).write_bytes(b"\0" * 4500 + b"\1" + b"\0" * 4499)
        assert len({before, added, before := state(first)}) == 3, "a pixel in the middle of a file without compression"


def test_notebooks_of_ones_own_beside_a_sweep_file_are_not_those_of_the_kit(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "sweep.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert (notebooks_folder() / "01_train.ipynb").is_file()
    (tmp_path / "notebooks/01_train.ipynb").touch()
    assert notebooks_folder() == tmp_path / "notebooks"


def test_data_state_sees_every_file(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"1")

    def state():
        data_state.cache_clear()
        return data_state(str(tmp_path))

    first = state()
    assert first == state()
    (tmp_path / "images" / "b.jpg").write_bytes(b"1")
    second = state()
    assert second != first
    (tmp_path / "images" / "b.jpg").write_bytes(b"22")
    assert state() != second
    with pytest.raises(FileNotFoundError, match="absent"):
        data_state(str(tmp_path / "absent"))


def test_comments_and_docstrings_do_not_make_a_training_stale(tmp_path, monkeypatch):
    monkeypatch.setattr("wsolkit.common.code.PACKAGE", tmp_path)
    source = tmp_path / "m.py"
    states = []
    for text in (
        'def f():\n    """Doc."""\n    return 1\n',
        "def f():  # why\n    '''Other.'''\n\n    return 1\n",
        "def f():\n    return 2\n",
    ):
        source.write_text(text)
        _state.cache_clear()
        states.append(code_state(("m.py",)))
    _state.cache_clear()
    assert states[0] == states[1] != states[2]


def test_relative_paths_start_at_the_project_from_any_folder_in_it(monkeypatch, tmp_path):
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(root / "notebooks")
    assert project_path("reports") == root / "reports"
    monkeypatch.chdir(tmp_path)
    assert project_path("reports") == tmp_path / "reports"
    assert project_path("/a/b") == Path("/a/b")


def test_the_environment_moves_only_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setitem(os.environ, "WSOLKIT_OUT", str(tmp_path))
    assert RunConfig.make().out_folder == tmp_path
    assert RunConfig.make(out=str(tmp_path / "mine")).out_folder == tmp_path / "mine"


def test_methods_have_one_spelling_one_notebook_and_one_file_name():
    names = ("grad_cam++", "grad_cam_plusplus", "GradCAM++", "gradcamplusplus")
    assert {declared(name).name for name in names} == {"grad_cam++"}
    assert declared("Score-CAM").name == "score_cam" and declared("layer_cam").name == "layer_cam"
    assert declared("grad_cam++").slug == "grad_cam_plusplus"
    for method in (*study_methods(), "layer_cam", "a_cam_of_somebody"):
        assert declared(method).notebook.is_file(), method
    assert resolve("rethinking_cam").variants_on("vgg16") == ("tap", "gap")
    assert resolve("grad_cam").variants_on("vgg16_fc") == ("fc",)
    assert resolve("cam").undefined("vgg16_fc") and not resolve("grad_cam").undefined("vgg16_fc")


def test_a_frozen_body_has_one_epoch_and_no_methods_that_train_it():
    assert RunConfig.make(recipe="frozen").epochs == RunConfig.make(frozen=True).epochs == 1
    assert RunConfig.make(recipe="frozen", epochs=1).tap_epochs == 1
    with pytest.raises(WsolkitError, match="epochs=5 has no meaning with frozen"):
        RunConfig.make(recipe="frozen", epochs=5)
    assert RunConfig.make(recipe="frozen", frozen=False, epochs=5).epochs == 5
    trained = {"has", "adl", "cutmix", "acol", "ts_cam", "rethinking_cam", "bas"}
    for method in map(resolve, training_methods()):
        sentence = method.undefined("resnet18", frozen=True)
        assert (f"{method.name} changes how the body is trained" in sentence) == (method.name in trained), method.name
    assert "vgg16_fc has none" in resolve("grad_cam").undefined("vgg16_fc", frozen=True)
    assert not resolve("cam").undefined("resnet18", frozen=True)


def test_training_time_methods_have_a_training_of_their_own_beside_the_plain_one():
    base, shared = RunConfig.make(), {"has", "cutmix", "adl", "acol"}
    keys = {word: base.training_key(word) for word in ("gap", *training_methods())}
    assert len(set(keys.values())) == 1 + len(training_methods()) == 9
    assert shared | {"ddt", "psol", "c2am", "bas"} == set(training_methods())
    for method in map(resolve, training_methods()):
        assert method.variants_on("convnext_tiny") == (method.name, "gap") and method.name not in study_methods()
        assert method.notebook.is_file()
        assert (method.chapter == "09_training_time_methods.ipynb") == (method.name in shared)
        assert f"{method.name} is compared with plain CAM" in method.undefined("vgg16_fc")
        assert not method.undefined("vgg16")
    maps = [resolve(name).map for name in ("has", "cutmix", "adl", "acol", "grad_cam")]
    assert maps == ["cam", "cam", "cam", "acol", "grad_cam"]
    assert [variant(word).pooling for word in ("has", "acol", "tap", "fc")] == ["gap", "acol", "tap", "fc"]
    assert RunConfig.make(backbone="convnext_tiny").stride == 16 and not variant("has").starts_from(base)
