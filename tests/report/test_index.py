"""The index over a tree of runs: tables, marks, escaping, damaged files, size."""

from __future__ import annotations

import csv
import json
import re
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup
from page_checks import no_requests, well_formed
from run_trees import differences, failure, run

from wsolkit import figures
from wsolkit.report.index import COLUMNS, charts, grouped, networks_of, read_rows, settings, write_index

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"
METHODS = ["cam", "rethinking_cam", "grad_cam", "grad_cam++", "score_cam"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    out = tmp_path_factory.mktemp("reports")
    images = [f"bird_{index}" for index in range(6)]
    for backbone, base in (("vgg16", 60.0), ("resnet18", 55.0)):
        for index, method in enumerate(METHODS):
            limited = {"n": 16} if method == "score_cam" else {}
            seconds = 3.0 if method == "score_cam" else 0.01 * (1 + index)
            run(out, "synthetic", backbone, method, images, gt=base + 3 * index, seconds=seconds, **limited)
    run(out, "cub", "mobilenet_v2", "cam", [EVIL], gt=61.0)
    run(out, "cub", "mobilenet_v2", "rethinking_cam", [EVIL], gt=68.0)
    failure(out, "cub", "vgg16_fc", "cam", "undefined", "cam is not defined on vgg16_fc: no pooling before the head")
    failure(out, "cub", "vgg16_fc", "grad_cam++", "failed", f"Traceback\n  a line\nValueError: {EVIL} bad file")
    differences(out)
    write_index(out)
    return out


def index_of(out):
    text = (out / "index.html").read_text(encoding="utf-8")
    return text, BeautifulSoup(text, "html.parser")


def table(soup, dataset, kind):
    return soup.find(id=f"data-{dataset}-table-{kind}")


def lines(soup, dataset, backbone):
    """method -> the texts of its cells in the table of results, after the network."""
    found = table(soup, dataset, "lines").select(f'tbody tr[data-backbone="{backbone}"]')
    return {row.th.get_text(): [cell.get_text(" ", strip=True) for cell in row.find_all("td")[1:]] for row in found}


@pytest.mark.slow
def test_index_page(tree):
    text, soup = index_of(tree)
    well_formed(text)
    no_requests(text)
    assert len(text.encode()) < 3_000_000
    for link in soup.select("a[href]:not([href^='#'])"):
        assert (tree / unquote(link["href"])).is_file(), link
    matrix = {link["href"] for link in table(soup, "synthetic", "matrix").select("a")}
    assert "synthetic/vgg16/grad_cam_plusplus.html" in matrix and len(matrix) == 10
    assert soup.find("a", href="results.csv")
    pictures = soup.select("table.thumbs img")
    assert len(pictures) == 60 + 2
    assert all(image.parent.name == "a" and image.parent["href"].endswith(".html") for image in pictures)
    runs = table(soup, "cub", "runs").select("tbody tr")
    assert len(runs) == 4
    hrefs = [[link["href"] for link in row.select("a")] for row in runs]
    assert ["cub/mobilenet_v2/cam.html", "runs/cub/mobilenet_v2/cam/notebook.ipynb"] in hrefs
    assert ["runs/cub/vgg16_fc/grad_cam_plusplus/log.txt"] in hrefs


def test_index_marks_and_deltas(tree):
    _, soup = index_of(tree)
    found = lines(soup, "synthetic", "resnet18")
    differs = ["+9.0 \u22121.0 to +19.0", "+23.0 ▲ significant +13.0 to +33.0"]
    assert found["grad_cam++"][:3] == ["64.0 best 59.0 to 69.0", *differs]
    assert found["cam"][1:3] == ["\u2013", "+14.0 ▲ significant +4.0 to +24.0"]
    assert "≈" in found["grad_cam"][0] and "≈" in found["cam"][0] and "≈" not in found["rethinking_cam"][0]
    assert "† 16 images" in found["score_cam"][0] and "score_cam on vgg16 used 16" in soup.get_text()
    assert found["centre box"][0] == "41.0 36.0 to 46.0" and "square of 150 px" in found["centre box"][-1]
    matrix = table(soup, "synthetic", "matrix")
    assert [cell.get_text() for cell in matrix.select("thead th")] == ["Method", "resnet18", "vgg16"]
    assert [row.get("data-method") for row in matrix.select("tbody tr")] == [*METHODS, None]
    assert [row.th.get_text() for row in matrix.select("tbody tr")][:5] == METHODS
    numbers = [cell["data-value"] for cell in matrix.select('td[data-backbone="vgg16"]')]
    assert numbers == ["60", "63", "66", "69", "72", "41"]


def test_index_troubles_and_published(tree):
    text, soup = index_of(tree)
    assert EVIL not in text and "&lt;script&gt;alert(1)" in text
    cub = soup.find(id="data-cub").parent
    found = lines(soup, "cub", "vgg16_fc")
    assert found["cam"][0] == "not defined cam is not defined on vgg16_fc: no pooling before the head"
    assert found["grad_cam++"][0].startswith("failed ValueError:")
    assert any("Traceback\n  a line" in pre.get_text() for pre in cub.select(".troubles details pre"))
    published = cub.find(id="data-cub-published").find_next("table").get_text(" ", strip=True)
    assert "56.0 44.2" in published and "the study this kit grew out of" in published
    assert "network mobilenet_v2, 300 of 5794 test images" in published
    assert soup.find(id="data-synthetic-published") is None


def chart(soup, dataset="synthetic"):
    return soup.select(f'section.dataset[data-dataset="{dataset}"] svg.plot')


def test_charts(tree):
    _, soup = index_of(tree)
    charts = chart(soup)
    assert len(charts) == 4, "curves and cost on two networks"
    groups = {}
    for group in charts[0].select("g[data-method]"):
        groups.setdefault(group["data-method"], []).append(group)
    assert list(groups)[:5] == METHODS and all(len(parts) == 4 for parts in groups.values()), (
        "line, mark, key, its text"
    )
    looks = {(re.search("stroke: [^;]*", path)[0], (re.search("dasharray: [^;]*", path) or [""])[0])
             for path in (parts[0].path["style"] for parts in groups.values())}  # fmt: skip
    assert len(looks) == 5 and len({dash for _, dash in looks}) >= 4, "a line style each, beside a colour each"
    assert groups["cam"][0].title.get_text() == "cam 55.0" and "rethinking_cam 58.0" in charts[0]["aria-label"]
    assert "3 s per image" in charts[3]["aria-label"]


def test_the_mark_is_at_the_threshold_that_the_table_reports(tree):
    groups = grouped([row for row in read_rows(tree) if row["dataset"] == "synthetic"])
    axes = []
    drawn = figures.accuracy_curves
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            figures, "accuracy_curves", lambda *args, **kwargs: axes.append(fig := drawn(*args, **kwargs)) or fig
        )
        charts(networks_of(groups, 300), {method: place for place, method in enumerate(METHODS)}, 250)
    mark = axes[0].axes[0].lines[1]
    assert mark.get_xdata()[0] == pytest.approx(0.35) and mark.get_ydata()[0] == pytest.approx(55.0)
    assert axes[0].axes[0].get_ylim() == axes[1].axes[0].get_ylim() == (0, 80), "one scale for all networks"


