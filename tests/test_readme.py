"""The README's code does what the README says it does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def block(marker):
    """Return the fenced block that stands behind `<!-- marker -->`."""
    pattern = rf"<!-- {re.escape(marker)} -->\n```\w*\n(.*?)\n```\n<!-- end -->"
    (text,) = re.findall(pattern, README.read_text(), flags=re.DOTALL)
    return text


@pytest.mark.timeout(120)
def test_the_quick_start_prints_what_stands_below_it(tmp_path):
    code = block("block: quick start")
    assert sum(bool(line.strip()) for line in code.splitlines()) < 20
    check = "print('promoted', best, trainer.current_epoch, promoted.stopping_reason)"
    code = "\n".join(
        [code, block("block: promotion"), check, block("block: adaptive"), block("block: optuna")]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    printed = [line for line in done.stdout.splitlines() if line.startswith("width ")]
    printed, adaptive = printed[:3], printed[3:]
    assert [line.split()[0] for line in adaptive] == ["width"] * 8
    ended = [line for line in adaptive if line.endswith(", policy")]
    said = [line for line in block("output: adaptive").splitlines() if line.endswith(", policy")]
    assert [line.split(":")[0] for line in ended] == [line.split(":")[0] for line in said]
    assert "promoted 64 30 not_stopped" in done.stdout
    promoted = re.findall(
        r"^trial \d had \d\.\d\d at T and was trained to epoch 10$", done.stdout, re.M
    )
    assert len(promoted) == 2
    expected = block("output: quick start").splitlines()
    assert len(printed) == len(expected) == 3
    for line, said in zip(printed, expected, strict=True):
        number = re.compile(r": (\d\.\d\d) ")
        assert number.sub("", line) == number.sub("", said)
        # Another processor or torch may round and draw otherwise.
        assert float(number.search(line)[1]) == pytest.approx(
            float(number.search(said)[1]), abs=0.15
        )


@pytest.mark.parametrize("marker", ["command: main job", "command: tests"])
def test_the_commands_name_what_is_there(marker):
    command = block(marker)
    assert "\n" not in command
    assert '"torch==' in command
    for path in re.findall(r"examples/\w+\.py", README.read_text()):
        assert (README.parent / path).is_file(), path


def test_pictures_and_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target
