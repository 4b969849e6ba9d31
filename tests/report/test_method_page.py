"""Report pages from the files of real runs: order, numbers, odd values, missing files; in a browser, light and dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from wsolkit import figures
from wsolkit.common.files import read_json, write_json
from wsolkit.report.method_page import write_report, write_reports
from wsolkit.runs.data_check import check_data
from wsolkit.runs.folder import Finding
from wsolkit.runs.run import Run

QUICK = {"backbone": "mobilenet_v2", "width": 0.125, "size": 48, "per_class": 4, "epochs": 2, "classes": 4}
EVIL = "<script>alert(1)</script>"
ORDER = [
    "Result",
    "Accuracy and threshold",
    "How well the boxes fit",
    "Accuracy by object size",
    "Galleries",
    "The method\u2019s own experiment",
    "Class and box",
    "Training",
    "Classes",
    "Cost",
    "Published and measured",
    "Data",
    "Parameters and protocol",
]


def notebook(path: Path, result) -> None:
    """An executed notebook with the outputs that the package's own have."""
    curve = figures.accuracy_curves({"CAM": result.curve}, centre_box=result.centre_box["gt_known_loc"])
    chart = figures.figure_html(curve, "accuracy against the threshold", "Accuracy of the steps.")
    table = v4.new_output("display_data", data={"text/html": result._repr_html_()})
    tagged = [v4.new_code_cell(f"{tag} = 1", metadata={"tags": [tag]}, outputs=[table])
              for tag in ("in-report", "exercise", "parameters", "injected-parameters")]  # fmt: skip
    cells = [
        v4.new_markdown_cell("# Steps to the whole\n\n**Question.** Why?"), *tagged,
        v4.new_markdown_cell("## Result\n\nThe map is $M = \\sum_c W_c F_c$.\n\n### A detail"),
        v4.new_code_cell("show(curve)", outputs=[v4.new_output("display_data", data={"text/html": chart}), table]),
    ]  # fmt: skip
    nbformat.write(v4.new_notebook(cells=cells), path)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Real runs: cam, rethinking_cam with a notebook, score_cam on a few images; a failed run; their pages."""
    out = tmp_path_factory.mktemp("report") / "out"
    run = Run.start(**QUICK, out=str(out))
    for method in ("rethinking_cam", "cam", "score_cam"):
        model = run.model("tap" if method == "rethinking_cam" else "gap")
        result = run.evaluate(method, variant=model.pooling, limit=4 if method == "score_cam" else None)
        run.finish(method, result)
        if method == "rethinking_cam":
            notebook(run.folder(method) / "notebook.ipynb", result)
    failed = run.folder("grad_cam")
    error = v4.new_output("error", ename="ValueError", evalue="no such <file>", traceback=["ValueError: no"])
    failed.mkdir(parents=True)
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("## Part"), v4.new_code_cell("boom()", outputs=[error])]),
                   failed / "notebook.ipynb")  # fmt: skip
    write_json(failed / "failure.json", {"status": "failed", "error": "ValueError: no such <file>", "config": {}})
    assert all(error == "" for _, error in write_reports(out))
    return out


def folder_of(out: Path, method: str) -> Path:
    return out / "runs" / "synthetic" / "mobilenet_v2" / method


def metrics_of(out: Path, method: str) -> dict:
    return json.loads((folder_of(out, method) / "metrics.json").read_text())


def read(path: Path) -> tuple[str, BeautifulSoup]:
    text = path.read_text(encoding="utf-8")
    return text, BeautifulSoup(text, "html.parser")


def written(out: Path, method: str) -> tuple[str, BeautifulSoup]:
    return read(out / "synthetic" / "mobilenet_v2" / f"{method}.html")


@pytest.fixture
def copy(out, tmp_path):
    """`copy(method, change)`: the page of a run whose metrics were changed; its folder may be changed first."""

    def make(method="rethinking_cam", change=None, prepare=None):
        base = tmp_path / "out" / "runs" / "synthetic" / "mobilenet_v2"
        shutil.copytree(
            folder_of(out, method).parent, base, ignore=shutil.ignore_patterns("*.pt", "maps"), dirs_exist_ok=True
        )
        values = metrics_of(out, method)
        if change:
            change(values)
        write_json(base / method / "metrics.json", values)
        if prepare:
            prepare(base / method)
        return read(write_report(base / method, tmp_path / "out" / "page.html"))

    return make


def sections(soup) -> list[str]:
    return [heading.get_text() for heading in soup.select("main h2")]


def well_formed(soup) -> None:
    assert len(soup.find_all("h1")) == 1 and soup.html["lang"] == "en" and soup.main and soup.select_one("a.skip")
    ids = [element["id"] for element in soup.find_all(id=True)]
    assert len(ids) == len(set(ids)), "ids are unique"
    assert all(link["href"][1:] in ids for link in soup.select('a[href^="#"]'))
    assert all(header.get("scope") in ("row", "col") for header in soup.find_all("th"))
    assert all(table.find_parent(class_="scroll") for table in soup.find_all("table"))
    assert all(image["alt"].strip() for image in soup.find_all("img"))
    for drawing in soup.find_all("svg"):
        assert drawing.get("aria-hidden") == "true" or len(drawing.get("aria-label", "")) > 20


# ------------------------------------------------------------------------------------------------ completed runs


@pytest.mark.parametrize("method", ["cam", "rethinking_cam", "score_cam"])
def test_pages_have_the_order_and_are_sound(out, method):
    text, soup = written(out, method)
    well_formed(soup)
    found = sections(soup)
    assert found == [name for name in ORDER if name in found]
    optional = {"Galleries", "The method\u2019s own experiment", "Data"}
    assert set(ORDER) - set(found) <= optional, "only what was not made may be absent"
    assert [link.get_text() for link in soup.select("nav .level2 a")] == found
    assert len(text.encode()) < 3_000_000 and "jet" not in re.findall(r"\b\w+\b", text)
    assert not re.search(r"""\b(?:src|srcset)\s*=\s*["'](?!data:)|url\((?!#)|@import|\son\w+=""", text), (
        "nothing is loaded"
    )