def test_charts_reach_up_to_the_centre_box(tmp_path):
    run(tmp_path, "cub", "a", "cam", gt=12.0)
    write_index(tmp_path)
    _, soup = index_of(tmp_path)
    texts = [text.get_text() for text in chart(soup, "cub")[0].select("text")]
    assert "50" in texts and "100" not in texts and "centre box" in texts, "the centre box has 41 %"


def test_results_csv(tree):
    with open(tree / "results.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    expected = "dataset,backbone,method,n_images,top1_cls,top5_cls,gt_known_loc,top1_loc,top5_loc,max_box_acc,"
    expected += "max_box_acc_v2,mean_iou,pxap,seconds_per_image,peak_memory_mb,operating_point,status,seed"
    assert reader.fieldnames == expected.split(",") == COLUMNS
    assert len(rows) == 14
    first = next(row for row in rows if row["backbone"] == "vgg16" and row["method"] == "grad_cam++")
    assert first["gt_known_loc"] == "69" and first["pxap"] == "" and first["status"] == "completed"
    undefined = next(row for row in rows if row["status"] == "undefined")
    assert undefined["method"] == "cam" and undefined["n_images"] == undefined["top1_loc"] == ""
    assert [row["method"] for row in rows if row["backbone"] == "vgg16"] == METHODS


def test_no_runs(tmp_path):
    write_index(tmp_path)
    text, soup = index_of(tmp_path)
    well_formed(text)
    assert "make reports" in soup.get_text() and "wsolkit sweep" in soup.get_text()
    assert (tmp_path / "results.csv").read_text().strip() == ",".join(COLUMNS)


@pytest.mark.parametrize(
    "damage",
    [
        "{half a fi",
        "[1, 2]",
        '"text"',
        '{"status": "running"}',
        b"\xff\xfe\x00",
        json.dumps({"status": "completed", "result": {"gt_known_loc": "<b>high</b>"}}),
        json.dumps({"status": "completed", "result": {"gt_known_loc": 170}}),
        json.dumps({"status": "completed", "result": {"intervals": {"gt_known_loc": 3}}}),
        json.dumps({"status": "completed", "result": []}),
        json.dumps({"status": "completed", "result": {"curve": {"thresholds": [0.1], "gt_known_loc": [1, 2]}}}),
        json.dumps({"status": "completed", "result": {}, "gallery": ["x"]}),
        json.dumps({"status": "completed", "result": {"centre_box": {"gt_known_loc": True}}}),
        json.dumps({"status": "completed", "result": {"failures": {"right": "many"}}}),
        json.dumps({"status": "completed", "result": {}, "against": {"cam": {"gt_known_loc": {"difference": "big"}}}}),
    ],
)
def test_damaged_metrics_are_one_failed_row(tmp_path, damage):
    run(tmp_path, "synthetic", "vgg16", "cam", ["a"])
    folder = run(tmp_path, "synthetic", "vgg16", "grad_cam", ["a"])
    data = damage if isinstance(damage, bytes) else damage.encode()
    (folder / "metrics.json").write_bytes(data)
    write_index(tmp_path)
    text, _ = index_of(tmp_path)
    well_formed(text)
    assert [row["status"] for row in read_rows(tmp_path)] == ["completed", "failed"]
    assert re.search(r"runs/synthetic/vgg16/grad_cam/metrics\.json is (damaged|not readable JSON)", text)


def test_sparse_metrics_are_enough(tmp_path):
    folder = tmp_path / "runs" / "synthetic" / "vgg16" / "cam"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"status": "completed", "result": {"n_images": 3}}))
    write_index(tmp_path)
    assert read_rows(tmp_path)[0]["status"] == "completed"
    well_formed(index_of(tmp_path)[0])


