"""Prompts: from a file, a named set, or the words themselves.

>>> read("demo:1")
['a large dotted purple star at the top on an orange background']
>>> read("a red fox in the snow")
['a red fox in the snow']
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dcache.errors import DcacheError
from dcache.util.options import did_you_mean
from dcache.util.text import first_sentence

COLUMN = "prompt"
# Named set -> module, function of the module that draws captions, and the largest count.
SETS = {
    "demo": ("dcache.demo.pictures", "demo_captions", 400),
    "demo-train": ("dcache.demo.pictures", "trained_captions", 400),
    "demo-video": ("dcache.demo.video.clips", "demo_captions", 90),
    "demo-video-train": ("dcache.demo.video.clips", "trained_captions", 90),
}
USUAL = 8
Row = tuple[str, object]


def read(source: str, column: str = COLUMN) -> list[str]:
    """Read prompts, in order; duplicates are kept.

    Args:
        source: a file in UTF-8: txt (one prompt per line), csv (with a header line), jsonl (one object per
            line) or parquet; or a named set with a number, such as `demo:32` (captions that the model was not
            trained on) and `demo-train:32` (captions that it was); or a prompt.
        column: column of the csv or parquet file, key of the jsonl objects.

    Raises:
        DcacheError: there is no such file or set, or a prompt is missing or empty.
    """
    path = Path(source)
    name, _, count = source.partition(":")
    if name in SETS:
        return _named(name, count)
    if path.suffix.lower() in READERS:
        return _from_file(path, column)
    # Not Path.exists: it fails on a prompt that is too long for a file's name.
    exists = "\0" in source or os.path.exists(source)  # noqa: PTH110
    if source.strip() and not exists and (len(source.split()) > 1 or not _looks_like_a_name(source)):
        return [source.strip()]
    close = did_you_mean(name, SETS) if count.isdecimal() else ""
    raise DcacheError(
        f"no prompts in {source!r}: expected a file ending in {', '.join(READERS)}, a named set "
        f"({', '.join(f'{name}:{USUAL}' for name in SETS)}), or a prompt. For DrawBench or COCO captions "
        f"make a text file with one prompt per line.{close}"
    )


def _looks_like_a_name(word: str) -> bool:
    """Whether one word is a path, a file's name or the name of a set, and not a prompt."""
    return bool(os.sep in word or re.search(r"\.[A-Za-z]\w{0,6}$", word) or re.search(r"\w:\d*$", word))


def digest(prompts: Sequence[str]) -> str:
    """Sixteen hexadecimal digits that change with any prompt and with their order."""
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()[:16]


def _named(name: str, count: str) -> list[str]:
    module, draw, most = SETS[name]
    if count and not (count.isdecimal() and 1 <= int(count) <= most):
        raise DcacheError(f"{name}:{count}: expected a number of captions between 1 and {most}")
    captions = getattr(importlib.import_module(module), draw)(int(count or USUAL))
    return [caption.text for caption in captions]


def _from_file(path: Path, column: str) -> list[str]:
    prompts = []
    for where, value in READERS[path.suffix.lower()](path, column):
        if not isinstance(value, str):
            raise DcacheError(f"{path}, {where}: expected a text, got {value!r}")
        if not value.strip():
            raise DcacheError(f"{path}, {where}: the prompt is empty. Write one there or delete it.")
        prompts.append(value.strip())
    if not prompts:
        raise DcacheError(f"{path} holds no prompts")
    return prompts


def _lines(path: Path) -> list[str]:
    """The lines of a text file, without a byte order mark and without a last empty line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DcacheError(f"cannot read the prompts {path}: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig").removesuffix("\n").split("\n") if content else []
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DcacheError(
            f"{path}, line {line}: byte {content[error.start]:#04x} (number {error.start} of the file) is "
            "not UTF-8. Save the file as UTF-8, as by: iconv -f latin1 -t utf-8"
        ) from None


def _txt(path: Path, _: str) -> Iterator[Row]:
    return ((f"line {number}", line) for number, line in enumerate(_lines(path), 1))


def _csv(path: Path, column: str) -> Iterator[Row]:
    rows = csv.reader([f"{line}\n" for line in _lines(path)], strict=True)
    try:
        names = next(rows, [])
        _expect(path, column, names)
        at = names.index(column)
        for row in rows:
            yield f"line {rows.line_num}", row[at] if at < len(row) else ""
    except csv.Error as error:
        raise DcacheError(f"{path}, line {rows.line_num}: {error}") from None


def _jsonl(path: Path, column: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), 1):
        where = f"line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DcacheError(f"{path}, {where} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise DcacheError(f"{path}, {where}: expected an object with the key {column!r}, got {line[:40]}")
        _expect(f"{path}, {where}", column, list(record))
        yield where, record[column]


def _parquet(path: Path, column: str) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DcacheError(f"reading {path} needs pyarrow: pip install pyarrow") from None
    try:
        _expect(path, column, parquet.read_schema(path).names)
        values = parquet.read_table(path, columns=[column])[column].to_pylist()
    except (OSError, ArrowException) as error:
        raise DcacheError(f"cannot read the prompts {path}: {first_sentence(error)}") from None
    for number, value in enumerate(values, 1):
        yield f"row {number}", value


def _expect(where: Path | str, column: str, names: Sequence[str]) -> None:
    if column not in names:
        raise DcacheError(
            f"{where} has no column {column!r}, it has {', '.join(map(repr, names)) or 'none'}: name the "
            "column with the prompts (--prompt-column)"
        )


READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".txt": _txt,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