def test_headline_card_is_that_of_the_metrics(out):
    metrics = metrics_of(out, "rethinking_cam")
    _, soup = written(out, "rethinking_cam")
    cards = soup.select(".card")
    assert [card.h3.get_text() for card in cards] == ["Top-1 Loc", "GT-known Loc", "MaxBoxAccV2", "Top-1 Cls"]
    for card, name in zip(cards, ("top1_loc", "gt_known_loc", "max_box_acc_v2", "top1_cls"), strict=True):
        assert card.select_one(".value b").get_text() == f"{metrics['result'][name]:.1f}"
        low, high = metrics["result"]["intervals"][name]
        words = {0: "none of them", 100: "all of them"}.get(metrics["result"][name], f"{low:.1f} to {high:.1f}")
        assert f"{words}, n = {metrics['result']['n_images']}" in card.get_text()
        for block, other in zip(card.select(".against"), ("cam", "centre_box"), strict=True):
            found = metrics["against"][other][name]
            if found is None:
                assert "has no class of its own" in block.get_text()
            else:
                shown = float(block.b.get_text().replace("\u2212", "-"))
                assert shown == pytest.approx(found["difference"], abs=0.051)
                ends = (
                    block.select_one(".ends").get_text().replace("\u2212", "-")
                    if block.select_one(".ends")
                    else "[0 to 0]"
                )
                assert [float(end) for end in ends.strip("[]").split(" to ")] == pytest.approx(
                    [found["low"], found["high"]], abs=0.051
                )


def test_plain_cam_has_no_difference_to_itself(out):
    metrics = metrics_of(out, "cam")
    assert metrics["against"]["cam"] is None and metrics["plain_cam"] is None
    assert not (folder_of(out, "cam") / "plain_cam.csv").exists()
    text, soup = written(out, "cam")
    assert "to plain CAM" not in text and len(soup.select(".card")[0].select(".against")) == 1


