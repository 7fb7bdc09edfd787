"""Entries: pipelines around UNets, and old denoisers."""

from __future__ import annotations

from tests.zoo import (
    unets_cascades,
    unets_control,
    unets_kandinsky,
    unets_more,
    unets_old,
    unets_sd,
    unets_video,
)
from tests.zoo.entry import Entry

ENTRIES: tuple[Entry, ...] = (
    *unets_sd.ENTRIES,
    *unets_control.ENTRIES,
    *unets_video.ENTRIES,
    *unets_kandinsky.ENTRIES,
    *unets_cascades.ENTRIES,
    *unets_old.ENTRIES,
    *unets_more.ENTRIES,
)
