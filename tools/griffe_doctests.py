"""An extension of griffe: doctests in docstrings are shown as sessions of the interpreter."""

from __future__ import annotations

import re
from typing import Any

import griffe

# From a prompt to the next blank line.
SESSION = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.DOTALL | re.MULTILINE)


class Doctests(griffe.Extension):
    """Puts each session of a docstring into a fence."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Griffe calls it for each object that it has read."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """A docstring whose doctests are fenced; a session ends at a blank line."""
    return SESSION.sub(lambda match: f"```pycon\n{match[0].replace('<BLANKLINE>', '')}\n```", text)
