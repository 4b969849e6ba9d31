"""The site of `make docs`: built without a warning, every link leads somewhere, every page opens without errors or requests."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

import wsolkit as wk

ROOT = Path(__file__).resolve().parents[2]
LOOKED_AT = ("docs/index", "docs/metrics", "docs/api", "notebooks/00_tour")  # a page of each kind
UNKNOWN_ELEMENTS = """[...document.querySelectorAll("article *")]
    .filter((e) => e instanceof HTMLUnknownElement || (e.tagName == "IMG" && !e.src)).map((e) => e.outerHTML)"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for name in ("sphinx", "myst_nb", "furo"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: no site was built (pip install -e '.[docs]')")
    out = tmp_path_factory.mktemp("site")
    (recipe,) = re.findall(r"-m sphinx (.+) -D .+ -c docs \. build/site", (ROOT / "Makefile").read_text())
    command = [sys.executable, "-m", "sphinx", *recipe.split(), "-d", out / "doctrees", "-c", "docs", ".", out / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "-W" in recipe.split() and not done.stderr
    return out / "site"


def pages(site: Path) -> list[Path]:
    return [path for path in sorted(site.rglob("*.html")) if not path.is_relative_to(site / "reports")]


def test_it_has_all_notebooks_and_documents(site):
    made = {str(path.relative_to(site).with_suffix("")) for path in pages(site)}
    sources = [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("docs/*.md"), *ROOT.glob("*.md")]
    assert {str(path.relative_to(ROOT).with_suffix("")) for path in sources} | {"index", "docs/api", "search"} <= made


def test_the_api_page_has_every_public_name(site):
    text = (site / "docs/api.html").read_text(encoding="utf-8")
    names = [name for name in wk.__all__ if wk._MODULE_OF[name] != "wsolkit"]  # those are modules
    assert [name for name in names if f'id="wsolkit.{name}"' not in text] == []


def test_every_page_opens_and_every_link_leads_somewhere(site, page):
    page.goto((site / "index.html").as_uri())
    page.wait_for_url("**/docs/index.html")
    anchors, links = {}, {}
    for path in pages(site):
        if path != site / "index.html":
            page.goto(path.as_uri())
            assert page.title().endswith("wsolkit"), path.name
            assert page.evaluate(UNKNOWN_ELEMENTS) == [], f"{path.name}: put <name> between back quotes"
            anchors[path.as_uri()] = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
            links[path.as_uri()] = page.evaluate("[...document.links, ...document.images].map((e) => e.href ?? e.src)")
    for place, targets in links.items():
        for address in set(targets):
            target, anchor = urldefrag(address)
            if target.startswith("file:"):
                assert Path(unquote(urlsplit(target).path)).exists(), f"{place}: {address}"
                assert not anchor or target not in anchors or anchor in anchors[target], f"{place}: {address}"


def test_pages_fit_a_telephone(site, page):
    page.set_viewport_size({"width": 400, "height": 800})
    for name in LOOKED_AT:
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, f"{name} is wider than a telephone"


def test_formulas_are_mathml(site, page):
    page.goto((site / "notebooks/02_cam.html").as_uri())
    assert page.locator("math").count() >= 4 and page.locator("code.formula").count() == 0


def test_search_finds_a_function(site, page):
    page.goto((site / "search.html").as_uri() + "?q=extract_box")
    page.locator("#search-results a[href*='api.html']").first.wait_for()


@pytest.mark.parametrize("name", [name for name in LOOKED_AT if name != "docs/api"])  # where axe takes 20 s
def test_axe_has_no_serious_findings(site, axe_violations, name):
    assert axe_violations(site / f"{name}.html") == []
