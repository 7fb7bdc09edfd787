"""Folders that an earlier release wrote: their entries hold digests of another kind.

The first kind was a hash of `repr`, in which every class had its name: it cannot be made again once a class
is renamed. Settings, prompts and pipeline of the folder were compared before; what is left to ask is whether
the method is the same one.
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
    "{label}: an earlier release of dcache made these pictures and wrote a digest of another kind. They are "
    "taken for this method's: what was asked for, or the schedule that was followed, is the same"
)


def adopt(store: Store, contestants: Sequence[BenchEntry]) -> None:
    """Give contestants the pictures that an earlier release made of them, and note it in the manifest, once.

    An entry is a contestant's if it has its name and `BenchEntry.same_as` says so. Where that is not sure, or
    several entries may be meant, the pictures are made again beside the old ones.

    Args:
        store: the folder; its manifest is changed, not written.
        contestants: those that are asked for.
    """
    manifest = store.manifest
    for one in contestants:
        if manifest.find(one) is not None:
            continue
        places = [
            i
            for i, entry in enumerate(manifest.methods)
            if entry.digest_version < VERSION
            and entry.name == one.file_name
            and one.same_as(entry.spec, _trace(store, entry))
        ]
        if len(places) == 1:
            entry = manifest.methods[places[0]]
            manifest.methods[places[0]] = replace(entry, digest=one.digest, digest_version=VERSION)
            manifest.notes.append(NOTE.format(label=entry.label))


def _trace(store: Store, entry: Entry) -> Schedule | None:
    try:
        return store.schedule(entry)
    except DcacheError:
        # A file that is damaged tells nothing.
        return None
