"""Several seeds, planned runs that are missing, and the answer in words: what the index makes of them."""

from __future__ import annotations

import csv

import pytest
from bs4 import BeautifulSoup
from page_checks import no_requests, well_formed
from run_trees import differences, failure, result, run

from wsolkit.report.index import difference, grouped, marks, missing_rows, networks_of, read_rows, reasons, write_index
from wsolkit.report.pages import fragment
from wsolkit.sweep.jobs import grids, read, store

PART = {"right": 100, "wrong class": 0, "part only": 150, "too large": 20, "multiple instances": 0, "background": 30}
WHOLE = PART | {"right": 180, "part only": 70}


def page_of(out):
    differences(out)
    text = write_index(out).read_text(encoding="utf-8")
    well_formed(text)
    no_requests(text)
    return BeautifulSoup(text, "html.parser")


def with_result(gt, failures=None, interval=5.0, **changes):
    values = result(gt) | changes
    values["intervals"] = {"gt_known_loc": [gt - interval, gt + interval], "centre_box": [36.0, 46.0]}
    return {"gt": gt, "result": values | ({"failures": failures} if failures else {})}


def against(other, low, high):
    return {other: {"gt_known_loc": {"difference": (low + high) / 2, "low": low, "high": high, "n": 300}}}


def said(out, dataset="synthetic"):
    """The answer's parts as plain text: lead, lines and why."""
    differences(out)
    rows = [row for row in read_rows(out) if row["dataset"] == dataset]
    groups = grouped(rows)
    full = max((group.n_images for group in groups), default=0)
    networks = networks_of(groups, full)
    section = {"title": "", "dataset": dataset, "networks": networks, "rows": rows, "full": full}
    page = fragment("index.answer.j2", section=section | {"why": reasons(networks, full)})
    soup = BeautifulSoup(page, "html.parser")
    lead, *lines = (part.get_text().replace("\u00a0", " ") for part in soup.select(".answer-title, li"))
    why = soup.select_one("p:not(.answer-title)")
    assert not any("  " in line or "\n" in line or " ." in line for line in lines)
    return [
        lead.removeprefix(": ").replace("what came out", ""),
        *lines,
        why.get_text().replace("\u00a0", " ") if why else "",
    ]


# ------------------------------------------------------------------------------------------------ seeds


def test_seeds_become_mean_and_standard_deviation(tmp_path):
    for seed, gt in ((0, 50.0), (1, 53.0), (2, 56.0)):
        run(tmp_path, "synthetic", "vgg16", "cam", ["a"], seed=seed, gt=gt)
        run(tmp_path, "synthetic", "vgg16", "rethinking_cam", ["a"], seed=seed, gt=gt + 10 + seed)
    soup = page_of(tmp_path)
    row = soup.select_one('#data-synthetic-table-lines tr[data-method="rethinking_cam"]')
    cells = [cell.get_text(" ", strip=True) for cell in row.find_all("td")]
    assert cells[1] == "64.0 ± 4.0 best 59.0 to 69.0", "60, 64, 68: sample standard deviation 4"
    assert cells[2] == "+11.0 ± 1.0 +1.0 to +21.0", "paired by seed: 10, 11, 12"
    assert "3 of 3 seeds" in cells[-1]
    links = [link["href"] for link in row.select("details a")]
    assert links[:2] == ["synthetic/vgg16/rethinking_cam.html", "runs/synthetic/vgg16/rethinking_cam/notebook.ipynb"]
    assert "seed-2/synthetic/vgg16/rethinking_cam.html" in links and len(links) == 6
    assert all((tmp_path / link).is_file() for link in links)
    matrix = soup.select_one('#data-synthetic-table-matrix tr[data-method="cam"] td')
    assert "53.0 ± 3.0" in matrix.get_text() and matrix.a["href"].startswith("#data-synthetic-line-")
    assert len(soup.select("#data-synthetic-table-runs tbody tr")) == 6
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"], row["gt_known_loc"]) for row in rows][:4] == [
        ("cam", "0", "50"), ("cam", "1", "53"), ("cam", "2", "56"), ("rethinking_cam", "0", "60")]  # fmt: skip


