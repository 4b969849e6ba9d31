"""Galleries: what is chosen and kept, the pictures without JavaScript, and boxes that the page computes as Python does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from straightforward import contour_boxes

import wsolkit as wk
from wsolkit.boxes.extract import ContourBoxes, iou, threshold_value
from wsolkit.boxes.preparation import prepare_map, to_uint8
from wsolkit.boxes.protocols import PROTOCOLS
from wsolkit.common.files import atomic_write_text
from wsolkit.evaluation.per_image import FAILURES
from wsolkit.evaluation.scoring import Maps, Rule, Truth, score
from wsolkit.report.gallery_maps import cubic_levels, page_map
from wsolkit.report.markup import render
from wsolkit.runs import galleries
from wsolkit.runs.run import Run

QUICK = {"backbone": "mobilenet_v2", "width": 0.125, "size": 48, "per_class": 2, "epochs": 1, "classes": 4}
SETTINGS = [(round(0.013 * k, 3), 100.0) for k in range(77)]
SETTINGS += [(round(0.047 * k, 3), p) for k in range(22) for p in (50.0, 62.5, 90.0, 99.5)]
# sets both sliders, lets a frame pass and reads every figure, for a list of settings
MOVE = """async (settings) => {
  const sliders = ["threshold", "percentile"].map((name) => document.getElementById("gallery-" + name));
  const found = [];
  for (const setting of settings) {
    setting.forEach((value, i) => { sliders[i].value = value; sliders[i].dispatchEvent(new Event("input")); });
    await new Promise(requestAnimationFrame);
    found.push([...document.querySelectorAll(".galleries figure")].map((figure) =>
      [Number(figure.dataset.picture), figure.dataset.box.split(" ").map(Number), Number(figure.dataset.iou)]));
  }
  return [found, sliders.map((slider) => Number(slider.value))];
}"""
READ = """() => [...document.querySelectorAll(".galleries figure")].map((figure) => {
  const rectangle = [...figure.querySelectorAll("rect.prediction")].map((r) =>
    r.getAttribute("visibility") === "hidden" ? null : ["x", "y", "width", "height"].map((name) => Number(r.getAttribute(name))));
  return {picture: Number(figure.dataset.picture), box: figure.dataset.box.split(" ").map(Number), iou: Number(figure.dataset.iou),
    rectangle: rectangle[0], words: figure.querySelector("figcaption").innerText, alt: figure.querySelector(".picture").getAttribute("aria-label")};
})"""


def write_page(folder):
    """A page with nothing but the galleries of a run's folder."""
    path = folder / "page.html"
    page = render(
        "report.html.j2", styles=("galleries.css",), scripts=("galleries.js",), title="A run", subtitle="", home="",
        contents=[], banner=None, errors=[], body=galleries.section(folder), footer=[],
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


def open_page(page, path):
    page.goto(path.as_uri())
    page.locator("#gallery-sum", has_text="mean IoU").wait_for()


def check_every_setting(page, path, settings=SETTINGS[::2]):
    """Boxes and IoUs of every picture of a page equal Python's, for maps as they were kept; returns how many boxes differ
    from one setting to another."""
    kept = json.loads((path.parent / "galleries" / "galleries.json").read_text())
    with np.load(path.parent / "galleries" / "maps.npz", allow_pickle=False) as content:
        prepared = [prepare_map(content[str(i)], kept["frame"]) for i in range(len(kept["pictures"]))]
    open_page(page, path)
    moved, values = page.evaluate(MOVE, settings)
    assert tuple(values) == settings[-1], "the sliders stop at every value that is asked for"
    boxes = set()
    for (threshold, percentile), figures in zip(settings, moved, strict=True):
        assert {number for number, _, _ in figures} == set(range(len(prepared)))
        known = [python_box(scores, threshold, percentile, kept["protocol"]).tolist() for scores in prepared]
        for number, box, overlap in figures:
            truths = np.array(kept["pictures"][number]["gt_boxes"])
            assert box == known[number], (number, threshold, percentile)
            assert overlap == iou(np.array(box), truths).max(), (number, threshold, percentile)
            boxes.add((number, *box))
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
        galleries.save(run, result, folder)
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
    _, _, folder = finished
    kept = json.loads((folder / "galleries" / "galleries.json").read_text())["pictures"]
    table = pd.read_csv(folder / "per_image.csv", dtype={"id": str}).set_index("id")
    page.goto((folder / "page.html").as_uri())
    static = page.evaluate(READ)
    page.locator("#gallery-sum", has_text="mean IoU").wait_for()
    assert page.evaluate(READ) == static, "computing them in the page changes nothing"
    for figure in static:
        row = table.loc[kept[figure["picture"]]["id"]]
        assert figure["box"] == row[["x0", "y0", "x1", "y1"]].tolist() and figure["iou"] == row["iou"]
        assert f"IoU {row['iou']:.2f}" in figure["words"] and row["failure"] in figure["words"]
        assert ("✓" in figure["words"]) == row["localised"] and "predicted box" in figure["alt"]


def test_boxes_follow_the_sliders_as_python_has_them(finished, page):
    _, _, folder = finished
    assert check_every_setting(page, folder / "page.html") > 50


def test_keyboard_mask_layers_and_reset(finished, page):
    protocol, result, folder = finished
    kept = json.loads((folder / "galleries" / "galleries.json").read_text())
    with np.load(folder / "galleries" / "maps.npz", allow_pickle=False) as content:
        prepared = prepare_map(content["0"], kept["frame"])
    open_page(page, folder / "page.html")
    before = page.evaluate(READ)
    canvas = page.locator(".galleries canvas").first
    assert not canvas.is_visible()
    page.get_by_role("slider", name="Threshold").focus()
    for key in ("End", "PageDown", "PageDown", "ArrowLeft"):
        page.keyboard.press(key)
    page.locator(".galleries.moved").wait_for()
    page.evaluate("() => new Promise(requestAnimationFrame)")
    threshold = float(page.get_by_role("slider", name="Threshold").input_value())
    assert 0.5 < threshold < 0.95
    after = page.evaluate(READ)
    assert after[0]["box"] == python_box(prepared, threshold, result.percentile, protocol).tolist()
    assert [figure["box"] for figure in after] != [figure["box"] for figure in before]
    assert canvas.is_visible(), "the first move shows the mask"
    shade = canvas.evaluate(
        "(c) => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((_, i) => i % 4 === 3))"
    )
    u8 = to_uint8(prepared)
    assert ((np.reshape(shade, u8.shape) == 0) == (u8 > threshold_value(u8, threshold, result.percentile))).all()
    heat = page.locator(".galleries .heat").first
    assert heat.is_visible()
    page.get_by_role("checkbox", name="heat map").press("Space")
    page.get_by_role("checkbox", name="mask").press("Space")
    assert not heat.is_visible() and not canvas.is_visible()
    page.get_by_role("slider", name="Percentile").focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name="Reset").press("Enter")
    page.evaluate("() => new Promise(requestAnimationFrame)")
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
            for figure in opened.locator(f".galleries figure[data-picture='{number}'] .stack").all():
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
    """Small maps that the page grows: of one to sixteen values a side, tiny, huge and negative numbers."""
    rng = np.random.default_rng(seed)
    spike = np.zeros((7, 7))
    spike[3, 5] = 1
    return [
        np.ones((1, 1)), rng.random((1, 2)), rng.normal(size=(3, 5)), spike, rng.random((7, 7)) * 1e-38,
        rng.normal(size=(14, 14)) * 1e30, np.maximum(rng.normal(size=(8, 8)), 0), rng.random((16, 9)),
    ]  # fmt: skip


