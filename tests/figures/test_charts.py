"""Figures of failures: what is on them, and what they refuse. Names that are long, odd or many must not break them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from wsolkit import figures
from wsolkit.evaluation.per_image import FAILURES, failure_counts, slices
from wsolkit.evaluation.results import EvalResult

RNG = np.random.default_rng(4)


def table(n: int = 80, classes: int = 5, shares=(0.5, 0.2, 0.1, 0.1, 0.06, 0.04)) -> pd.DataFrame:
    kinds = RNG.choice(list(FAILURES), n, p=shares)
    ious = np.where(np.isin(kinds, ["right", "wrong class"]), 0.7, 0.3)
    values = {"label": RNG.integers(0, classes, n), "right": kinds == "right", "iou": ious, "failure": kinds}
    return pd.DataFrame(values | {"object_share": RNG.random(n) ** 2, "aspect": np.exp(RNG.normal(size=n) / 2)})


def words(axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


def test_failure_bars():
    two = table(4).assign(failure=["right", "right", "too large", "background"])
    axes = figures.failure_bars(
        {"CAM": failure_counts(two), "_a$long$ name that goes over several lines": failure_counts(table(100))}
    ).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(FAILURES)  # the order of tables
    assert words(axes)[:1] == ["50"] and sum(bar.get_width() for bar in axes.patches[::2]) == pytest.approx(100)
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names[0] == "CAM" and "\n" in names[1]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in axes.patches}) == len(FAILURES)
    figures.svg_uri(axes.figure)
    with pytest.raises(ValueError, match="no method"):
        figures.failure_bars({})


def test_only_parts_with_room_are_labelled():
    rows = ["right"] * 95 + ["background"] * 4 + ["too large"]
    axes = figures.failure_bars({"CAM": failure_counts(table(100).assign(failure=rows))}).axes[0]
    assert words(axes) == ["95"]


@pytest.mark.parametrize("kind", ["all", "size", "aspect", "class"])
@pytest.mark.parametrize("methods", [1, 3, 5])
def test_slice_bars(kind, methods):
    frames = {f"method {index}": slices(table()) for index in range(methods)}
    axes = figures.slice_bars(frames if methods > 1 else frames["method 0"], kind).axes[0]
    expected = frames["method 0"].query("kind == @kind")
    assert len(axes.get_yticklabels()) == len(expected) and len(axes.patches) == methods * len(expected)
    assert [bar.get_width() for bar in axes.patches[: len(expected)]] == expected["gt_known_loc"].fillna(0).tolist()
    assert (axes.get_legend() is None) == (methods == 1)
    lines = [segment[:, 0] for segment in axes.containers[1].errorbar.lines[2][0].get_segments() if len(segment)]
    for pair, (_, row) in zip(lines, expected.dropna(subset="low").iterrows(), strict=True):
        assert list(pair) == pytest.approx([row["low"], row["high"]])
    figures.svg_uri(axes.figure)


def test_slices_without_images_say_so():
    frame = slices(table().assign(object_share=0.05))
    axes = figures.slice_bars(frame).axes[0]
    assert words(axes).count("no image") == 3
    assert [text.get_text().splitlines()[1] for text in axes.get_yticklabels()] == ["80 images"] + ["0 images"] * 3


def test_many_classes_show_both_ends():
    frame = slices(
        table(3000, classes=150), classes=[f"{index:03d}.A_rather_long_name_of_a_bird" for index in range(150)]
    )
    axes = figures.slice_bars({"a": frame, "b": frame}, "class").axes[0]
    assert axes.get_xlabel().endswith(", 10 lowest and 10 highest of 150 classes") and len(axes.get_yticklabels()) == 20
    widths = [bar.get_width() for bar in axes.patches[:20]]
    assert widths == sorted(widths)
    assert all(len(text.get_text()) <= 32 for text in axes.get_yticklabels())
    assert axes.figure.get_figheight() < 16


def test_what_slice_bars_refuse():
    with pytest.raises(ValueError, match="no slice of kind 'colour' to draw; there are all, aspect, class, size"):
        figures.slice_bars(slices(table()), "colour")
    with pytest.raises(ValueError, match="there are none"):
        figures.slice_bars({})
    with pytest.raises(ValueError, match="same name"):
        figures.slice_bars(slices(table(), classes=["crane"] * 5), "class")


def test_iou_histogram_of_several_methods():
    axes = figures.iou_histogram({"CAM": [0.2, 0.5, 0.9, 0.7, np.nan], "Grad-CAM": [0.1, 0.1]}).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["CAM: 75.0 % of 4 images", "Grad-CAM: 0.0 % of 2 images", "IoU ≥ 0.5"]
    heights = axes.patches[-1].get_data().values
    assert heights[2] == 100 and heights.sum() == 100
    one = figures.iou_histogram([0.2, 0.7, np.nan]).axes[0]
    assert one.get_legend().get_texts()[0].get_text() == "50.0 % of 2 images"
    figures.svg_uri(axes.figure)
    for nothing in ({}, {"CAM": []}, [np.nan]):
        with pytest.raises(ValueError, match="no IoU"):
            figures.iou_histogram(nothing)


def test_curve_of_a_result():
    curve = {"thresholds": [0.0, 0.5], "gt_known_loc": [40.0, 60.0]}
    axes = figures.accuracy_curves({"CAM": curve, "plain": ([0.0, 0.5], [10.0, 20.0])}, marks={"CAM": 0.25}).axes[0]
    assert axes.lines[0].get_ydata().tolist() == [40.0, 60.0] and axes.lines[1].get_ydata().tolist() == [50.0]
    with pytest.raises(ValueError, match="'CAM' has no gt_known_loc"):
        figures.accuracy_curves({"CAM": {"thresholds": [0.0]}})


def test_a_result_brings_its_operating_points_and_its_centre_box():
    point = {"threshold": 0.4, "gt_known_loc": 61.5}
    result = EvalResult(
        curve={"thresholds": [0.0, 0.5], "gt_known_loc": [40.0, 60.0]},
        threshold=0.4,
        operating_points={"validation": point, "fixed": {"threshold": 0.2, "gt_known_loc": 50.0}, "best_on_test": None},
        centre_box={"gt_known_loc": 41.0},
    )
    axes = figures.accuracy_curves({"CAM": result}).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["CAM", "fixed threshold: 50.0 % at 0.2", "chosen on validation: 61.5 % at 0.4", "centre box"]
    assert axes.lines[0].get_xdata().tolist() == [0.0, 0.2, 0.4, 0.5], "the thinned curve goes through its points"
    assert result.threshold in [line.get_xdata()[0] for line in axes.lines]
    with pytest.raises(ValueError, match="curve"):
        figures.accuracy_curves({"CAM": EvalResult()})


def test_sixty_series_look_different():
    assert len({tuple(map(str, figures.look(index).values())) for index in range(60)}) == 60


def test_inline_svg_has_no_ids_takes_the_page_colours_and_names_its_series():
    curves = {"<b>&": ([0.0, 0.5], [40.0, 60.0]), "_plain": ([0.0, 0.5], [10.0, 20.0])}
    fig = figures.accuracy_curves(curves, marks={"<b>&": 0.3, "_plain": 0.1}, centre_box=30.0)
    text = figures.inline_svg(fig, 'a "label" <x>', titles={"<b>&": "said"})
    soup = BeautifulSoup(text, "html.parser")
    assert soup.svg["aria-label"] == 'a "label" <x>' and len(soup.svg["viewbox"].split()) == 4
    assert not soup.find_all(id=True) and not soup.find_all(["use", "defs", "metadata", "style", "clippath"])
    assert "#0173b2" not in text and "var(--c0)" in text and "var(--c1)" in text and "var(--grid)" in text
    series = soup.select('[data-method="<b>&"]')
    assert len(series) == 4 and {group.title.get_text() for group in series} == {"said"}, "line, mark, key, its text"
    assert len(soup.select('[data-method="_plain"]')) == 4
    point = {"fixed": {"threshold": 0.588, "gt_known_loc": 51.25}}
    said = figures.inline_svg(
        figures.accuracy_curves({"v1.25": ([0.0, 0.9], [40.0, 60.0])}, points={"v1.25": point}), "0.125"
    )
    assert "51.2 % at 0.588<" in said and 'data-method="v1.25"' in said and 'aria-label="0.125"' in said
    assert figures.inline_svg(figures.accuracy_curves(curves), "x") == figures.inline_svg(
        figures.accuracy_curves(curves), "x"
    )