def test_a_failed_seed_is_shown_and_the_others_count(tmp_path):
    run(tmp_path, "synthetic", "vgg16", "cam", seed=0, gt=50)
    run(tmp_path, "synthetic", "vgg16", "cam", seed=1, gt=54)
    failure(tmp_path, "synthetic", "vgg16", "cam", "failed", "ValueError: no", seed=2)
    soup = page_of(tmp_path)
    row = soup.select_one('#data-synthetic-table-lines tr[data-method="cam"]').get_text(" ", strip=True)
    assert "52.0 ± 2.8" in row and "2 of 3 seeds" in row and "failed" in row
    assert soup.select_one(".troubles li a")["href"] == "seed-2/runs/synthetic/vgg16/cam/log.txt"


def test_fewer_seeds_are_not_ranked(tmp_path):
    for seed, gt in ((0, 40), (1, 60)):
        run(tmp_path, "cub", "a", "cam", seed=seed, **with_result(gt))
    run(tmp_path, "cub", "a", "grad_cam", seed=0, **with_result(45))
    line = said(tmp_path, "cub")[1]
    assert line.startswith(
        "On a, cam is the only method with a result on all images and seeds: its box is right on 50.0"
    )
    assert not page_of(tmp_path).select("table .best")
    run(tmp_path, "cub", "a", "grad_cam", seed=1, **with_result(65))
    assert said(tmp_path, "cub")[1].startswith("On a, grad_cam is best: its box is right on 55.0")


def test_the_same_seed_in_two_folders_counts_once(tmp_path):
    run(tmp_path, "synthetic", "vgg16", "cam", seed=1, gt=50)
    (tmp_path / "seed-1").rename(tmp_path / "moved")
    run(tmp_path, "synthetic", "vgg16", "cam", seed=1, gt=60)
    (tmp_path / "moved" / "runs").rename(tmp_path / "runs")
    rows = read_rows(tmp_path)
    assert [(row["seed"], row["gt_known_loc"]) for row in rows] == [(1, 50)]


# ------------------------------------------------------------------------------------------------ missing runs


