"""Pages as a reader meets them: fenced blocks with their lines, and the commands in a piece of shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ON_TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "packages/dcache-demo/README.md")
# What the first word of a line in a piece of shell may be.
PROGRAMS = ("dcache", "git", "make", "mkdir", "pip", "python")
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
KINDS = {"python": "python", "bash": "shell", "text": "text", "toml": "toml"}


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: its file, below the repository's root.
        line: of the page, on which its first line stands, from 1.
        language: behind the fence; empty where none is given.
        code: its lines.
    """

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def kind(self) -> str:
        """`python`, `shell`, `toml` or `text`; without a language, shell where it begins with a program."""
        if self.language:
            return KINDS[self.language]
        return "shell" if self.code.split()[0] in PROGRAMS else "text"


def all_pages() -> list[str]:
    """All pages that readers follow, below the repository's root."""
    return [*ON_TOP, *(path.relative_to(ROOT).as_posix() for path in sorted(DOCS.rglob("*.md")))]


def text_of(page: str) -> str:
    """A page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, from top to bottom."""
    text = text_of(page)
    return [
        Block(page, text.count("\n", 0, match.start(3)) + 1, match[2], match[3])
        for match in FENCED.finditer(text)
    ]


def lines(code: str) -> Iterator[tuple[int, list[str]]]:
    """The words of every command in a piece of shell, with the number of its line, from 0."""
    number = 0
    for line in re.split(r"(?<!\\)\n", code):
        for command in line.replace("\\\n", " ").split("&&"):
            words = shlex.split(command.strip().removeprefix("$ "), comments=True)
            if words:
                yield number, words
        number += 1 + line.count("\n")


def sentences(page: str) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", text_of(page))
