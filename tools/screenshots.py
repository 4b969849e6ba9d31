"""README's screenshots: the top of the index and of a report, from the pages of `make reports`, in headless Chromium.

python tools/screenshots.py [OUT]    # the folder of the reports, default reports; writes reports/screenshots/*.png
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"index.png": "index.html", "report.png": "synthetic/resnet18/rethinking_cam.html"}
WIDTH, HEIGHT = 1280, 1600


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "reports").resolve()
    absent = [page for page in PAGES.values() if not (out / page).is_file()]
    if absent:
        sys.exit(f"{', '.join(absent)} not found in {out}: run `make reports` first, or name the folder of the reports")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        sys.exit("no chromium on this machine: install it, e.g. apt-get install chromium")
    folder = ROOT / "reports/screenshots"
    folder.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        for picture, source in PAGES.items():
            page.goto((out / source).as_uri())
            page.screenshot(path=folder / picture)
            print(folder / picture)
        browser.close()


if __name__ == "__main__":
    main()
