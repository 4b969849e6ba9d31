"""Pages from notebooks: structure, formulas, escaping, damaged files, no network, Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import v4
from page_checks import no_requests, well_formed

from wsolkit import figures
from wsolkit.report.notebook_page import mathml, notebook_to_html

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"
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
    assert "image not included: a plan" in words
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
    assert mathml(r"\alpha").startswith("<math")
    assert mathml(r"\frac{").startswith('<code class="formula">')
    assert "<script" not in mathml("<script>alert(1)</script>")
    assert "\U0001d7d9" in mathml(r"\mathbb{1}[a < b]")


# ------------------------------------------------------------------------------------------------ a browser


def chromium(profile, *arguments):
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium on this machine: pages were not opened in a browser")
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    options += "--disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=3000"
    command = [program, *options.split(), f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
def test_pages_open_in_chromium(tmp_path, rich):
    page(tmp_path, rich)
    report = tmp_path / "out" / "synthetic" / "vgg16" / "cam.html"
    for name, path in (("report", report),):
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
