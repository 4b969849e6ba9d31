"""Pages from notebooks and from a tree of runs: structure, formulas, escaping, damaged files, no network, Chromium."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from wsolkit import figures, markup
from wsolkit.report import COLUMNS, method_slug, notebook_to_html, read_rows, write_index

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"
METHODS = ["cam", "rethinking_cam", "grad_cam", "grad_cam++", "score_cam"]
FOOTER = {"seed": 0, "parameters": {"epochs": 3, "method": "cam"}, "versions": {"torch": "2.8"}, "device": None}

# ------------------------------------------------------------------------------------------------ material


def notebook(path, cells, errors=False):
    node = v4.new_notebook(cells=cells)
    node.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    node.metadata["language_info"] = {"name": "python"}
    nbformat.write(node, path)
    return path


def html_output(text):
    return v4.new_output("display_data", data={"text/html": text, "text/plain": "plain"})


def page(tmp_path, cells, title="cam on vgg16", **options):
    source = notebook(tmp_path / "a.ipynb", cells)
    target = notebook_to_html(source, tmp_path / "out" / "synthetic" / "vgg16" / "cam.html", title, FOOTER, **options)
    text = target.read_text(encoding="utf-8")
    return text, BeautifulSoup(text, "html.parser")


def picture(seed=0, side=96):
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:side, :side] / side
    bird = np.exp(-((xx - 0.3 - 0.3 * rng.random()) ** 2 + (yy - 0.5) ** 2) / 0.03)
    pixels = np.stack([90 + 120 * bird, 140 - 60 * yy * 0.5, 120 + 60 * yy], -1) + rng.normal(0, 6, (side, side, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8), bird[::8, ::8]


def result(gt=70.0, n=300, seconds=0.02):
    point = {"threshold": 0.35, "gt_known_loc": gt, "top1_loc": gt - 8, "top5_loc": gt - 1}
    return {
        "format": "wsolkit-result-1",
        "n_images": n,
        "n_val": 100,
        "n_classes": 8,
        "top1_cls": 93.3,
        "top5_cls": 99.0,
        "gt_known_loc": gt,
        "top1_loc": gt - 8,
        "top5_loc": gt - 1,
        "operating_point": "validation",
        "threshold": 0.35,
        "operating_points": {
            "fixed": point | {"threshold": 0.2, "gt_known_loc": gt - 10},
            "validation": point,
            "best_on_test": None,
        },
        "max_box_acc": gt + 2,
        "max_box_acc_v2": gt - 4,
        "pxap": None,
        "centre_box": {"gt_known_loc": 41.0, "top1_loc": 38.2, "best_on_test": 43.0, "side": 150},
        "intervals": {"gt_known_loc": [gt - 5, gt + 5], "centre_box": [36.0, 46.0]},
        "seconds_per_image": seconds,
        "peak_memory_mb": 512.5,
        "protocol": "wsolevaluation",
        "conditions": {"geometry": "resize", "maps": "ground-truth class"},
    }


def run(out, dataset, backbone, method, images=(), **changes):
    folder = out / "runs" / dataset / backbone / method_slug(method)
    (folder / "gallery").mkdir(parents=True)
    gallery = []
    for index, name in enumerate(images):
        pixels, score_map = picture(index)
        thumb = figures.thumbnail(pixels, score_map, [[20, 25, 70, 75]], [25, 30, 66, 70])
        (folder / "gallery" / f"{index}.jpg").write_bytes(thumb)
        gallery.append({"id": name, "file": f"gallery/{index}.jpg", "caption": "IoU 0.71"})
    taus = np.linspace(0, 0.99, 100)
    gt = changes.pop("gt", 70.0)
    values = {
        "status": "completed",
        "fingerprint": "abc",
        "config": {"dataset": dataset, "backbone": backbone, "method": method, "size": 224, "epochs": 12, "seed": 0}
        | {"weights": "imagenet", "stride": 16},
        "result": result(gt, changes.pop("n", 300), changes.pop("seconds", 0.02)),
        "curve": {"thresholds": taus.tolist(), "accuracy": (gt * np.exp(-((taus - 0.35) ** 2) / 0.08)).tolist()},
        "gallery": gallery,
        "versions": {"torch": "2.8.0"},
        "wall_seconds": 12.5,
        "finished": "2025-01-01T00:00:00",
    } | changes
    (folder / "metrics.json").write_text(json.dumps(values))
    report = out / dataset / backbone / f"{method_slug(method)}.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("<!DOCTYPE html><title>report</title>")
    return folder


def failure(out, dataset, backbone, method, status, error):
    folder = out / "runs" / dataset / backbone / method_slug(method)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"dataset": dataset, "backbone": backbone, "method": method}
    values = {"status": status, "error": error, "config": config, "log": f"runs/{backbone}/{method}.log"}
    (folder / "failure.json").write_text(json.dumps(values))


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
    write_index(out)
    return out


def index_of(out):
    text = (out / "index.html").read_text(encoding="utf-8")
    return text, BeautifulSoup(text, "html.parser")


def no_requests(text):
    """No address that a browser would load by itself, no script, and a policy that forbids both."""
    soup = BeautifulSoup(text, "html.parser")
    assert not soup.find_all(["script", "link", "iframe", "object", "embed", "base", "form"])
    for element in soup.find_all(True):
        for name, value in element.attrs.items():
            assert not name.startswith("on"), f"{name} on {element.name}"
            if name in ("src", "srcset", "poster", "background", "data", "xlink:href", "action"):
                assert str(value).startswith("data:image/"), f"{element.name} {name}={str(value)[:60]}"
            if name == "href":
                assert element.name == "a" and not re.match(r"\s*(javascript|data|vbscript):", value, re.I)
    for css in [style.get_text() for style in soup.find_all("style")] + [e["style"] for e in soup.select("[style]")]:
        assert "@import" not in css and "url(" not in css
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert "default-src 'none'" in policy and "img-src data:" in policy


def well_formed(text):
    soup = BeautifulSoup(text, "html.parser")
    assert len(soup.find_all("h1")) == 1 and soup.h1.get_text(strip=True)
    assert soup.html["lang"] == "en" and soup.find("meta", attrs={"name": "viewport"}) and soup.find(charset="utf-8")
    for image in soup.find_all("img"):
        assert image.get("alt", "").strip()
    for header in soup.find_all("th"):
        assert header.get("scope") in ("row", "col", "colgroup", "rowgroup")
    ids = [element["id"] for element in soup.find_all(id=True)]
    assert len(ids) == len(set(ids)), "ids are unique"
    for link in soup.select('a[href^="#"]'):
        assert link["href"][1:] in ids, link
    for table in soup.find_all("table"):
        assert table.find_parent(class_="scroll")


# ------------------------------------------------------------------------------------------------ notebooks


@pytest.fixture
def rich():
    fig = figures.bars({"cam": 60.0, "nwc": 66.0}, {"cam": (55, 65)})
    frame = '<div><style scoped>.dataframe {color: red}</style><table border="1" class="dataframe"><thead><tr><th></th>'
    frame += "<th>iou</th></tr></thead><tbody><tr><th>0</th><td>0.7</td></tr></tbody></table></div>"
    hidden = v4.new_code_cell("secret_input = 1", outputs=[v4.new_output("stream", text="shown output")])
    hidden.metadata["tags"] = ["hide-input"]
    removed = v4.new_code_cell("removed_input = 1", outputs=[v4.new_output("stream", text="removed output")])
    removed.metadata["tags"] = ["remove-cell"]
    defaults = v4.new_code_cell("epochs = 1  # how long")
    defaults.metadata["tags"] = ["parameters"]
    injected = v4.new_code_cell("epochs = 3")
    injected.metadata["tags"] = ["injected-parameters"]
    code = v4.new_code_cell(
        "import numpy as np\nfor x in range(3):  # a comment\n    print('text', x)",
        outputs=[
            v4.new_output("stream", text="line\n 10%\r 50%\r100% done\n"),
            v4.new_output("stream", name="stderr", text="UserWarning: careful <b>"),
            html_output(figures.figure_html(fig, 'bars with "quotes"', "A <caption>")),
            html_output(frame),
            v4.new_output("display_data", data={"text/latex": r"$\displaystyle \frac{a}{b}$"}),
            v4.new_output("display_data", data={"text/markdown": "an output with $x_1$"}),
            v4.new_output("display_data", data={"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'></svg>"}),
        ],
    )
    words = r"""# Plain CAM

