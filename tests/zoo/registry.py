"""All entries."""

from __future__ import annotations

from tests.zoo import images, unets, videos
from tests.zoo.entry import Entry

ENTRIES: tuple[Entry, ...] = (*unets.ENTRIES, *images.ENTRIES, *videos.ENTRIES)