def test_failure_wins_and_gallery_stays_inside(tmp_path):
    run(tmp_path, "synthetic", "vgg16", "cam")
    failure(tmp_path, "synthetic", "vgg16", "cam", "failed", "MemoryError")
    assert read_rows(tmp_path)[0]["status"] == "failed"
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    outside = [{"id": "x", "file": "../../../../secret.jpg", "caption": ""}]
    run(tmp_path, "synthetic", "vgg16", "grad_cam", gallery=outside)
    assert read_rows(tmp_path)[1]["gallery"][0]["path"] is None
    write_index(tmp_path)


def test_page_stays_small(tmp_path):
    folder = run(tmp_path, "synthetic", "vgg16", "cam", ["a", "b", "c"])
    for index in range(3):
        path = folder / "gallery" / f"{index}.jpg"
        path.write_bytes(path.read_bytes() + bytes(900_000))
    write_index(tmp_path)
    text, soup = index_of(tmp_path)
    assert len(text.encode()) < 3_000_000
    assert len(soup.select("table.thumbs img")) == 1 and "2 more in the reports" in soup.get_text()


def test_odd_names(tmp_path):
    names = ['javascript:alert(1) "b" <c>&amp;', "x%20y#z?é", "<img src=x onerror=alert(1)>'"]
    run(tmp_path, *names, ["<i>" * 100])
    (tmp_path / "seed-one").mkdir()
    (tmp_path / "seed-1").write_text("a file, not a folder")
    write_index(tmp_path)
    text, soup = index_of(tmp_path)
    well_formed(text)
    no_requests(text)
    links = [link["href"] for link in soup.select("main a:not([href^='#'])")]
    assert len(links) >= 4 and all((tmp_path / unquote(link)).is_file() for link in links)
    assert not soup.select("img[src='x'], main i")


