"""Entries: videos and audio, from the files named after this one."""

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
