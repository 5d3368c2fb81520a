"""The code of the README and of the site runs, and prints what the pages show."""

import inspect
import json
import re
import subprocess
import sys
from difflib import unified_diff
from functools import partial

import pytest

from lightning_sotl import AdaptivePolicy, environment
from lightning_sotl.cli.parser import build_parser
from tests.support.pages import (
    DOCS,
    README,
    bash_lines,
    blocks,
    command_below,
    commands,
    first_cells,
    is_slow,
    is_trained,
    name_of,
    other_documents,
    pages,
    printed_by,
    program,
)
from tests.support.paths import ROOT

NAMES = [name_of(page) for page in pages()]
PROGRAMS = [name_of(page) for page in pages() if program(page) and not is_slow(page)]
TRAINED = 0.03  # training makes small differences between processors
NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run the code of all pages, and return what each block printed."""
    folder = tmp_path_factory.mktemp("pages")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.run_pages", folder, *PROGRAMS],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_code_of_a_page_runs_and_prints_what_the_page_shows(results, name):
    result = results[name]
    assert result["failed"] is None, result["failed"]
    for place, shown in printed_by(ROOT / name).items():
        tolerance = TRAINED if is_trained(ROOT / name, place) else 0
        assert_shows(result["printed"][place], shown, tolerance)


def assert_shows(printed, shown, tolerance):
    """Check that the printed lines contain the shown lines in the same order."""
    lines = iter(printed.splitlines())
    for expected in shown.splitlines():
        found = any(is_line(line, expected, tolerance) for line in lines)
        assert found, f"{expected!r} not in {printed}"


def is_line(printed, shown, tolerance=0.0):
    """Return whether a printed line is the shown one.

    Args:
        printed: The printed line.
        shown: The line of the page, in which `...` is any text.
        tolerance: The relative tolerance of its decimals; 0 compares them as text. Otherwise the
            last digit may also differ by one.
    """
    pattern = re.escape(NUMBER.sub("<number>", " ".join(shown.split())))
    pattern = pattern.replace("<number>", r"(-?\d+\.\d+)").replace(r"\.\.\.", ".*")
    match = re.fullmatch(pattern, " ".join(printed.split()))
    if match is None:
        return False
    found, expected = list(match.groups()), NUMBER.findall(shown)
    return all(map(partial(is_number, tolerance=tolerance), found, expected))


def is_number(printed, shown, tolerance):
    """Return whether a printed decimal is the shown one, or rounds to a neighbor of it."""
    if not tolerance:
        return printed == shown
    last_digit = 10.0 ** -len(shown.partition(".")[2])
    return float(printed) == pytest.approx(float(shown), rel=tolerance, abs=last_digit * 1.001)


@pytest.mark.parametrize(
    ("printed", "shown"),
    [("loss 1.0", "loss 1.2"), ("loss 1.0", "a loss 1.0"), ("rank 2 a", "rank 1 a")],
)
def test_a_different_line_is_not_the_shown_one(printed, shown):
    assert not is_line(printed, shown)
    assert not is_line(printed, shown, TRAINED)


def test_a_line_may_differ_in_spaces_and_where_the_page_has_dots():
    assert is_line("rank  1.0 /tmp/a/x.ckpt", "rank 1.0 ...")


def test_a_decimal_of_a_trained_run_may_differ_by_three_percent():
    assert is_line("loss 1.029", "loss 1.000", TRAINED)
    assert not is_line("loss 1.031", "loss 1.000", TRAINED)
    assert not is_line("loss 1.029", "loss 1.000")


def test_the_last_digit_of_a_trained_run_may_differ_by_one():
    assert is_line("loss 0.11", "loss 0.12", TRAINED)
    assert not is_line("loss 0.10", "loss 0.12", TRAINED)


def python_blocks(page):
    return [block for block in blocks(page) if block.language == "python"]


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_and_options_of_a_page_exist(name):
    text = (ROOT / name).read_text()
    lines = [*commands(ROOT / name), *bash_lines(ROOT / name)]
    shown = [line.partition(" #")[0] for line in lines if line.startswith("lightning-sotl ")]
    inline = re.findall(r"`(lightning-sotl (?:rank|evaluate|replay) [^`]+)`", text)
    for command in [*shown, *inline]:
        if command.endswith(" --help"):  # argparse exits
            continue
        build_parser().parse_args(command.split()[1:])
    for path, options in re.findall(r"python (examples/\S+\.py)([^`\n|]*)", text):
        source = (ROOT / path).read_text()
        shared = [(ROOT / path).with_name(f"{n}.py") for n in re.findall(r"from (_\w+) ", source)]
        source += "".join(module.read_text() for module in shared if module.exists())
        if "LightningCLI" in source:  # its options come from Lightning
            continue
        for option in re.findall(r"--[a-z-]+", options):
            assert f'"{option}"' in source, (path, option)


@pytest.mark.parametrize("command", ["rank", "evaluate", "replay"])
def test_the_options_in_the_tables_of_a_command_exist(command):
    (subparsers,) = build_parser()._subparsers._group_actions
    known = subparsers.choices[command]._option_string_actions
    cells = first_cells(DOCS / "analysis" / f"{command}.md", "option")
    shown = [cell.split()[0] for cell in cells if cell.startswith("--")]
    if command != "rank":  # its page has no table of options
        assert len(shown) > 5
    assert set(shown) <= set(known)


def test_the_arguments_of_the_adaptive_policy_are_on_its_page():
    shown = first_cells(DOCS / "concepts" / "choosing.md", "argument")
    assert shown == list(inspect.signature(AdaptivePolicy).parameters)


def test_the_options_of_the_environment_variable_are_on_its_page():
    cells = first_cells(DOCS / "guides" / "unchanged-programs.md", "option")
    for cell in cells:
        environment._read(cell)
    assert {cell.partition("=")[0] for cell in cells} == set(environment._OPTIONS)


@pytest.mark.parametrize("name", [*NAMES, *map(name_of, other_documents())])
def test_the_links_of_a_page_lead_to_a_file_and_a_heading(name):
    page = ROOT / name
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", without_code(page.read_text())):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), target
        if anchor:
            assert anchor in anchors(file), target


def without_code(text):
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.M | re.S)


def anchors(page):
    """Return the anchors of a page's headings, as MkDocs and code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text()), re.M)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"\s", "-", heading) for heading in plain}


