"""Fixtures that several test files share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from wsolkit.common.memory import keep_freed_memory

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
keep_freed_memory()


# Files that train, start processes or run notebooks: `make check` leaves them out. Where all files run side by side, the last
# to end decides when all is over, so that these start first, the longest before the others.
SLOW = (
    "sweep", "dask", "galleries", "chapters", "sweep_papermill", "documents", "jupyterlab", "measured", "localise",
    "cli", "predict", "notebooks", "wheel", "worker", "staleness", "many_processes", "interruption", "training", "split",
    "training_methods", "runs", "map_store", "chapter", "exercises", "index_browser", "faithfulness", "cams_contract",
    "cams", "left_as_found", "transformers", "speed_paths", "method_page",
    "networks_of_others", "data_check", "preprocess_and_target", "affinity_cam", "frozen", "inputs", "models",
    "notebook_page", "review", "annotate", "annotate_kills", "site", "timm", "detector", "rows", "networks", "evaluation",
    "progress", "c2am", "ddt", "bas", "psol", "class_folders", "file_evaluation",
)  # fmt: skip


ORDER = {f"test_{name}.py": number for number, name in enumerate(SLOW)}


def pytest_ignore_collect(collection_path, config):
    """`make check` need not even import them."""
    return True if config.option.markexpr == "not slow" and collection_path.name in ORDER else None


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name in ORDER:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: ORDER.get(item.path.name, len(ORDER)))


@pytest.fixture(scope="session")
def shared():
    """`shared("data/CUB_200_2011")` is that path beside the repository, or a skip that says what is absent."""

    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"../shared/{relative} is absent (research-only material that is not part of the repository)")
        return path

    return find


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Decoded images of tests do not land in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSOLKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def one_thread():
    """Equal bits need an equal number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium (the system's) as playwright's Browser: `browser.new_page()`; skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on this machine: pages were not opened in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        new_context = opened.new_context

        def patient(**options):  # half a minute is too short where notebooks train on the same cores
            context = new_context(**options)
            context.set_default_timeout(300_000)
            return context

        opened.new_context = patient
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """An empty tab that may not reach the network; errors of its scripts fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened, errors = context.new_page(), []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    asked = []
    opened.route(lambda url: url.startswith("http"), lambda route: (asked.append(route.request.url), route.abort()))
    yield opened
    context.close()
    assert not asked, f"the page asked the network for {asked}"
    assert not errors, errors


@pytest.fixture(scope="session")
def axe_violations(browser):
    """`axe_violations(path, dark=False)`: the serious and critical findings of axe-core on a page, as text."""
    from axe_playwright_python.sync_playwright import Axe

    def find(path: Path, dark: bool = False, width: int = 1280) -> list[str]:
        context = browser.new_context(  # axe is a script of its own, which the page's policy would refuse
            bypass_csp=True, color_scheme="dark" if dark else "light", viewport={"width": width, "height": 900}
        )
        try:
            opened = context.new_page()
            opened.goto(path.as_uri())
            found = Axe().run(opened).response["violations"]
        finally:
            context.close()
        serious = [item for item in found if item["impact"] in ("serious", "critical")]
        return [f"{item['id']} ({item['impact']}): {node['html'][:200]}" for item in serious for node in item["nodes"]]

    return find