def large(seed=0):
    """Maps with more values than the page holds: smooth ones and noise."""
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
    galleries.write(tmp_path, result, maps, lambda shown: noise[shown], names, 0)
    path = write_page(tmp_path)
    assert check_every_setting(page, path, SETTINGS[::4]) > 5
    assert page.locator("figcaption", has_text="<script>1").count() > 0, "names are text"


def test_levels_that_the_page_gets_wrong_are_stored_beside_the_map():
    rng = np.random.default_rng(0)
    fixed = 0
    for shape in ((28, 28), (14, 10), (100, 80)):
        scores = rng.random(shape).astype(np.float32)
        found = page_map(scores, (224, 200))
        fixed += len(found["fixes"])
        assert len(found["map"]) < 64 * 64 * 4 * 4 / 3 + 4
        if scores.size <= 64 * 64:
            wrong = (cubic_levels(scores, (224, 200)) != to_uint8(prepare_map(scores, (224, 200)))).sum()
            assert wrong < 50 and (wrong == 0) == (found["fixes"] == "")
    assert fixed > 0
    blank = {"shape": [1, 1], "map": "", "fixes": ""}
    assert page_map(np.zeros((4, 4)), (9, 9)) == page_map(np.full((2, 3), np.nan), (9, 9)) == blank


