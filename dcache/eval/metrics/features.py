"""Rows of numbers read from pictures, kept in files, so that no batch is read twice.

A batch's key is made of everything that decides its rows: the reader's identity, the digests of its pictures
(and of the uncached ones beside them), the prompts. A picture that was made anew, other weights, another size
of batches: another key, and the old rows are left out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dcache.errors import DcacheError
from dcache.eval.metrics.base import Batch, Rows
from dcache.util.files import make_folder, write

SECONDS_BETWEEN_WRITES = 60.0


@dataclass(frozen=True)
class Chunk:
    """A batch that can be loaded.

    Attributes:
        content: names what is in it: digests of files, prompts.
        load: reads the pictures.
    """

    content: tuple[str, ...]
    load: Callable[[], Batch]


class Features:
    """The rows that one reader makes of several sets of pictures.

    A set has a folder with one file for each process that read for it.

    Args:
        folder: of all sets.
        identity: the reader's.
        sets: name of a set -> its batches, those of other processes too.
    """

    def __init__(self, folder: Path, identity: str, sets: Mapping[str, Sequence[Chunk]]) -> None:
        self._folder = folder
        self._sets = {name: [(_key(identity, one), one) for one in chunks] for name, chunks in sets.items()}

    def fill(
        self,
        read: Callable[[Batch], Rows],
        process: tuple[int, int] = (0, 1),
        tell: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        """Read the batches of this process whose rows are not there yet, and write them.

        Batch i belongs to process i modulo their number. Rows are written every minute and at the end of each
        set, so not more than that is ever lost.

        Args:
            read: the reader's.
            process: index and count.
            tell: called after each batch with the number done and the number that are this process's.
        """
        index, count = process
        done, everything = 0, sum(len(chunks[index::count]) for chunks in self._sets.values())
        for name, chunks in self._sets.items():
            path = make_folder(self._folder / name) / f"{index}.safetensors"
            there, wanted = self._there(name), {key for key, _ in chunks}
            rows = {key: one for key, one in _load(path).items() if key in wanted}
            written, fresh = time.monotonic(), False
            for key, chunk in chunks[index::count]:
                if key not in there:
                    rows[key], fresh = read(chunk.load()), True
                done += 1
                tell(done, everything)
                if fresh and time.monotonic() - written > SECONDS_BETWEEN_WRITES:
                    _save(path, rows)
                    written, fresh = time.monotonic(), False
            if fresh:
                _save(path, rows)

    def rows(self, name: str) -> Rows:
        """All rows of a set, (N, D), in the order of its batches, whoever read them.

        Raises:
            DcacheError: some are not there.
        """
        there, keys = self._there(name), [key for key, _ in self._sets[name]]
        missing = sum(key not in there for key in keys)
        if missing:
            raise DcacheError(
                f"{missing} of {len(keys)} batches have no rows in {self._folder / name}: another process "
                "stopped early. Run the same command again: what was read is kept"
            )
        return np.concatenate([there[key] for key in keys])

    def _there(self, name: str) -> dict[str, Rows]:
        found: dict[str, Rows] = {}
        for path in sorted((self._folder / name).glob("[0-9]*.safetensors")):
            found |= _load(path)
        return found


def _key(identity: str, chunk: Chunk) -> str:
    return hashlib.sha256("\n".join((identity, *chunk.content)).encode()).hexdigest()


def _load(path: Path) -> dict[str, Rows]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(path.read_bytes())
    except (FileNotFoundError, SafetensorError):
        # A damaged file is as good as none: its batches are read again.
        return {}


def _save(path: Path, rows: dict[str, Rows]) -> None:
    from safetensors.numpy import save

    # Not save_file: a full disk must come as an OSError, which `write` explains.
    content = save({key: np.ascontiguousarray(one) for key, one in rows.items()})
    write(path, lambda temporary: temporary.write_bytes(content))
