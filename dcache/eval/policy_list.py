"""Lists of policies on the command line: separated by `;`, each named once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dcache.errors import DcacheError


@dataclass(frozen=True)
class Labelled:
    """Something that is measured.

    Attributes:
        label: name in tables.
    """

    label: str

    @property
    def file_name(self) -> str:
        """The label as part of a file's name."""
        return re.sub(r"[^a-zA-Z0-9.=]+", "-", self.label)


Entry = TypeVar("Entry", bound=Labelled)


def read_policies(
    text: str, entry: Callable[[str], Entry], known: Iterable[str], example: str
) -> list[Entry]:
    """Read the value of `--policies`.

    Args:
        text: policies separated by `;`, each a name with options, as in "dual:block=8;dkv".
        entry: reads one of them.
        known: the names that there are, for the message.
        example: a list, for the message.

    Raises:
        DcacheError: one is named twice, or there is none; and what `entry` raises.
    """
    entries = [entry(spec.strip()) for spec in text.split(";") if spec.strip()]
    if not entries:
        raise DcacheError(f"--policies names none: give some of {', '.join(known)}, as in {example!r}")
    twice = named_twice([(each.label, each.file_name) for each in entries])
    if twice:
        raise DcacheError(f"--policies names {', '.join(twice)} more than once: name each policy once")
    return entries


def named_twice(names: Sequence[tuple[str, str]]) -> list[str]:
    """Labels whose file names occur more than once, sorted.

    Args:
        names: label and file name of each entry.
    """
    files = [file for _, file in names]
    return sorted({label for label, file in names if files.count(file) > 1})
