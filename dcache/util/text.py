"""Any value as a short text, for messages and reports."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

LONGEST = 60


def short(value: object) -> str:
    """`repr` of a value. A long one is cut, of a dataclass only the name is given; both end with a hash.

    >>> short([1, 2, 3])
    '[1, 2, 3]'
    >>> short(list(range(100)))
    '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16...#47a77b24'
    """
    if is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}#{_digest(value)}"
    text = repr(os.fspath(value)) if isinstance(value, os.PathLike) else repr(value)
    # numpy's repr leaves out the middle of a long array.
    complete = len(text) <= LONGEST and "..." not in text
    return text if complete else f"{' '.join(text.split())[: LONGEST - 3]}...#{_digest(value)}"


def first_sentence(error: BaseException) -> str:
    r"""The first sentence of another library's error, without its full stop; at most 200 characters.

    >>> first_sentence(ValueError("no such file. Try `pip install x`.\nSee https://example.org"))
    'no such file'
    """
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.split(". ", 1)[0].rstrip(".")[:200]


def _digest(value: object) -> str:
    sha = hashlib.sha256()
    for part in _parts(value):
        sha.update(part)
    return sha.hexdigest()[:8]


def _parts(value: object) -> Iterator[bytes]:
    """Bytes that identify a value. Arrays give all their numbers, unlike their `repr`."""
    if is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__.encode()
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        value = [*value.items()]
    if isinstance(value, list | tuple):
        yield f"{type(value).__name__}{len(value)}".encode()
        for item in value:
            yield from _parts(item)
        return
    try:
        view = memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        yield f"{value!r};".encode()
    else:
        yield f"{view.format}{view.shape}".encode()
        yield view.tobytes()
