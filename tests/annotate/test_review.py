"""The review page in Chromium: keys, mouse, touch, undo, what the browser keeps; and the decisions read back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from page_checks import no_requests, well_formed
from PIL import Image

from wsolkit.annotate import review
from wsolkit.annotate.formats import Origin, Record
from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import write_json

EVIL = "<img src=x onerror=alert(1)>&\"'"
ORIGIN = Origin("/pictures", ("owl", EVIL), "affinity_cam", 0.5, "0.1.0")
SIZE = (400, 200)
RECORDS = [Record(f"owl/{n}.jpg", SIZE, "owl", (20 * n, 10, 200, 150), round(0.9 - 0.2 * n, 2)) for n in range(4)]
RECORDS += [Record("owl/1.jpg", SIZE, "owl", (0, 0, 9, 9), 0.65)]
RECORDS = [*sorted(RECORDS, key=lambda record: record.path), Record(f"{EVIL}/a.jpg", SIZE, EVIL, (0, 0, 399, 199), 0.1)]
SIZES = {record.path: record.size for record in RECORDS}
RUN = "0123456789abcdef"


def jpeg(path):
    pixels = np.random.default_rng(len(path)).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    return review.thumbnail(Image.fromarray(pixels))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    return review.write_pages(tmp_path_factory.mktemp("out"), RECORDS, ORIGIN, RUN, jpeg)


@pytest.fixture
def opened(page, pages):
    page.goto(pages[0].as_uri())
    return page


def states(page):
    return dict(page.locator("article").evaluate_all("cards => cards.map((c) => [c.dataset.path, c.dataset.state])"))


def focused(page):
    return page.evaluate("document.activeElement.closest('article')?.dataset.path")


def downloaded(page, tmp_path):
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download decisions").click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_pages_are_whole_escaped_and_ask_for_nothing(pages):
    assert [path.name for path in pages] == ["owl.html", "img-src-x-onerror-alert-1.html"]
    for path in pages:
        text = path.read_text()
        no_requests(text)
        well_formed(text)
        assert EVIL not in text


def test_least_certain_first_and_two_hundred_on_a_page(page, opened, tmp_path):
    shown = opened.locator("article").evaluate_all("cards => cards.map((card) => card.dataset.path)")
    assert shown == ["owl/3.jpg", "owl/2.jpg", "owl/1.jpg", "owl/0.jpg"]
    assert opened.locator("article").nth(2).locator("rect:not(.halo)").count() == 2, "both boxes"
    many = [replace(RECORDS[0], path=f"owl/{n:03}.jpg", score=n / 1000) for n in range(401)]
    small = jpeg("")
    parts = review.write_pages(tmp_path, many, ORIGIN, RUN, lambda path: small)
    assert [path.name for path in parts] == ["owl.html", "owl-2.html", "owl-3.html"]
    assert [path.read_text().count("<article") for path in parts] == [200, 200, 1]
    page.goto(parts[0].as_uri())
    page.get_by_role("link", name="Next page").click()
    assert (
        page.title() == "Review of owl, page 2"
        and page.locator("article").first.get_attribute("data-path") == "owl/200.jpg"
    )


def test_by_keys_alone(opened, tmp_path):
    opened.get_by_role("button", name="Next undecided").focus()
    opened.keyboard.press("Enter")
    assert focused(opened) == "owl/3.jpg"
    opened.keyboard.press("a")
    assert focused(opened) == "owl/2.jpg", "the next one"
    opened.keyboard.press("r")
    assert states(opened) == {"owl/3.jpg": "accepted", "owl/2.jpg": "rejected", "owl/1.jpg": "", "owl/0.jpg": ""}
    assert "2 of 4 decided" in opened.locator("#said").inner_text()
    assert opened.locator("#progress").evaluate("bar => bar.value") == 2
    opened.keyboard.press("u")
    assert focused(opened) == "owl/2.jpg" and states(opened)["owl/2.jpg"] == ""
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowRight")
    assert focused(opened) == "owl/0.jpg"
    opened.keyboard.press("d")  # box 0, 10, 200, 150; steps of 400 / 50 pixels
    for key in (
        "ArrowRight",
        "ArrowDown",
        "ArrowLeft",
        "ArrowLeft",
        "Shift+ArrowRight",
        "Shift+ArrowUp",
        "Alt+ArrowRight",
    ):
        opened.keyboard.press(key)
    assert "Box from 1, 18 to 209, 150" in opened.locator("#said").inner_text()
    opened.keyboard.press("Enter")
    assert states(opened)["owl/0.jpg"] == "drawn"
    read = review.read_decisions([downloaded(opened, tmp_path)], RUN, SIZES)
    assert read == {
        "owl/3.jpg": review.Decision("accepted"),
        "owl/0.jpg": review.Decision("drawn", ((1, 18, 209, 150),)),
    }


def test_a_box_drawn_with_the_mouse_is_where_it_was_drawn(opened, tmp_path):
    card = opened.locator("article[data-path='owl/0.jpg']")
    card.get_by_role("button", name="Draw again").click()
    frame = card.locator("svg").bounding_box()
    place = [
        (frame["x"] + frame["width"] * (x + 0.5) / 400, frame["y"] + frame["height"] * (y + 0.5) / 200)
        for x, y in ((300, 180), (40, 20))
    ]
    opened.mouse.move(*place[0])
    opened.mouse.down()
    opened.mouse.move(*place[1], steps=3)
    opened.mouse.up()
    card.get_by_role("button", name="Keep this box").click()
    (box,) = review.read_decisions([downloaded(opened, tmp_path)], RUN, SIZES)["owl/0.jpg"].boxes
    assert np.abs(np.array(box) - [40, 20, 300, 180]).max() <= 1, box
    rectangle = card.locator("rect:not(.halo)").evaluate(
        "r => ['x', 'y', 'width', 'height'].map((name) => +r.getAttribute(name))"
    )
    assert rectangle == [box[0], box[1], box[2] + 1 - box[0], box[3] + 1 - box[1]]


def test_escape_leaves_a_box_as_it_was(opened):
    card = opened.locator("article[data-path='owl/1.jpg']")
    card.focus()
    opened.keyboard.press("d")
    opened.keyboard.press("ArrowRight")
    assert card.locator("rect:not(.halo)").count() == 1
    opened.keyboard.press("Escape")
    assert states(opened)["owl/1.jpg"] == "" and card.locator("rect:not(.halo)").count() == 2
    assert focused(opened) == "owl/1.jpg"


def test_by_touch(browser, pages):
    context = browser.new_context(has_touch=True, viewport={"width": 400, "height": 800})
    tab = context.new_page()
    tab.goto(pages[0].as_uri())
    card = tab.locator("article").first
    card.get_by_role("button", name="Draw again").tap()
    card.get_by_role("button", name="Keep this box").wait_for()  # the image has grown
    frame = card.locator("svg").bounding_box()
    tab.evaluate("document.addEventListener('touchstart', (event) => { window.stopped = event.defaultPrevented; })")
    client = context.new_cdp_session(tab)
    for kind, *shares in (("touchStart", 0.25), ("touchMove", 0.5), ("touchMove", 0.75), ("touchEnd",)):
        points = [{"x": frame["x"] + frame["width"] * own, "y": frame["y"] + frame["height"] * own} for own in shares]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert tab.evaluate("stopped"), "a fling would begin, and the next tap be lost with it"
    card.get_by_role("button", name="Keep this box").tap()
    tab.locator("article[data-state='drawn']").wait_for()
    (box,) = json.loads(tab.evaluate("Object.values(localStorage)[0]"))["owl/3.jpg"]["boxes"]
    assert np.abs(np.array(box) - [100, 50, 300, 150]).max() <= 2, box
    tab.locator("article svg").nth(1).tap()
    assert not tab.evaluate("stopped"), "where nothing is drawn, a finger scrolls the page"
    context.close()


def test_the_browser_keeps_decisions_of_this_run_alone(page, pages, tmp_path):
    page.goto(pages[0].as_uri())
    page.locator("article").first.focus()
    page.keyboard.press("r")
    page.wait_for_selector('article[data-path="owl/3.jpg"][data-state="rejected"]')
    page.wait_for_timeout(500)  # a reload may be another process of the browser, to which storage is passed on
    page.reload()
    assert states(page)["owl/3.jpg"] == "rejected" and page.locator("#progress").evaluate("bar => bar.value") == 1
    other = review.write_pages(tmp_path, RECORDS, ORIGIN, "another run", jpeg)
    page.goto(other[0].as_uri())
    assert set(states(page).values()) == {""}
    page.goto(pages[0].as_uri())  # a page of another address may be another process, which reads what is written later
    page.evaluate(
        'for (const key of Object.keys(localStorage)) localStorage.setItem(key, \'{"owl/3.jpg": 5, "x": null}\')'
    )
    page.wait_for_timeout(500)
    page.reload()
    assert set(states(page).values()) == {""}, "what is damaged is forgotten"


def test_letters_count_on_an_image_only(opened):
    opened.get_by_role("button", name="Download decisions").focus()
    opened.keyboard.press("a")
    opened.locator("article").first.focus()
    opened.keyboard.press("Control+a")
    assert set(states(opened).values()) == {""}


def test_axe_and_widths(axe_violations, page, pages):
    for path in pages:
        assert axe_violations(path) == axe_violations(path, dark=True) == axe_violations(path, width=400) == []
        for width in (400, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.locator("article").first.get_by_role("button", name="Draw again").click()
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_scripts_the_page_shows_boxes_and_no_buttons(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(pages[0].as_uri())
    assert tab.locator("button:visible").count() == 0 and tab.locator("rect:not(.halo)").count() == 5
    assert "Deciding needs JavaScript" in tab.locator("body").inner_text()
    context.close()


def test_decisions_are_applied():
    made = review.decided(RECORDS, {
        "owl/0.jpg": review.Decision("rejected"),
        "owl/1.jpg": review.Decision("drawn", ((1, 2, 3, 4), (5, 6, 7, 8))),
        "owl/2.jpg": review.Decision("accepted"),
    })  # fmt: skip
    assert [(record.path, record.box, record.review) for record in made] == [
        ("owl/1.jpg", (1, 2, 3, 4), "drawn"), ("owl/1.jpg", (5, 6, 7, 8), "drawn"), ("owl/2.jpg", (40, 10, 200, 150), "accepted"),
        ("owl/3.jpg", (60, 10, 200, 150), ""), (f"{EVIL}/a.jpg", (0, 0, 399, 199), ""),
    ]  # fmt: skip
    assert [record.score for record in made] == [1, 1, 0.5, 0.3, 0.1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"written_by": "me"}, "holds no decisions"),
        ({"decisions": []}, "holds no decisions"),
        ({"run": "other"}, "on other boxes than these"),
        (
            {"decisions": {"owl/9.jpg": {"decision": "accepted"}}},
            "1 decisions are wrong or on images that are not there: owl/9.jpg",
        ),
        ({"decisions": {"owl/0.jpg": {"decision": "maybe"}}}, "owl/0.jpg"),
        ({"decisions": {"owl/0.jpg": {"decision": "drawn"}}}, "owl/0.jpg"),
        ({"decisions": {"owl/0.jpg": {"decision": "drawn", "boxes": [[0, 0, 400, 5]]}}}, "owl/0.jpg"),
        ({"decisions": {"owl/0.jpg": {"decision": "drawn", "boxes": [[9, 0, 3, 5]]}}}, "owl/0.jpg"),
        ({"decisions": {"owl/0.jpg": {"decision": "drawn", "boxes": [[0, 0, True, 5]]}}}, "owl/0.jpg"),
    ],
)
def test_wrong_decisions_are_one_error(tmp_path, change, said):
    path = tmp_path / "decisions.json"
    write_json(path, {"written_by": review.MARK, "run": RUN, "decisions": {}} | change)
    with pytest.raises(WsolkitError, match=said) as told:
        review.read_decisions([path], RUN, SIZES)
    assert str(path) in str(told.value)
    path.write_text("{")
    with pytest.raises(WsolkitError, match="not readable JSON"):
        review.read_decisions([path], RUN, SIZES)