def test_tables_are_those_of_the_images(out):
    table = pd.read_csv(folder_of(out, "rethinking_cam") / "per_image.csv")
    _, soup = written(out, "rethinking_cam")
    hit = table["localised"]
    cells = [int(cell.b.get_text()) for cell in soup.select("table.cross tbody td")]
    assert cells == [int((table["right"] & hit).sum()), int((table["right"] & ~hit).sum()),
                     int((~table["right"] & hit).sum()), int((~table["right"] & ~hit).sum())]  # fmt: skip
    kinds = {
        row.th.get_text(): int(row.td.get_text())
        for row in soup.find(id="iou").find_parent("section").select("tbody tr")
    }
    assert kinds == table["failure"].value_counts().reindex(kinds, fill_value=0).to_dict()
    rows = soup.find(id="classes").find_parent("section").select("tbody tr")
    assert len(rows) == 4 and [float(row.select("td")[2].get_text()) for row in rows] == sorted(
        round(100 * part.mean(), 1) for _, part in hit.groupby(table["label"])
    )
    assert {row.th.get_text() for row in rows} == set(metrics_of(out, "rethinking_cam")["classes"])


def test_both_networks_and_both_costs_are_shown(out):
    _, soup = written(out, "rethinking_cam")
    assert [h.get_text() for h in soup.select("h3[id^=training-]")] == [
        "TAP network, scored here",
        "GAP network, plain",
    ]
    costs = [
        [cell.get_text() for cell in row.find_all(["th", "td"])]
        for row in soup.find(id="cost").find_parent("section").select("tbody tr")
    ]
    assert [row[0] for row in costs] == ["rethinking_cam", "plain CAM"] and all(
        "ms" in row[1] or " s" in row[1] for row in costs
    )
    assert re.fullmatch(r"TAP: .+ s, after GAP: .+ s", costs[0][3]) and costs[1][3].startswith("GAP: ")
    assert len(written(out, "cam")[1].select("h3[id^=training-]")) == 1


def test_chapter_leaves_out_what_the_page_shows(out):
    _, soup = written(out, "rethinking_cam")
    assert soup.select_one(".subtitle").get_text() == "Steps to the whole"
    chapter = soup.select_one(".chapter")
    assert "show(curve)" in chapter.get_text() and not re.search(
        "in-report = 1|exercise = 1|parameters = 1", soup.get_text()
    )
    assert [h.get_text() for h in chapter.find_all("h3")] == ["Result"] and chapter.h4.get_text() == "A detail"
    assert chapter.h3["id"] == "result-2" and soup.find(id="result").get_text() == "Result"
    assert chapter.select_one("math") and chapter.select_one("figure img")["class"] == ["ink"]
    assert soup.select_one(".chapter a")["href"] == "../../runs/synthetic/mobilenet_v2/rethinking_cam/notebook.ipynb"


def test_limited_run_says_so(out):
    _, soup = written(out, "score_cam")
    n = metrics_of(out, "score_cam")["test_images"]
    assert metrics_of(out, "score_cam")["against"]["cam"]["gt_known_loc"]["n"] == 4
    assert f"Only a part of the test images was used: 4 of {n}, balanced over classes." in soup.get_text().replace(
        "\u00a0", " "
    )


def test_footer_and_links(out):
    _, soup = written(out, "cam")
    facts = {row.th.get_text(): row.td for row in soup.select("footer tr")}
    assert list(facts) == ["seed", "versions", "git commit", "device", "wall time", "finished", "files"]
    assert "torch" in facts["versions"].get_text() and facts["seed"].get_text() == "0"
    html = out / "synthetic" / "mobilenet_v2" / "cam.html"
    assert {link.get_text() for link in facts["files"].find_all("a")} == {"metrics.json", "per_image.csv"}
    assert all((html.parent / link["href"]).is_file() for link in facts["files"].find_all("a"))
    assert soup.select_one(".back a")["href"] == "../../index.html"


# ------------------------------------------------------------------------------------------------ other kinds of pages


def test_failed_run_and_training_keep_their_notebook_page(out, tmp_path):
    html = write_report(
        folder_of(out, "grad_cam"), tmp_path / "failed.html", "grad_cam", {"seed": 0}, "ValueError: no such <file>"
    )
    text, soup = read(html)
    well_formed(soup)
    assert "no such &lt;file&gt;" in text and soup.select_one(".banner.failed") and not soup.select(".card")
    write_json(folder_of(out, "grad_cam") / "metrics.json", metrics_of(out, "cam"))  # of an earlier, completed run
    try:
        assert not read(write_report(folder_of(out, "grad_cam"), tmp_path / "failed.html", "x"))[1].select(".card")
    finally:
        (folder_of(out, "grad_cam") / "metrics.json").unlink()
    training = next(folder_of(out, "").glob("train-gap-*/run.json")).parent
    shutil.copy(folder_of(out, "rethinking_cam") / "notebook.ipynb", tmp_path / "notebook.ipynb")
    shutil.copy(training / "run.json", tmp_path)
    text, soup = read(write_report(tmp_path, tmp_path / "train.html", "Training", {"seed": 0}))
    well_formed(soup)
    assert soup.h1.get_text() == "Training" and "exercise = 1" not in soup.get_text(), "exercises are for notebooks"


