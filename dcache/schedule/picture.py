"""A schedule as a picture: a PNG with a row for each site and a square for each evaluation."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence

# Pixels of a square, and of the gap around it.
SQUARE, GAP = 14, 2
COMPUTED, PREDICTED, PAPER = (31, 78, 121), (214, 224, 235), (255, 255, 255)


def png_of(rows: Iterable[Sequence[bool]]) -> bytes:
    """A PNG of rows of one length, dark where the site is computed."""
    table = [list(row) for row in rows]
    size = SQUARE + GAP
    width, height = len(table[0]) * size + GAP, len(table) * size + GAP
    empty = bytes(PAPER) * width
    lines = [empty] * GAP
    for row in table:
        line = bytes(PAPER) * GAP
        for computed in row:
            line += bytes(COMPUTED if computed else PREDICTED) * SQUARE + bytes(PAPER) * GAP
        lines += [line] * SQUARE + [empty] * GAP
    # Each line begins with its filter: none.
    pixels = b"".join(b"\0" + line for line in lines)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (_chunk(b"IHDR", head), _chunk(b"IDAT", zlib.compress(pixels, 9)), _chunk(b"IEND", b""))
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
