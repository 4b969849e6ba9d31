"""Prediction: every kind of picture is read, boxes come back to original pixels, the command writes and refuses well."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import names, pattern, too_deep, touch
from PIL import ExifTags, Image
from small_networks import NETWORKS
from torch import nn

import wsolkit as wk
from wsolkit.cli.predict import _png as draw
from wsolkit.cli.predict import predict as command
from wsolkit.common.files import read_json, write_json
from wsolkit.data.base import normalise
from wsolkit.data.images import find_images, read_image
from wsolkit.localisation.predict import original_box, predict
from wsolkit.networks.split import HookedModel, network_for
from wsolkit.runs.run import Run, default_threshold, load_trained, versions, with_share
from wsolkit.training import checkpoints


class Brightness(nn.Module):
    """A network whose feature map is the picture itself, bright and dark: the map of class 0 is its brightness."""

    num_classes, has_cam = 2, True

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 2, 1), nn.Linear(2, 2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with torch.no_grad():
            self.body.weight.copy_(torch.stack([torch.ones(3, 1, 1), -torch.ones(3, 1, 1)]))
            self.body.bias.fill_(8.0)
            self.head.weight.copy_(torch.eye(2))
            self.head.bias.copy_(torch.tensor([20.0, 0.0]))


def invoke(*arguments):
    """Exit code, what was printed, and the error that the package's entry point would print as one line."""
    done = CliRunner().invoke(command, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit | ValueError | OSError):
        raise done.exception
    return done.exit_code, done.output, str(done.exception)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A run as the package makes it: one epoch on birds, a report's metrics.json beside it."""
    out = tmp_path_factory.mktemp("reports")
    run = wk.Run.start(
        dataset="synthetic", backbone="mobilenet_v2", width=0.125, classes=3, per_class=4, size=48, epochs=1,
        batch_size=8, out=str(out), device="cpu",
    )  # fmt: skip
    run.finish("grad_cam", run.evaluate("grad_cam"))
    return run.config.training_folder("gap")


@pytest.fixture
def birds(tmp_path):
    folder = tmp_path / "photos"
    dataset = wk.load_dataset("synthetic", "test", size=48, classes=3, per_class=1)
    for index, sample in enumerate(dataset.samples):
        place = folder / ("a" if index == 0 else "b/deep") / "bird.png"
        place = place if not place.exists() else place.with_name("BIRD2.PNG")
        place.parent.mkdir(parents=True, exist_ok=True)
        dataset.load(sample)[0].save(place)
    return folder


# ------------------------------------------------------------------------------------------------ results


def test_results_are_no_pictures_to_localise(tmp_path):
    touch(tmp_path, "x.jpg", "out/y.jpg.png")
    (found,) = predict(Brightness(), Image.new("RGB", (30, 20)), geometry=wk.Geometry(32))
    (tmp_path / "out" / "x.jpg.png").write_bytes(draw(Image.new("RGB", (30, 20)), found, wk.Geometry(32)))
    assert names(find_images([tmp_path])) == ["out/y.jpg.png", "x.jpg"]
    mine = tmp_path / "out" / "x.jpg.png"
    for sources in ([mine], [f"{tmp_path}/**/x*.png"]):
        with pytest.raises(FileNotFoundError, match="all 1 files are results"):
            find_images(sources)
        assert names(find_images([tmp_path / "x.jpg", *sources])) == ["x.jpg"], "as a shell names them for *"


# ------------------------------------------------------------------------------------------------ boxes


@settings(max_examples=300, deadline=None)
@given(
    st.integers(8, 300), st.sampled_from(["resize", "crop"]), st.integers(1, 3000), st.integers(1, 3000),
    st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4),
)  # fmt: skip
def test_the_way_back_is_the_inverse_of_the_way_in(size, kind, width, height, corners):
    geometry = wk.Geometry(size, kind)
    x0, x1, y0, y1 = (int(value * size) for value in (*sorted(corners[:2]), *sorted(corners[2:])))
    box = original_box((x0, y0, x1, y1), (width, height), geometry)
    assert (box >= 0).all() and (box[:2] <= box[2:]).all() and (box[2:] < (width, height)).all()
    there = geometry.boxes([box], (width, height))[0].numpy()
    off = np.abs(there - (x0, y0, x1, y1))
    for axis, extent in ((0, width), (1, height)):
        if extent >= geometry.side:
            assert off[axis] == off[axis + 2] == 0
            grown = box.copy()
            grown[axis] -= 1
            if grown[axis] >= 0 and x0 > 0 and y0 > 0:
                assert geometry.boxes([grown], (width, height))[0][axis] < (x0, y0)[axis], "the outermost such pixel"
        else:
            assert max(off[axis], off[axis + 2]) <= geometry.side / extent + 1