def test_only_failed_runs(tmp_path):
    failure(tmp_path, "cub", "vgg16", "cam", "failed", "")
    failure(tmp_path, "cub", "vgg16", "grad_cam", "undefined", "no")
    write_index(tmp_path)
    text, soup = index_of(tmp_path)
    well_formed(text)
    assert "On vgg16, no run has completed (1 failed, 1 not defined)." in soup.select_one(".answer").get_text()
    assert not soup.select("svg.plot, table.thumbs, table.points") and len(soup.select("table.lines tbody tr")) == 2


def test_missing_and_broken_pictures(tmp_path):
    folder = run(tmp_path, "cub", "vgg16", "cam", ["a", "b", "c"])
    (folder / "gallery" / "0.jpg").unlink()
    (folder / "gallery" / "2.jpg").write_bytes((folder / "gallery" / "2.jpg").read_bytes()[:300])
    (folder / "gallery" / "1.jpg").write_text("<script>no picture</script>")
    run(tmp_path, "cub", "vgg16", "grad_cam", ["a"])
    write_index(tmp_path)
    _, soup = index_of(tmp_path)
    assert len(soup.select("table.thumbs img")) == 1


def test_networks_without_pictures_take_no_share_of_the_bytes(tmp_path, monkeypatch):
    folder = run(tmp_path, "cub", "z", "cam", ["a", "b"])
    for backbone in "pqrs":
        failure(tmp_path, "cub", backbone, "cam", "failed", "no")
    needed = sum(4 * -(-path.stat().st_size // 3) + 30 for path in (folder / "gallery").iterdir())
    monkeypatch.setattr("wsolkit.report.index.IMAGE_BYTES", needed)
    write_index(tmp_path)
    assert len(index_of(tmp_path)[1].select("table.thumbs img")) == 2


def test_rows_follow_their_method_and_have_published_numbers_of_their_own(tmp_path):
    rows = [
        "grad_cam++[eigen+aug]",
        "layer_cam[layer=a/b_C]",
        "grad_cam",
        "grad_cam[eigen+aug]",
        "grad_cam[aug]",
        "cam",
    ]
    for place, method in enumerate(rows):
        run(tmp_path, "cub", "vgg16_fc", method, gt=50.0 + place)
    (tmp_path / "runs/cub/sweep.yaml").write_text(
        f"backbones: [vgg16_fc]\nmethods: {[*rows, 'layer_cam[layer=c/d]']}\n"
    )
    write_index(tmp_path)
    text, soup = index_of(tmp_path)
    well_formed(text)
    order = [
        "cam",
        "grad_cam",
        "grad_cam[aug]",
        "grad_cam[eigen+aug]",
        "grad_cam++[eigen+aug]",
        "layer_cam[layer=a/b_C]",
    ]
    assert [row["method"] for row in read_rows(tmp_path)] == order
    with (tmp_path / "results.csv").open(newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)] == order
    assert list(lines(soup, "cub", "vgg16_fc"))[:-1] == [*order, "layer_cam[layer=c/d]"], "planned, without a result"
    hrefs = {link["href"] for link in soup.select("a")}
    assert {"cub/vgg16_fc/grad_cam_eigen_aug.html", "cub/vgg16_fc/grad_cam_plusplus_eigen_aug.html"} <= hrefs
    cells = [
        [cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])]
        for row in soup.select("table.numbers tr")
    ]
    known = {row[0]: row[1:10] for row in cells if row[0].startswith("Grad-CAM")}
    assert known["Grad-CAM, eigen + aug"] == [
        "vgg16_fc",
        "\u2013",
        "\u2013",
        "43.9",
        "\u2013",
        "93.3",
        "53.0",
        "45.0",
        "49.0",
    ]
    assert known["Grad-CAM"][3:7] == ["42.5", "\u2013", "93.3", "52.0"]
    assert known["Grad-CAM++, eigen + aug (Top-1 Loc in a figure only)"][:2] == ["vgg16_fc", "77.9"]


def test_what_one_row_does_is_no_setting_of_all():
    conditions = {"input": "64 x 64", "normalisation": "IVR, share 0.3 given", "channels": "the 8 of largest energy"}
    rows = [{"config": {"seed": 0}, "result": {"conditions": own}} for own in (conditions, {"input": "64 x 64"})]
    assert settings(rows) == {"seed": "0", "input": "64 x 64"}
