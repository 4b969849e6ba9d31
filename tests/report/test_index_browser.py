"""The index page in Chromium: sorting, filters, the address, no script, axe-core, narrow screens."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from run_trees import differences, failure, run

from wsolkit.report.index import write_index

EVIL = "<img src=x onerror=alert(1)>&=,#%"
METHODS = ["cam", "rethinking_cam", "grad_cam", "grad_cam++"]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    out = tmp_path_factory.mktemp("reports")
    for backbone, base in (("vgg16", 40.0), ("resnet18", 50.0)):
        for place, method in enumerate(METHODS):
            run(
                out,
                "synthetic",
                backbone,
                method,
                ["bird_0", "bird_1"],
                gt=base + (7 * place) % 10,
                seconds=0.01 * (4 - place),
            )
    for seed in (0, 1):
        run(out, "cub", "vgg16", "cam", ["a"], seed=seed, gt=60 + seed)
        run(out, "cub", "vgg16", EVIL, ["a"], seed=seed, gt=64 + seed)
    failure(out, "cub", "vgg16_fc", "cam", "undefined", "cam is not defined on vgg16_fc")
    failure(out, "cub", "resnet18", "cam", "failed", "Traceback\nValueError: bad")
    (out / "runs" / "cub" / "sweep.yaml").write_text("backbones: [resnet50]\nmethods: [cam]\nseeds: [0, 1]\n")
    differences(out)
    return write_index(out)


def lines(page, dataset="synthetic", table="lines"):
    """(method, network) of the rows of a table that are shown, in order."""
    rows = page.locator(f"#data-{dataset}-table-{table} tbody tr:visible")
    return [tuple(row.locator("th, td").all_inner_texts()[:2]) for row in rows.all()]


def shown(page, selector):
    return page.locator(f"{selector} >> visible=true").count()


def test_every_number_sorts_and_says_so(page, index):
    page.goto(index.as_uri())
    table = page.locator("#data-synthetic-table-lines")
    before = lines(page)
    heads = table.locator("thead th")
    for column in range(heads.count()):
        head = heads.nth(column)
        if head.get_attribute("data-sort") != "number":
            continue
        for _ in range(2):
            head.locator("button").click()
            values = table.locator("tbody tr").evaluate_all(
                "(rows, column) => rows.map((row) => row.cells[column]?.dataset.value ?? null)", column
            )
            numbers = [float(value) for value in values if value is not None]
            down = head.get_attribute("aria-sort") == "descending"
            assert numbers == sorted(numbers, reverse=down) and len(numbers) >= 6
            assert values[: len(numbers)] == [value for value in values if value is not None], "the others come last"
        assert table.locator("th[aria-sort]").count() == 1
    assert sorted(lines(page)) == sorted(before)


def test_sorting_by_keyboard_and_by_name(page, index):
    page.goto(index.as_uri())
    button = page.locator("#data-synthetic-table-lines thead button", has_text="GT-known Loc")
    button.focus()
    page.keyboard.press("Enter")
    assert lines(page)[0] == ("rethinking_cam", "resnet18")
    page.keyboard.press("Space")
    assert lines(page)[0] == ("cam", "vgg16"), "40, below the centre box's 41"
    page.locator("#data-synthetic-table-lines thead button", has_text="Method").click()
    assert [method for method, _ in lines(page)][:2] == ["cam", "cam"]
    page.locator("#data-synthetic-table-matrix thead button", has_text="vgg16").click()
    assert page.locator("#data-synthetic-table-lines th[aria-sort]").count() == 0, "the address can name one table"
    assert page.evaluate("location.hash") == "#sort=data-synthetic-table-matrix.2.descending"


def test_filters_hide_rows_columns_curves_and_pictures(page, index):
    page.goto(index.as_uri())
    group = page.get_by_role("group", name="Choose what this page shows")
    assert "13 of 13 results shown" in group.inner_text()
    group.get_by_role("button", name="Synthetic birds").click()
    assert shown(page, "section.dataset") == 1 and shown(page, ".answer") == 1
    group.get_by_role("button", name="vgg16", exact=True).click()
    group.get_by_role("button", name="grad_cam", exact=True).click()
    group.get_by_role("button", name="cam", exact=True).click()
    assert group.get_by_role("button", name="vgg16", exact=True).get_attribute("aria-pressed") == "true"
    assert lines(page) == [("cam", "vgg16"), ("grad_cam", "vgg16"), ("centre box", "vgg16")]
    assert lines(page, table="runs") == [("cam", "vgg16"), ("grad_cam", "vgg16")]
    assert page.locator("#data-synthetic-table-matrix thead th:visible").all_inner_texts() == ["Method", "vgg16"]
    assert shown(page, "#data-synthetic-table-matrix td") == 3
    first = page.locator("section[data-dataset=synthetic] figure.drawn[data-backbone=vgg16] svg.plot").first
    hidden = first.locator("g[data-method]").evaluate_all(
        "groups => groups.map((g) => [g.dataset.method, g.hasAttribute('hidden')])"
    )
    assert {method for method, away in hidden if not away} == {"cam", "grad_cam"} and len(hidden) == 4 * len(METHODS)
    assert shown(page, "figure.drawn") == 2
    assert shown(page, "table.thumbs img") == 4
    assert shown(page, ".answer li") == 1
    assert "2 of 13 results shown" in group.inner_text()
    address = page.url
    assert address.endswith("#dataset=synthetic&backbone=vgg16&method=grad_cam,cam")
    other = page.context.new_page()  # whoever gets the address sees the same
    other.goto(address)
    assert lines(other) == lines(page) and shown(other, "table.thumbs img") == 4
    other.close()
    group.get_by_role("button", name="Show everything").click()
    assert shown(page, "section.dataset") == 2 and "#" not in page.url
    assert shown(page, "table.thumbs img") == 18


def test_odd_names_and_links_in_the_address(page, index):
    page.goto(index.as_uri())
    group = page.get_by_role("group", name="Choose what this page shows")
    group.get_by_role("button", name=EVIL).click()
    address = page.url
    assert lines(page, "cub") == [(EVIL, "vgg16"), ("centre box", "vgg16")]
    page.get_by_role("link", name="The same images").first.click()
    page.wait_for_url(lambda url: url == address + "&at=data-cub-images")  # a link inside the page keeps the choice
    page.reload()
    assert shown(page, "table.lines tbody tr[data-method]") == 1
    assert page.evaluate("document.getElementById('data-cub-images').getBoundingClientRect().top") < 200
    page.goto(index.as_uri() + "#method=%E0%A4%A,nothing&sort=x.1.up&backbone&&=")
    assert shown(page, "table.lines tbody tr[data-method]") == 13, (
        "what cannot be understood is as if it were not there"
    )
    page.goto(index.as_uri() + "#data-cub-runs")
    assert shown(page, "table.lines tbody tr[data-method]") == 13


def test_the_address_brings_order_too(page, index):
    page.goto(index.as_uri() + "#backbone=resnet18&sort=data-synthetic-table-lines.8.ascending")
    assert [method for method, _ in lines(page)] == ["grad_cam++", "grad_cam", "rethinking_cam", "cam", "centre box"]
    page.evaluate("location.hash = 'backbone=vgg16'")
    page.wait_for_function("!document.querySelector('[aria-sort]')")
    assert [method for method, _ in lines(page)] == [*METHODS, "centre box"]


def test_links_lead_to_files(page, index):
    page.goto(index.as_uri())
    links = set(page.locator("a[href]").evaluate_all("links => links.map((link) => link.href)"))
    files = {link for link in links if "#" not in link or not link.startswith(index.as_uri())}
    assert len(files) > 20
    for link in files:
        assert (index.parent / unquote(link.removeprefix(index.parent.as_uri() + "/"))).is_file(), link
    for link in links - files:
        assert page.evaluate("id => document.getElementById(id) !== null", link.split("#")[1]), link
    page.locator("table.thumbs a").first.click()
    assert page.url.endswith(".html") and page.title() == "report"


def test_complete_without_scripts(browser, index):
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(index.as_uri())
    assert opened.locator("button").count() == 0
    assert opened.locator("table.lines tbody tr[data-method]:visible").count() == 13
    assert opened.locator("table.thumbs img:visible").count() == 18
    context.close()


def test_axe_finds_nothing(axe_violations, index):
    for dark in (False, True):
        assert axe_violations(index, dark=dark) == []
    assert axe_violations(index, width=400) == []


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_never_wider_than_the_screen(page, index, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(index.as_uri())
    for details in page.locator("details").all():
        details.evaluate("node => node.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#data-synthetic-table-lines tbody th").first
    page.locator("#data-synthetic-table-lines").evaluate("table => table.parentElement.scrollLeft = 10000")
    assert 0 <= box.bounding_box()["x"] <= 40, "the first column stays while a table scrolls"
