"""Storage of the rows that readers compute, so that no batch is read twice.

The key of a batch is a digest of all that decides its rows: the reader's identity, the digests of its
pictures (and of the uncached ones of a paired source), and the prompts. A new picture, other weights or
another batch size change the key, and the old rows are dropped.
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
        content: digests of its files, and prompts.
        load: reads the pictures.
    """

    content: tuple[str, ...]
    load: Callable[[], Batch]


class Features:
    """The rows that one reader computes for several sets of pictures.

    A set has a folder with one file for each process, so that processes never write to the same file.

    Args:
        folder: folder of all sets.
        identity: identity of the reader.
        sets: name of a set -> its batches, for all processes.
    """

    def __init__(self, folder: Path, identity: str, sets: Mapping[str, Sequence[Chunk]]) -> None:
        self._folder = folder
        self._sets = {
            name: [(_key(identity, chunk), chunk) for chunk in chunks] for name, chunks in sets.items()
        }

    def fill(
        self,
        read: Callable[[Batch], Rows],
        process: tuple[int, int] = (0, 1),
        progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        """Read the batches of this process that have no rows yet, and save the rows.

        Batch i belongs to the process of rank i modulo world size. Rows are saved every minute and at the end
        of each set, so a killed run loses at most a minute of work.

        Args:
            read: the reader's function.
            process: rank and world size.
            progress: called after each batch with the batches done and the batches of this process.
        """
        index, count = process
        done, everything = 0, sum(len(chunks[index::count]) for chunks in self._sets.values())
        for name, chunks in self._sets.items():
            path = make_folder(self._folder / name) / f"{index}.safetensors"
            there, wanted = self._there(name), {key for key, _ in chunks}
            rows = {key: row for key, row in _load(path).items() if key in wanted}
            written, fresh = time.monotonic(), False
            for key, chunk in chunks[index::count]:
                if key not in there:
                    rows[key], fresh = read(chunk.load()), True
                done += 1
                progress(done, everything)
                if fresh and time.monotonic() - written > SECONDS_BETWEEN_WRITES:
                    _save(path, rows)
                    written, fresh = time.monotonic(), False
            if fresh:
                _save(path, rows)

    def rows(self, name: str) -> Rows:
        """All rows of a set, from all processes: (N, D), in the order of its batches.

        Raises:
            DcacheError: some rows are missing.
        """
        there, keys = self._there(name), [key for key, _ in self._sets[name]]
        missing = sum(key not in there for key in keys)
        if missing:
            raise DcacheError(
                f"{missing} of {len(keys)} batches have no rows in {self._folder / name}, because another "
                "process stopped early. Run the same command again: finished batches are saved"
            )
        return np.concatenate([there[key] for key in keys])

    def _there(self, name: str) -> dict[str, Rows]:
        rows: dict[str, Rows] = {}
        for path in sorted((self._folder / name).glob("[0-9]*.safetensors")):
            rows |= _load(path)
        return rows


def _key(identity: str, chunk: Chunk) -> str:
    return hashlib.sha256("\n".join((identity, *chunk.content)).encode()).hexdigest()


def _load(path: Path) -> dict[str, Rows]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(path.read_bytes())
    except (FileNotFoundError, SafetensorError):
        # A damaged file counts as missing: its batches are read again.
        return {}


def _save(path: Path, rows: dict[str, Rows]) -> None:
    from safetensors.numpy import save

    # Not save_file, whose error on a full disk is no OSError, which `write` turns into a clear message.
    content = save({key: np.ascontiguousarray(row) for key, row in rows.items()})
    write(path, lambda temporary: temporary.write_bytes(content))
