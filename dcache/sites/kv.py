"""Sites of kind `kv`: the key and value projections of the self-attention of each block.

`kv` is all of them, `kv:0,7-10` those of blocks 0 and 7 to 10.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn

from dcache.errors import DcacheError
from dcache.sites.structure import Structure

_SPEC = re.compile(r"kv(?::(?P<depths>\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*))?")
_KEYS, _VALUES = ("k", "wk", "key"), ("v", "wv", "value")


class KvSite(NamedTuple):
    """The projections of one block's self-attention.

    Attributes:
        depth: the block.
        attention: the self-attention.
        key: projects keys.
        value: projects values.
    """

    depth: int
    attention: nn.Module
    key: nn.Module
    value: nn.Module


def kv_sites(structure: Structure, spec: str = "kv") -> list[KvSite]:
    """The sites of a specification, in order of depth.

    Raises:
        DcacheError: the specification is no such one, or a block has no separate key and value projections.
    """
    depths = None if (match := _SPEC.fullmatch(spec)) is None else _depths(match["depths"])
    if match is None:
        raise DcacheError(
            f"sites must be 'kv', or 'kv:' and depths of blocks as in 'kv:0,7-10', got {spec!r}"
        )
    attentions = dict(_attentions(structure))
    chosen = sorted(attentions) if depths is None else depths
    sites = [_site(depth, attentions.get(depth)) for depth in chosen]
    missing = [depth for depth, site in zip(chosen, sites, strict=True) if site is None]
    if missing or not sites:
        have = [depth for depth in sorted(attentions) if _site(depth, attentions[depth]) is not None]
        raise DcacheError(
            f"{spec!r} needs self-attention with a key and a value projection in blocks "
            f"{missing or 'of a trunk'}; {type(structure.model).__name__} has them in {have or 'none'} "
            "(fused projections are not taken apart)"
        )
    return [site for site in sites if site is not None]


def _depths(text: str | None) -> Sequence[int] | None:
    if text is None:
        return None
    ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return list(
        dict.fromkeys(depth for first, *last in ends for depth in range(first, (*last, first)[0] + 1))
    )


def _attentions(structure: Structure) -> Iterator[tuple[int, nn.Module]]:
    """Depth and module of self-attention; in a fused block what feeds its exit."""
    seen: set[int] = set()
    for sublayer in structure.sublayers:
        if (
            sublayer.name in {f"attn:{sublayer.depth}", f"fused:{sublayer.depth}"}
            and sublayer.depth not in seen
        ):
            seen.add(sublayer.depth)
            parts = (*sublayer.feeders, sublayer.module)
            with_keys = (part for part in parts if _child(part, _KEYS) is not None)
            yield sublayer.depth, next(with_keys, sublayer.module)


def _site(depth: int, attention: nn.Module | None) -> KvSite | None:
    key, value = (None if attention is None else _child(attention, names) for names in (_KEYS, _VALUES))
    if attention is None or key is None or value is None:
        return None
    return KvSite(depth, attention, key, value)


def _child(attention: nn.Module, names: Sequence[str]) -> nn.Module | None:
    children = attention.named_children()
    return next((c for name, c in children if name.removeprefix("to_").removesuffix("_proj") in names), None)
