"""Take the screenshots of the app in docs/ with a browser.

python studies/screenshots.py RUN WORLD OUT    # for example runs/demo runs/demo/world docs
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

PORT = 7993
VERBSPACE_COMMAND = [sys.executable, "-m", "verbspace.cli.main"]


def main() -> None:
    """Embed, calibrate, serve the app and take screenshots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("world", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--chromium", default="chromium", help="the browser's path")
    args = parser.parse_args()
    words = ["--concepts", "playground"]
    with tempfile.TemporaryDirectory() as folder:
        index, fitted = f"{folder}/index", f"{folder}/calibration.json"
        test = str(args.world / "test")
        embed = ["embed", test, "--index", index, "--encoder", args.run, "--window", "1.5"]
        calibrate = ["calibrate", str(args.world / "train"), "--encoder", args.run, *words, "--out", fitted]
        for command in (embed, calibrate):
            subprocess.run([*VERBSPACE_COMMAND, *command], check=True)
        served = subprocess.Popen(
            [*VERBSPACE_COMMAND, "app", "--encoder", args.run, *words, "--index", index, "--clips", test,
             "--calibration", fitted, "--window", "1", "--port", str(PORT)]
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{PORT}"
            _wait_for(address)
            _take_screenshots(address, args.world / "test", args.out, args.chromium)
        finally:
            served.terminate()


def _wait_for(address: str) -> None:
    for _ in range(120):
        with suppress(OSError):
            urllib.request.urlopen(address).close()
            return
        time.sleep(1)
    raise SystemExit(f"{address}: no response")


def _take_screenshots(address: str, test: Path, out: Path, chromium: str) -> None:
    import shutil

    from playwright.sync_api import sync_playwright

    wrong = test / "kicking a ball" / "00229.mp4"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(chromium), args=["--no-sandbox"])

        def open_page(width: int, height: int, scheme: str = "light") -> Any:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.set_default_timeout(120_000)
            page.goto(address)
            page.wait_for_selector("#clip")
            return page

        page = open_page(1280, 900)
        page.set_input_files("#clip input[type=file]", str(wrong))
        page.wait_for_selector("#explanation .strip")
        time.sleep(2)
        page.screenshot(path=str(out / "app-clip.png"), full_page=True)
        page.fill("#actions textarea", "kicking a ball\nstanding still\nwaving")
        page.wait_for_function("document.querySelector('#predictions').innerText.includes('standing still')")
        page.wait_for_selector("#explanation .strip")
        time.sleep(2)
        page.screenshot(path=str(out / "app-edit.png"))
        page.get_by_role("tab", name="Search").click()
        page.fill("#query textarea, #query input", '"a person bowing" - "standing straight"')
        page.keyboard.press("Enter")
        page.wait_for_function(
            "[...document.querySelectorAll('#results video')].filter(v => v.readyState > 1).length > 5"
        )
        time.sleep(4)  # until every player has loaded
        page.screenshot(path=str(out / "app-search.png"))
        phone = open_page(390, 844, "dark")
        phone.set_input_files("#clip input[type=file]", str(test / "bowing" / "00017.mp4"))
        phone.wait_for_selector("#explanation .strip")
        phone.locator("#predictions").scroll_into_view_if_needed()
        phone.evaluate("document.querySelector('#predictions').scrollIntoView()")
        time.sleep(1)
        phone.screenshot(path=str(out / "app-phone.png"))
        browser.close()


if __name__ == "__main__":
    main()
