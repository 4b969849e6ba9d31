"""Galleries: what is chosen and kept, the figures without JavaScript, and the boxes at every stop of the sliders."""

from __future__ import annotations

import io
import json
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from straightforward import contour_boxes

import wsolkit as wk
from wsolkit.boxes.extract import ContourBoxes, iou, threshold_value
from wsolkit.boxes.preparation import prepare_map, to_uint8
from wsolkit.boxes.protocols import PROTOCOLS
from wsolkit.common.files import atomic_write_text
from wsolkit.evaluation.per_image import FAILURES
from wsolkit.evaluation.scoring import Maps, Rule, Truth, score
from wsolkit.figures import iou_text
from wsolkit.report.method_page import galleries, heat, slider_table
from wsolkit.report.pages import render
from wsolkit.runs import galleries as gallery_files
from wsolkit.runs.run import Run

QUICK = {"backbone": "mobilenet_v2", "width": 0.125, "size": 48, "per_class": 2, "epochs": 1, "classes": 4}
# sets both sliders to every n-th pair of stops, lets a frame pass and reads every figure
MOVE = """async (step) => {
  const table = JSON.parse(document.getElementById("gallery-data").textContent), found = [];
  const sliders = ["threshold", "percentile"].map((name) => document.getElementById("gallery-" + name));
  for (let pair = 0; pair < table.thresholds.length * table.percentiles.length; pair += step) {
    const places = [pair % table.thresholds.length, Math.floor(pair / table.thresholds.length)];
    places.forEach((value, i) => { sliders[i].value = value; sliders[i].dispatchEvent(new Event("input")); });
    await new Promise(requestAnimationFrame);
    found.push([table.thresholds[places[0]], table.percentiles[places[1]], READ()]);
  }
  return found;
}"""
READ = """() => [...document.querySelectorAll(".galleries figure")].map((figure) => {
  const rectangle = [...figure.querySelectorAll("rect.prediction")].map((r) =>
    r.getAttribute("visibility") === "hidden" ? null : ["x", "y", "width", "height"].map((name) => Number(r.getAttribute(name))));
  return {image: Number(figure.dataset.image), rectangle: rectangle[0], iou: figure.querySelector(".iou").textContent,
    words: figure.querySelector("figcaption").innerText, alt: figure.querySelector(".stack").getAttribute("aria-label")};
})"""
MOVE = MOVE.replace("READ", f"({READ})")


def items_of(result, maps, pixels, classes):
    """What `write_galleries` asks for each image of a result, from arrays."""

    def item(index):
        values = {"id": result.ids[index], "label": classes[result.labels[index]]}
        values |= {"pixels": pixels(index), "score_map": maps[index]}
        if result.boxes is not None:
            values |= {"gt_boxes": result.gt_boxes[index], "box": result.boxes[index], "iou": float(result.ious[index])}
        return values

    return lambda shown: [item(index) for index in shown]


def write_page(folder):
    """A page with nothing but the galleries of a run's folder."""
    path = folder / "page.html"
    page = render(
        "report.html.j2", styles=("galleries.css",), scripts=("galleries.js",), title="A run", subtitle="", home="",
        contents=[], banner=None, errors=[], body=galleries(folder), footer=[],
    )  # fmt: skip
    atomic_write_text(path, page)
    return path


def python_box(prepared, threshold, percentile, protocol):
    """Box (4,) of a prepared map by OpenCV's contours, as the protocol has it."""
    u8, (height, width) = to_uint8(prepared), prepared.shape
    boxes, largest = contour_boxes(u8 > threshold_value(u8, threshold, percentile))
    if PROTOCOLS[protocol].clamped:
        box = np.zeros(4, int) if largest < 0 else np.minimum(boxes[largest], [width - 1, height - 1] * 2)
    else:
        box = np.array([0, 0, width, height]) if largest < 0 else boxes[largest]
    traced, empty = ContourBoxes(prepared).box(threshold, percentile, protocol)
    assert (largest < 0) == empty and (traced == box).all()
    return box


def rectangle(box, empty, frame, protocol):
    """What a page draws for a box: x, y, width, height, cut at the frame; None for none."""
    if empty and PROTOCOLS[protocol].clamped:
        return None
    x1, y1 = min(box[2], frame[1] - 1), min(box[3], frame[0] - 1)
    return [int(value) for value in (box[0], box[1], x1 - box[0] + 1, y1 - box[1] + 1)]