def test_a_box_is_clipped_to_what_the_network_saw():
    assert original_box((0, 0, 64, 64), (640, 320), wk.Geometry(64)).tolist() == [0, 0, 639, 319]
    assert original_box((0, 0, 224, 224), (256, 512), wk.Geometry(224, "crop")).tolist() == [16, 32, 239, 479]
    assert original_box((0, 3, 64, 64), (1, 640), wk.Geometry(64)).tolist() == [0, 30, 0, 639], "one pixel wide"


@pytest.mark.parametrize(("kind", "size"), [("resize", (384, 192)), ("resize", (128, 320)), ("crop", (256, 512))])
def test_the_box_is_where_the_bright_part_is(kind, size):
    width, height = size
    truth = np.array([width // 4, height // 4, width // 4 + width // 2 - 1, height // 4 + height // 3 - 1])
    geometry = wk.Geometry(224 if kind == "crop" else 64, kind)
    (found,) = predict(Brightness(), [pattern(*size, truth)], "cam", geometry=geometry, threshold=0.5)
    pixel = np.array([width, height] * 2) / geometry.side
    # the protocol's far corner is one pixel of the frame outside
    assert (np.abs(found.box - truth) <= 1.5 * pixel + 1).all() and not found.box_empty
    assert (found.box[2:] >= truth[2:]).all(), "so the near edge of the rounding is never inside"
    assert found.size == size and found.score_map.shape == (geometry.size, geometry.size)


def test_the_box_of_a_turned_picture_is_in_the_turned_picture(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pattern(200, 100, (20, 10, 99, 39)).save(tmp_path / "x.png", exif=exif)
    (found,) = predict(Brightness(), [tmp_path / "x.png"], geometry=wk.Geometry(100), threshold=0.5)
    assert found.size == (100, 200)
    assert (np.abs(found.box - (60, 20, 89, 99)) <= 3).all(), "clockwise: what was up is now right"


@pytest.mark.parametrize("kind", ["resize", "crop"])
def test_boxes_are_those_that_evaluation_scores(kind):
    data = wk.load_dataset("synthetic", "test", size=48, geometry=kind, classes=3, per_class=3)
    model = wk.build_model("mobilenet_v2", 3, weights="none", width=0.125, seed=3)
    for method in ("grad_cam++", "rethinking_cam"):
        result = wk.evaluate(model, data, method, val=None)
        by_id = {sample.id: sample for sample in data.samples}
        for index, name in enumerate(result.ids):
            picture = data.load(by_id[name])[0]
            (found,) = predict(
                model, [picture], method, geometry=data.geometry, label=int(result.labels[index]),
                threshold=result.threshold, percentile=result.percentile,
            )  # fmt: skip
            if not found.box_empty:
                back = data.geometry.boxes([found.box], picture.size)[0].numpy()
                assert np.array_equal(back, result.boxes[index])
            assert found.top5[0].label == result.predicted[index]


# ------------------------------------------------------------------------------------------------ predict


def test_the_map_is_that_of_the_predicted_class_unless_another_is_named():
    model = wk.build_model("mobilenet_v2", 7, weights="none", width=0.125)
    data = wk.load_dataset("synthetic", "test", size=48, classes=3, per_class=2)
    pictures = [data.load(sample)[0] for sample in data.samples]
    found = predict(model, pictures, "grad_cam", geometry=data.geometry, batch_size=4)
    images = data.images(range(len(data)))
    logits = model.eval()(images).detach()
    maps = wk.score_maps(model, images, logits.argmax(1), "grad_cam").numpy()
    shares = logits.softmax(1)
    for item, row, score_map in zip(found, shares, maps, strict=True):
        assert item.label == row.argmax() == item.top5[0].label and item.predicted
        assert item.name == str(item.label), "a number where names are not known"
        assert item.probability == pytest.approx(float(row.max()), abs=1e-5)
        assert [p for _, _, p in item.top5] == pytest.approx(row.sort(descending=True).values[:5].tolist(), abs=1e-5)
        assert [p for _, _, p in item.top5] == pytest.approx(row[[k for _, k, _ in item.top5]].tolist(), abs=1e-5)
        np.testing.assert_allclose(item.score_map, score_map, atol=1e-5)
    worst = int(shares[0].argmin())
    (other,) = predict(model, pictures[:1], "grad_cam", geometry=data.geometry, label=worst, classes=list("abcdefg"))
    assert (other.label, other.name, other.predicted) == (worst, "abcdefg"[worst], False)
    assert other.top5[0].label == found[0].label and other.probability == pytest.approx(
        float(shares[0].min()), abs=1e-5
    )
    own = wk.score_maps(model, images[:1], torch.tensor([worst]), "grad_cam").numpy()[0]
    np.testing.assert_allclose(other.score_map, own, atol=1e-5)


def test_default_rules():
    ramp = np.minimum.outer(*[255 - 8 * np.abs(np.arange(64) - 30)] * 2).clip(0).astype(np.uint8)
    picture = Image.fromarray(ramp)  # a pyramid: each threshold has its own box
    view = {"geometry": wk.Geometry(64)}
    for method, threshold, percentile in (("cam", 0.2, 100), ("RethinkingCAM", 0.35, 90)):
        (plain,) = predict(Brightness(), [picture], method, **view)
        (same,) = predict(Brightness(), [picture], method, threshold=threshold, percentile=percentile, **view)
        assert np.array_equal(plain.box, same.box)
    (pas,) = predict(Brightness(), [picture], "cam", percentile=90, **view)
    (same,) = predict(Brightness(), [picture], "cam", percentile=90, threshold=0.35, **view)
    assert np.array_equal(pas.box, same.box), "0.35 belongs to a percentile below 100"
    boxes = {tuple(predict(Brightness(), [picture], threshold=tau, **view)[0].box) for tau in (0.1, 0.5, 0.9)}
    assert len(boxes) == 3, "the threshold matters"


def test_a_flat_map_has_no_box():
    (found,) = predict(Brightness(), [Image.new("RGB", (90, 45), "gray")], geometry=wk.Geometry(32))
    assert found.box_empty and found.box.tolist() == [0, 0, 89, 44]


def test_kinds_of_pictures_and_batches_agree(tmp_path):
    picture = pattern(50, 30, (10, 10, 29, 19))
    picture.save(tmp_path / "x.png")
    same = [tmp_path / "x.png", str(tmp_path / "x.png"), picture, np.asarray(picture), picture.convert("RGBA")]
    for size in (1, 2, 16):
        found = predict(Brightness(), same, geometry=wk.Geometry(32), batch_size=size)
        assert len({tuple(item.box) for item in found}) == 1 and len(found) == 5
    for one in (str(tmp_path / "x.png"), tmp_path / "x.png", picture, np.asarray(picture)):
        assert [item.box.tolist() for item in predict(Brightness(), one, geometry=wk.Geometry(32))] == [
            found[0].box.tolist()
        ]
    assert predict(Brightness(), []) == []
    for size in ((1, 300), (300, 1), (1, 1), (3, 2)):
        (found,) = predict(Brightness(), [Image.new("RGB", size, "white")], geometry=wk.Geometry(32))
        assert found.box.tolist() == [0, 0, size[0] - 1, size[1] - 1]


def test_the_model_is_left_as_found():
    model = wk.build_model("vgg16_fc", 3, weights="none", width=0.05).train()
    model.body.eval()
    before = [module.training for module in model.modules()]
    first, again = (
        predict(model, [pattern(64, 64, (5, 5, 30, 30))], "grad_cam", geometry=wk.Geometry(64))[0] for _ in "ab"
    )
    assert [module.training for module in model.modules()] == before
    assert first.probability == again.probability, "dropout is off"
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(wk.MethodNotDefined):
        predict(model, [pattern(64, 64, (5, 5, 30, 30))], "cam", geometry=wk.Geometry(64))
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("name", ["mobilenet_v2", "vit"])  # the first can be cut, the second is hooked
def test_any_network(name):
    net, picture = NETWORKS[name](), pattern(90, 60, (20, 10, 60, 40))
    images = normalise(np.stack([np.asarray(picture.resize((64, 64), Image.Resampling.BILINEAR))]))
    row = net(images).detach().softmax(1)[0]
    label = int(row.argmax())
    made = network_for(net)
    assert isinstance(made, HookedModel) == (name == "vit")
    layer = {"vit": "encoder.layers.encoder_layer_1", "mobilenet_v2": "features.14"}[name]
    for model, options in ((net, {}), (made, {}), (net, {"layer": layer})):
        (found,) = predict(model, picture, "grad_cam", geometry=wk.Geometry(64), **options)
        assert found.label == label and found.probability == pytest.approx(float(row[label]), abs=1e-5)
        expected = wk.score_maps(model, images, torch.tensor([label]), "grad_cam", **options)[0].numpy()
        np.testing.assert_allclose(found.score_map, expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"2 class names for a network with 7"):
        predict(made, picture, "grad_cam", geometry=wk.Geometry(64), classes=["a", "b"])


def test_another_layer_of_a_network_with_a_body():
    model = wk.build_model("resnet18", 3, weights="none", width=0.125)
    (found,) = predict(
        model, pattern(64, 64, (5, 5, 30, 30)), "grad_cam", geometry=wk.Geometry(64), layer="body.layer2"
    )
    assert found.score_map.shape == (8, 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "no_cam"}, "unknown method"),
        ({"threshold": 1.5}, "threshold must lie"),
        ({"percentile": -1}, "percentile must lie"),
        ({"batch_size": 0}, "batch_size"),
        ({"classes": ["one"]}, "1 class names for a network with 2"),
        ({"label": 2}, r"outside 0\.\.1"),
        ({"smooth": ("soft",)}, "unknown smoothing"),
        ({"images": [np.zeros((3, 8, 8))]}, "an image is a file"),
    ],
)
def test_wrong_arguments(change, words):
    arguments = {"images": [pattern(20, 20, (2, 2, 9, 9))], "method": "cam", "geometry": wk.Geometry(32)} | change
    with pytest.raises(ValueError, match=words):
        predict(Brightness(), **arguments)