The map is $M = \sum_c W_{y,c} F_c$ and costs \$5; code keeps `$HOME` and money like $5 and $6 stays.

## The idea

$$p_{b,c} = \frac{\sum_{hw} K}{n}, \quad \theta = \tau \max_{hw} F$$

\begin{align} a &= b \\ c &= d \end{align}

| a | b |
|---|---|
| 1 | 2 |

## The idea

### A detail

```python
price = "$x$"
```

Broken: $\frac{a}{$ and $\unknowncommand{x}$. See [a page](https://example.org/x) and ![a plan](plan.png)."""
    return [v4.new_markdown_cell(words), defaults, injected, code, hidden, removed]


def test_report_page(tmp_path, rich):
    text, soup = page(tmp_path, rich, banner="Score-CAM used 16 images <only>")
    well_formed(text)
    no_requests(text)
    assert soup.h1.get_text() == "cam on vgg16"
    assert soup.select_one(".subtitle").get_text() == "Plain CAM"
    assert "Score-CAM used 16 images &lt;only&gt;" in text
    contents = [(link["href"], link.get_text()) for link in soup.select("nav a")]
    assert contents == [("#the-idea", "The idea"), ("#the-idea-2", "The idea"), ("#a-detail", "A detail")]
    assert soup.select_one(".back a")["href"] == "../../index.html"
    assert {"seed", "parameters", "versions", "device"} == {th.get_text() for th in soup.select("footer th")}
    assert "epochs = 3, method = cam" in soup.footer.get_text() and "not known" in soup.footer.get_text()


def test_report_folds_code_and_obeys_tags(tmp_path, rich):
    text, soup = page(tmp_path, rich)
    summaries = [summary.get_text() for summary in soup.select("details.code summary")]
    assert summaries == ["Code: default parameters", "Code: the parameters of this run", "Code"]
    assert not soup.select("details[open]")
    assert "secret_input" not in text and "shown output" in text
    assert "removed_input" not in text and "removed output" not in text
    assert "100% done" in text and "50%" not in text  # a progress bar's last state
    assert soup.select_one("details.messages").get_text().count("UserWarning: careful <b>") == 1
    assert ".dataframe {color" not in text and soup.select_one("table.dataframe td").get_text() == "0.7"
    figure = soup.select_one("figure.chart")
    assert figure.img["alt"] == 'bars with "quotes"' and figure.figcaption.get_text() == "A <caption>"


def test_report_formulas(tmp_path, rich):
    _, soup = page(tmp_path, rich)
    assert len(soup.select('math[display="block"]')) >= 3 and soup.select('math[display="inline"]')
    assert soup.select(".output math"), "formulas in Markdown outputs"
    display = soup.select_one('math[display="block"]')
    assert display.find("munder").mo.get_text() == "max" and display.find("mfrac")
    assert soup.select("mtable"), "align"
    words = soup.main.get_text()
    assert "costs $5" in words and "$HOME" in words and "$5 and $6" in words and '"$x$"' in words
    broken = [code.get_text() for code in soup.select("code.formula")]
    assert broken == [r"\frac{a}{", r"\unknowncommand{x}"]
    assert "picture not included: a plan" in words
    assert soup.find("a", href="https://example.org/x")


@pytest.mark.parametrize("where", ["markdown", "html", "output_markdown", "latex", "error", "stream", "title", "svg"])
@pytest.mark.parametrize(
    "attack",
    [
        EVIL,
        '<a href="javascript:alert(1)">x</a>',
        '<a href="java&#x09;script:alert(1)">x</a>',
        '<a href="data:text/html,<script>alert(1)</script>">x</a>',
        "[x](javascript:alert(1))",
        '<img src="https://example.org/a.png" alt="a"><link rel=stylesheet href="https://example.org/a.css">',
        '<div style="background:url(https://example.org/a.png)" onclick="alert(1)">x</div>',
        "<style>@import url(https://example.org/a.css)</style><iframe src=https://example.org></iframe>",
        "<svg onload=alert(1)><use href='https://example.org/a.svg#x'/></svg>",
        "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
        "<math href='javascript:alert(1)'><mi xlink:href='javascript:alert(1)'>x</mi></math>",
        "$x<img src=x onerror=alert(1)>$ and $$\\text{<script>alert(1)</script>}$$",
        "<form action=https://example.org><input name=a></form><base href=https://example.org>",
        "</details></section></main><script>alert(1)</script>",
    ],
)
def test_report_is_safe(tmp_path, where, attack):
    outputs = {
        "html": [html_output(attack)],
        "output_markdown": [v4.new_output("display_data", data={"text/markdown": attack})],
        "latex": [v4.new_output("display_data", data={"text/latex": attack})],
        "svg": [v4.new_output("display_data", data={"image/svg+xml": attack})],
        "stream": [v4.new_output("stream", text=attack)],
        "error": [v4.new_output("error", ename=attack, evalue=attack, traceback=[attack])],
    }.get(where, [])
    cells = [
        v4.new_markdown_cell(attack if where == "markdown" else "## Words"),
        v4.new_code_cell("1", outputs=outputs),
    ]
    text, _ = page(tmp_path, cells, title=attack if where == "title" else "title")
    no_requests(text)
    assert len(BeautifulSoup(text, "html.parser").find_all("h1")) == 1


def test_failed_notebook(tmp_path):
    marker = v4.new_markdown_cell('<span id="papermill-error-cell" style="color:red">Execution stopped here</span>')
    marker.metadata["tags"] = ["papermill-error-cell-tag"]
    error = v4.new_output(
        "error", ename="ValueError", evalue="no such <file>", traceback=["\x1b[31mValueError\x1b[0m: no"]
    )
    cells = [
        v4.new_markdown_cell("## Part"),
        marker,
        v4.new_code_cell("boom()", outputs=[error]),
        v4.new_code_cell("after"),
    ]
    text, soup = page(tmp_path, cells)
    well_formed(text)
    banner = soup.header.select_one(".banner.failed")
    assert "ValueError: no such <file>" in banner.get_text() and banner.a["href"] == "#error"
    assert "Execution stopped here" not in text and "\x1b" not in text
    assert soup.find(id="error").select_one("details pre")


def test_absent_and_damaged_notebook(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.ipynb"):
        notebook_to_html(tmp_path / "nothing.ipynb", tmp_path / "a.html", "a", {})
    (tmp_path / "bad.ipynb").write_text("{half")
    with pytest.raises(ValueError, match=r"bad\.ipynb"):
        notebook_to_html(tmp_path / "bad.ipynb", tmp_path / "a.html", "a", {})
    assert not (tmp_path / "a.html").exists()


def test_mathml_falls_back():
    assert markup.mathml(r"\alpha").startswith("<math")
    assert markup.mathml(r"\frac{").startswith('<code class="formula">')
    assert "<script" not in markup.mathml("<script>alert(1)</script>")
    assert "\U0001d7d9" in markup.mathml(r"\mathbb{1}[a < b]")


# ------------------------------------------------------------------------------------------------ index


def test_method_slug():
    assert [method_slug(name) for name in ("cam", "grad_cam++")] == ["cam", "grad_cam_plusplus"]


def test_index_page(tree):
    text, soup = index_of(tree)
    well_formed(text)
    no_requests(text)
    assert len(text.encode()) < 3_000_000
    results = soup.select("table.results:not(.points)")
    assert len(results) == 2
    links = {link["href"] for link in results[1].select("a")}
    assert "synthetic/vgg16/grad_cam_plusplus.html" in links and len(links) == 10
    assert all((tree / link).is_file() for link in links)
    assert soup.find("a", href="results.csv")
    assert len(soup.select("table.thumbs img")) == 60 + 2


def test_index_marks_and_deltas(tree):
    _, soup = index_of(tree)
    rows = {
        row.th.get_text(): row.find_all("td") for row in soup.select("table.results:not(.points)")[1].select("tbody tr")
    }
    plain, best, limited = (rows[name][0].get_text(" ", strip=True) for name in ("cam", "grad_cam++", "score_cam"))
    assert "to cam" not in plain and "+14.0 to centre box" in plain  # resnet18: 55 against 41
    assert "+9.0 to cam" in best and "[59.0 to 69.0]" in best
    assert rows["grad_cam++"][0].select_one(".value.best") and not rows["score_cam"][0].select_one(".best")
    assert "≈" in rows["grad_cam"][0].get_text() and "≈" not in plain
    assert "† 16 images" in limited and "score_cam on vgg16 used 16" in soup.get_text()
    box = next(cells for name, cells in rows.items() if name.startswith("centre box"))
    assert "41.0" in box[0].get_text() and "36.0 to 46.0" in box[0].get_text()


def test_index_troubles_and_published(tree):
    text, soup = index_of(tree)
    assert EVIL not in text and "&lt;script&gt;alert(1)" in text
    cub = soup.find(id="data-cub").parent
    table = cub.select_one("table.results:not(.points)").get_text(" ", strip=True)
    assert "not defined cam is not defined on vgg16_fc: no pooling before the head" in table
    assert "failed ValueError:" in table
    assert "Traceback\n  a line" in cub.select_one("details pre").get_text() + "".join(
        pre.get_text() for pre in cub.select("details pre")
    )
    published = cub.find(id="data-cub-published").find_next("table").get_text(" ", strip=True)
    assert "56.0 44.2" in published and "the study this kit grew out of" in published
    assert "network mobilenet_v2, 300 of 5794 test images" in published
    assert soup.find(id="data-synthetic-published") is None


def test_results_csv(tree):
    with open(tree / "results.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    expected = "dataset,backbone,method,n_images,top1_cls,top5_cls,gt_known_loc,top1_loc,top5_loc,max_box_acc,"
    expected += "max_box_acc_v2,pxap,seconds_per_image,peak_memory_mb,status"
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
        json.dumps({"status": "completed", "result": [], "curve": {"thresholds": [0.1], "accuracy": [1, 2]}}),
        json.dumps({"status": "completed", "result": {}, "gallery": ["x"]}),
        json.dumps({"status": "completed", "result": {"centre_box": {"gt_known_loc": True}}}),
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
    assert "runs/synthetic/vgg16/grad_cam/metrics.json is damaged" in text


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
        (folder / "gallery" / f"{index}.jpg").write_bytes(b"\xff\xd8" + bytes(900_000))
    write_index(tmp_path)
    text, soup = index_of(tmp_path)
    assert len(text.encode()) < 3_000_000
    assert len(soup.select("table.thumbs img")) == 1 and "2 more in the reports" in soup.get_text()


# ------------------------------------------------------------------------------------------------ a browser


def chromium(profile, *arguments):
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium on this machine: pages were not opened in a browser")
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    options += "--disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=3000"
    command = [program, *options.split(), f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_pages_open_in_chromium(tmp_path, tree, rich):
    page(tmp_path, rich)
    report = tmp_path / "out" / "synthetic" / "vgg16" / "cam.html"
    for name, path in (("report", report), ("index", tree / "index.html")):
        dump = chromium(tmp_path / "profile", "--dump-dom", path.as_uri())
        assert "<h1" in dump
        shot = tmp_path / f"{name}.png"
        chromium(tmp_path / "profile", f"--screenshot={shot}", "--window-size=1280,900", path.as_uri())
        assert shot.stat().st_size > 10_000
        # a phone: a frame 400 pixels wide, whose document may not be wider than that
        frame = tmp_path / "frame.html"
        code = "const d = f.contentDocument.documentElement; document.title = d.scrollWidth + 'x' + d.clientWidth"
        frame.write_text(
            f'<iframe id="f" src="{path.as_uri()}" style="width:400px;height:900px;border:0" onload="{code}"></iframe>'
        )
        measured = chromium(tmp_path / "profile", "--allow-file-access-from-files", "--dump-dom", frame.as_uri())
        widths = re.search(r"<title>(\d+)x(\d+)</title>", measured)
        assert widths and int(widths[1]) <= int(widths[2]) <= 400, measured[:300]
