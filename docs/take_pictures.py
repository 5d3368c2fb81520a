"""Make the pictures of the site again and store them in `docs/images/`.

    python docs/take_pictures.py --only paper                 # 2 minutes, from committed tables
    python docs/take_pictures.py --only language              # 4 minutes, from committed tables
    python docs/take_pictures.py --only rank                  # 15 seconds
    python docs/take_pictures.py --only selection --tables FILE [FILE ...]        # 5 minutes
    python docs/take_pictures.py --only tensorboard [--browser /usr/bin/chromium]

Without `--only`, it makes all of them. `selection` averages over the project's two tables and the
given ones, each an `.npz` of LearningCurves or NAS-Bench-NLP's zip. The picture on the site has
seven others: six of TaskSet, and NAS-Bench-NLP. `tensorboard` needs `pip install playwright`, a
Chromium, and the logs of `python examples/digits_sweep.py --stop-at 6`.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = Path(__file__).parent / "images"
EXAMPLES = IMAGES.parents[1] / "examples"
POLICIES = (
    "optuna-halving",
    "ray-asha",
    "adaptive",
    "adaptive-both",
    "adaptive-keep2",
    "adaptive-keep2-both",
    "halving",
    "halving-val",
    "fixed-t10-top5",
    "fixed-t25-top5",
    "optuna-hyperband",
    "full",
)
COLORS = 256  # per picture, which makes a file a third of the size without a visible difference
PAGE_SIZE = {"width": 1400, "height": 920}


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=PICTURES, default=list(PICTURES), help="pictures to make"
    )
    parser.add_argument(
        "--tables", nargs="+", type=Path, default=[], metavar="FILE", help="tables of `selection`"
    )
    parser.add_argument("--browser", default="/usr/bin/chromium", help="browser of `tensorboard`")
    options = parser.parse_args()
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            PICTURES[name](Path(folder), options)


def make_paper(folder: Path, options: argparse.Namespace) -> None:
    """Draw the paper's figures."""
    scripts = sorted((EXAMPLES / "paper").glob("fig*.py"))
    for script in (*scripts, EXAMPLES / "paper" / "regularisation.py"):
        run_python(script, "--output", folder)
    for picture in folder.glob("*.png"):
        store(picture, Path("paper") / picture.name)


def make_language(folder: Path, options: argparse.Namespace) -> None:
    """Draw the pictures of language models that read their text once."""
    for name in ("correlations", "equal_cost", "mixed_settings", "policies"):
        run_python(EXAMPLES / "language" / f"{name}.py", "--output", folder)
    for name in ("correlations", "equal_cost", "mixed_settings"):
        store(folder / f"language_{name}.png", f"language/{name}.png")
    policies = folder / "language_policies_all_learning_rates_all_at_once.png"
    store(policies, "language/policies.png")


def make_rank(folder: Path, options: argparse.Namespace) -> None:
    """Draw the ranks of the runs of `rank_runs.py`."""
    run_python(EXAMPLES / "rank_runs.py", "--output", folder)
    picture = folder / "rank.png"
    run_python("-m", "lightning_sotl", "rank", folder / "rank_runs_logs", "--plot", picture)
    store(picture, "rank.png")


def make_selection(folder: Path, options: argparse.Namespace) -> None:
    """Draw rank regret against cost, averaged over tables."""
    own = [EXAMPLES / "paper" / "tables" / f"{name}.npz" for name in ("cells", "regularised")]
    arguments = ["--workers", "0", "--repeats", "100", "--policy", *POLICIES, "--output", folder]
    script = EXAMPLES / "benchmarks" / "selection.py"
    run_python(script, *own, *options.tables, *arguments)
    store(folder / "selection_81_workers.png", "selection.png")


def make_tensorboard(folder: Path, options: argparse.Namespace) -> None:
    """Take a screenshot of the newest digits sweep in TensorBoard."""
    sweeps = (EXAMPLES / "output" / "digits_sweep" / "stop_at_6").glob("sweep_*")
    newest = max(sweeps, key=lambda path: path.stat().st_mtime)
    with serve_tensorboard(newest) as address:
        take_page(address, folder / "tensorboard.png", options.browser)
    store(folder / "tensorboard.png", "tensorboard.png")


PICTURES = {
    "paper": make_paper,
    "language": make_language,
    "rank": make_rank,
    "selection": make_selection,
    "tensorboard": make_tensorboard,
}


def run_python(*arguments: str | Path) -> None:
    """Run a Python command."""
    subprocess.run([sys.executable, *map(str, arguments)], check=True)  # noqa: S603  # our scripts


def store(picture: Path, name: str | Path) -> None:
    """Store a picture with few colors in `docs/images/`."""
    target = IMAGES / name
    target.parent.mkdir(exist_ok=True)
    with Image.open(picture) as image:
        # The default method turns the color of a thin line gray.
        few = image.convert("RGB").quantize(
            COLORS, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
        )
        few.save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")  # noqa: T201  # a script


@contextlib.contextmanager
def serve_tensorboard(logs: Path) -> Iterator[str]:
    """Serve a directory of runs on a free port of this machine, and yield its address."""
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
    """Take a screenshot of TensorBoard's page of `sotl_e1`, with one line per run."""
    from playwright.sync_api import sync_playwright  # the other pictures do not need it

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport=PAGE_SIZE, color_scheme="light")
        page.goto(f"{address}/?darkMode=false&tagFilter=%5Esotl_e1%24&smoothing=0#timeseries")
        arrange(page)
        page.screenshot(path=picture)
        chromium.close()


def arrange(page: Page) -> None:
    """Show one wide chart with a logarithmic axis, and only the list of runs next to it."""
    card = page.locator("scalar-card")
    card.wait_for(timeout=60_000)  # TensorBoard looks for new runs first
    page.get_by_text("Enable step selection").click()
    page.get_by_label("Close side pane").click()
    card.get_by_label("Toggle full size mode").click()
    card.get_by_label("More line chart options").click()
    page.get_by_text("Y-axis log scale").click()
    card.locator(".chart-container").evaluate("chart => { chart.style.height = '620px'; }")
    page.mouse.move(0, 0)  # off the chart, which would show a tooltip
    page.wait_for_timeout(5_000)  # no event reports when the canvas is drawn


if __name__ == "__main__":
    main()
