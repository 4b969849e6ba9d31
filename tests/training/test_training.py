"""Training: it learns, it resumes exactly, it picks its best epoch on val, and it refuses what it cannot use."""

from __future__ import annotations

import csv
import io

import pytest
import torch

import wsolkit as wk
from wsolkit.training.checkpoints import Files, read
from wsolkit.training.loop import classify
from wsolkit.training.recipe import Objective, Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"epochs": 4, "batch_size": 8, "lr": 0.02, "schedule": "cosine", "backbone_grad_scale": 1.0}


def birds(split, per_class=6):
    return wk.load_dataset("synthetic", split, size=32, classes=3, per_class=per_class)


def network(**changes):
    return wk.build_model("mobilenet_v2", 3, weights="none", **{"width": 0.25, "stride": 16, **changes})


def test_a_network_learns_from_labels():
    names = ["scarlet-billed finch", "azure-billed thrush"]
    train, val = (
        wk.load_dataset("synthetic", s, size=48, classes=names, per_class=n) for s, n in (("train", 80), ("val", 20))
    )
    model = wk.build_model("vgg16", 2, weights="none", width=0.125, stride=8, batch_norm=True)
    history = wk.fit(model, train, val, **{**SMALL, "epochs": 15, "lr": 0.03})
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert max(row["val_top1"] for row in history) > 80, "chance is 50 %"


def test_best_epoch_is_chosen_on_val_and_its_weights_are_kept(tmp_path):
    model = network()
    val = birds("val")
    history = wk.fit(model, birds("train"), val, out=tmp_path, **SMALL)
    best = max(history, key=lambda row: (row["val_top1"], -row["val_loss"]))
    loss, top1 = classify(model, val)
    assert top1 == best["val_top1"] and loss == pytest.approx(best["val_loss"], rel=1e-5)
    loaded, info = wk.load_checkpoint(tmp_path / "best.pt")
    assert info["epoch"] == best["epoch"] and info["classes"] == birds("val").classes
    for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with open(tmp_path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "vgg16_fc"])  # the second has dropout
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, backbone):
    def run(out, stop_after=None):
        model = wk.build_model(backbone, 3, weights="none", width=0.1)
        if stop_after is not None:
            calls = []
            original = torch.save

            def save(content, path):
                original(content, path)
                calls.append(path)
                if "last" in str(path) and sum("last" in str(c) for c in calls) == stop_after:
                    raise KeyboardInterrupt

            torch.save = save
            try:
                with pytest.raises(KeyboardInterrupt):
                    wk.fit(model, birds("train"), birds("val"), out=out, **SMALL)
            finally:
                torch.save = original
            (out / ".history.csv.0.part").touch()  # what a kill leaves
            model = wk.build_model(backbone, 3, weights="none", width=0.1)
        history = wk.fit(model, birds("train"), birds("val"), out=out, **SMALL)
        return model.state_dict(), [{k: v for k, v in row.items() if k != "seconds"} for row in history]

    whole, whole_history = run(tmp_path / "whole")
    # the interruption falls between writing last.pt and renaming it: the epoch is lost and repeated
    resumed, resumed_history = run(tmp_path / "cut", stop_after=3)
    assert whole_history == resumed_history
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert not list((tmp_path / "cut").glob("*.part")), "no half-written file stays"


