"""The journal of a search: every evaluation on a line of its own, appended as it is made.

A line is JSON with a checksum. A search that was killed at any moment leaves at most one torn line behind;
such lines are skipped, counted and evaluated again. The first line says which search it is.
"""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError, DcacheWarning
from dcache.eval.machine import versions

FORMAT = "dcache.search"
VERSION = 1
Key = tuple[str, int]


@dataclass
class Journal:
    """Evaluations by schedule digest and rung, kept in a file.

    Attributes:
        path: the file; None keeps them in memory only.
        about: what decides the results: model, prompts, space, strategy, seed.
        found: what is known.
        damaged: lines that could not be read.
    """

    path: Path | None
    about: Mapping[str, Any]
    found: dict[Key, dict[str, Any]] = field(default_factory=dict)
    damaged: int = 0

    @staticmethod
    def start(path: Path, about: Mapping[str, Any], resume: bool) -> Journal:
        """Begin a file, or go on with one. One that has no evaluation yet is begun anew.

        Raises:
            DcacheError: there is a file and `resume` is false; it is of another search; or it cannot be
                written.
        """
        journal = Journal(path, about)
        lines = journal._lines() if path.exists() and path.stat().st_size else None
        if lines is not None and (len(lines) != 1 or not _heads(lines[0]) or journal.damaged):
            if not resume:
                raise DcacheError(
                    f"{path} is there already: go on with that search (--resume), or choose another --out"
                )
            journal._read(lines)
        elif lines is None or lines[0].get("about") != journal._own():
            if lines is not None:
                path.unlink()
            head = {"format": FORMAT, "version": VERSION, "about": dict(about), "versions": versions()}
            journal._append(head)
        return journal

    def add(self, key: Key, result: Mapping[str, Any]) -> None:
        """Write down one evaluation."""
        self.found[key] = dict(result)
        self._append({"key": list(key), "result": dict(result)})

    def _own(self) -> Any:
        """What this search is about, as it comes back from a file."""
        return json.loads(json.dumps(dict(self.about)))

    def _read(self, lines: list[dict[str, Any]]) -> None:
        if not lines or not _heads(lines[0]):
            raise DcacheError(f"{self.path} is no journal of a search: its first line does not say so")
        about, own = lines[0].get("about"), self._own()
        if about != own:
            names = [k for k in {*own, *(about or {})} if (about or {}).get(k) != own.get(k)]
            raise DcacheError(
                f"{self.path} is of another search: {', '.join(sorted(names))} differ. Ask for the same, or "
                "choose another --out"
            )
        made = lines[0].get("versions")
        if made != versions():
            warnings.warn(
                f"{self.path} was written with {made}, and this is {versions()}: equal schedules may give "
                "figures that differ in their last digits",
                DcacheWarning,
                stacklevel=2,
            )
        for line in lines[1:]:
            try:
                digest, rung = line["key"]
                self.found[str(digest), int(rung)] = dict(line["result"])
            except (KeyError, TypeError, ValueError):
                self.damaged += 1

    def _lines(self) -> list[dict[str, Any]]:
        lines = []
        try:
            text = self.path.read_bytes() if self.path is not None else b""
        except OSError as error:
            raise DcacheError(f"cannot read the journal {self.path}: {error.strerror}") from None
        for i, raw in enumerate(text.splitlines()):
            line = _checked(raw)
            if line is not None:
                lines.append(line)
            elif i == 0:
                return []
            else:
                self.damaged += 1
        return lines

    def _append(self, content: dict[str, Any]) -> None:
        """One write of one line; a torn line before it is ended first."""
        if self.path is None:
            return
        body = json.dumps(content)
        line = json.dumps({**content, "sum": zlib.crc32(body.encode())}) + "\n"
        try:
            with self.path.open("ab") as opened:
                if opened.tell() and not _ends(self.path):
                    line = "\n" + line
                opened.write(line.encode())
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as error:
            raise DcacheError(
                f"cannot write the journal {self.path}: {error.strerror}. What was written before is kept: "
                "make room, and run the same command with --resume"
            ) from error


def _heads(line: dict[str, Any]) -> bool:
    """Whether a line is the first of a journal."""
    return line.get("format") == FORMAT and line.get("version") == VERSION


def _checked(raw: bytes) -> dict[str, Any] | None:
    """What a line says, None if it is torn or was changed."""
    try:
        content = json.loads(raw)
        told = content.pop("sum")
        return content if told == zlib.crc32(json.dumps(content).encode()) else None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def _ends(path: Path) -> bool:
    """Whether the file ends with a whole line."""
    with path.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read(1) == b"\n"
