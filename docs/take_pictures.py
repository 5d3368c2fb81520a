"""Take the README's pictures of TensorBoard and of `lightning-sotl rank --plot` anew.

TensorBoard is served on the loopback interface, and a headless Chromium takes its page. Both
commands read logs that two examples leave behind:

    python examples/digits_sweep.py --stop-at 6
    python examples/rank_runs.py
    pip install playwright
    apt-get install chromium
    python docs/take_pictures.py [--browser /usr/bin/chromium]

Writes `docs/images/tensorboard.png` and `docs/images/rank.png`.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from lightning_sotl.cli import main as lightning_sotl

DOCS = Path(__file__).parent / "images"
OUTPUT = DOCS.parents[1] / "examples" / "output"
SIZE = {"width": 1400, "height": 920}


def main() -> None:
    """Take both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--browser", default="/usr/bin/chromium", help="program to take pages with")
    options = parser.parse_args()
    sweeps = (OUTPUT / "digits_sweep" / "stop_at_6").glob("sweep_*")
    newest = max(sweeps, key=lambda path: path.stat().st_mtime)
    with serve_tensorboard(newest) as address:
        take_page(address, DOCS / "tensorboard.png", options.browser)
    runs, picture = OUTPUT / "rank_runs_logs", DOCS / "rank.png"
    if code := lightning_sotl(["rank", str(runs), "--plot", str(picture)]):
        sys.exit(code)
    for path in (DOCS / "tensorboard.png", picture):
        shrink(path)


@contextlib.contextmanager
def serve_tensorboard(logs: Path) -> Iterator[str]:
    """Serve a directory of runs on a free port of this machine, and give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs)]
    server = subprocess.Popen(  # noqa: S603  # the command is ours
        [*command, "--host", "127.0.0.1", "--port", str(port)], stderr=subprocess.PIPE, text=True
    )
    try:
        for line in server.stderr or ():
            if "Press CTRL+C to quit" in line:
                break
        else:
            raise RuntimeError(f"TensorBoard ended with {server.wait()} before it served a page.")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def take_page(address: str, picture: Path, browser: str) -> None:
    """Take TensorBoard's page of `sotl_e1`, one line a run."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport=SIZE, color_scheme="light")
        page.goto(f"{address}/?darkMode=false&tagFilter=%5Esotl_e1%24&smoothing=0#timeseries")
        arrange(page)
        page.screenshot(path=picture)
        chromium.close()


def arrange(page: Page) -> None:
    """Show one wide chart with a logarithmic axis, and nothing beside it but the runs."""
    card = page.locator("scalar-card")
    card.wait_for(timeout=60_000)  # TensorBoard looks for new runs first
    page.get_by_text("Enable step selection").click()
    page.get_by_label("Close side pane").click()
    card.get_by_label("Toggle full size mode").click()
    card.get_by_label("More line chart options").click()
    page.get_by_text("Y-axis log scale").click()
    card.locator(".chart-container").evaluate("chart => { chart.style.height = '620px'; }")
    page.mouse.move(0, 0)  # off the chart, which would show a tooltip
    page.wait_for_timeout(5_000)  # the lines are drawn on a canvas, which tells nobody of it


def shrink(path: Path) -> None:
    """Store a picture with at most 256 colours: a third of the size, and no eye sees it."""
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