def test_the_history_is_whole_after_a_kill_at_the_very_end(tmp_path, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    def run():
        return wk.fit(wk.build_model("mobilenet_v2", 3, weights="none", width=0.1), birds("train"), birds("val"),
                      out=tmp_path, **{**SMALL, "epochs": 1})  # fmt: skip

    with monkeypatch.context() as patch:  # after last.pt, before history.csv
        patch.setattr(Files, "write_results", kill)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert (tmp_path / "last.pt").exists() and not (tmp_path / "history.csv").exists()
    history = run()
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 1 + len(history) == 2


def shortened(data):
    return data[: len(data) // 2]


def flipped(data):
    middle = len(data) // 2  # inside the tensors: torch itself would not notice
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


def foreign(data):
    file = io.BytesIO()
    torch.save({"weights": torch.zeros(1)}, file)
    return file.getvalue()


@pytest.mark.parametrize("damage", [shortened, flipped, foreign, lambda data: b""])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_is_used(tmp_path, damage):
    def train(**changes):
        model = network()
        history = wk.fit(model, birds("train"), birds("val"), out=tmp_path, **{**SMALL, "epochs": 3, **changes})
        return model.state_dict(), [{k: v for k, v in row.items() if k != "seconds"} for row in history]

    weights, history = train()
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    assert (read(last)["progress"]["epoch"], read(previous)["progress"]["epoch"]) == (3, 2)
    last.write_bytes(damage(last.read_bytes()))
    with pytest.warns(UserWarning, match=r"last\.pt cannot be read .*goes on from previous\.pt") as seen:
        weights_again, history_again = train()
    assert len(seen) == 1 and history_again == history
    assert all(torch.equal(weights[key], weights_again[key]) for key in weights)
    assert (read(last)["progress"]["epoch"], read(previous)["progress"]["epoch"]) == (3, 2)
    for path in (last, previous):
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"last\.pt cannot be read .*previous\.pt cannot be read .*resume=False"):
        train()
    assert train(resume=False)[1] == history


def test_checkpoints_of_other_trainings_are_refused(tmp_path):
    short = {**SMALL, "epochs": 2}
    wk.fit(network(), birds("train"), birds("val"), out=tmp_path, **short)
    with pytest.raises(ValueError, match="belongs to another recipe"):
        wk.fit(network(), birds("train"), birds("val"), out=tmp_path, **{**short, "lr": 0.5})
    other = wk.load_dataset("synthetic", "train", size=32, classes=3, per_class=6, seed=5)
    with pytest.raises(ValueError, match="belongs to another recipe"):
        wk.fit(network(), other, birds("val"), out=tmp_path, **short)
    with pytest.raises(ValueError, match="belongs to another recipe"):
        wk.fit(network(), birds("train"), birds("val"), out=tmp_path, objective=Renamed(), **short)
    (tmp_path / "best.pt").write_bytes(flipped((tmp_path / "best.pt").read_bytes()))
    with pytest.raises(ValueError, match=r"best\.pt cannot be read .its content does not fit its checksum"):
        wk.load_checkpoint(tmp_path / "best.pt")
    wk.fit(network(), birds("train"), birds("val"), out=tmp_path, **short)
    wk.load_checkpoint(tmp_path / "best.pt")  # written again from last.pt
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt cannot be read"):
        wk.load_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name", ["best.pt", "history.csv"])
def test_files_of_others_stay_where_a_training_run_would_write(tmp_path, name, resume):
    (tmp_path / "history.csv").write_text("epoch,accuracy,loss\n")
    if name == "best.pt":
        (tmp_path / "history.csv").unlink()
        torch.save({"epoch": 5, "model": {"weight": torch.zeros(1)}}, tmp_path / name)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ValueError, match=f"{name} was not written by wsolkit, and stays"):
        wk.fit(network(), birds("train"), birds("val"), out=tmp_path, resume=resume, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == before


class Renamed(Objective):
    name = "other"


@pytest.mark.parametrize("pretrained", [True, False])
def test_backbone_gradients_are_scaled_before_weight_decay(tmp_path, pretrained):
    """One SGD step by hand: w - lr (0.1 g + wd w) for pretrained layers, w - lr (g + wd w) for new ones."""
    train = birds("train", 2)
    path = tmp_path / "start.pth"
    torch.save(network().state_dict(), path)
    start = str(path) if pretrained else "none"
    model = wk.build_model("mobilenet_v2", 3, weights=start, width=0.25, stride=16)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    twin = network().train()
    images, labels = next(train.train_batches(6, seed=0, epoch=0))
    torch.nn.functional.cross_entropy(twin(images), labels).backward()
    gradients = {name: p.grad for name, p in twin.named_parameters()}
    recipe = {
        "epochs": 1,
        "batch_size": 6,
        "lr": 0.1,
        "momentum": 0.0,
        "weight_decay": 0.01,
        "backbone_grad_scale": 0.1,
    }
    wk.fit(model, train, None, **recipe)
    assert len(train) == 6, "one step"
    for name, parameter in model.named_parameters():
        scale = 0.1 if pretrained and not name.startswith("head.") else 1.0
        expected = before[name] - 0.1 * (scale * gradients[name] + 0.01 * before[name])
        assert torch.allclose(parameter, expected, atol=1e-6), name


def test_classes_must_agree():
    with pytest.raises(ValueError, match="the model has 5 classes"):
        wk.fit(wk.build_model("mobilenet_v2", 5, weights="none", width=0.25), birds("train"), None, **SMALL)


def test_rates():
    step = Recipe(lr=1.0, lr_steps=(2, 4), epochs=6)
    assert [step.rate(e) for e in range(6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = Recipe(lr=1.0, schedule="cosine", warmup_epochs=1, epochs=5)
    assert [cosine.rate(e) for e in range(5)] == pytest.approx([0.5, 1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert Recipe().plain()["lr"] == 3e-3 and Recipe().batch_size == 40 and Recipe().lr_steps == (60, 120, 180)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"lr": -1}, {"schedule": "magic"}, {"batch_size": 0}])
def test_impossible_recipes_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**wrong)


def test_a_loss_that_explodes_says_what_to_do():
    with pytest.raises(ValueError, match="lower lr"):
        wk.fit(network(), birds("train"), birds("val"), epochs=30, lr=1e12, batch_size=8, backbone_grad_scale=1.0)
    with pytest.raises(
        ValueError, match=r"validation loss no longer finite in epoch 1; lower lr"
    ):  # after its one step
        wk.fit(network(), birds("train"), birds("val"), epochs=1, lr=1e30, batch_size=1000, backbone_grad_scale=1.0)


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    wk.fit(network(), birds("train"), None, epochs=1, batch_size=8)
    assert torch.equal(before, torch.random.get_rng_state())
