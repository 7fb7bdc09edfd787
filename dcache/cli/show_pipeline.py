"""What dcache finds in the denoisers of a pipeline, as text: for `dcache show PIPE`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcache.sites.site import Sublayer
    from dcache.sites.structure import Structure


def describe(pipe: Any) -> Iterator[str]:
    """Lines about each denoiser: blocks, sublayers by kind, brackets, and the place of TeaCache's probe.

    Args:
        pipe: a pipeline, or a denoiser.

    Raises:
        DcacheError: no denoiser is found.
    """
    from dcache.identity.denoisers import denoisers
    from dcache.sites.discovery import discover

    modules = denoisers(pipe)
    for name, module in modules.items():
        yield f"{name}: {type(module).__name__}" if name else type(module).__name__
        for what, text in _rows(discover(module)):
            yield f"  {what:<11} {text}"
    if not modules:
        yield "The denoiser is not known before the first run: it is detected there."


def _rows(structure: Structure) -> Iterator[tuple[str, str]]:
    from dcache.sites.structure import SUBLAYER_KINDS

    blocks = Counter(type(block).__name__ for block in structure.blocks)
    classes = ", ".join(f"{count} x {name}" for name, count in blocks.items())
    yield "trunk", classes or "no list of blocks"
    for kind in SUBLAYER_KINDS:
        sublayers = [s for s in structure.sublayers if s.kind == kind]
        if sublayers:
            yield kind, f"{len(sublayers)}, {_source(sublayers)}"
    if not structure.sublayers:
        yield "sublayers", "none found (docs/add-a-family.md)"
    skips = structure.skips or structure.long_skips
    if skips:
        yield "bracket", f"{len(skips)} skips"
    if structure.blocks:
        probe = next((s.name for s in structure.sublayers if s.kind == "attn" and s.depth == 0), None)
        yield "probe", f"the input of {probe}" if probe else "the first block's input: it has no attention"


def _source(sublayers: list[Sublayer]) -> str:
    from dcache.sites.evidence import is_confirmed

    by_structure = [s.block for s in sublayers if s.block is not None]
    if not by_structure:
        return "declared"
    confirmed = all(is_confirmed(block) for block in by_structure)
    part = "" if len(by_structure) == len(sublayers) else f"{len(by_structure)} of them "
    return f"{part}found by structure" + ("" if confirmed else "; the first call confirms them")
