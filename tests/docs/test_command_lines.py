"""Every command line in the documentation is one that dcache reads: its options and their values exist."""

import re
import shlex
from pathlib import Path

import pytest

from dcache import DcacheError
from dcache.cli import command_parser

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(dcache [a-z]+ [^`]*--[^`]*)`")
SHELL = {"", "bash", "console", "sh"}


def command_lines(page: Path) -> list[str]:
    """Lines of a page's blocks that begin with `dcache`, continued ones joined, and commands in its text."""
    text = page.read_text(encoding="utf-8")
    blocks = [block for language, block in FENCED.findall(text) if language in SHELL]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = [command.replace("\n", " ") for command in INLINE.findall(FENCED.sub("", text))]
    return [*(line for line in lines if re.match(r"dcache \w", line)), *inline]


LINES = sorted({(line, page.relative_to(ROOT).as_posix()) for page in PAGES for line in command_lines(page)})


def test_there_are_many() -> None:
    assert len(LINES) > 60


# What a reader puts a value of their own for.
STANDS_FOR = {"NAME": "pairs", "T": "20"}


@pytest.mark.parametrize(("line", "page"), LINES)
def test_a_command_line_is_read(line: str, page: str) -> None:
    arguments = [STANDS_FOR.get(word, word) for word in shlex.split(line, comments=True)[1:]]
    # What stands for one of several is written `a | b`.
    assert "|" not in arguments
    try:
        assert command_parser().parse_args(arguments).run is not None
    except DcacheError as error:
        # A text may name an option without what else the command needs; a block is typed as it stands.
        in_block = line not in INLINE.findall((ROOT / page).read_text(encoding="utf-8").replace("\n", " "))
        if in_block or "arguments are required" not in str(error):
            raise
