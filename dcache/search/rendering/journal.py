"""The journal of a search: one line for each evaluation, appended when it is done.

A line is JSON with a CRC-32 checksum. A killed search leaves at most one torn line; torn lines are skipped,
counted and evaluated again. The first line identifies the search.
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
        path: the file; None keeps the results in memory only.
        about: everything that decides the results, from `dcache.search.search.identity_of`.
        results: (schedule digest, rung) -> result.
        damaged: number of lines that could not be read.
        what: what it is the journal of, for messages.
    """

    path: Path | None
    about: Mapping[str, Any]
    results: dict[Key, dict[str, Any]] = field(default_factory=dict)
    damaged: int = 0
    what: str = "search"

    @staticmethod
    def start(path: Path, about: Mapping[str, Any], resume: bool, what: str = "search") -> Journal:
        """Start a new file, or continue an existing one. A file without evaluations is started anew.

        Args:
            path: the file.
            about: everything that decides the results.
            resume: continue an existing file.
            what: what it is the journal of, for messages.

        Raises:
            DcacheError: there is a file and `resume` is False; it is of another search; or it cannot be
                written.
        """
        journal = Journal(path, about, what=what)
        lines = journal._lines() if path.exists() and path.stat().st_size else None
        if lines is not None and (len(lines) != 1 or not _heads(lines[0]) or journal.damaged):
            if not resume:
                raise DcacheError(
                    f"{path} exists already: continue that search (--resume), or choose another --out"
                )
            journal._read(lines)
        elif lines is None or lines[0].get("about") != journal._as_read():
            if lines is not None:
                path.unlink()
            head = {"format": FORMAT, "version": VERSION, "about": dict(about), "versions": versions()}
            journal._append(head)
        return journal

    def add(self, key: Key, result: Mapping[str, Any]) -> None:
        """Log one evaluation."""
        self.results[key] = dict(result)
        self._append({"key": list(key), "result": dict(result)})

    def _as_read(self) -> Any:
        """`about` after a round trip through JSON (tuples become lists), for comparison with the file's."""
        return json.loads(json.dumps(dict(self.about)))

    def _read(self, lines: list[dict[str, Any]]) -> None:
        if not lines or not _heads(lines[0]):
            raise DcacheError(
                f"{self.path} is no journal of a {self.what}: its first line is not a journal's. Choose "
                "another --out"
            )
        about, expected = lines[0].get("about"), self._as_read()
        if about != expected:
            names = [k for k in {*expected, *(about or {})} if (about or {}).get(k) != expected.get(k)]
            raise DcacheError(
                f"{self.path} is of another {self.what}: {', '.join(sorted(names))} differ. Use the same "
                "settings, delete it, or choose another --out"
            )
        written_with = lines[0].get("versions")
        if written_with != versions():
            warnings.warn(
                f"{self.path} was written with {written_with}, and this is {versions()}: equal schedules may "
                "give figures that differ in their last digits",
                DcacheWarning,
                stacklevel=2,
            )
        for line in lines[1:]:
            try:
                digest, rung = line["key"]
                self.results[str(digest), int(rung)] = dict(line["result"])
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
        """Append one line, in one write."""
        if self.path is None:
            return
        body = json.dumps(content)
        line = json.dumps({**content, "sum": zlib.crc32(body.encode())}) + "\n"
        try:
            with self.path.open("ab") as opened:
                # A kill may have torn the last line: end it, so that this line is not lost with it.
                if opened.tell() and not _ends_whole(self.path):
                    line = "\n" + line
                opened.write(line.encode())
                opened.flush()
                # On disk before the search goes on: a result that strategies have seen must survive a crash.
                os.fsync(opened.fileno())
        except OSError as error:
            again = "with --resume" if self.what == "search" else "again"
            raise DcacheError(
                f"cannot write the journal {self.path}: {error.strerror}. Earlier results are saved: free "
                f"some space and run the same command {again}"
            ) from error


def _heads(line: dict[str, Any]) -> bool:
    """Whether a line is a journal's first line, of this version."""
    return line.get("format") == FORMAT and line.get("version") == VERSION


def _checked(raw: bytes) -> dict[str, Any] | None:
    """Content of a line; None if it is torn or its checksum is wrong."""
    try:
        content = json.loads(raw)
        checksum = content.pop("sum")
        return content if checksum == zlib.crc32(json.dumps(content).encode()) else None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def _ends_whole(path: Path) -> bool:
    """Whether the file ends with a whole line."""
    with path.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read(1) == b"\n"