def kept_of(folder):
    """galleries.json, and its maps as they are scored."""
    kept = json.loads((folder / "galleries" / "galleries.json").read_text())
    with np.load(folder / "galleries" / "maps.npz", allow_pickle=False) as content:
        return kept, [prepare_map(content[str(i)], kept["frame"]) for i in range(len(kept["pictures"]))]


def check_every_stop(page, path, step=1):
    """Boxes and IoUs of every figure of a page equal Python's at every `step`-th pair of stops; returns how many boxes
    differ from one stop to another."""
    kept, prepared = kept_of(path.parent)
    page.goto(path.as_uri())
    boxes, moved = set(), page.evaluate(MOVE, step)
    for threshold, percentile, figures in moved:
        assert {figure["image"] for figure in figures} == set(range(len(prepared)))
        for figure in figures:
            number, place = figure["image"], (figure["image"], threshold, percentile)
            scores, protocol = prepared[number], kept["protocol"]
            box = python_box(scores, threshold, percentile, protocol)
            empty = not (to_uint8(scores) > threshold_value(to_uint8(scores), threshold, percentile)).any()
            assert figure["rectangle"] == rectangle(box, empty, kept["frame"], protocol), place
            overlap = iou(box, np.array(kept["pictures"][number]["gt_boxes"])).max()
            assert figure["iou"] == iou_text(overlap) and ("✓" in figure["words"]) == (overlap >= 0.5), place
            boxes.add((number, *box.tolist()))
    return len(boxes) - len(prepared)


# ------------------------------------------------------------------------------------------------ real runs


@pytest.fixture(scope="module", params=["wsolevaluation", "rethinking_cam"])
def finished(request, tmp_path_factory):
    """(protocol, result, run folder with galleries and page.html) of a run that trained and localised."""
    geometry = "resize" if request.param == "wsolevaluation" else "crop"
    run = Run.start(**QUICK, seed=3, geometry=geometry, out=str(tmp_path_factory.mktemp("run")))
    result = run.evaluate("cam", protocol=request.param)
    if geometry == "resize":
        folder = run.finish("cam", result).parent
    else:  # reports are written under wsolevaluation only
        folder = run.folder("cam")
        result.save_per_image(folder / "per_image.csv")
        test = run.dataset("test")
        gallery_files.write_galleries(folder, result, partial(run.gallery_items, result), test.classes, run.config.seed)
    write_page(folder)
    return request.param, result, folder


def test_a_run_keeps_what_its_page_shows(finished):
    _, result, folder = finished
    kept = json.loads((folder / "galleries" / "galleries.json").read_text())
    assert kept["seed"] == 3 and kept["threshold"] == result.threshold and kept["frame"] == result.frame
    names = [row["name"] for row in kept["rows"]]
    assert names == ["random", "best", "worst", *(name for name in FAILURES if result.failures[name])]
    for row in kept["rows"][3:]:
        assert {kept["pictures"][number]["failure"] for number in row["pictures"]} == {row["name"]}
        assert len(row["pictures"]) == min(4, result.failures[row["name"]])
    ious = [[kept["pictures"][number]["iou"] for number in row["pictures"]] for row in kept["rows"]]
    assert ious[1] == sorted(result.ious, reverse=True)[:4] and ious[2] == sorted(result.ious)[:4]
    photos = {path.name for path in (folder / "galleries").glob("*.jpg")}
    assert photos == {picture["file"] for picture in kept["pictures"]}
    page = (folder / "page.html").read_text()
    assert page.count("data:image/jpeg") == len(photos), "a picture in two rows costs its bytes once"


def test_the_page_opens_with_the_boxes_of_the_table(finished, page):
    protocol, _, folder = finished
    kept, _ = kept_of(folder)
    table = pd.read_csv(folder / "per_image.csv", dtype={"id": str}).set_index("id")
    page.goto((folder / "page.html").as_uri())
    static = page.evaluate(READ)
    page.locator("#gallery-sum", has_text="mean IoU").wait_for()
    assert page.evaluate(READ) == static, "the script changes nothing before a slider moves"
    for figure in static:
        row = table.loc[kept["pictures"][figure["image"]]["id"]]
        assert figure["rectangle"] == rectangle(
            row[["x0", "y0", "x1", "y1"]].tolist(), row["empty"], kept["frame"], protocol
        )
        assert f"IoU {row['iou']:.2f}" in figure["words"] and row["failure"] in figure["words"]
        assert ("✓" in figure["words"]) == row["localised"] and "predicted box" in figure["alt"]