# ------------------------------------------------------------------------------------------------ choice, size, errors


def test_choice_comes_from_the_seed_and_shows_different_images():
    rng = np.random.default_rng(0)
    ious, kinds = rng.random(300).round(1), rng.choice(list(FAILURES), 300)
    rows = galleries.choose(ious, kinds, 5)
    assert rows == galleries.choose(ious, kinds, 5) != galleries.choose(ious, kinds, 6)
    assert list(rows) == ["random", "best", "worst", *FAILURES]
    assert [len(row) for row in rows.values()] == [8, 4, 4, 4, 4, 4, 4, 4, 4]
    assert (ious[rows["best"]] == ious.max()).all() and (ious[rows["worst"]] == ious.min()).all()
    failures = [index for name in FAILURES for index in rows[name]]
    assert len(set(failures)) == 24 and not set(failures) & set(rows["random"] + rows["best"] + rows["worst"])
    few = galleries.choose(np.array([0.6, 0.2]), ["right", "background"], 0)
    assert sorted(few["random"]) == [0, 1] and few["best"] == [0, 1] and few["worst"] == [1, 0]
    assert few["right"] == [0] and few["background"] == [1] and "part only" not in few


def test_forty_pictures_of_224_pixels_stay_small(tmp_path, page):
    test = wk.load_dataset("synthetic", split="test", size=224)
    where, rng = list(range(45)), np.random.default_rng(0)
    truths = [test.target(index).boxes for index in where]
    maps = np.maximum(rng.normal(size=(45, 14, 14)), 0).astype(np.float32)
    result = score(Maps(maps, predicted=rng.integers(0, 16, 45)), Truth(224, test.labels[:45], truths), samples=10)
    pixels = lambda shown: [test.pixels([index], 224)[0] for index in shown]  # noqa: E731
    galleries.write(tmp_path, result, maps, pixels, test.classes, 0)
    part = galleries.section(tmp_path)
    assert part.count("<figure") >= 24 and len(part.encode()) / part.count("<figure") < 1_500_000 / 40
    assert check_every_setting(page, write_page(tmp_path), SETTINGS[::45]) > 20


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
    assert galleries.section(tmp_path) == ""
    shutil.copytree(finished[2] / "galleries", tmp_path / "galleries")
    (tmp_path / "galleries" / "0.jpg").unlink()
    with pytest.raises(ValueError, match=r"galleries in .*0\.jpg.*run the method again"):
        galleries.section(tmp_path)
    for damage in damages(finished[2] / "galleries"):
        shutil.rmtree(tmp_path / "galleries")
        shutil.copytree(finished[2] / "galleries", tmp_path / "galleries")
        damage(tmp_path / "galleries")
        with pytest.raises(ValueError, match=r"galleries in .* run the method again"):
            galleries.section(tmp_path)
    atomic_write_text(tmp_path / "galleries" / "galleries.json", '{"format": "other"}')
    with pytest.raises(ValueError, match="not of this version"):
        galleries.section(tmp_path)


def test_masks_only_leave_no_galleries(tmp_path):
    result = score(Maps(np.random.default_rng(0).random((2, 4, 4))), Truth(8, masks=[np.eye(8, dtype=np.uint8)] * 2))
    (tmp_path / "galleries").mkdir()
    galleries.save(None, result, tmp_path)
    assert not (tmp_path / "galleries").exists()