@pytest.mark.parametrize("name", NAMES)
def test_the_code_of_a_page_is_marked_as_the_tests_expect(name):
    page = ROOT / name
    assert page.read_text().count("```python") == len(python_blocks(page))
    known = {"", "prints", "run here", "continues README", "slow", "command: tests"}
    known |= {"command: main job", "output: main job", "output: main job, verified"}
    for block in blocks(page):
        is_not_run = block.language == "console" and block.comment.startswith("not run: ")
        assert block.comment in known or is_not_run, block.line


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 160
    for line in README.read_text().splitlines():
        assert len(line) <= 125, line


@pytest.mark.parametrize("comment", ["command: main job", "command: tests"])
def test_a_command_of_the_readme_is_one_line_with_a_pinned_torch(comment):
    command = command_below(comment)
    assert "\n" not in command
    assert '"torch==' in command
    for path in re.findall(r"examples/\w+\.py", command):
        assert (ROOT / path).is_file()


def test_getting_started_has_the_code_of_the_readme():
    page = ROOT / "docs" / "getting-started.md"
    ours, readme = ([block.text for block in program(path)] for path in (page, README))
    assert ours[:2] == readme[:2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_of_the_pages_print_what_the_pages_show():
    """The pages show the numbers of the torch version that the README installs."""
    subprocess.run([sys.executable, "examples/rank_runs.py"], check=True, cwd=ROOT)
    wrong = []
    for page in pages():
        is_skipped = re.compile("run here|not run: ").match
        skipped = [block.text for block in blocks(page) if is_skipped(block.comment)]
        skipped_text = " ".join("".join(skipped).replace("\\\n", " ").split())
        for command, shown in commands(page).items():
            if command in skipped_text or not shown.strip():
                continue
            name, *arguments = command.split()
            options = {"lightning-sotl": ["-m", "lightning_sotl"], "python": []}[name]
            done = subprocess.run(
                [sys.executable, *options, *arguments],
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
            )
            lines, expected = done.stdout.splitlines(), shown.splitlines()
            # Numbers from a committed table are exact, because nothing is trained.
            tolerance = 0 if "examples/paper/" in command else TRAINED
            for line in expected:
                if not any(is_line(printed, line, tolerance) for printed in lines):
                    wrong += [f"{name_of(page)}: {command}", *unified_diff(expected, lines)]
                    break
    assert wrong == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_on_ray_stops_four_trials_at_t_and_trains_two_to_the_end(tmp_path):
    page = ROOT / "docs" / "sweeps" / "ray.md"
    code = "\n".join(block.text for block in program(page))
    counts = "print('counts', *([r.metrics['epochs_completed'] for r in grid] for grid in {}))"
    # The program is in a file, because Ray's workers import what it defines.
    path = tmp_path / "program.py"
    path.write_text(
        code.replace("/shared/sweeps", str(tmp_path / "storage"))
        + counts.format("(stopped, promoted)")
        + "\nprint('in turns', sorted(r.metrics['epochs_completed'] for r in results)[2:])"
    )
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "counts [3, 3, 3, 3] [10, 10]" in done.stdout
    assert "in turns [10, 10]" in done.stdout
