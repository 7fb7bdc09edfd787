"""The folder of an evaluation: every picture, and what every call of the pipeline cost.

A batch is done when the record of its call is there, which is written last, and its pictures have the SHA-256
that the record says. Every file is whole or not there: a run that was killed goes on where it stopped.
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
    """A folder of pictures to score and to report.

    Attributes:
        folder: where.
        manifest: what the pictures are.
        methods: the uncached pipeline, then the others.
        items: all pictures of one method, one prompt after the other.
        batches: the items of each call of the pipeline.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.methods, self.items = manifest.methods, manifest.items()
        size = manifest.settings["batch_size"]
        self.batches = [self.items[start : start + size] for start in range(0, len(self.items), size)]

    @staticmethod
    def open(folder: Path) -> Store:
        """Open a folder in which an evaluation was begun.

        Raises:
            DcacheError: it is none.
        """
        return Store(folder, Manifest.read(folder))

    @property
    def settings(self) -> dict[str, Any]:
        """What the pictures are made with."""
        return self.manifest.settings

    def finished(self) -> Store:
        """The same folder with the methods whose pictures are all there, and no others.

        Raises:
            DcacheError: the uncached pictures are not.
        """
        there = [entry for entry in self.methods if self.complete(entry)]
        if self.methods[0] not in there:
            raise DcacheError(f"uncached pictures are missing in {self.folder}: run the generate stage first")
        return Store(self.folder, replace(self.manifest, methods=there))

    def entry(self, contestant: BenchEntry) -> Entry:
        """A method's entry.

        Raises:
            DcacheError: it has none: it was not added to the manifest.
        """
        entry = self.manifest.find(contestant)
        if entry is None:
            raise DcacheError(f"{contestant.label} is none of the methods of {self.folder}")
        return entry

    def picture(self, entry: Entry, item: Item) -> NDArray[np.uint8]:
        """Read a picture (H, W, 3) or a clip (F, H, W, 3).

        Raises:
            DcacheError: it is missing or damaged.
        """
        return decode(self.picture_path(entry, item))

    def pictures(self, entry: Entry, items: Sequence[Item]) -> NDArray[np.uint8]:
        """Read several, stacked: (N, H, W, 3) or (N, F, H, W, 3)."""
        return np.stack([self.picture(entry, item) for item in items])

    def picture_path(self, entry: Entry, item: Item) -> Path:
        """Where a picture is."""
        return self.folder / "images" / entry.folder / item.file

    def calls(self, entry: Entry) -> list[dict[str, Any]]:
        """The records of the calls that are done, in the order of the batches."""
        records = (self._record(entry, index) for index in range(len(self.batches)))
        return [record for record in records if record is not None]

    def schedule(self, entry: Entry) -> Schedule | None:
        """What the method computed in its first batch; None where nobody recorded it."""
        path = self._schedule_path(entry)
        return Schedule.load(path) if path.exists() else None

    def complete(self, entry: Entry) -> bool:
        """Whether all pictures of a method are there; only `sound` looks into them."""
        there = (self.picture_path(entry, item).exists() for item in self.items)
        return len(self.calls(entry)) == len(self.batches) and all(there)

    def broken(self, entry: Entry) -> str | None:
        """What is wrong with a method's pictures, or None.

        Of the uncached ones a whole batch may be constant (a safety checker leaves black pictures), but not
        every batch.
        """
        said = [call["broken"] for call in self.calls(entry)]
        if entry == self.methods[0] and not all(said):
            said = [why for why in said if why and "NaN" in why]
        return "; ".join(dict.fromkeys(why for why in said if why)) or None

    def sound(self, entry: Entry, batch: int) -> bool:
        """Whether a batch is done and its pictures are what was written."""
        record = self._record(entry, batch)
        if record is None:
            return False
        found = [_sha256_of(self.picture_path(entry, item)) for item in self.batches[batch]]
        return found == record["sha256"]

    def keep(
        self,
        entry: Entry,
        batch: int,
        pictures: NDArray[np.uint8],
        record: Mapping[str, Any],
        trace: Schedule | None,
    ) -> None:
        """Write what a call made: pictures, what it computed if it was the first, and its record, last.

        A picture that is there and right is not written again.

        Raises:
            DcacheError: the disk is full or the folder cannot be written to; what was there stays.
        """
        items, before = self.batches[batch], self._record(entry, batch)
        make_folder(self.folder / "images" / entry.folder)
        digests = before["sha256"] if before else [""] * len(items)
        for i, (item, picture) in enumerate(zip(items, pictures, strict=True)):
            path, content = self.picture_path(entry, item), encode(picture)
            right, there = hashlib.sha256(content).hexdigest(), _sha256_of(path)
            if there not in (right, digests[i]):
                write(path, partial(Path.write_bytes, data=content))
                there = right
            digests[i] = there
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
            # One that is damaged is as good as none: its call is made again.
            return None
        files = [item.file for item in self.batches[batch]]
        return record if isinstance(record, dict) and record.get("files") == files else None

    def _record_path(self, entry: Entry, batch: int) -> Path:
        return self.folder / "calls" / entry.folder / f"{batch:05d}.json"

    def _schedule_path(self, entry: Entry) -> Path:
        return self.folder / "schedules" / f"{entry.folder}.json"


def _sha256_of(path: Path) -> str:
    """Digest of a file, "missing" where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "missing"
