"""LeoAM."""

from __future__ import annotations

import os

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.disk import DiskCodec
from dcache.lm_kv.codecs.host import HostCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.chunks import SkewedChunks
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.scorers import Recency
from dcache.util.checks import check_whole, is_number
from dcache.util.files import as_path, make_folder, try_folder

# Last queries from whose attention the skew of a layer is measured.
QUERIES = 64


@preset
def leoam(
    budget: float | None = None,
    folder: str | os.PathLike[str] | None = None,
    host: float = 0.5,
    page: int = 8,
    sizes: int = 4,
    sinks: int = 0,
    window: float = 64,
    every: int = 32,
) -> Policy:
    """Chunks by how skewed attention is, on device, host and disk (after Sun et al. 2025, arXiv 2506.20187).

    The least and the largest value of each key channel of a chunk are on the device: a chunk's score is the
    upper bound of its dot products with the query. Keys and values are on the host, or there and on disk.

    Args:
        budget: tokens that a KV head reads at a step.
        folder: on the disk that holds older tokens; None for the host alone.
        host: with a folder, the share of a row's tokens on the host, the newest, from 0 to 1.
        page: tokens of the smallest chunk; at least 1.
        sizes: chunk sizes, each twice the one before; at least 1.
        sinks: first tokens that are always read.
        window: newest tokens, on the device, that are always read.
        every: decoded tokens between two indexings; until then new tokens are always read.

    Raises:
        DcacheError: an option is outside its range, or the folder cannot be written to.
    """
    check_whole("page", page, 1)
    check_whole("sizes", sizes, 1)
    if not is_number(host) or not 0 <= host <= 1:
        raise DcacheError(f"host must be a number from 0 to 1, got {host!r}")
    place = None if folder is None else str(make_folder(try_folder(as_path(folder, "folder"))))
    return Policy(
        scorer=Recency(),
        observer=QueryWindow(QUERIES),
        selector=SkewedChunks(page, sizes),
        codec=HostCodec() if place is None else DiskCodec(place, host),
        parameters={"folder": place},
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
