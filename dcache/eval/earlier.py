"""Evaluation folders of earlier releases, whose entries have digests of version 1.

A digest of version 1 was a hash of `repr`, with class names in it; it cannot be recomputed after a class was
renamed. Settings, prompts and pipeline of the folder are compared elsewhere. Here only the method is
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dcache.errors import DcacheError
from dcache.eval.digest import VERSION
from dcache.eval.entries import BenchEntry
from dcache.eval.manifest import Entry
from dcache.eval.store import Store
from dcache.schedule import Schedule

NOTE = (
    "{label}: an earlier release of dcache made these pictures and wrote a digest of another version. They "
    "are used for this method, because its specification or its schedule is the same"
)


def adopt(store: Store, contestants: Sequence[BenchEntry]) -> None:
    """Assign old entries of the folder to the methods that made them, with a note in the manifest.

    An entry belongs to a method if it has its file name and `BenchEntry.same_as` is true. If several entries
    match, or none does, the pictures are made again beside the old ones.

    Args:
        store: the folder; its manifest is changed, but not written.
        contestants: the methods to evaluate.
    """
    manifest = store.manifest
    for contestant in contestants:
        if manifest.find(contestant) is not None:
            continue
        places = [
            i
            for i, entry in enumerate(manifest.methods)
            if entry.digest_version < VERSION
            and entry.name == contestant.file_name
            and contestant.same_as(entry.spec, _trace(store, entry))
        ]
        if len(places) == 1:
            entry = manifest.methods[places[0]]
            manifest.methods[places[0]] = replace(entry, digest=contestant.digest, digest_version=VERSION)
            manifest.notes.append(NOTE.format(label=entry.label))


def _trace(store: Store, entry: Entry) -> Schedule | None:
    try:
        return store.schedule(entry)
    except DcacheError:
        # A damaged schedule file is no evidence that the method is the same.
        return None