def test_pages_are_written_again_only_where_needed(out, tmp_path):
    import os

    assert list(write_reports(out)) == []
    html = out / "synthetic" / "mobilenet_v2" / "score_cam.html"
    before = html.read_bytes()
    os.utime(html, ns=(1, 1))
    assert list(write_reports(out)) == [(html, "")] and html.read_bytes() == before
    html.unlink()
    assert [path for path, _ in write_reports(out)] == [html]
    kept = html.parents[2] / "runs" / html.parent.relative_to(html.parents[2]) / html.stem / "page.json"
    write_json(kept, {**read_json(kept), "seconds": 123.5})
    assert len(list(write_reports(out, everything=True))) == 3
    assert read_json(kept)["seconds"] == 123.5, "how long the run took is kept, for the plan"


def test_report_command_writes_pages_of_every_seed(out, tmp_path):
    seeded = tmp_path / "out"
    for base in (seeded, seeded / "seed-2"):
        target = base / "runs" / "synthetic" / "mobilenet_v2" / "cam"
        shutil.copytree(folder_of(out, "cam"), target)
    (seeded / "runs" / "synthetic" / "mobilenet_v2" / "grad_cam").mkdir()
    (seeded / "runs" / "synthetic" / "mobilenet_v2" / "grad_cam" / "metrics.json").write_text("{half")
    done = subprocess.run(
        [sys.executable, "-m", "wsolkit", "report", "--out", str(seeded)], capture_output=True, text=True
    )
    assert done.returncode == 1 and "grad_cam/metrics.json is not readable JSON" in done.stderr
    second = seeded / "seed-2" / "synthetic" / "mobilenet_v2" / "cam.html"
    assert read(second)[1].select_one(".back a")["href"] == "../../../index.html" and str(second) in done.stdout
    assert (seeded / "synthetic" / "mobilenet_v2" / "cam.html").is_file() and (seeded / "index.html").is_file()


# ------------------------------------------------------------------------------------------------ odd and missing


@pytest.mark.parametrize(
    "name, absent",
    [
        ("per_image.csv", {"How well the boxes fit", "Accuracy by object size", "Class and box", "Classes"}),
        ("plain_cam.csv", set()),
        ("notebook.ipynb", {"The method\u2019s own experiment"}),
        ("train", {"Training"}),
        ("gallery", set()),
    ],
)
@pytest.mark.parametrize("damage", ["absent", "damaged", "longer than a field may be"])
def test_missing_and_damaged_files_leave_their_part_out(copy, name, absent, damage):
    def spoil(folder: Path):
        paths = list(folder.parent.glob("train-*/history.csv")) if name == "train" else [folder / name]
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            elif damage == "absent":
                path.unlink()
            else:
                path.write_text('id,label\n"x' + ("1" * 200_000 if damage != "damaged" else ""))

    _, soup = copy(prepare=spoil)
    well_formed(soup)
    expected = [part for part in ORDER if part not in absent | {"Galleries", "Data"}]
    assert [part for part in sections(soup) if part != "Galleries"] == expected
    noted = bool(soup.select("header .banner"))
    assert noted == (name.endswith(".csv") or (damage != "absent" and name in ("notebook.ipynb", "train")))


@pytest.mark.parametrize("value", [{"best_epoch": 0.5}, {"recipe": [1]}, {"made_from": [1]}, {"seconds": "a"}])
def test_a_damaged_record_of_a_training_run_is_named_on_the_page(copy, value):
    def spoil(folder: Path):
        for path in folder.parent.glob("train-*/run.json"):
            write_json(path, read_json(path) | value)

    _, soup = copy(prepare=spoil)
    well_formed(soup)
    assert "Training" not in sections(soup) and "run.json is damaged" in soup.select_one("header .banner").text


