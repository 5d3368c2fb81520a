"""The README and the pages of the site: their code, what it prints, their links and headings.

A comment in the line above a fenced block says what the tests do with it:

- `<!-- prints -->`: the Python block above prints these lines, possibly among others.
- `<!-- run here -->`: the `lightning-sotl` command of this block runs after the blocks above it, in
  the same folder, and prints the lines below it. `...` matches any text.
- `<!-- continues README -->`, once on a page: its code starts from the README's first block, which
  defines `Net`, `train_loader` and `val_loader`.
- `<!-- slow -->`, once on a page: only the slow tests run its code.
- `<!-- not run: REASON -->`: the commands of this console block cannot run here.

All Python blocks of a page run in order, as one program. Their numbers are exact as printed, unless
the block trains, or is a command below one that does: then they may differ by 3 %, or by one in the
last digit.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

README = ROOT / "README.md"
DOCS = ROOT / "docs"
_FENCED = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```[ ]*$", re.M | re.S
)
_COMMENT = re.compile(r"<!-- (.*?) -->\n*\s*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    comment: str
    """The text of the HTML comment directly above the block, or an empty string."""


def pages() -> list[Path]:
    """Return the README and all pages of the site."""
    return [README, *sorted(DOCS.rglob("*.md"))]


def other_documents() -> list[Path]:
    """Return the documents that are no pages of the site."""
    own = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")]
    folders = [path for name in ("examples", "tests") for path in (ROOT / name).glob("*/README.md")]
    return [*own, *sorted(folders)]


def name_of(page: Path) -> str:
    """Return a page's path below the project."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    source = page.read_text()
    found = []
    for match in _FENCED.finditer(source):
        comment = _COMMENT.search(source[: match.start()])
        found.append(
            Block(
                page=page,
                line=source.count("\n", 0, match.start()) + 1,
                language=match["language"],
                text=textwrap.dedent(match["text"]),
                comment=comment[1] if comment else "",
            )
        )
    return found


def is_slow(page: Path) -> bool:
    """Return whether a page has code that only the slow tests run."""
    return "<!-- slow -->" in page.read_text()


def program(page: Path) -> list[Block]:
    """Return the blocks of a page that run as one program, in order.

    If the page continues the README, the README's first block comes first.
    """
    own = [block for block in blocks(page) if _runs(block)]
    if own and "<!-- continues README -->" in page.read_text():
        return [first_block(), *own]
    return own


def _runs(block: Block) -> bool:
    return block.language == "python" or block.comment == "run here"


def first_block() -> Block:
    """Return the README's first Python block, which defines the module and the loaders."""
    return next(block for block in blocks(README) if block.language == "python")


def printed_by(page: Path) -> dict[int, str]:
    """Return the output that a page shows: index of the block in `program(page)` -> its lines."""
    shown = {}
    place = sum(block.page != page for block in program(page)) - 1
    for block in blocks(page):
        place += _runs(block)
        if block.comment == "run here":
            shown[place] = block.text.partition("\n")[2]
        elif block.comment == "prints":
            shown[place] = block.text
    return shown


def is_trained(page: Path, place: int) -> bool:
    """Return whether the output of a block of `program(page)` depends on training."""
    upto = program(page)[: place + 1]
    own = upto if upto[-1].language == "console" else upto[-1:]
    return any(re.search(r"\.fit\(|\.backward\(", block.text) for block in own)


def commands(page: Path) -> dict[str, str]:
    """Return the commands of a page, each joined to one line, and the output shown for them."""
    shown = {}
    for block in blocks(page):
        if block.language == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
                command, _, output = part.replace("\\\n", " ").partition("\n")
                shown[" ".join(command.split())] = output
    return shown


def bash_lines(page: Path) -> list[str]:
    """Return the lines of a page's bash blocks, those that end with a backslash joined."""
    texts = [block.text for block in blocks(page) if block.language == "bash"]
    return [
        " ".join(line.split())
        for text in texts
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip()
    ]


def first_cells(page: Path, heading: str) -> list[str]:
    """Return the code in the first column of the page's tables whose first heading is given."""
    tables = re.findall(rf"^\| {heading} \|.*\n\|[-| ]+\n((?:\|.*\n)+)", page.read_text(), re.M)
    rows = [row for table in tables for row in table.splitlines()]
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row.split("|")[1])]


def command_below(comment: str) -> str:
    """Return the README's command below `<!-- COMMENT -->`."""
    (block,) = (block for block in blocks(README) if block.comment == comment)
    return block.text.strip()