def test_a_diverged_network_is_named():
    model = Brightness()
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        predict(model, [pattern(20, 20, (2, 2, 9, 9))], geometry=wk.Geometry(32))


# ------------------------------------------------------------------------------------------------ overlay


def opened(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("size", [(500, 375), (3000, 1500), (20, 30), (1, 300), (300, 1), (1, 1)])
@pytest.mark.parametrize("kind", ["resize", "crop"])
def test_overlays_of_all_shapes(size, kind):
    geometry = wk.Geometry(32, kind)
    picture = Image.new("RGB", size, "white")
    (found,) = predict(Brightness(), [picture], geometry=geometry, classes=["bird", "x" * 300])
    drawn = opened(draw(picture, found, geometry, "note"))
    scale = min(1200, max(320, *size)) / max(size)
    assert drawn.shape[1] == max(320, round(size[0] * scale))
    assert 0 < drawn.shape[0] - max(1, round(size[1] * scale)) < 120, "the foot"


def test_an_overlay_shows_map_and_box_where_they_are():
    picture, geometry = pattern(400, 400, (100, 100, 199, 199)), wk.Geometry(64, "crop")
    (found,) = predict(Brightness(), [picture], geometry=geometry, threshold=0.5)
    pixels = opened(draw(picture, found, geometry)).astype(int)
    assert pixels.shape[1] == 400, "as large as the picture"
    assert (pixels[5, 5] == 0).all(), "outside of the crop the picture is as it was"
    assert pixels[50, 50].sum() > 0 and np.abs(pixels[150, 150] - 255).max() > 40, "inside the map is shown"
    x0, y0, _, y1 = found.box
    edge = pixels[y0 + 10 : y1 - 10, x0 - 3 : x0 + 3].reshape(-1, 3)
    assert (edge.min(axis=1) > 230).any() and (np.abs(edge - (8, 48, 107)).max(axis=1) < 40).any(), (
        "white and blue dashes"
    )
    empty = replace(found, box_empty=True)
    edge = opened(draw(picture, empty, geometry)).astype(int)[y0 + 10 : y1 - 10, x0 - 3 : x0 + 3].reshape(-1, 3)
    assert not (np.abs(edge - (8, 48, 107)).max(axis=1) < 40).any(), "no box where there is none"


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_writes_pictures_and_numbers(training, birds, tmp_path):
    out = tmp_path / "out"
    code, output, _ = invoke(birds, "--checkpoint", training, "--method", "cam", "--out", out, "--batch-size", 2)
    assert code == 0 and "written: 3 of 3" in output
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*") if path.is_file())
    stems = ("a/bird.png", "b/deep/BIRD2.PNG", "b/deep/bird.png")
    assert written == sorted(f"{stem}.{kind}" for stem in stems for kind in ("json", "png"))
    trained = load_trained(training)
    dataset_names = wk.load_dataset("synthetic", "test", classes=3, per_class=1).classes
    assert trained.classes == dataset_names and trained.geometry == wk.Geometry(48)
    for stem in stems:
        numbers = json.loads((out / f"{stem}.json").read_text())
        (found,) = predict(trained.model, [birds / stem], "cam", **trained.view)
        assert numbers["image"] == str(birds / stem) and (numbers["width"], numbers["height"]) == found.size
        assert numbers["class"] == found.name == dataset_names[numbers["label"]]
        assert numbers["probability"] == pytest.approx(found.probability, abs=1e-5)
        assert [item["label"] for item in numbers["top5"]] == [k for _, k, _ in found.top5] and len(
            numbers["top5"]
        ) == 3
        assert numbers["box"] == found.box.tolist() and numbers["box_empty"] is found.box_empty
        assert (numbers["threshold"], numbers["percentile"], numbers["threshold_source"]) == (0.2, 100, "fixed")
        assert numbers["score_map"] == {"method": "cam", "smooth": []} and numbers["class_of_map"] == "predicted"
        assert numbers["checkpoint"].endswith("best.pt") and numbers["versions"] == versions()
        with Image.open(out / f"{stem}.png") as drawn:
            assert drawn.width >= 320
    assert not list(out.rglob("*.part"))


def test_options_reach_the_result(training, birds, tmp_path):
    (tmp_path / "names.txt").write_text("eins\nzwei\n\ndrei\n", encoding="utf-8")
    code, _, problem = invoke(
        birds / "a", "--checkpoint", training / "best.pt", "--method", "grad_cam++", "--out", tmp_path / "o", "--label", "drei",
        "--classes", tmp_path / "names.txt", "--smooth", "eigen,aug", "--threshold", 0.6, "--percentile", 95, "--size", 64,
        "--geometry", "crop", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, problem
    numbers = read_json(tmp_path / "o" / "bird.png.json")
    assert numbers["class"] == "drei" and numbers["label"] == 2
    assert numbers["class_of_map"] == ("predicted" if numbers["top5"][0]["label"] == 2 else "given")
    assert (numbers["threshold"], numbers["percentile"], numbers["threshold_source"]) == (0.6, 95, "given")
    assert numbers["input"] == {"size": 64, "geometry": "crop"}
    (found,) = predict(
        load_trained(training).model, [birds / "a" / "bird.png"], "grad_cam++", geometry=wk.Geometry(64, "crop"), label=2,
        threshold=0.6, percentile=95, smooth=("eigen", "aug"),
    )  # fmt: skip
    assert numbers["box"] == found.box.tolist()


def test_the_threshold_chosen_on_validation_is_used(training, birds, tmp_path):
    report = read_json(training.parent / "grad_cam" / "metrics.json")
    assert report["result"]["operating_point"] == "validation"
    trained = load_trained(training)
    threshold, source = default_threshold(trained, "GradCAM", 100.0)
    assert threshold == report["result"]["threshold"] and "metrics.json" in source
    assert default_threshold(trained, "cam", 100.0) == (0.2, "fixed"), "no report of this method"
    assert default_threshold(trained, "grad_cam", 90.0) == (0.35, "fixed"), "chosen for another percentile"
    assert default_threshold(trained, "grad_cam", 100.0, ("eigen",)) == (0.2, "fixed"), "chosen for other maps"
    assert default_threshold(trained, "grad_cam", 100.0, view=wk.Geometry(48))[0] == threshold
    for more, size in ((("--size", 64), 64), (("--geometry", "crop"), 48)):
        code, output, _ = invoke(
            birds, "--checkpoint", training, "--method", "grad_cam", "--out", tmp_path / "other", *more
        )
        numbers = read_json(tmp_path / "other" / "a" / "bird.png.json")
        assert code == 0 and numbers["threshold"] == 0.2 and numbers["input"]["size"] == size
        assert output.count("fixed (the one chosen on validation data is for 48 px, resize)") == 1
    code, output, _ = invoke(birds, "--checkpoint", training, "--method", "grad_cam", "--out", tmp_path / "o")
    numbers = read_json(tmp_path / "o" / "a" / "bird.png.json")
    assert (
        code == 0 and numbers["threshold"] == threshold and numbers["threshold_source"] == source and source in output
    )


def test_the_threshold_of_another_training_is_not_used(training, tmp_path):
    place = tmp_path / "mobilenet_v2"
    shutil.copytree(training.parent, place)
    record = place / training.name / "run.json"
    run = read_json(record)
    write_json(record, {**run, "config": {**run["config"], "seed": 5}})
    assert default_threshold(load_trained(record.parent), "grad_cam", 100.0) == (0.2, "fixed")
    write_json(record, {**run, "config": {**run["config"], "device": "cuda", "limit": 9}})
    assert default_threshold(load_trained(record.parent), "grad_cam", 100.0)[1] != "fixed", (
        "the same training elsewhere"
    )
    other = record.parent.rename(place / "train-gap-00000000")  # with the same parameters, on data that have changed
    assert default_threshold(load_trained(other), "grad_cam", 100.0) == (0.2, "fixed")


def every_kind(folder):
    """Pictures of odd kinds, by name with the size in which they are shown, and those that are none."""
    folder.mkdir()
    square = pattern(24, 12, (3, 3, 15, 8))
    grey = np.asarray(square)[..., 0]
    frames = [square, Image.new("RGB", square.size, "blue")]
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 8
    square.convert("L").save(folder / "grey.png")
    square.convert("LA").save(folder / "la.png")
    square.convert("1").save(folder / "bit.png")
    square.quantize().save(folder / "palette.png", transparency=0)
    square.convert("CMYK").save(folder / "cmyk.jpg")
    square.save(folder / "turned.jpg", exif=turned)
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "sixteen.png")
    Image.fromarray(grey.astype(np.int32) * 257).save(folder / "int.tif")
    Image.fromarray(grey.astype(np.float32) / 255).save(folder / "float.tif")
    Image.fromarray(grey.astype(np.float32) * 1e9).save(folder / "large.tif")
    (folder / "wide.pgm").write_bytes(b"P5 24 12 65535 " + (grey.astype(">u2") * 257).tobytes())
    (folder / "folder.jpg").mkdir()
    square.save(folder / "folder.jpg" / "inside.png")
    good = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file()}
    pattern(200, 100, (20, 20, 90, 80)).save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    (folder / "truncated.jpg").write_bytes(content[: len(content) * 3 // 4])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    return good, {"truncated.jpg", "empty.jpg", "text.jpg", "gone.jpg"}


def test_pictures_of_every_kind_through_the_command(training, tmp_path):
    good, bad = every_kind(tmp_path / "in")
    code, output, _ = invoke(tmp_path / "in", "--checkpoint", training, "--out", tmp_path / "out")
    assert code == 1 and f"written: {len(good)} of {len(good) + len(bad)}" in output
    assert all(name in output.split("4 failed")[1] for name in bad)
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert {name for name in written if "." in Path(name).name and (tmp_path / "out" / name).is_file()} == {
        f"{name}.{kind}" for name in good for kind in ("png", "json")
    }
    sizes = {name: (12, 24) if name == "turned.jpg" else (24, 12) for name in good}
    greys = {}
    for name, size in sizes.items():
        numbers = read_json(tmp_path / "out" / f"{name}.json")
        assert (numbers["width"], numbers["height"]) == size, name
        greys[name] = np.asarray(read_image(tmp_path / "in" / name).convert("L")).astype(int)
    flat = {name: grey for name, grey in greys.items() if name not in ("turned.jpg", "palette.png")}
    for name, grey in flat.items():
        assert grey[5, 5] > 245 and grey[0, 20] < 10, name


def test_folders_that_cannot_be_searched_make_the_exit_code(training, birds, tmp_path):
    too_deep(birds)
    code, output, _ = invoke(birds, "--checkpoint", training, "--out", tmp_path / "o")
    assert code == 1 and "written: 3 of 3" in output and "1 folders not searched" in output and "ddd" in output


def test_pictures_of_the_same_name_keep_their_own_results(training, tmp_path):
    for folder, colour in (("one", "white"), ("two", "black")):
        (tmp_path / folder).mkdir()
        for suffix in ("png", "jpg"):
            Image.new("RGB", (20, 10), colour).save(tmp_path / folder / f"bird.{suffix}")
    out = tmp_path / "out"
    code, output, _ = invoke(tmp_path / "one", tmp_path / "two", "--checkpoint", training, "--out", out)
    assert code == 0 and "written: 4 of 4" in output
    images = {read_json(path)["image"] for path in out.rglob("*.json")}
    assert images == {str(tmp_path / folder / f"bird.{kind}") for folder in ("one", "two") for kind in ("png", "jpg")}


def test_a_place_that_cannot_be_written_is_refused_before_the_work(training, birds, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper", "/proc/results"):
        code, _, problem = invoke(birds, "--checkpoint", training, "--out", out)
        assert code != 0 and "no results can be written" in problem and str(out) in problem
    assert "photos/*.gif" in invoke(f"{birds}/*.gif", "--checkpoint", training)[2], "a glob without a match"


def test_unreadable_pictures_are_named_after_the_others_are_done(training, birds, tmp_path):
    for index in range(22):
        (birds / f"torn{index:02}.jpg").write_bytes(b"\xff\xd8\xff")
    code, output, _ = invoke(birds, "--checkpoint", training, "--out", tmp_path / "o")
    assert code == 1
    assert "written: 3 of 25" in output and "22 failed" in output
    assert "torn00.jpg" in output and "torn19.jpg" in output and "torn20.jpg" not in output and "and 2 more" in output
    assert len(list((tmp_path / "o").rglob("*.json"))) == 3


def test_checkpoints_that_cannot_be_used(training, birds, tmp_path):
    def problem(checkpoint, *more):
        code, _, words = invoke(birds, "--checkpoint", checkpoint, "--out", tmp_path / "o", *more)
        assert code != 0 and not (tmp_path / "o").exists()
        return words

    assert "nowhere.pt not found" in problem(tmp_path / "nowhere.pt")
    assert "holds no best.pt" in problem(tmp_path)
    inside = tmp_path / "runs/folder/resnet18/train-gap-1"
    inside.mkdir(parents=True)
    (inside / "best.pt").touch()
    assert problem(tmp_path).endswith(f"choose one of {inside}")
    assert str(training) in problem(training.parent), "the training runs below are offered"
    (tmp_path / "torn.pt").write_bytes((training / "best.pt").read_bytes()[:3000])
    assert "torn.pt cannot be read" in problem(tmp_path / "torn.pt")
    assert "no wsolkit model checkpoint" in problem(training / "last.pt")
    content = checkpoints.read(training / "best.pt")
    checkpoints._write(tmp_path / "misfit.pt", {**content, "spec": {**content["spec"], "width": 0.25}})
    assert "misfit.pt cannot be used" in problem(tmp_path / "misfit.pt")
    checkpoints._write(tmp_path / "names.pt", {**content, "classes": ["a"]})
    assert "1 class names for 3" in problem(tmp_path / "names.pt")
    content.pop("geometry")  # as checkpoints of earlier versions
    checkpoints._write(tmp_path / "alone.pt", content)
    assert "give --size" in problem(tmp_path / "alone.pt")
    checkpoints._write(tmp_path / "sized.pt", {**content, "geometry": {"size": 48, "kind": "crop"}})
    assert load_trained(tmp_path / "sized.pt").geometry == wk.Geometry(48, "crop")
    assert invoke(birds, "--checkpoint", tmp_path / "alone.pt", "--size", 48, "--out", tmp_path / "p")[0] == 0
    (tmp_path / "t").mkdir()
    checkpoints._write(tmp_path / "t" / "best.pt", content)
    (tmp_path / "t" / "run.json").write_text("{}x")
    assert "run.json" in problem(tmp_path / "t")
    write_json(tmp_path / "t" / "run.json", {"config": {}})
    assert "not the record of a training run" in problem(tmp_path / "t")


def test_wrong_options_are_refused_before_anything_is_written(training, birds, tmp_path):
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for options, words in (
        (("--method", "no_cam"), "unknown method"),
        (("--method", "has"), "has is for a network trained as 'has'"),  # on this one it would be plain CAM
        (("--label", "eagle"), "--label eagle"),
        (("--label", "3"), "0..2"),
        (("--classes", tmp_path / "two.txt"), "2 names, but the network has 3"),
        (("--classes", tmp_path / "bytes.txt"), "no UTF-8"),
        (("--classes", tmp_path / "none.txt"), "none.txt"),
        (("--smooth", "soft"), "unknown smoothing"),
        (("--device", "tpu9"), "tpu9"),
    ):
        code, _, problem = invoke(birds, "--checkpoint", training, "--out", tmp_path / "o", *options)
        assert code != 0 and words in problem and not (tmp_path / "o").exists(), options
    code, output, _ = invoke(birds, "--checkpoint", training, "--out", tmp_path / "o", "--method", "rethinking_cam")
    assert code == 0 and "note: rethinking_cam is for a network trained as 'tap'" in output
    for options in (("--threshold", 2), ("--percentile", 101), ("--batch-size", 0), ("--size", 2), ("--size", 99999)):
        assert invoke(birds, "--checkpoint", training, *options)[0] == 2
    assert "gone.jpg" in invoke(birds, tmp_path / "gone.jpg", "--checkpoint", training)[2]


def test_no_original_is_overwritten(training, birds):
    picture = birds / "a" / "bird.png"
    (birds / "a" / "bird").write_bytes(picture.read_bytes())  # a picture without a suffix, named on the command line
    code, _, problem = invoke(birds / "a" / "bird", picture, "--checkpoint", training, "--out", birds / "a")
    assert code != 0 and "would overwrite" in problem
    (birds / "a" / "bird").unlink()
    for foreign in ("bird.png.json", "bird.png.png"):
        (birds / "a" / foreign).write_text('{"shapes": []}')
        code, _, problem = invoke(birds, "--checkpoint", training, "--out", birds)
        assert code != 0 and "would overwrite" in problem and foreign in problem, "not even one that nobody asked for"
        (birds / "a" / foreign).unlink()


def test_the_results_may_lie_among_the_pictures(training, birds, monkeypatch):
    before = sorted(birds.rglob("*.*"))
    for out in (birds / "found", ".", birds / "b", birds / "found"):
        monkeypatch.chdir(birds)
        code, output, problem = invoke(".", "--checkpoint", training, "--out", out)
        assert code == 0 and "written: 3 of 3" in output, (out, output, problem)
    assert sorted(path for path in birds.rglob("*.*") if path in before) == before
    stems = ("a/bird.png", "b/deep/BIRD2.PNG", "b/deep/bird.png")
    assert all((birds / out / f"{stem}.json").is_file() for out in ("found", ".", "b") for stem in stems)


def test_the_command_is_part_of_the_program(training, birds, tmp_path):
    command_line = [
        sys.executable,
        "-m",
        "wsolkit",
        "predict",
        birds,
        "--checkpoint",
        training,
        "--out",
        tmp_path / "o",
    ]
    done = subprocess.run(list(map(str, command_line)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no progress bar and no warning where nobody watches"
    assert len(list((tmp_path / "o").rglob("*.json"))) == 3
    wrong = subprocess.run([*map(str, command_line), "--method", "no_cam"], capture_output=True, text=True)
    assert (
        wrong.returncode == 2 and wrong.stderr.startswith("error: unknown method") and "Traceback" not in wrong.stderr
    )


def test_help_needs_no_torch():
    code = "import sys, wsolkit.cli.predict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_real_photographs(shared, tmp_path):
    photos = shared("data/CUB_200_2011/images")
    weights = shared("weights/mobilenet_v2_imagenet.safetensors")
    model = wk.build_model("mobilenet_v2", 5, weights=str(weights))
    files = find_images([photos])[:3]
    found = predict(model, [file.path for file in files], "layer_cam", threshold=0.3)
    for file, item in zip(files, found, strict=True):
        picture = read_image(file.path)
        assert item.size == picture.size and np.ptp(item.score_map) > 0 and not item.box_empty
        assert (item.box[2:] < picture.size).all() and (item.box[:2] >= 0).all()


def test_an_array_without_pixels_is_no_image():
    for shape in ((0, 200, 3), (200, 0, 3)):
        with pytest.raises(ValueError, match=rf"uint8 array with pixels, but got \({shape[0]}, {shape[1]}, 3\) uint8"):
            predict(Brightness(), np.zeros(shape, np.uint8), geometry=wk.Geometry(100))
    with pytest.raises(ValueError, match="from 8 to 16384 pixels, but is 100000"):
        wk.Geometry(100_000)


def test_an_opened_image_that_cannot_be_read_is_an_error_with_its_name(tmp_path):
    Image.effect_noise((200, 100), 90).save(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:3000])
    model = wk.build_model("resnet18", 2, weights="none", width=0.125)
    with pytest.raises(ValueError, match=r"x\.jpg: not a readable image \(image file is truncated"):
        wk.predict(model, Image.open(tmp_path / "x.jpg"))


def test_a_network_that_ends_in_a_softmax_gives_the_same_probabilities():
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)]
    net, photo = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), *head), np.full((20, 30, 3), 90, np.uint8)
    for last in (torch.nn.Softmax(1), torch.nn.LogSoftmax(1)):
        pair = [wk.predict(own, photo, "grad_cam", layer="0")[0] for own in (net, torch.nn.Sequential(*net, last))]
        assert [[item.label for item in one.top5] for one in pair[:1]] == [[item.label for item in pair[1].top5]]
        assert pair[1].probability == pytest.approx(pair[0].probability, abs=1e-5)