def test_the_check_of_the_same_data_is_shown(copy):
    """What stands in data.json is escaped; that of other data is left out, a damaged one noted."""
    check = check_data(**{name: QUICK[name] for name in ("size", "per_class", "classes")})
    check.findings.append(
        Finding(level="warning", text="images that are leaked: 4 of test", examples=[EVIL, "b"], more=2)
    )

    def keep(folder: Path):
        write_json(folder.parents[1] / "data.json", check.model_dump())

    text, soup = copy(prepare=keep)
    well_formed(soup)
    assert sections(soup)[-2:] == ["Data", "Parameters and protocol"] and EVIL not in text
    shown = " ".join(soup.select_one("#data").parent.get_text(" ").split())
    assert (
        "images that are leaked: 4 of test" in shown and f"{EVIL}; b and 2 more" in shown and check.centre_box in shown
    )
    assert all(value in shown for row in check.splits.values() for value in row.values())
    check.findings.clear()
    assert "nothing to object to" in copy(prepare=keep)[0]
    check.made_from["data"] = "other"
    assert "Data" not in sections(copy(prepare=keep)[1])
    _, soup = copy(prepare=lambda folder: (folder.parents[1] / "data.json").write_text("{"))
    assert "data.json" in soup.select_one("header .banner").get_text() and "Data" not in sections(soup)


def test_other_seeds_show_the_check_of_the_first(copy, tmp_path):
    """A sweep checks the data once, in OUT; the reports of its other seeds lie in OUT/seed-N."""
    check = check_data(**{name: QUICK[name] for name in ("size", "per_class", "classes")})
    check.made_from["seed"] = 7
    data = tmp_path / "out/runs/synthetic/data.json"
    _, soup = copy(prepare=lambda folder: write_json(folder.parents[1] / "data.json", check.model_dump()))
    assert "Data" not in sections(soup), "of another validation split"
    shutil.copytree(tmp_path / "out/runs", tmp_path / "out/seed-3/runs")
    (tmp_path / "out/seed-3" / data.relative_to(tmp_path / "out")).unlink()
    folder = folder_of(tmp_path / "out/seed-3", "rethinking_cam")
    text, soup = read(write_report(folder, tmp_path / "out/page.html"))
    assert "Data" in sections(soup) and "Validation images are those of seed 7" in text
    data.unlink()
    assert "Data" not in sections(read(write_report(folder, tmp_path / "out/page.html"))[1])


def test_a_table_that_was_cut_off_is_not_counted(copy):
    def cut(folder: Path):
        path = folder / "per_image.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))

    _, soup = copy(prepare=cut)
    assert "per_image.csv" in soup.select_one("header .banner").get_text()
    assert "has 4 images" in soup.select_one("header .banner").get_text()
    assert "How well the boxes fit" not in sections(soup)


def test_which_numbers_count_from_the_maximum_is_said(out):
    said = "count it from the 90th percentile"
    assert said in written(out, "rethinking_cam")[1].select_one("#result").parent.get_text()
    assert said not in written(out, "cam")[1].select_one("#result").parent.get_text()


def test_names_are_escaped(copy):
    def change(values):
        values["method"] = values["config"]["method"] = f"x{EVIL}"
        values["classes"] = [f"{EVIL}{index}" for index in range(4)]
        values["device"] = values["config"]["backbone"] = values["versions"]["torch"] = EVIL
        values["result"]["conditions"] = {EVIL: EVIL}
        values["result"]["protocol"] = values["result"]["operating_point"] = EVIL
        values["result"]["centre_box"]["side"] = EVIL

    text, soup = copy(change=change)
    well_formed(soup)
    assert (
        EVIL not in text
        and EVIL in soup.h1.get_text()
        and EVIL in soup.find(id="classes").find_parent("section").get_text()
    )


