"""The pictures of a finished run, as batches for sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dcache.errors import DcacheError
from dcache.eval.entries import UNCACHED
from dcache.eval.fidelity import CLIP
from dcache.eval.metrics.base import Batch, Metric, Source
from dcache.eval.metrics.features import Chunk
from dcache.eval.metrics.options import MetricOptions
from dcache.eval.metrics.reference import reference_chunks

if TYPE_CHECKING:
    from dcache.eval.manifest import Entry, Item
    from dcache.eval.store import Store

REFERENCE = "reference"


class Batches:
    """The batches of all methods that can be read, and the reasons for those that cannot.

    Args:
        store: a finished run.
        options: gives the batch size and the reference folder.

    Attributes:
        kind: "image" or "video".
        uncached: entry of the uncached pipeline.
        prompts: (N,) number of each item's prompt.
        broken: method folder -> what is wrong with its pictures.

    Raises:
        DcacheError: pictures are missing.
    """

    def __init__(self, store: Store, options: MetricOptions) -> None:
        unfinished = [entry.label for entry in store.methods if not store.complete(entry)]
        uncached = [entry for entry in store.methods if entry.spec == UNCACHED.spec]
        if unfinished or not uncached:
            missing = ", ".join(unfinished) or "without caching"
            raise DcacheError(
                f"pictures are missing in {store.folder}: {missing}. Run the generate stage first; it makes "
                "only what is missing"
            )
        self._store, self._options = store, options
        calls = {entry.folder: store.calls(entry) for entry in store.methods}
        self._digests = {folder: _digests(records) for folder, records in calls.items()}
        self.broken = {entry.folder: why for entry in store.methods if (why := store.broken(entry))}
        (self.uncached,) = uncached
        self.prompts = np.array([item.prompt_index for item in store.items])
        first = store.picture(self.uncached, store.items[0])
        self.kind = "video" if first.ndim == CLIP - 1 else "image"
        # The batch size counts frames, so that a batch of clips is no larger than one of pictures.
        self._size = max(1, options.score_batch_size // (len(first) if self.kind == "video" else 1))

    def sets(self, source: Source, compared: bool) -> dict[str, list[Chunk]]:
        """The batches that a source must read: those of sound methods, and of the reference pictures.

        Args:
            source: the source; a paired one needs sound uncached pictures.
            compared: whether a metric compares its rows with those of reference pictures.
        """
        chunks = {e.folder: self._chunks(source, e) for e in self._store.methods if self._readable(source, e)}
        if compared and self._options.reference is not None:
            chunks[REFERENCE] = reference_chunks(self._options.reference, self._options.score_batch_size)
        return chunks

    def why_not(self, metric: Metric, against: str, entry: Entry) -> str | None:
        """The reason why a method has no value of a metric; None if it has one.

        Args:
            metric: the metric.
            against: what it compares with in this run, as in `Metric.against`.
            entry: the method.
        """
        if entry.folder in self.broken:
            return self.broken[entry.folder]
        if self.kind not in metric.kinds:
            return f"{metric.title} is not defined for {self.kind}s"
        if against == "uncached" and entry == self.uncached:
            return "the methods are compared with it"
        if against == "uncached" and self.uncached.folder in self.broken:
            return f"there is nothing to compare with: uncached, {self.broken[self.uncached.folder]}"
        return None

    def _readable(self, source: Source, entry: Entry) -> bool:
        beside = source.paired and (entry == self.uncached or self.uncached.folder in self.broken)
        return entry.folder not in self.broken and not beside

    def _chunks(self, source: Source, entry: Entry) -> list[Chunk]:
        items, size = self._store.items, self._size
        beside = self.uncached if source.paired else None
        return [self._chunk(items[i : i + size], entry, beside) for i in range(0, len(items), size)]

    def _chunk(self, items: Sequence[Item], entry: Entry, beside: Entry | None) -> Chunk:
        def load() -> Batch:
            uncached = None if beside is None else self._store.pictures(beside, items)
            return Batch(self._store.pictures(entry, items), uncached, [item.prompt for item in items])

        both = [method for method in (entry, beside) if method is not None]
        digests = [self._digests[method.folder][item.file] for method in both for item in items]
        return Chunk((*digests, *(item.prompt for item in items)), load)


def _digests(calls: list[dict[str, Any]]) -> dict[str, str]:
    both = ((call["files"], call["sha256"]) for call in calls)
    return {file: digest for files, digests in both for file, digest in zip(files, digests, strict=True)}
