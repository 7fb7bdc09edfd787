"""Entries: videos and audio, from the files named after this one, and what fails today."""

from __future__ import annotations

from tests.zoo import (
    videos_audio,
    videos_cogvideo,
    videos_hunyuan,
    videos_ltx,
    videos_modular,
    videos_proteins,
    videos_wan,
    videos_worlds,
)
from tests.zoo.entry import Entry

FILES = (
    videos_wan,
    videos_hunyuan,
    videos_cogvideo,
    videos_ltx,
    videos_audio,
    videos_worlds,
    videos_modular,
    videos_proteins,
)
ENTRIES: tuple[Entry, ...] = tuple(entry for file in FILES for entry in file.ENTRIES)
# (class, method) -> what fails, and why.
KNOWN: dict[tuple[str, str], str] = {key: why for file in FILES for key, why in file.KNOWN.items()}
