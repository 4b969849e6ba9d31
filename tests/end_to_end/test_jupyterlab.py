"""Two notebooks with small parameters in a real JupyterLab: a server on loopback, headless Chromium, "Run All Cells", and
every output looked at."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ["02_cam", "10_write_your_own_cam"]
START_S, RUN_S = 90, 1500  # how long a start and a run (with training) may take at most

ACCEPT = ".jp-Dialog .jp-mod-accept"
# what stands in the notebook panel: one entry per code cell
CELLS = """() => [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell')].map(cell => ({
    prompt: cell.querySelector('.jp-InputPrompt')?.textContent ?? '',
    text: cell.querySelector('.jp-OutputArea')?.innerText ?? '',
    errors: cell.querySelectorAll('[data-mime-type="application/vnd.jupyter.error"], [data-mime-type*="stderr"]').length,
    widgets: cell.querySelectorAll('[data-mime-type*="widget"], .jupyter-widgets').length,
}))"""
FIGURES = """() => [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea figure img')].map(img => ({
    alt: img.alt, natural: img.naturalWidth, complete: img.complete, width: img.getBoundingClientRect().width,
    height: img.getBoundingClientRect().height,
}))"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A running server: (its address, its token, its folder). It and its kernels are gone afterwards, whatever happens."""
    home = tmp_path_factory.mktemp("lab")
    notebooks = home / "notebooks"
    notebooks.mkdir()
    runtime = tempfile.mkdtemp(prefix="lab-")  # sockets lie there, and their paths must be short
    subprocess.run([sys.executable, ROOT / "tools" / "small_notebooks.py", notebooks, *NOTEBOOKS], check=True)
    settings = home / "settings"  # windowing off: cells out of sight stay in the page
    settings.joinpath("@jupyterlab", "notebook-extension").mkdir(parents=True)
    settings.joinpath("@jupyterlab", "apputils-extension").mkdir(parents=True)
    settings.joinpath("@jupyterlab", "notebook-extension", "tracker.jupyterlab-settings").write_text(
        json.dumps({"windowingMode": "none"})
    )
    settings.joinpath("@jupyterlab", "apputils-extension", "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    environment = {key: value for key, value in os.environ.items() if key != "WSOLKIT_BATCH"} | {
        **{f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA")},
        "JUPYTER_RUNTIME_DIR": runtime,
        **{"JUPYTERLAB_SETTINGS_DIR": str(settings), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")},
        **{"IPYTHONDIR": str(home / "ipython"), "WSOLKIT_OUT": str(home / "reports"), "JUPYTER_TOKEN": token},
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [
        *(
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--ip=127.0.0.1",
            f"--port={port}",
            "--ServerApp.port_retries=0",
        ),
        *(f"--ServerApp.root_dir={notebooks}", "--LabApp.news_url=", "--LabApp.extension_manager=readonly"),
        # sockets as files: the ports of kernels that start at the same time collide
        *("--ServerApp.terminals_enabled=False", "--KernelManager.transport=ipc", "--allow-root"),
    ]
    log = home / "log.txt"
    with open(log, "wb") as output:
        server = subprocess.Popen(
            command, cwd=home, env=environment, stdout=output, stderr=output, preexec_fn=_ends_with_its_parent
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(lambda: _answers(address, token) or server.poll() is not None, START_S, "the server does not answer")
        assert server.poll() is None, log.read_text()[-3000:]
        yield address, token, notebooks
    finally:
        processes = (
            [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
            if server.poll() is None
            else []
        )
        for process in processes:
            process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=5)
        for process in alive:
            process.kill()
        server.wait(10)
        shutil.rmtree(runtime, ignore_errors=True)
    gone = [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not gone, f"still running: {gone}"


def _ends_with_its_parent() -> None:
    """Also where the tests themselves are killed (Linux: PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _wait(done, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"{what} after {seconds:.0f} s"
        time.sleep(0.2)


def _answers(address: str, token: str) -> bool:
    try:
        request = urllib.request.Request(f"{address}/api/status", headers={"Authorization": f"token {token}"})
        return urllib.request.urlopen(request, timeout=5).status == 200
    except OSError:
        return False


def _kernels(address: str, token: str) -> list[dict]:
    request = urllib.request.Request(f"{address}/api/kernels", headers={"Authorization": f"token {token}"})
    return json.load(urllib.request.urlopen(request, timeout=30))


@pytest.fixture
def tab(browser, lab):
    """A tab of JupyterLab that reaches nothing but the server."""
    address, _, _ = lab
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    opened, asked = context.new_page(), []
    opened.route(
        lambda url: not url.startswith(address), lambda route: (asked.append(route.request.url), route.abort())
    )
    opened.add_locator_handler(opened.locator(ACCEPT), lambda _: _dismiss(opened))  # also those that come late
    yield opened
    context.close()
    assert not asked, f"JupyterLab asked the network for {asked}"


def _dismiss(tab) -> None:
    """Answer a dialog (which kernel, what news) with its default button."""
    while tab.locator(ACCEPT).count():
        print("dialog:", tab.locator(".jp-Dialog").first.inner_text())
        tab.locator(ACCEPT).first.click()
        tab.wait_for_timeout(200)


def _run_all(tab) -> None:
    """Run > Run All Cells; once more where the page was not ready for it and nothing began."""
    for _ in range(5):
        tab.locator('.lm-MenuBar-item:has-text("Run")').click()
        tab.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
        try:
            tab.wait_for_function(f"() => ({CELLS})().every(cell => /[*0-9]/.test(cell.prompt))", timeout=10_000)
            return
        except PlaywrightTimeout:
            continue
    raise AssertionError("Run All Cells begins nothing")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs_in_jupyterlab(tab, lab, name):
    address, token, notebooks = lab
    tab.goto(f"{address}/lab/workspaces/{name}/tree/{name}.ipynb?token={token}")
    tab.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=START_S * 1000)
    tab.wait_for_selector(
        '.jp-NotebookPanel .jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=START_S * 1000
    )
    _dismiss(tab)
    expected = sum(
        cell["cell_type"] == "code" for cell in json.loads((notebooks / f"{name}.ipynb").read_text())["cells"]
    )
    _wait(lambda: len(tab.evaluate(CELLS)) == expected, START_S, "not all cells are on the page")
    tab.wait_for_selector("#jupyterlab-splash", state="detached", timeout=START_S * 1000)
    tab.wait_for_load_state("networkidle")
    _run_all(tab)

    seen = set()

    def done() -> bool:
        _dismiss(tab)
        cells = tab.evaluate(CELLS)
        seen.update(line for cell in cells for line in cell["text"].splitlines() if "%|" in line)
        assert not any(cell["errors"] for cell in cells), next(cell["text"][-4000:] for cell in cells if cell["errors"])
        return all(cell["prompt"].strip("[]: ").isdigit() for cell in cells)

    _wait(done, RUN_S, "cells have not run")
    tab.wait_for_selector(
        '.jp-NotebookPanel .jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=START_S * 1000
    )
    assert all(kernel["execution_state"] == "idle" for kernel in _kernels(address, token))

    cells = tab.evaluate(CELLS)
    assert [int(cell["prompt"].strip("[]: ")) for cell in cells] == list(range(1, expected + 1)), (
        "each ran once, in order"
    )
    assert not any(cell["widgets"] for cell in cells) and not any("Warning" in cell["text"] for cell in cells)
    assert any("100%|" in line for line in seen), f"no progress was seen in {name}"
    assert "No answer yet" in "".join(cell["text"] for cell in cells) or name == "10_write_your_own_cam"
    figures = tab.evaluate(FIGURES)
    assert len(figures) >= 4
    for figure in figures:
        assert figure["complete"] and figure["natural"] > 0 and figure["width"] > 200 and figure["height"] > 100, figure
        assert figure["alt"]
    if shots := os.environ.get("WSOLKIT_SCREENSHOTS"):  # to look at: the notebook as it stands
        _screenshots(tab, Path(shots), name)


def _screenshots(tab, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        tab.locator('.lm-MenuBar-item:has-text("Settings")').click()
        tab.locator('.lm-Menu-item:has-text("Theme")').first.hover()
        tab.locator(f'.lm-Menu-item[data-command="apputils:change-theme"]:has-text("{theme}")').first.click()
        tab.wait_for_timeout(1500)
        for number, figure in enumerate(tab.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").all()):
            figure.scroll_into_view_if_needed()
            figure.screenshot(path=folder / f"{name}-{theme.split()[1].lower()}-{number:02d}.png")
