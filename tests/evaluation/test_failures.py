"""Failure types by hand and against a plain computation, slices, and the per-image table read from its file."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsolkit.boxes import extract as boxes
from wsolkit.evaluation import per_image
from wsolkit.evaluation.metrics import share_interval

OBJECT = [20, 20, 59, 59]  # 40 x 40
PAIR = [[0, 0, 19, 19], [40, 0, 59, 19]]


def text(truths) -> str:
    return "; ".join(" ".join(map(str, box)) for box in np.reshape(truths, (-1, 4)).tolist())


def table(predicted, truths, right=None, size=100, labels=None) -> pd.DataFrame:
    """A per-image table as an evaluation makes it."""
    n = len(predicted)
    predicted, labels = np.array(predicted), np.zeros(n, int) if labels is None else np.array(labels)
    right = np.ones(n, bool) if right is None else right
    shapes = [per_image.object_shape(truth, size) for truth in truths]
    ious = np.array(
        [boxes.iou(box, boxes.ground_truth(truth)).max() for box, truth in zip(predicted, truths, strict=True)]
    )
    columns = {"id": [f"{i:03d}" for i in range(n)], "label": labels, "predicted": labels, "right": right, "iou": ious}
    columns |= {"iou_best_on_test": ious, "localised": ious >= 0.5}
    columns |= {name: predicted[:, column] for column, name in enumerate(("x0", "y0", "x1", "y1"))}
    columns |= {"empty": np.zeros(n, bool), "gt_boxes": [text(truth) for truth in truths]}
    columns |= {"object_share": [share for share, _ in shapes], "aspect": [aspect for _, aspect in shapes]}
    columns["failure"] = per_image.failure_types(predicted, truths, right)
    return pd.DataFrame(columns)


def failure_type(box, truths, right=True, empty=False, delta=0.5) -> str:
    return per_image.failure_types([box], [truths], [right], [empty], delta)[0]


# ------------------------------------------------------------------------------------------------ types, by hand


@pytest.mark.parametrize(
    ("box", "truths", "expected"),
    [
        (OBJECT, OBJECT, "right"),
        ([20, 20, 59, 39], OBJECT, "right"),  # IoU exactly 0.5
        ([20, 20, 59, 38], OBJECT, "part only"),  # 760 / 1600
        ([30, 30, 39, 39], OBJECT, "part only"),
        ([0, 20, 39, 59], OBJECT, "background"),  # half of the box on the object, half of the object covered
        ([1, 20, 40, 59], OBJECT, "part only"),  # 840 of 1600
        ([0, 0, 99, 99], OBJECT, "too large"),
        ([3, 0, 22, 9], [0, 0, 9, 9], "too large"),  # covers exactly 70 of 100, IoP 0.35
        ([4, 0, 23, 9], [0, 0, 9, 9], "background"),  # covers 60
        (
            [28, 0, 167, 9],
            [0, 0, 99, 9],
            "part only",
        ),  # IoP 0.51 comes before IoG 0.72, though the box is the larger one
        ([80, 80, 99, 99], OBJECT, "background"),
        ([60, 60, 99, 99], OBJECT, "background"),  # touches its corner
        ([59, 59, 99, 99], OBJECT, "background"),  # shares one pixel
        ([0, 0, 59, 19], PAIR, "multiple instances"),
        ([0, 0, 19, 19], PAIR, "right"),
        ([40, 0, 59, 19], PAIR, "right"),
        ([0, 0, 32, 39], [[0, 0, 19, 19], [30, 0, 39, 9]], "too large"),  # 30 of 100 of the second: not more than 0.3
        ([0, 0, 33, 39], [[0, 0, 19, 19], [30, 0, 39, 9]], "multiple instances"),
        ([0, 0, 59, 19], [PAIR[0], [-1, -1, -1, -1]], "too large"),  # a padding row is no second object
        ([22, 0, 37, 19], PAIR, "background"),  # between the two
        ([5, 5, 9, 9], PAIR, "part only"),
        ([45, 5, 49, 9], PAIR, "part only"),  # of the second
        ([0, 0, 0, 0], [0, 0, 19, 19], "part only"),  # a true one-pixel box
    ],
)
def test_types_by_hand(box, truths, expected):
    assert failure_type(box, truths) == expected
    hit = expected == "right"
    assert failure_type(box, truths, right=False) == ("wrong class" if hit else expected)
    assert failure_type(box, truths, right=None) == expected
    assert failure_type(box, truths, empty=True) == ("right" if hit else "background")


def test_delta_decides_what_a_hit_is():
    half = [20, 20, 59, 39]
    assert failure_type(half, OBJECT, delta=0.51) == "part only"
    assert failure_type([30, 30, 39, 39], OBJECT, delta=0.05) == "right"
    for delta in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="delta"):
            failure_type(half, OBJECT, delta=delta)


def test_unknown_classes_may_be_mixed_with_known_ones():
    predicted, truths = [OBJECT] * 5, [OBJECT] * 5
    expected = ["right", "wrong class", "right", "right", "right"]
    for unknown in ([True, False, None, np.nan, pd.NA], pd.array([True, False, None, None, None], dtype="boolean")):
        assert per_image.failure_types(predicted, truths, unknown) == expected
    assert per_image.failure_types(predicted, truths) == ["right"] * 5
    assert per_image.failure_types(np.array(predicted, np.uint8), [np.array(OBJECT, np.uint8)] * 5) == ["right"] * 5
    assert per_image.failure_types(np.zeros((0, 4)), []) == []


def test_every_type_has_a_definition_and_an_order():
    names = ["right", "wrong class", "part only", "too large", "multiple instances", "background"]
    assert list(per_image.FAILURES) == names
    assert all(
        words.endswith(".") and words.count(".") - words.count("0.5") == 1 for words in per_image.FAILURES.values()
    )


def test_wrong_boxes_are_named():
    with pytest.raises(ValueError, match="one entry per image is expected everywhere, got lengths"):
        per_image.failure_types([OBJECT], [OBJECT, OBJECT])
    with pytest.raises(ValueError, match="one entry per image is expected everywhere, got lengths"):
        per_image.failure_types([OBJECT], [OBJECT], right=[True, False])
    with pytest.raises(ValueError, match=r"shape \(N, 4\)"):
        per_image.failure_types([[1, 2, 3]], [OBJECT])
    with pytest.raises(ValueError, match="image 1: no ground-truth box"):
        per_image.failure_types([OBJECT, OBJECT], [OBJECT, [[-1, -1, -1, -1]]])
    with pytest.raises(ValueError, match=r"rows 0, 1, .* and 5 more"):
        per_image.failure_types([[9, 9, 2, 2]] * 25, [OBJECT] * 25)


# ------------------------------------------------------------------------------------------------ types, in general


def published(box, truths, right: bool, empty: bool) -> str:
    """The order and thresholds of the published analysis, one box after the other."""

    def shared(a, b):
        width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) + 1 for k in (0, 1))
        return max(0, width) * max(0, height)

    def area(a):
        return (a[2] - a[0] + 1) * (a[3] - a[1] + 1)

    ious = [shared(box, truth) / (area(box) + area(truth) - shared(box, truth)) for truth in truths]
    best = truths[ious.index(max(ious))]
    if max(ious) >= 0.5:
        return "right" if right else "wrong class"
    if empty:
        return "background"
    if sum(shared(box, truth) / area(truth) > 0.3 for truth in truths) > 1:
        return "multiple instances"
    if shared(box, best) / area(box) > 0.5:
        return "part only"
    return "too large" if shared(box, best) / area(best) >= 0.7 else "background"


@st.composite
def a_box(draw):
    x0, y0 = draw(st.integers(0, 20)), draw(st.integers(0, 20))
    return [x0, y0, x0 + draw(st.integers(0, 20)), y0 + draw(st.integers(0, 20))]


IMAGES = st.lists(
    st.tuples(a_box(), st.lists(a_box(), min_size=1, max_size=4), st.booleans(), st.booleans()), min_size=1, max_size=12
)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(IMAGES)
def test_one_type_per_image_and_the_shares_are_the_accuracies(images):
    predicted, truths, right, empty = (list(part) for part in zip(*images, strict=True))
    types = per_image.failure_types(predicted, truths, right, empty)
    assert types == [published(*image) for image in images]
    ious = np.array([boxes.iou(box, truth).max() for box, truth in zip(predicted, truths, strict=True)])
    assert [kind in ("right", "wrong class") for kind in types] == (ious >= 0.5).tolist()  # GT-known Loc
    assert [kind == "right" for kind in types] == ((ious >= 0.5) & np.array(right)).tolist()  # Top-1 Loc
    assert types == [failure_type(*image) for image in images]


def test_many_images_are_quick():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 100, (20_000, 2, 2))
    many = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    assert set(per_image.failure_types(many, [[box] for box in many[::-1]])) <= set(per_image.FAILURES)


# ------------------------------------------------------------------------------------------------ shapes and slices


def test_object_shape():
    assert per_image.object_shape(OBJECT, 100) == (0.16, 1.0)
    assert per_image.object_shape([[0, 0, 9, 9], [10, 10, 39, 19]], (50, 100)) == (300 / 5000, 3.0)
    assert per_image.object_shape([[0, 0, 99, 49]], (50, 100)) == (1.0, 2.0)
    assert per_image.object_shape([[0, 0, 9, 19], [0, 0, 19, 9]], 100) == (0.02, 0.5), "the first of equals"
    with pytest.raises(ValueError, match="no ground-truth box"):
        per_image.object_shape(np.zeros((0, 4)), 100)


def sides(*shapes):
    return [[[0, 0, width - 1, height - 1]] for width, height in shapes]


def test_slices_by_hand():
    truths = sides((20, 49), (20, 50), (50, 20), (50, 50), (40, 60), (99, 99))
    found = [truth[0] for truth in truths]
    found[1], found[3] = [90, 90, 99, 99], [0, 0, 9, 9]
    right = np.array([True, True, False, True, True, True])
    frame = per_image.slices(table(found, truths, right, labels=[2, 0, 0, 2, 7, 2]), classes=["ant", "bee", "cat"])
    assert list(frame.columns[:8]) == ["kind", "slice", "n", "gt_known_loc", "low", "high", "mean_iou", "top1_loc"]
    assert list(frame.columns[8:]) == list(per_image.FAILURES)
    rows = frame.set_index(["kind", "slice"])
    assert rows.loc[("all", "all images"), "n"] == 6
    size = rows.loc["size"]
    assert size.index.tolist() == ["below 10 %", "10 to 25 %", "25 to 50 %", "50 % and more"]
    assert size["n"].tolist() == [1, 3, 1, 1]  # 0.098; 0.1, 0.1, 0.24; 0.25; 0.98
    assert rows.loc["aspect", "n"].tolist() == [2, 3, 1]  # 40 x 60 is exactly 2/3, and about square
    assert rows.loc["class"].index.tolist() == ["ant", "cat", "7"] and rows.loc["class", "n"].tolist() == [2, 3, 1]
    ant = rows.loc[("class", "ant")]
    assert ant["gt_known_loc"] == 50 and ant["top1_loc"] == 0 and ant["wrong class"] == 50 and ant["background"] == 50
    assert ant["mean_iou"] == 0.5 and (ant["low"], ant["high"]) == share_interval([True, False])
    everything = rows.loc[("all", "all images")]
    assert everything["right"] == everything["top1_loc"] == 50 and everything["part only"] == pytest.approx(100 / 6)
    assert everything[list(per_image.FAILURES)].sum() == pytest.approx(100)
    hits = np.array([True, False, True, False, True, True])
    assert (everything["low"], everything["high"]) == share_interval(hits)


def test_edges_of_aspect():
    shapes = sides((60, 40), (61, 40), (40, 60), (40, 61))
    aspect = per_image.slices(table([truth[0] for truth in shapes], shapes)).query("kind == 'aspect'")
    assert aspect["n"].tolist() == [1, 2, 1], "3:2 and 2:3 themselves are about square"


def test_empty_slices_and_unknown_classes():
    frame = per_image.slices(table([OBJECT], [[OBJECT]], right=np.array([None]))).set_index("slice")
    assert frame["n"].tolist() == [1, 0, 1, 0, 0, 0, 1, 0, 1]
    assert frame.loc["below 10 %"].drop(["kind", "n"]).isna().all() and frame.loc["about square", "gt_known_loc"] == 100
    assert np.isnan(frame.loc["0", "top1_loc"]) and frame.loc["0", "right"] == 100
    with pytest.raises(ValueError, match="lacks the columns aspect"):
        per_image.slices(table([OBJECT], [[OBJECT]]).drop(columns="aspect"))
    with pytest.raises(ValueError, match="object_share"):
        per_image.slices(table([OBJECT], [[OBJECT]]).assign(object_share=np.nan))


def test_images_without_boxes_are_left_out():
    good = table([OBJECT, [0, 0, 5, 5]], [[OBJECT], [OBJECT]])
    both = pd.concat([good, good.assign(iou=np.nan, failure="", gt_boxes="")], ignore_index=True)
    assert per_image.failure_counts(both) == per_image.failure_counts(good)
    pd.testing.assert_frame_equal(per_image.slices(both), per_image.slices(good))
    with pytest.raises(ValueError, match="no ground-truth boxes"):
        per_image.failure_counts(good.assign(iou=np.nan))


def test_failure_counts():
    counts = per_image.failure_counts(table([OBJECT, OBJECT, [0, 0, 99, 99]], [[OBJECT]] * 3, [True, False, True]))
    assert counts == dict.fromkeys(per_image.FAILURES, 0) | {"right": 1, "wrong class": 1, "too large": 1}
    assert list(counts) == list(per_image.FAILURES) and all(type(count) is int for count in counts.values())
    with pytest.raises(ValueError, match="unknown failure types too small"):
        per_image.failure_counts(table([OBJECT], [[OBJECT]]).assign(failure="too small"))


# ------------------------------------------------------------------------------------------------ the file


IDS = ["007", "NA", "nan", "1e5", "a/b c.jpg", 'q"uote', "comma,name", "ü.png", "None", "two\nlines"]


def many() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    n = len(IDS)
    corner = rng.integers(0, 30, (n, 2))
    predicted = np.concatenate([corner, corner + rng.integers(5, 60, (n, 2))], axis=1)
    return table(predicted, [[OBJECT, [0, 0, 9, 9]]] * n, rng.random(n) < 0.5, labels=range(n)).assign(id=IDS)


def test_the_file_gives_back_the_table(tmp_path):
    made, path = many(), tmp_path / "per_image.csv"
    made.to_csv(path, index=False, lineterminator="\n")
    read = per_image.read_per_image(path)
    pd.testing.assert_frame_equal(read, made, check_exact=True)
    assert read["id"].tolist() == IDS and read["right"].dtype == bool and read["label"].dtype == np.int64
    assert per_image.failure_counts(tmp_path) == per_image.failure_counts(path) == per_image.failure_counts(made)
    pd.testing.assert_frame_equal(per_image.slices(path), per_image.slices(made))
    pd.testing.assert_frame_equal(per_image.slices(pd.read_csv(path)), per_image.slices(made))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))  # as a spreadsheet saves it
    pd.testing.assert_frame_equal(per_image.read_per_image(path).iloc[:-1], made.iloc[:-1])


def test_empty_cells(tmp_path):
    made = many().astype(dict.fromkeys(("predicted", "right", "x0", "y0", "x1", "y1", "localised", "empty"), object))
    made.loc[1:2, ["predicted", "right"]] = None
    made.loc[3, ["iou", "iou_best_on_test", "localised", "x0", "y0", "x1", "y1", "empty", "gt_boxes", "failure"]] = None
    made.loc[3, ["object_share", "aspect"]] = None
    made["note"], made.loc[5, "label"] = "mine", -1
    made.to_csv(tmp_path / "per_image.csv", index=False)
    read = per_image.read_per_image(tmp_path / "per_image.csv")
    assert (
        read["right"].dtype == read["localised"].dtype == "boolean"
        and read["x0"].dtype == read["predicted"].dtype == "Int64"
    )
    assert read["right"].isna().tolist() == [index in (1, 2) for index in range(len(IDS))]
    assert np.isnan(read.loc[3, "iou"]) and read.loc[3, "gt_boxes"] == read.loc[3, "failure"] == ""
    assert (read["note"] == "mine").all() and sum(per_image.failure_counts(read).values()) == len(IDS) - 1
    assert np.isnan(per_image.slices(read)["top1_loc"].iloc[0])


def test_one_error_for_a_file(tmp_path):
    path, made = tmp_path / "per_image.csv", many().iloc[:6]
    made.astype(object).replace({"id": {"NA": "007"}}).to_csv(path, index=False)
    lines = path.read_text().splitlines()
    head = lines[0].split(",")

    def put(line, **cells):
        row = lines[line - 1].split(",")
        for name, value in cells.items():
            row[head.index(name)] = value
        lines[line - 1] = ",".join(row)

    put(2, iou="1.5", right="yes", label="")
    put(4, x0="2.5", failure="great", gt_boxes="1 2 3", aspect="")
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError) as error:
        per_image.read_per_image(path)
    words = str(error.value)
    for part in (
        str(path), "line 2: iou is '1.5', expected a number from 0 to 1", "line 2: right is 'yes', expected True or False",
        "line 2: label is empty", "line 3: the id '007' is that of line 2 too", "line 4: x0 is '2.5', expected a whole",
        "line 4: failure is 'great', expected one of right, wrong class", "line 4: gt_boxes is '1 2 3', expected boxes",
        "line 4: aspect is empty",
    ):  # fmt: skip
        assert part in words
    assert words.index("line 2") < words.index("line 3") < words.index("line 4")


def test_files_that_are_no_table(tmp_path):
    path = tmp_path / "per_image.csv"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        per_image.read_per_image(path)
    with pytest.raises(FileNotFoundError, match=r"per_image\.csv does not exist"):
        per_image.slices(tmp_path)
    path.write_text("")
    with pytest.raises(ValueError, match="lacks the columns id, label"):
        per_image.read_per_image(path)
    many().drop(columns=["failure", "empty"]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"lacks the columns empty, failure: .*evaluate again"):
        per_image.read_per_image(path)
    many().iloc[:0].to_csv(path, index=False)
    with pytest.raises(ValueError, match="has no rows"):
        per_image.read_per_image(path)
    many().iloc[:3].to_csv(path, index=False)
    path.write_text(path.read_text() + "x,1\n" * 30)
    with pytest.raises(ValueError, match=r"line 5: 2 cells, expected 16; line 6.* and 10 more"):
        per_image.read_per_image(path)
    path.write_bytes(b"id,label\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="not a readable csv"):
        per_image.read_per_image(path)
    with pytest.raises(ValueError, match="expected, got int"):
        per_image.slices(5)


@pytest.mark.slow
def test_no_torch_on_import():
    code = "import sys; import wsolkit.evaluation.per_image, wsolkit.evaluation.comparison, wsolkit.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