def plan(out, text, dataset="synthetic"):
    path = out / "runs" / dataset / "sweep.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_planned_runs_without_a_result_are_missing(tmp_path):
    plan(tmp_path, "dataset: synthetic\nbackbones: [vgg16, vgg16_fc]\nmethods: [cam, grad_cam++]\nseeds: [3, 4]\n")
    run(tmp_path, "synthetic", "vgg16", "cam")
    folder = run(tmp_path, "synthetic", "vgg16", "grad_cam++", seed=4)
    (folder / "metrics.json").write_text("{damaged")
    rows, notes = missing_rows(tmp_path, read_rows(tmp_path))
    assert not notes
    found = {(row["backbone"], row["method"], row["seed"]): row["status"] for row in rows}
    assert found == {
        ("vgg16", "cam", 4): "missing", ("vgg16", "grad_cam++", 3): "missing",
        ("vgg16_fc", "cam", 3): "undefined", ("vgg16_fc", "cam", 4): "undefined",
        ("vgg16_fc", "grad_cam++", 3): "missing", ("vgg16_fc", "grad_cam++", 4): "missing",
    }  # fmt: skip
    soup = page_of(tmp_path)
    assert "4 missing" in soup.header.get_text() and soup.select(".status.missing")
    with open(tmp_path / "results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2, "a file of results: what was only planned is not in it"


def test_a_frozen_body_makes_methods_that_train_it_undefined(tmp_path):
    (grid,) = grids({}, {"methods": ("has", "ddt"), "backbones": ("vgg16",), "recipe": "frozen", "out": str(tmp_path)})
    store(grid)
    rows, _ = missing_rows(tmp_path, [])
    assert {row["method"]: row["status"] for row in rows} == {"has": "undefined", "ddt": "missing"}
    (again,) = grids(read(grid.home / "sweep.yaml"), {"out": str(tmp_path)})
    assert [job.key for job in again.plan()[0]] == [job.key for job in grid.plan()[0]]


@pytest.mark.parametrize(
    "text", ["[1, 2]", "backbones: {a: 1}", "a: [", "seeds: [x]\nbackbones: [a]", "\x00", "backbones: [../../etc]",
             "backbones: [a]\nmethods: ['']", f"seeds: {list(range(150))}\nbackbones: {list(range(150))}\nmethods: [b]"],
)  # fmt: skip
def test_a_plan_that_cannot_be_read_is_told(tmp_path, text):
    run(tmp_path, "synthetic", "vgg16", "cam")
    plan(tmp_path, text)
    soup = page_of(tmp_path)
    assert "runs/synthetic/sweep.yaml cannot be used" in soup.select_one(".banner").get_text()
    assert soup.select("#data-synthetic-table-lines tbody tr")


def test_only_a_plan(tmp_path):
    plan(tmp_path, "backbones: [vgg16]\nmethods: [cam]\n")
    soup = page_of(tmp_path)
    assert "On vgg16, no run has completed (1 planned without a result)" in soup.select_one(".answer").get_text()


# ------------------------------------------------------------------------------------------------ words


def test_best_and_told_apart(tmp_path):
    run(tmp_path, "synthetic", "vgg16", "cam", **with_result(50, PART))
    run(tmp_path, "synthetic", "vgg16", "rethinking_cam", **with_result(65, WHOLE))
    lead, line, why = said(tmp_path)
    assert lead == ""
    assert line == (
        "On vgg16, rethinking_cam is best: its box is right on 65.0 % of the 300 images. That is 15.0 points more than plain "
        "CAM and 24.0 points more than a box in the middle of the image (both significant)."
    )
    assert why == (
        "On vgg16, plain CAM's box covers only a part of the bird in 50 % of the images, RethinkingCAM's in 23 %. "
        "The species of these birds differ in the head: bill, mask or crest."
    )


def test_no_reason_without_the_numbers(tmp_path):
    run(tmp_path, "synthetic", "vgg16", "cam", **with_result(60, PART))
    run(tmp_path, "synthetic", "vgg16", "rethinking_cam", **with_result(65, WHOLE))
    _, line, why = said(tmp_path)
    assert "5.0 points more than plain CAM (not significant) and 24.0 points more" in line and why == ""
    assert "RethinkingCAM trains" not in page_of(tmp_path).get_text()


def test_no_reason_where_misses_are_of_another_kind(tmp_path):
    large = PART | {"part only": 60, "too large": 110}
    run(tmp_path, "synthetic", "vgg16", "cam", **with_result(50, large))
    run(tmp_path, "synthetic", "vgg16", "rethinking_cam", **with_result(65, large | {"part only": 20}))
    assert said(tmp_path)[-1] == ""


def test_stored_differences_decide(tmp_path):
    """The paired difference tells CAM apart although its value lies inside the other's interval, and the other way round."""
    run(tmp_path, "cub", "vgg16", "cam", **with_result(62))
    paired = against("cam", 1.0, 5.0) | against("centre_box", 20.0, 28.0)
    run(tmp_path, "cub", "vgg16", "grad_cam", against=paired, **with_result(65))
    groups = grouped(read_rows(tmp_path))
    assert marks(groups, "gt_known_loc", 300) == {"grad_cam": "best"}
    found = difference(groups[1], "cam")
    assert (found.value.mean, found.value.low, found.above) == (3.0, 1.0, 1)
    assert "3.0 points more than plain CAM and 24.0 points more" in said(tmp_path, "cub")[1]
    run(tmp_path, "cub", "vgg11", "cam", **with_result(50))
    run(tmp_path, "cub", "vgg11", "grad_cam", against=against("cam", -1.0, 31.0), **with_result(65))
    groups = [group for group in grouped(read_rows(tmp_path)) if group.backbone == "vgg11"]
    assert marks(groups, "gt_known_loc", 300) == {"grad_cam": "best", "cam": "tie"}


def test_the_index_tells_apart_what_the_reports_tell_apart(tmp_path):
    """An interval that leaves out 0 is not enough where the exact test says that it may be chance."""
    run(tmp_path, "cub", "vgg16", "cam", **with_result(62))
    paired = against("cam", 0.3, 2.3)
    paired["cam"]["gt_known_loc"]["p"] = 0.0625
    run(tmp_path, "cub", "vgg16", "grad_cam", against=paired, **with_result(63.3))
    groups = grouped(read_rows(tmp_path))
    assert difference(groups[1], "cam").above == 0
    assert marks(groups, "gt_known_loc", 300) == {"grad_cam": "best", "cam": "tie"}


def test_cam_best_equal_and_below_the_centre_box(tmp_path):
    run(tmp_path, "cub", "a", "cam", **with_result(30))
    run(tmp_path, "cub", "a", "grad_cam", **with_result(20))
    run(tmp_path, "cub", "b", "cam", **with_result(41))
    run(tmp_path, "cub", "b", "grad_cam", **with_result(41))
    run(tmp_path, "cub", "c", "grad_cam", **with_result(50))
    _, a, b, c, _ = said(tmp_path, "cub")
    assert a == (
        "On a, cam is best: its box is right on 30.0 % of the 300 images. That is 11.0 points less than a box in the middle "
        "of the image (significant)."
    )
    assert b.startswith("On b, cam and grad_cam come out equal: their boxes are right on 41.0 %")
    assert "no more than a box in the middle of the image (not significant)" in b
    assert (
        c.startswith("On c, grad_cam is the only method with a result: ") and "no comparable result of plain CAM" in c
    )


def test_ties_are_named_and_seeds_counted(tmp_path):
    for seed in (0, 1):
        run(tmp_path, "cub", "a", "cam", seed=seed, **with_result(53))
        run(tmp_path, "cub", "a", "grad_cam", seed=seed, **with_result(64))
        run(tmp_path, "cub", "a", "layer_cam", seed=seed, **with_result(62 + 5 * seed))
    line = said(tmp_path, "cub")[1]
    assert "layer_cam is best: its box is right on 64.5 ± 3.5 % of the 300 images (mean of 2 seeds)" in line
    assert "11.5 points more than plain CAM (significant in 1 of 2 seeds) and 23.5 points more" in line
    assert line.endswith("(significant in each of 2 seeds). grad_cam is not significantly different from the best.")


def test_fewer_images_are_never_best(tmp_path):
    run(tmp_path, "cub", "a", "cam", **with_result(50))
    run(tmp_path, "cub", "a", "score_cam", **with_result(90, n_images=16))
    run(tmp_path, "cub", "b", "score_cam", **with_result(90, n_images=16))
    _, a, b, _ = said(tmp_path, "cub")
    assert a.startswith("On a, cam is the only method with a result on all images: ")
    assert b == "On b, no method was measured on all 300 images, so none is called best."


def test_one_winner_everywhere_and_networks_without_results(tmp_path):
    for backbone in "abc":
        run(tmp_path, "cub", backbone, "cam", **with_result(50))
        run(tmp_path, "cub", backbone, "grad_cam", **with_result(60))
    failure(tmp_path, "cub", "d", "cam", "failed", "ValueError")
    failure(tmp_path, "cub", "e", "cam", "undefined", "no")
    lead, *_, last, _ = said(tmp_path, "cub")
    assert lead == "grad_cam is best on all 3 networks that have results."
    assert last == "On d and e, no run has completed (1 failed, 1 not defined)."
    assert page_of(tmp_path).select_one(".answer")


def test_runs_without_boxes(tmp_path):
    run(tmp_path, "cub", "a", "cam", **with_result(50, gt_known_loc=None, centre_box={}))
    text = said(tmp_path, "cub")[1]
    assert text.startswith(
        "On a, no run has a GT-known Loc, so no method is called best. The test images have no boxes"
    )
    page_of(tmp_path)


@pytest.mark.slow
def test_very_many_runs_keep_the_page_small(tmp_path, monkeypatch):
    """With a tenth of the bytes a tenth of the runs is very many: what is left out is said, and the file has it."""
    monkeypatch.setattr("wsolkit.report.index.TEXT_BYTES", 140_000)
    for backbone in "abc":
        for index in range(20):
            run(
                tmp_path,
                "cub",
                backbone,
                "cam" if index == 19 else f"method_{index}",
                gt=30 + index,
                images=["a"][: index % 2],
            )
    failure(tmp_path, "cub", "a", "long", "failed", "<x>" * 100_000)
    page = write_index(tmp_path)
    assert page.stat().st_size < 340_000
    soup = BeautifulSoup(page.read_text(), "html.parser")
    shown = {row["data-method"] for row in soup.select("table.lines tr[data-method]")}
    assert {"cam", "method_18"} <= shown and len(shown) == 12 and "method_0" not in shown
    assert "36 of 61 results are shown" in soup.select_one(".dataset .banner").get_text()
    assert "method_18 is best" not in soup.select_one(".answer").get_text(), "cam has one point more"
    with open(tmp_path / "results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 61
