"""Entries: pipelines around UNets, and old denoisers."""

from __future__ import annotations

from tests.zoo import unets_sd
from tests.zoo.entry import Entry

ENTRIES: tuple[Entry, ...] = (*unets_sd.ENTRIES,)