def test_the_table_has_the_boxes_of_every_stop_and_the_sums(finished):
    _, result, folder = finished
    kept, prepared = kept_of(folder)
    table = slider_table(kept, prepared)
    pairs = [(tau, share) for share in table["percentiles"] for tau in table["thresholds"]]
    assert pairs[table["start"]] == (result.threshold, result.percentile) and 100 <= len(pairs) <= 140
    assert all(len(image["at"]) == len(pairs) == len(table["sums"]) for image in table["images"])
    for place, pair in enumerate(pairs):
        boxes = [python_box(scores, *pair, kept["protocol"]) for scores in prepared]
        truths = [np.array(image["gt_boxes"]) for image in kept["pictures"]]
        ious = [iou(box, truth).max() for box, truth in zip(boxes, truths, strict=True)]
        states = [image["states"][image["at"][place]] for image in table["images"]]
        assert [state[4] for state in states] == [iou_text(value) for value in ious]
        assert [state[5] for state in states] == [value >= 0.5 for value in ious]
        assert f"{len(ious)} images: mean IoU {np.mean(ious):.2f}, " in table["sums"][place]
    shown = json.loads(json.dumps(kept))
    shown["pictures"][0]["box"][2] -= 1
    with pytest.raises(ValueError, match="does not give its box"):
        slider_table(shown, prepared)


def test_boxes_follow_the_sliders_as_python_has_them(finished, page):
    _, _, folder = finished
    assert check_every_stop(page, folder / "page.html") > 50


