"""The README's blocks: code, what it prints, and commands with what they print."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

README = ROOT / "README.md"


def block(marker: str) -> str:
    """Return the fenced block that stands behind `<!-- marker -->`."""
    (text,) = re.findall(_fenced(re.escape(marker)), README.read_text(), flags=re.DOTALL)
    return text


def python_blocks() -> dict[str, str]:
    """Return the code of every block of Python by its name, in the README's order."""
    found = re.findall(_fenced("block: ([^>]*?)"), README.read_text(), flags=re.DOTALL)
    if len(found) != README.read_text().count("```python\n"):
        raise ValueError("A block of Python in the README has no `<!-- block: NAME -->`.")
    return dict(found)


def shell_commands() -> dict[str, str]:
    """Return what the README shows of each `$ lightning-sotl ...`, by the command's arguments."""
    shown = {}
    for text in re.findall(r"(?:^    .*\n)+", README.read_text(), flags=re.MULTILINE):
        lines = re.sub(r"\\\n +", "", text)  # a command may go on in the next line
        command, *output = [line[4:] for line in lines.splitlines()]
        if command.startswith("$ lightning-sotl "):
            shown[command.removeprefix("$ lightning-sotl ")] = "\n".join(output) + "\n"
    return shown


def _fenced(marker: str) -> str:
    return rf"<!-- {marker} -->\n```\w*\n(.*?)\n```\n<!-- end -->"
