"""A run as notebooks use it: recipes, shared training runs, results that are written whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_jobs import maps_of

import wsolkit as wk
from wsolkit.runs.folder import is_complete
from wsolkit.runs.parameters import RunConfig
from wsolkit.runs.run import Run, default_threshold, load_trained
from wsolkit.study.chapter import show_faithfulness

QUICK = {"backbone": "mobilenet_v2", "width": 0.125, "size": 48, "per_class": 2, "epochs": 1, "classes": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run.start(**QUICK, out=str(tmp_path_factory.mktemp("run")))


def test_recipe_of_pretrained_networks_is_the_published_one(tmp_path):
    run = Run(RunConfig.make(weights="imagenet", per_class=40, out=str(tmp_path)))
    recipe = run.recipe("gap")
    assert (recipe.batch_size, recipe.lr, recipe.backbone_grad_scale, recipe.nesterov) == (40, 3e-3, 0.1, True)
    small = Run(RunConfig.make(weights="imagenet", per_class=10, out=str(tmp_path))).recipe("tap")
    assert small.batch_size == 10 and small.lr == pytest.approx(3e-3 / 4), "160 images: sixteen steps of ten"
    given = Run(RunConfig.make(weights="imagenet", per_class=10, lr=0.5, batch_size=7, out=str(tmp_path))).recipe("tap")
    assert (given.batch_size, given.lr) == (7, 0.5)


def test_from_scratch_tap_starts_from_gap_and_is_shorter(run):
    assert run.recipe("tap").epochs == run.config.tap_epochs and run.recipe("gap").epochs == run.config.epochs
    gap, tap = run.model("gap"), run.model("tap")
    assert gap.pooling == "gap" and tap.pooling == "tap"
    assert (run.config.training_folder("gap") / "run.json").exists()


def test_a_training_whose_network_was_lost_goes_on_from_its_checkpoint(run, capsys):
    """What the message about a torn best.pt asks for: delete it and train again."""
    expected = run.model("gap").state_dict()
    folder = run.config.training_folder("gap")
    done = folder / "run.json"
    key = run.config.training_key("gap")
    assert is_complete(folder, done, key)
    whole = (folder / "best.pt").read_bytes()
    (folder / "best.pt").write_bytes(whole[:100])
    with pytest.raises(ValueError, match="delete it and train again"):
        Run(run.config).model("gap")
    (folder / "best.pt").unlink()
    assert not is_complete(folder, done, key), "a sweep trains it again"
    capsys.readouterr()
    again = Run(run.config).model("gap").state_dict()
    assert "epoch" not in capsys.readouterr().out, "all epochs are in last.pt"
    record = done.read_bytes()
    done.write_bytes(record[:30])
    assert not is_complete(folder, done, key)
    Run(run.config).model("gap")
    assert is_complete(folder, done, key), "a torn record is written again"
    assert all(torch.equal(expected[key], again[key]) for key in expected) and is_complete(folder, done, key)


def test_a_finished_training_is_loaded_not_repeated(run, capsys):
    first = run.model("gap").state_dict()
    capsys.readouterr()
    again = Run(run.config).model("gap").state_dict()
    assert "epoch" not in capsys.readouterr().out
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_finish_writes_metrics_last_and_whole(run):
    result = run.evaluate("cam")
    path = run.finish("cam", result)
    content = json.loads(path.read_text())
    assert content["status"] == "completed" and content["result"]["gt_known_loc"] == result.gt_known_loc
    assert content["fingerprint"] and content["config"]["backbone"] == "mobilenet_v2"
    written = {p.name for p in path.parent.iterdir()}
    assert {"metrics.json", "per_image.csv", "gallery"} <= written
    kept = maps_of(path.parent)
    for split, maps in result.maps.items():
        assert kept[split].parent == path.parent / ".." / run.config.training_folder("gap").name / "maps", "stored once"
        assert np.array_equal(wk.ScoreMaps.load(kept[split]).maps, maps.maps)
    assert not list(run.config.runs_folder.rglob("*.lock")), "no lock outlives its holder"
    assert path.stat().st_mtime_ns >= max(p.stat().st_mtime_ns for p in path.parent.rglob("*") if p.is_file())
    assert is_complete(path.parent, path, content["fingerprint"])
    for name in ("per_image.csv", "galleries/0.jpg", content["gallery"][0]["file"]):
        whole = (path.parent / name).read_bytes()
        (path.parent / name).unlink()
        assert not is_complete(path.parent, path, content["fingerprint"]), f"a sweep makes {name} again"
        (path.parent / name).write_bytes(whole)


def test_faithfulness_is_shown_and_kept_where_it_is_asked_for(run, capsys):
    result = run.evaluate("cam")
    show_faithfulness(run, result)
    assert capsys.readouterr().out == "" and json.loads(run.finish("cam", result).read_text())["extra"] == {}
    asking = run.with_changes(faithfulness=2)
    assert asking.config.training_key("gap") == run.config.training_key("gap")
    result = asking.evaluate("cam")
    show_faithfulness(asking, result)
    found = json.loads(asking.finish("cam", result, {"more": 1}).read_text())["extra"]
    assert found["more"] == 1 and set(found["faithfulness"]) == {"cam", "random map", "centre Gaussian"}
    assert found["faithfulness"]["cam"]["n"] == 2 and 0 <= found["faithfulness"]["cam"]["deletion"] <= 1


def test_gallery_items_belong_to_their_images(run):
    result = run.evaluate("cam")
    items = run.gallery_items(result, [3, 0])
    assert [item["id"] for item in items] == [result.ids[3], result.ids[0]]
    assert items[0]["pixels"].shape == (48, 48, 3) and items[0]["score_map"].shape == result.maps["test"].maps[3].shape


def test_a_training_time_method_is_cam_on_the_network_of_its_own_training(run):
    result = run.evaluate("has")
    own, plain = run.model("has"), run.model("gap")
    assert own.pooling == "gap" and not torch.equal(own.head.weight, plain.head.weight)
    test = run.dataset("test")
    cam = wk.localise(own, test, "cam", indices=test.spread(None))
    assert np.array_equal(result.maps["test"].maps, cam.maps)
    assert not np.array_equal(result.maps["test"].maps, run.evaluate("cam").maps["test"].maps)
    content = json.loads(run.finish("has", result).read_text())
    assert content["method"] == content["config"]["method"] == content["result"]["method"] == "has"
    assert content["config"]["variant"] == "has" and content["result"]["pooling"] == "gap"
    words = "CAM on a network trained with HaS (grid 0.196, rate 0.5)"
    assert content["result"]["conditions"]["method"] == words and words in result.protocol_line()
    record = json.loads((run.config.training_folder("has") / "run.json").read_text())
    assert record["variant"] == "has" and record["fingerprint"] == run.config.training_key("has")


def test_the_threshold_of_a_training_time_method_serves_its_checkpoint(run):
    result = run.evaluate("has")
    run.finish("has", result)
    run.finish("cam", run.evaluate("cam"))
    for training, report in (("has", "has"), ("gap", "cam")):
        threshold, words = default_threshold(load_trained(run.config.training_folder(training)), "cam", 100.0)
        assert f"/{report}/metrics.json" in words
        if report == "has":
            assert threshold == result.threshold


def test_rethinking_cam_is_scored_on_the_network_that_was_trained_for_it(run):
    result = run.evaluate("rethinking_cam")
    assert (result.method, result.variant, result.pooling, result.percentile) == ("rethinking_cam", "tap", "tap", 90)
    test = run.dataset("test")
    maps = wk.localise(run.model("tap"), test, "rethinking_cam", indices=test.spread(None))
    assert np.array_equal(result.maps["test"].maps, maps.maps)
    assert run.evaluate("rethinking_cam", variant="gap").pooling == "gap"


def test_acol_has_a_network_and_a_map_of_its_own(run):
    result = run.evaluate("acol", limit=8)
    model = run.model("acol")
    assert model.pooling == "acol" and result.pooling == result.method == "acol"
    maps = result.maps["test"].maps
    assert maps.min() >= 0 and (maps.max(axis=(1, 2)) == 1).all()
    again, _ = wk.load_checkpoint(run.config.training_folder("acol") / "best.pt")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
    with pytest.raises(wk.MethodNotDefined, match="acol joins the maps of two branches"):
        run.evaluate("acol", variant="gap")


def test_faithfulness_looks_at_the_network_of_the_method(run):
    asking = run.with_changes(faithfulness=2)
    asked = []
    original = asking.model
    asking.model = lambda word=None: asked.append(word) or original(word)
    show_faithfulness(asking, asking.evaluate("has", limit=4))
    assert set(asked) == {"has"}


def test_parameters_of_a_notebook(monkeypatch, tmp_path):
    monkeypatch.setenv("WSOLKIT_THREADS", "1")
    run = Run.of({"epochs": 3, "backbone": "vgg16", "np": object(), "out": str(tmp_path), "__name__": "x"})
    assert run.config.epochs == 3 and run.config.backbone == "vgg16" and run.config.batch_norm == "yes"