def test_the_mask_splits_the_heat_map_at_the_level(finished):
    """The page darkens what is at most as opaque as the table says: the pixels that the box's mask leaves out."""
    _, _, folder = finished
    kept, prepared = kept_of(folder)
    table = slider_table(kept, prepared)
    for image, scores in zip(table["images"], prepared, strict=True):
        opacity = np.array(Image.open(io.BytesIO(heat(scores))).convert("RGBA"))[..., 3] / 255
        for place in range(0, len(table["sums"]), 9):
            pair = (
                table["thresholds"][place % len(table["thresholds"])],
                table["percentiles"][place // len(table["thresholds"])],
            )
            level = threshold_value(to_uint8(scores), *pair)
            bright = opacity > image["states"][image["at"][place]][8]
            assert (bright == (to_uint8(scores) > level)).mean() > 0.97, "but for levels that share an opacity"


def test_keyboard_mask_layers_and_reset(finished, page):
    protocol, result, folder = finished
    kept, prepared = kept_of(folder)
    page.goto((folder / "page.html").as_uri())
    before = page.evaluate(READ)
    mask = page.locator(".galleries .mask").first
    assert not mask.is_visible()
    slider = page.get_by_role("slider", name="Threshold")
    slider.focus()
    for key in ("End", "ArrowLeft", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    page.locator(".galleries.moved").wait_for()
    threshold = float(slider.get_attribute("aria-valuetext"))
    assert 0.5 < threshold < 0.95
    after = page.evaluate(READ)
    box = python_box(prepared[0], threshold, result.percentile, protocol)
    assert after[0]["rectangle"] == rectangle(box, not box.any(), kept["frame"], protocol)
    assert [figure["rectangle"] for figure in after] != [figure["rectangle"] for figure in before]
    assert mask.is_visible(), "the first move shows the mask"
    heat_map = page.locator(".galleries .heat").first
    assert heat_map.is_visible()
    page.get_by_role("checkbox", name="heat map").press("Space")
    assert mask.is_visible() and not heat_map.is_visible()
    page.get_by_role("checkbox", name="mask").press("Space")
    assert not heat_map.is_visible() and not mask.is_visible()
    page.get_by_role("slider", name="Percentile").focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name="Reset").press("Enter")
    assert page.evaluate(READ) == before
    page.get_by_role("status").get_by_text("mean IoU").wait_for(state="attached")  # said once, after the moves


def test_without_javascript_the_pictures_are_complete(finished, browser):
    _, _, folder = finished
    kept = json.loads((folder / "galleries" / "galleries.json").read_text())
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
    try:
        opened = context.new_page()
        opened.goto((folder / "page.html").as_uri())
        figures = opened.locator(".galleries figure")
        assert figures.count() == sum(len(row["pictures"]) for row in kept["rows"])
        assert opened.locator(".galleries input:visible, .galleries button:visible").count() == 0
        for index in range(figures.count()):
            figure = figures.nth(index)
            for kind in ("photo", "heat"):
                extent = figure.locator(f".{kind}").bounding_box()
                assert extent["width"] > 100 and extent["height"] > 100
            assert figure.locator("rect.truth").first.is_visible()
            assert "IoU" in figure.locator("figcaption").inner_text()
        seen = {}
        for number in (0, kept["rows"][3]["pictures"][0]):  # drawn once, and possibly shown again by reference
            for figure in opened.locator(f".galleries figure[data-image='{number}'] .stack").all():
                seen.setdefault(number, []).append(figure.screenshot())
        assert all(len(picture) > 5000 for pictures in seen.values() for picture in pictures), "no blank picture"
    finally:
        context.close()


@pytest.mark.parametrize("finished", ["wsolevaluation"], indirect=True)
def test_accessible_in_light_and_dark(finished, axe_violations):
    path = finished[2] / "page.html"
    assert axe_violations(path) == []
    assert axe_violations(path, dark=True, width=400) == []


# ------------------------------------------------------------------------------------------------ hard maps


def patterns(height, width, seed=0):
    """Maps of the frame's own size, whose masks have every difficulty that contours know."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((height, width))
    radius = np.hypot(y - height / 2, x - width / 2)
    lines = ((y % 4 == 0) | (x % 7 == 3)) * rng.random((height, width))
    squares = ((y % 6 < 4) & (x % 6 < 4)) * 1.0  # equal areas
    steps = rng.integers(0, 4, (height, width)) / 3.0
    constant, broken = np.full((height, width), 0.7), rng.random((height, width))
    broken[1, 0] = np.nan
    return [
        (x + y) % 2 * 1.0,
        lines,
        np.sin(radius) + 0.01 * (x > y),
        squares,
        steps,
        constant,
        broken,
        np.eye(height, width),
    ]


def grown(seed=0):
    """Small maps that grow to the frame: of one to sixteen values a side, tiny, huge and negative numbers."""
    rng = np.random.default_rng(seed)
    spike = np.zeros((7, 7))
    spike[3, 5] = 1
    return [
        np.ones((1, 1)), rng.random((1, 2)), rng.normal(size=(3, 5)), spike, rng.random((7, 7)) * 1e-38,
        rng.normal(size=(14, 14)) * 1e30, np.maximum(rng.normal(size=(8, 8)), 0), rng.random((16, 9)),
    ]  # fmt: skip


def large(seed=0):
    """Maps that are reduced to the frame: smooth ones and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((90, 75)) / 20
    return [rng.random((90, 75)), np.sin(y * x) + np.cos(x), rng.random((70, 66)).round(1), np.exp(-y) * x]


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize(
    ("maps", "frame"),
    [(patterns(20, 31), (20, 31)), (grown(), (48, 64)), (large(), (60, 33)), ([*grown(1)[:3], *patterns(9, 1)[:5]], (1, 7))],
    ids=["patterns", "grown", "large", "row"],
)  # fmt: skip
def test_hard_maps(maps, frame, protocol, page, tmp_path):
    rng, count = np.random.default_rng(1), len(maps)
    maps = [np.asarray(scores, np.float32) for scores in maps]
    corners = [np.sort(rng.integers(0, [[[frame[1], frame[0]]]], (2, 2, 2)), axis=1).reshape(2, 4) for _ in maps]
    truth = Truth(frame, np.arange(count), corners)
    result = score(Maps(maps, predicted=np.zeros(count, int)), truth, Rule(protocol), samples=10)
    noise = rng.integers(0, 256, (count, *frame, 3), dtype=np.uint8)
    names = [f"<script>{index}" for index in range(count)]
    gallery_files.write_galleries(tmp_path, result, items_of(result, maps, noise.__getitem__, names), names, 0)
    path = write_page(tmp_path)
    assert check_every_stop(page, path, 3) >= 5
    assert page.locator("figcaption", has_text="<script>1").count() > 0, "names are text"


# ------------------------------------------------------------------------------------------------ choice, size, errors


def test_choice_comes_from_the_seed_and_shows_different_images():
    rng = np.random.default_rng(0)
    ious, kinds = rng.random(300).round(1), rng.choice(list(FAILURES), 300)
    rows = gallery_files.choose(ious, kinds, 5)
    assert rows == gallery_files.choose(ious, kinds, 5) != gallery_files.choose(ious, kinds, 6)
    assert list(rows) == ["random", "best", "worst", *FAILURES]
    assert [len(row) for row in rows.values()] == [8, 4, 4, 4, 4, 4, 4, 4, 4]
    assert (ious[rows["best"]] == ious.max()).all() and (ious[rows["worst"]] == ious.min()).all()
    failures = [index for name in FAILURES for index in rows[name]]
    assert len(set(failures)) == 24 and not set(failures) & set(rows["random"] + rows["best"] + rows["worst"])
    few = gallery_files.choose(np.array([0.6, 0.2]), ["right", "background"], 0)
    assert sorted(few["random"]) == [0, 1] and few["best"] == [0, 1] and few["worst"] == [1, 0]
    assert few["right"] == [0] and few["background"] == [1] and "part only" not in few


def test_forty_pictures_of_224_pixels_stay_small(tmp_path, page):
    test = wk.load_dataset("synthetic", split="test", size=224)
    where, rng = list(range(45)), np.random.default_rng(0)
    truths = [test.target(index).boxes for index in where]
    maps = np.maximum(rng.normal(size=(45, 14, 14)), 0).astype(np.float32)
    result = score(Maps(maps, predicted=rng.integers(0, 16, 45)), Truth(224, test.labels[:45], truths), samples=10)
    items = items_of(result, maps, lambda index: test.pixels([index], 224)[0], test.classes)
    gallery_files.write_galleries(tmp_path, result, items, test.classes, 0)
    part = galleries(tmp_path)
    assert part.count("<figure") >= 24 and len(part.encode()) / part.count("<figure") < 1_500_000 / 40
    assert check_every_stop(page, write_page(tmp_path), 40) > 20


def damages(folder):
    """What may happen to the files of a gallery: (folder) -> None, one by one."""
    kept = json.loads((folder / "galleries.json").read_text())
    yield lambda folder: (folder / "0.jpg").write_bytes((folder / "0.jpg").read_bytes()[:500])
    yield lambda folder: (folder / "maps.npz").write_bytes((folder / "maps.npz").read_bytes()[:700])
    yield lambda folder: (folder / "maps.npz").write_bytes(b"")
    for name in ("frame", "threshold", "seed", "n_images", "rows", "pictures", "protocol", "operating_point"):
        yield lambda folder, name=name: atomic_write_text(
            folder / "galleries.json", json.dumps({key: value for key, value in kept.items() if key != name})
        )
    for name, value in (("iou", None), ("box", [1, 2, 3]), ("gt_boxes", [None]), ("gt_boxes", []), ("file", 3)):
        changed = kept | {"pictures": [kept["pictures"][0] | {name: value}, *kept["pictures"][1:]]}
        yield lambda folder, changed=changed: atomic_write_text(folder / "galleries.json", json.dumps(changed))


@pytest.mark.parametrize("finished", ["wsolevaluation"], indirect=True)
def test_nothing_without_files_and_one_error_for_bad_ones(finished, tmp_path):
    assert galleries(tmp_path) == ""
    shutil.copytree(finished[2] / "galleries", tmp_path / "galleries")
    (tmp_path / "galleries" / "0.jpg").unlink()
    with pytest.raises(ValueError, match=r"galleries in .*0\.jpg.*run the method again"):
        galleries(tmp_path)
    for damage in damages(finished[2] / "galleries"):
        shutil.rmtree(tmp_path / "galleries")
        shutil.copytree(finished[2] / "galleries", tmp_path / "galleries")
        damage(tmp_path / "galleries")
        with pytest.raises(ValueError, match=r"galleries in .* run the method again"):
            galleries(tmp_path)
    atomic_write_text(tmp_path / "galleries" / "galleries.json", '{"format": "other"}')
    with pytest.raises(ValueError, match="not of this version"):
        galleries(tmp_path)


def test_without_boxes_random_images_are_shown_with_their_maps(tmp_path):
    maps = np.random.default_rng(0).random((12, 4, 4))
    result = score(Maps(maps), Truth(8, labels=[0] * 12, masks=[np.eye(8, dtype=np.uint8)] * 12))
    items = items_of(result, maps, lambda index: np.full((8, 8, 3), 7 * index, np.uint8), ["bird"])
    gallery_files.write_galleries(tmp_path, result, items, ["bird"], 0)
    soup = BeautifulSoup(galleries(tmp_path), "html.parser")
    assert len(soup.select("figure")) == gallery_files.RANDOM and len(soup.select("h3")) == 1
    assert not soup.select("rect.truth, rect.prediction, input") and "no ground-truth boxes" in soup.get_text()
    assert "IoU" not in soup.get_text()