def test_two_hundred_classes_stay_readable(copy):
    def prepare(folder):
        table = pd.read_csv(folder / "per_image.csv", dtype=str, keep_default_na=False)
        many = pd.concat([table] * (1 + 600 // len(table)), ignore_index=True)[:600]
        many["id"] = [f"image {index}" for index in range(600)]
        many["label"] = np.arange(600) % 200
        many["predicted"] = np.where(many["label"] == 3, 7, many["label"])
        many["right"] = many["predicted"] == many["label"]
        many.to_csv(folder / "per_image.csv", index=False)

    def change(values):
        values["classes"] = [f"{i:03d}.A bird with a long name" for i in range(200)]
        values["result"]["n_images"] = 600

    text, soup = copy(change=change, prepare=prepare)
    well_formed(soup)
    tables = soup.find(id="classes").find_parent("section").find_all("table")
    assert [len(table.select("tbody tr")) for table in tables] == [10, 10, 200]
    assert tables[2].find_parent("details") and not tables[0].find_parent("details")
    worst, best, everything = ([row.th.get_text() for row in table.select("tbody tr")] for table in tables)
    assert worst == everything[:10] and best == everything[:-11:-1]
    assert (
        soup.find(id="confused").find_next("tbody").tr.get_text(" ").split()[-2:] == ["3", "3"]
        and len(text.encode()) < 1_000_000
    )


def test_masks_instead_of_boxes(copy):
    def prepare(folder):
        table = pd.read_csv(folder / "per_image.csv", dtype=str, keep_default_na=False)
        boxes = [name for name in table if name not in ("id", "label", "predicted", "right", "pixel_ap")]
        table[boxes] = ""
        table.to_csv(folder / "per_image.csv", index=False)
        (folder / "plain_cam.csv").unlink()

    def change(values):
        keys = ("gt_known_loc", "top1_loc", "top5_loc", "max_box_acc", "max_box_acc_v2", "threshold")
        values["result"] |= dict.fromkeys(keys) | {
            "mean_iou": 55.5,
            "pxap": 61.2,
            "failures": {},
            "centre_box": {},
            "operating_points": {},
            "curve": {},
        }
        values["result"]["max_box_acc_v2_parts"] = {}
        values |= {"against": {"cam": dict.fromkeys(keys), "centre_box": {}}, "plain_cam": None}

    _, soup = copy(change=change, prepare=prepare)
    well_formed(soup)
    assert [card.select_one(".value b").get_text() for card in soup.select(".card")][:3] == ["\u2013"] * 3
    assert "no box accuracy is reported" in soup.get_text() and "PxAP" in soup.get_text()
    assert not {"Accuracy and threshold", "How well the boxes fit", "Class and box", "Classes"} & set(sections(soup))


def test_one_image_without_validation_or_known_class(copy):
    def prepare(folder):
        table = pd.read_csv(folder / "per_image.csv", dtype=str, keep_default_na=False)[:1]
        table[["predicted", "right", "empty"]] = ["", "", "True"]
        table.to_csv(folder / "per_image.csv", index=False)
        (folder / "plain_cam.csv").unlink()

    def change(values):
        values["result"] |= {"n_images": 1, "n_val": 0, "operating_point": "fixed", "top1_cls": None, "top1_loc": None}
        values["result"]["operating_points"]["validation"] = None
        values |= {"against": {"cam": None, "centre_box": {}}, "plain_cam": None, "plain_training": None}

    _, soup = copy(change=change, prepare=prepare)
    well_formed(soup)
    text = soup.get_text().replace("\u00a0", " ")
    assert "No image has a box at all" in text and "no validation split" in text
    assert "The predicted class is not known for these images" in text


def test_sparse_metrics_are_enough_and_damaged_ones_are_named(tmp_path):
    folder = tmp_path / "runs" / "synthetic" / "vgg16" / "cam"
    odd = {"gt_known_loc": "high", "intervals": {"gt_known_loc": [1]}, "curve": {"thresholds": [0.1], "gt_known_loc": ["x"]},
           "operating_points": {"fixed": {"threshold": True}}, "conditions": [1], "centre_box": 3, "n_images": None}  # fmt: skip
    for result in ({}, {"n_images": 3}):
        write_json(folder / "metrics.json", {"status": "completed", "result": result})
        well_formed(read(write_report(folder, tmp_path / "page.html"))[1])
    damaged = [json.dumps({"status": "completed", "result": {name: value}}) for name, value in odd.items() if value]
    damaged += ['{"status": "completed"}', '{"status": "completed", "result": {}, "made_from": [1]}']
    for content in ("{half", "[1]", '{"status": "running"}', *damaged):  # what the index calls damaged too
        (folder / "metrics.json").write_text(content)
        with pytest.raises(ValueError, match=r"metrics\.json"):
            write_report(folder, tmp_path / "page.html")
    with pytest.raises(FileNotFoundError, match=r"notebook\.ipynb"):
        write_report(tmp_path / "nothing", tmp_path / "page.html")


def test_runs_of_before_the_differences_still_have_a_page(copy):
    def change(values):
        for name in ("against", "plain_cam", "training", "plain_training", "classes", "test_images"):
            del values[name]

    _, soup = copy(change=change, prepare=lambda folder: (folder / "plain_cam.csv").unlink())
    well_formed(soup)
    assert "by how much beyond chance is not known" in soup.get_text() and "network, scored here" not in soup.get_text()
    assert soup.find(id="classes").find_parent("section").select_one("tbody th").get_text().startswith("class ")


def test_a_frozen_body_has_no_epochs_and_no_rate(copy):
    def prepare(folder):
        for path in folder.parent.glob("train-*/run.json"):
            record = json.loads(path.read_text())
            record["recipe"] |= {"frozen": True, "weight_decay": 0.005}
            path.write_text(json.dumps(record))

    _, soup = copy("cam", prepare=prepare)
    (said,) = [p.get_text() for p in soup.select("p.small") if "the head alone" in p.get_text()]
    assert "weight decay 0.005" in said
    assert "epoch" not in said and "learning rate" not in said


def test_training_outside_the_runs_is_not_read(copy):
    _, soup = copy(change=lambda values: values.update(training="../../../../secret", plain_training=None))
    assert not soup.select("h3[id^=training-]")


@pytest.mark.parametrize("method, known", [("cam", True), ("score_cam", False)])
def test_published_numbers_stand_beside_measured_ones(copy, method, known):
    def change(values):
        values["config"] |= {"dataset": "cub", "backbone": "vgg16", "epochs": 3}
        values["config"]["method"] = values["method"] = method if known else "layer_cam"

    _, soup = copy(method, change)
    words = soup.find(id="published").find_parent("section").get_text(" ", strip=True)
    if known:
        assert (
            "56.0 44.2" in words
            and "What differs here" in words
            and "of 5794 test images" in words
            and "3 epochs" in words
        )
        assert f"{metrics_value(copy, soup, 'GT-known Loc')} " in words
    else:
        assert "has none for layer_cam" in words


def metrics_value(copy, soup, label):
    return next(card.select_one(".value b").get_text() for card in soup.select(".card") if card.h3.get_text() == label)


# ------------------------------------------------------------------------------------------------ a browser


def kinds(out: Path, tmp_path: Path) -> list[Path]:
    pages = [out / "synthetic" / "mobilenet_v2" / f"{name}.html" for name in ("cam", "rethinking_cam")]
    pages.append(
        write_report(folder_of(out, "grad_cam"), tmp_path / "failed.html", "grad_cam", {"seed": 0}, "ValueError")
    )
    shutil.copy(folder_of(out, "rethinking_cam") / "notebook.ipynb", tmp_path / "notebook.ipynb")
    pages.append(write_report(tmp_path, tmp_path / "train.html", "Training", {"seed": 0}))
    return pages


def test_no_serious_finding_of_axe_in_light_and_dark(out, tmp_path, axe_violations):
    for path in kinds(out, tmp_path):
        for dark in (False, True):
            assert axe_violations(path, dark=dark) == [], (path.name, dark)


def test_a_long_method_name_fits_a_phone(copy, tmp_path, page):
    copy(change=lambda values: values.update(method="a_name_" * 12))
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto((tmp_path / "out" / "page.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_phone_and_a_keyboard(out, tmp_path, page):
    page.set_viewport_size({"width": 400, "height": 800})
    for path in kinds(out, tmp_path):
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, path.name
    page.goto(kinds(out, tmp_path)[1].as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.url.endswith("#content")
    drawn = page.evaluate("[...document.querySelectorAll('svg.plot')].map(svg => svg.getBoundingClientRect().width)")
    assert len(drawn) >= 4 and min(drawn) > 250 and max(drawn) <= 400
    marks = page.evaluate("[...document.querySelectorAll('svg.plot')].every(svg => !svg.outerHTML.includes('NaN'))")
    assert marks
