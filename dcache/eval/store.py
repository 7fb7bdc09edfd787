"""The folder of an evaluation: all pictures, and a record of every pipeline call.

Resuming: every file is written atomically, and the record of a call is written after its pictures. So a batch
is done if its record exists and its pictures have the SHA-256 digests in the record. A run that was killed at
any moment continues with the first batch that is not done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcache.errors import DcacheError
from dcache.eval.entries import BenchEntry
from dcache.eval.images import decode, encode
from dcache.eval.manifest import Entry, Item, Manifest
from dcache.schedule import Schedule
from dcache.util.files import make_folder, write, write_json


class Store:
    """An evaluation folder.

    Attributes:
        folder: its path.
        manifest: its manifest.
        methods: entries of the uncached pipeline and of the methods, in this order.
        items: all pictures of one method, prompt by prompt.
        batches: the items of each pipeline call.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.methods, self.items = manifest.methods, manifest.items()
        size = manifest.settings["batch_size"]
        self.batches = [self.items[start : start + size] for start in range(0, len(self.items), size)]

    @staticmethod
    def open(folder: Path) -> Store:
        """Open the folder of an evaluation.

        Raises:
            DcacheError: the folder has no readable manifest.
        """
        return Store(folder, Manifest.read(folder))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the manifest."""
        return self.manifest.settings

    def finished(self) -> Store:
        """The same folder, restricted to methods whose pictures are complete.

        Raises:
            DcacheError: the uncached pictures are not complete.
        """
        complete = [entry for entry in self.methods if self.complete(entry)]
        if self.methods[0] not in complete:
            raise DcacheError(f"uncached pictures are missing in {self.folder}: run the generate stage first")
        return Store(self.folder, replace(self.manifest, methods=complete))

    def entry(self, contestant: BenchEntry) -> Entry:
        """The entry of a method.

        Raises:
            DcacheError: the method was not added to the manifest.
        """
        entry = self.manifest.find(contestant)
        if entry is None:
            raise DcacheError(f"{contestant.label} is not among the methods of {self.folder}")
        return entry

    def picture(self, entry: Entry, item: Item) -> NDArray[np.uint8]:
        """Read a picture (H, W, 3) or a clip (F, H, W, 3).

        Raises:
            DcacheError: the file is missing or damaged.
        """
        return decode(self.picture_path(entry, item))

    def pictures(self, entry: Entry, items: Sequence[Item]) -> NDArray[np.uint8]:
        """Read several pictures, stacked: (N, H, W, 3) or (N, F, H, W, 3)."""
        return np.stack([self.picture(entry, item) for item in items])

    def picture_path(self, entry: Entry, item: Item) -> Path:
        """Path of a picture."""
        return self.folder / "images" / entry.folder / item.file

    def calls(self, entry: Entry) -> list[dict[str, Any]]:
        """Records of the calls that were made, in the order of the batches."""
        records = (self._record(entry, index) for index in range(len(self.batches)))
        return [record for record in records if record is not None]

    def schedule(self, entry: Entry) -> Schedule | None:
        """The trace of the method's first batch; None if it was not recorded."""
        path = self._schedule_path(entry)
        return Schedule.load(path) if path.exists() else None

    def complete(self, entry: Entry) -> bool:
        """Whether all records and picture files of a method exist; only `sound` checks their content."""
        there = (self.picture_path(entry, item).exists() for item in self.items)
        return len(self.calls(entry)) == len(self.batches) and all(there)

    def broken(self, entry: Entry) -> str | None:
        """The fault of a method's pictures, in words; None if there is none.

        Some uncached batches may be constant (a safety checker returns black pictures), but not all of them.
        """
        problems = [call["broken"] for call in self.calls(entry)]
        if entry == self.methods[0] and not all(problems):
            problems = [problem for problem in problems if problem and "NaN" in problem]
        return "; ".join(dict.fromkeys(problem for problem in problems if problem)) or None

    def sound(self, entry: Entry, batch: int) -> bool:
        """Whether a batch has a record and its picture files have the recorded digests."""
        record = self._record(entry, batch)
        if record is None:
            return False
        digests = [_sha256_of(self.picture_path(entry, item)) for item in self.batches[batch]]
        return digests == record["sha256"]

    def keep(
        self,
        entry: Entry,
        batch: int,
        pictures: NDArray[np.uint8],
        record: Mapping[str, Any],
        trace: Schedule | None,
    ) -> None:
        """Write the pictures of a call, the trace if it is the first batch, and then the record.

        Existing sound pictures are not written again.

        Raises:
            DcacheError: the disk is full or the folder cannot be written to; existing files stay.
        """
        items, before = self.batches[batch], self._record(entry, batch)
        make_folder(self.folder / "images" / entry.folder)
        digests = before["sha256"] if before else [""] * len(items)
        for i, (item, picture) in enumerate(zip(items, pictures, strict=True)):
            path, content = self.picture_path(entry, item), encode(picture)
            expected, current = hashlib.sha256(content).hexdigest(), _sha256_of(path)
            # A file with the old record's digest stays, even if the new picture differs in its last bits:
            # features and scores may have been computed from it.
            if current not in (expected, digests[i]):
                write(path, partial(Path.write_bytes, data=content))
                current = expected
            digests[i] = current
        if batch == 0 and trace is not None:
            make_folder(self.folder / "schedules")
            trace.save(self._schedule_path(entry))
        make_folder(self._record_path(entry, batch).parent)
        files = [item.file for item in items]
        write_json(self._record_path(entry, batch), {"files": files, "sha256": digests, **record})

    def _record(self, entry: Entry, batch: int) -> dict[str, Any] | None:
        try:
            record = json.loads(self._record_path(entry, batch).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # A damaged record counts as missing: its call is made again.
            return None
        files = [item.file for item in self.batches[batch]]
        return record if isinstance(record, dict) and record.get("files") == files else None

    def _record_path(self, entry: Entry, batch: int) -> Path:
        return self.folder / "calls" / entry.folder / f"{batch:05d}.json"

    def _schedule_path(self, entry: Entry) -> Path:
        return self.folder / "schedules" / f"{entry.folder}.json"


def _sha256_of(path: Path) -> str:
    """SHA-256 of a file; "missing" if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "missing"
