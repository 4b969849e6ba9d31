"""Figures: what they refuse, what they draw, how large they are, and that they show in a notebook and outside one."""

from __future__ import annotations

import base64
import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from wsolkit import figures

TAUS = np.linspace(0, 0.99, 50)


def photo(seed=0, shape=(224, 224)):
    """Something with the statistics of a photograph: smooth shapes and texture."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.random((n, n, 3)), shape[::-1], interpolation=cv2.INTER_CUBIC) for n in (4, 12, 48)]
    pixels = 140 * layers[0] + 80 * layers[1] + 40 * layers[2] + rng.normal(0, 3, (*shape, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def blob(side=14):
    yy, xx = np.mgrid[:side, :side] / side
    return np.exp(-((xx - 0.5) ** 2 + (yy - 0.5) ** 2) / 0.04)


def item(seed=0, **changes):
    truth = np.array([[50, 50, 150, 170]])
    return {
        "pixels": photo(seed),
        "score_map": blob(),
        "gt_boxes": truth,
        "box": np.array([60, 55, 150, 160]),
    } | changes


def decoded(uri):
    return base64.b64decode(uri.split(",", 1)[1])


@pytest.mark.parametrize("alt", ["", "  ", None])
def test_alt_text_is_required(alt):
    with pytest.raises(ValueError, match="alt text"):
        figures.show(figures.iou_histogram([0.5]), alt)


def test_show_outside_a_notebook_is_escaped_html():
    shown = figures.show(figures.bars({"<b>$cam$": 50}), 'a "quoted" <alt>', "<script>caption</script>")
    soup = BeautifulSoup(shown.data, "html.parser")
    assert soup.img["alt"] == 'a "quoted" <alt>' and soup.figcaption.get_text() == "<script>caption</script>"
    assert not soup.find("script") and soup.img["src"].startswith("data:image/svg+xml;base64,")
    svg = decoded(soup.img["src"]).decode()
    assert "&lt;b&gt;$cam$</text>" in svg, "text stays text and is no formula"
    assert "sans-serif" in svg


def test_svg_is_reproducible():
    first, second = (figures.svg_uri(figures.iou_histogram([0.2, 0.7])) for _ in range(2))
    assert first == second


def test_show_closes_pyplot_figures():
    import matplotlib.pyplot as plt

    fig = plt.figure()
    figures.show(fig, "an empty figure")
    assert not plt.fignum_exists(fig.number)


@pytest.mark.slow
def test_show_in_a_kernel(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    code = (
        "from wsolkit import figures\nfigures.show(figures.iou_histogram([.2, .7]), alt='two IoU values', caption='c')"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data" and 'alt="two IoU values"' in output.data["text/html"]


@pytest.mark.slow
def test_ten_montages_stay_below_a_megabyte():
    fig = figures.gallery([item(seed) for seed in range(12)])
    size = len(figures.figure_html(fig, "twelve birds", photo=True))
    assert 10 * size < 1_000_000
    image = Image.open(io.BytesIO(decoded(figures.photo_uri(fig))))
    assert image.format == "JPEG" and image.width >= 370


def test_overlay_by_hand():
    pixels = np.full((20, 30, 3), 100, np.uint8)
    mixed = figures.overlay(pixels, np.eye(5) * 7, alpha=0.5)
    assert mixed.shape == (20, 30, 3) and mixed.dtype == np.uint8
    assert (figures.overlay(pixels, np.eye(5), alpha=0) == pixels).all()
    # the highest score is viridis' yellow (253, 231, 37), mixed half and half
    peak = np.zeros((20, 30))
    peak[10, 10] = 3
    assert np.abs(figures.overlay(pixels, peak)[10, 10].astype(int) - [176, 166, 69]).max() <= 1
    for flat in (np.zeros((4, 4)), np.full((4, 4), np.nan)):
        assert figures.overlay(pixels, flat).shape == (20, 30, 3)


@pytest.mark.parametrize("pixels", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((3, 8, 8), np.uint8)])
def test_overlay_refuses_other_images(pixels):
    with pytest.raises(ValueError, match="uint8"):
        figures.overlay(pixels, np.eye(3))


def test_tensors_are_taken():
    torch = pytest.importorskip("torch")
    boxes = torch.tensor([[50, 50, 150, 170]])
    fig = figures.gallery([item(score_map=torch.rand(14, 14), gt_boxes=boxes, box=boxes[0])])
    assert "IoU 1.00" in fig.axes[0].get_title()


def test_boxes_differ_in_colour_and_line():
    axes = Figure().add_subplot()
    figures.draw_boxes(axes, [[2, 3, 5, 9], [-1, -1, -1, -1]], [0, 0, 20, 20], size=(20, 20))
    drawn = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    truth, prediction = drawn[1], drawn[3]  # each after its white under-stroke
    assert len(drawn) == 4
    assert truth.get_xy() == (1.5, 2.5) and (truth.get_width(), truth.get_height()) == (4, 7)
    assert (prediction.get_width(), prediction.get_height()) == (20, 20), "cut at the frame"
    assert truth.get_edgecolor() != prediction.get_edgecolor()
    assert truth.get_linestyle() == "-" != prediction.get_linestyle()


def test_gallery_titles():
    items = [item(), item(box=np.array([0, 0, 5, 5])), item(box=None), item(score_map=None, gt_boxes=np.zeros((0, 4)))]
    items.append(item(caption="a_very_long_class_name_with_$signs$", title="t"))
    fig = figures.gallery(items, columns=3)
    titles = [axes.get_title() for axes in fig.axes if axes.get_visible()]
    assert titles[0].startswith("✓ IoU 0.7") and titles[1] == "✗ IoU 0.00" and titles[2] == titles[3] == ""
    assert titles[4].splitlines()[:2] == ["t", "a_very_long_class_n…"]
    figures.photo_uri(fig)
    with pytest.raises(ValueError, match="at least one"):
        figures.gallery([])


def test_thumbnail():
    data = figures.thumbnail(photo(shape=(100, 200)), blob(), [[5, 5, 60, 60]], [10, 10, 70, 70], side=160)
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG" and image.size == (160, 80) and len(data) < 12_000
    upward = Image.open(io.BytesIO(figures.thumbnail(photo(shape=(64, 64)), blob(), side=160)))
    assert upward.size == (160, 160)


def test_accuracy_curves():
    curves = {name: (TAUS, 60 * np.exp(-((TAUS - 0.3) ** 2))) for name in ("cam", "_hidden", "$x$")}
    axes = figures.accuracy_curves(curves, {"cam": 0.3, "validation": 0.4, "none": None}, centre_box=41.0).axes[0]
    labels = [text.get_text().strip() for text in axes.get_legend().get_texts()]
    assert labels == ["cam", "_hidden", "$x$", "centre box"]
    assert len({(line.get_color(), str(line.get_linestyle())) for line in axes.lines[:1]}) == 1
    with pytest.raises(ValueError, match="'cam'"):
        figures.accuracy_curves({"cam": (TAUS, [1, 2])})
    with pytest.raises(ValueError, match="no curve"):
        figures.accuracy_curves({})


def test_history_figure_takes_csv_text_and_gaps():
    rows = [
        {"epoch": str(e), "train_loss": "1.5", "train_top1": 50, "val_loss": "", "val_top1": None} for e in range(3)
    ]
    fig = figures.history_figure(rows)
    assert len(fig.axes) == 2 and np.isnan(fig.axes[0].lines[1].get_ydata()).all()
    figures.svg_uri(fig)
    with pytest.raises(ValueError, match="empty"):
        figures.history_figure([])


def test_bars_histogram_and_scatter():
    fig = figures.bars({"CAM": 60, "+ NWC": 66.5}, {"CAM": (55, 65)}, reference=41)
    assert {text.get_text() for text in fig.axes[0].texts} == {"60.0", "66.5"}
    legend = figures.iou_histogram([0.2, 0.5, 0.9, 0.7]).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["75.0 % of 4 images", "IoU ≥ 0.5"]
    fig = figures.cost_scatter({"vgg16": {"cam": (0.01, 60)}, "resnet18": {"cam": (0.004, 50)}})
    assert fig.axes[0].get_xscale() == "log"
    figures.svg_uri(fig)
    for call, nothing in ((figures.bars, {}), (figures.iou_histogram, [])):
        with pytest.raises(ValueError, match="there is no"):
            call(nothing)


@pytest.mark.slow
def test_no_torch_on_import():
    code = "import sys; import wsolkit.figures, wsolkit.report.method_page, wsolkit.report.index, wsolkit.report.pages;"
    code += "sys.exit('torch' in sys.modules)"
    spare = "import types, pathlib, sys; p = types.ModuleType('wsolkit'); p.__path__ = [sys.argv[1]];"
    spare += "sys.modules['wsolkit'] = p;"  # the modules themselves, without what the package's __init__ offers
    folder = str(__import__("pathlib").Path(figures.__file__).parents[1])
    assert subprocess.run([sys.executable, "-c", spare + code, folder]).returncode == 0
