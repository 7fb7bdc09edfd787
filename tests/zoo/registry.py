"""All entries, and what still fails."""

from __future__ import annotations

from tests.zoo import images, unets, videos
from tests.zoo.entry import Entry

ENTRIES: tuple[Entry, ...] = (*unets.ENTRIES, *images.ENTRIES, *videos.ENTRIES)
# (class, method) -> what fails, and why. A test that passes all the same fails: then its line here goes.
KNOWN: dict[tuple[str, str], str] = {**unets.KNOWN, **images.KNOWN, **videos.KNOWN}
