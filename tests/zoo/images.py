"""Entries: images."""

from __future__ import annotations

from tests.zoo import images_flux, images_newer, images_others, images_qwen, images_sd3, images_single
from tests.zoo.entry import Entry

# (class, method) -> what fails, and why.
KNOWN: dict[tuple[str, str], str] = {}
ENTRIES: tuple[Entry, ...] = (
    *images_flux.ENTRIES,
    *images_sd3.ENTRIES,
    *images_single.ENTRIES,
    *images_qwen.ENTRIES,
    *images_newer.ENTRIES,
    *images_others.ENTRIES,
)