def test_a_network_without_weights():
    net = torch.nn.Sequential(torch.nn.MaxPool2d(2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    (one,) = wk.predict(net, np.zeros((20, 30, 3), np.uint8), "layer_cam", layer="0")
    assert one.size == (30, 20)


def test_the_threshold_of_a_row_is_that_of_its_report(training, birds, tmp_path):
    place = tmp_path / "resnet18"
    shutil.copytree(training.parent, place)
    (place / "grad_cam").rename(place / "grad_cam_eigen")
    trained = load_trained(place / training.name)
    for method, smooth in (("grad_cam[eigen]", ()), ("grad_cam", ("eigen",))):
        assert "grad_cam_eigen" in default_threshold(trained, method, 100.0, smooth)[1]
    assert (
        default_threshold(trained, "grad_cam", 100.0)
        == default_threshold(trained, "grad_cam[aug]", 100.0)
        == (0.2, "fixed")
    )
    common = [birds, "--checkpoint", place / training.name, "--out", tmp_path / "o"]
    assert invoke(*common, "--method", "GradCAM[eigen]")[0] == 0
    row = read_json(tmp_path / "o" / "a" / "bird.png.json")
    assert row["score_map"] == {"method": "grad_cam[eigen]", "smooth": []}
    assert invoke(*common, "--method", "grad_cam", "--smooth", "eigen")[0] == 0
    assert read_json(tmp_path / "o" / "a" / "bird.png.json")["box"] == row["box"]
    code, _, error = invoke(*common, "--method", "grad_cam[sharp]")
    assert code and "grad_cam[sharp]: 'sharp' is no smoothing" in error


def test_the_share_of_ivr_is_that_of_the_report(training, birds, tmp_path):
    place = tmp_path / "reports/runs/synthetic/mobilenet_v2"
    shutil.copytree(training.parent, place)
    trained = load_trained(place / training.name)
    assert with_share(trained, "grad_cam[ivr=val]") == "grad_cam[ivr=0.45]" and with_share(trained, "cam") == "cam"
    run = Run.start(**{**trained.run["config"], "out": str(tmp_path / "reports")})
    result = run.evaluate("grad_cam[ivr=val]")
    result.extra["ivr"] = 0.6  # whatever was chosen, it is taken
    run.finish("grad_cam[ivr=val]", result)
    assert with_share(trained, "grad_cam[ivr=val]") == "grad_cam[ivr=0.6]"
    assert with_share(trained, "grad_cam[aug+ivr=val]") == "grad_cam[aug+ivr=0.45]", "chosen for other maps"
    assert with_share(trained, "grad_cam[ivr=val]", (), wk.Geometry(64)) == "grad_cam[ivr=0.45]", "for another size"
    common = [birds, "--checkpoint", place / training.name, "--out", tmp_path / "o"]
    assert invoke(*common, "--method", "grad_cam[ivr=val]")[0] == 0
    numbers = read_json(tmp_path / "o" / "a" / "bird.png.json")
    assert numbers["method"] == "grad_cam[ivr=0.6]" and numbers["threshold"] == result.threshold
