"""Sites: which regions of a model can be remembered, and their names. `dcache.sites.discovery` finds them.

A site is named by kind and depth, never by module path, so that a schedule moves between sibling models:
`model`, `trunk`, `run:3-9` (blocks 3 to 9, both included), `block:3`, `attn:3`, `cross_attn:3`, `mlp:3`,
`mlp.context:3` (the text stream's own; further sublayers of a kind are told apart so), `fused:3`, `bracket:2`
(everything between the source and the sink of a UNet's skip number 2, counted from the outermost). A
specification is such a name, or a kind alone for all of that kind, or `sublayers`, or `auto` (the trunk, else
the outermost bracket, else the model), or `front:4` and `rear:75%` (so many of the first or last blocks), or
`middle:2-1` (all but the first two and the last one).
Runs that overlap are cut into atoms. `cross_attn?` is a kind that need not exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import nn

from dcache.errors import DcacheError
from dcache.sites.names import SITE_NAME
from dcache.sites.site import LongSkip, Site, Skip, Sublayer

SUBLAYER_KINDS = ("attn", "cross_attn", "mlp", "fused")


_KINDS = ("block", "bracket", *SUBLAYER_KINDS)


_MIDDLE = re.compile(r"middle:(?P<front>\d+)-(?P<back>\d+)")


_END = re.compile(r"(?P<end>front|rear):(?P<count>\d+(?:\.\d+)?)(?P<share>%)?")


@dataclass(eq=False)
class Structure:
    """What was found in a model.

    Attributes:
        blocks: the trunk, in order of registration.
        sublayers: every declared sublayer.
        skips: the UNet's skips, outermost first; empty where the model is no UNet.
        joins: long skips between blocks of the trunk, outermost first.
        paths: module path of everything above, to notice replaced modules.
    """

    model: nn.Module
    blocks: list[nn.Module] = field(default_factory=list)
    sublayers: list[Sublayer] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    long_skips: list[LongSkip] = field(default_factory=list)

    def select(self, specs: Sequence[str]) -> list[Site]:
        """Turn site specifications into sites.

        Raises:
            DcacheError: a specification is unknown, names something this model lacks, or overlaps another.
        """
        sites: dict[str, Site] = {}
        for spec in specs:
            for site in self._expand(str(spec)):
                sites[site.name] = site
        found = split_overlapping_runs(list(sites.values()))
        if not found:
            raise DcacheError(f"no site of {list(specs)} exists in {self._what()}; it has: {self.offers()}")
        self._check_overlap(found)
        refuse_cut_long_skips(self, found)
        return found

    def offers(self) -> str:
        """The specifications this model understands, for messages."""
        parts = ["model"]
        if self.blocks:
            last = len(self.blocks) - 1
            parts += ["trunk", f"run:A-B and block:N with depths 0 to {last}"]
        kinds = [k for k in SUBLAYER_KINDS if any(s.kind == k for s in self.sublayers)]
        parts += kinds
        if self.skips or self.long_skips:
            parts.append(f"bracket:N with N from 0 to {len(self.skips or self.long_skips) - 1}")
        return ", ".join(parts)

    def _expand(self, spec: str) -> Iterable[Site]:
        if spec == "auto":
            spec = "trunk" if self.blocks else "bracket:0" if self.skips else "model"
        relative = self._relative(spec)
        if relative is not None:
            return relative
        match = SITE_NAME.fullmatch(spec)
        if match is None and spec not in ("sublayers", *_KINDS):
            raise DcacheError(f"site {spec!r} is not understood; {self._what()} has: {self.offers()}")
        if spec in {"model", "guidance"}:
            return [Site(spec, spec)]
        if spec.startswith(("trunk", "run", "block")):
            return self._runs(spec)
        if spec.startswith("bracket"):
            return self._bracket(int(spec.partition(":")[2] or 0))
        chosen = [s for s in self.sublayers if spec in ("sublayers", s.kind, s.name)]
        if not chosen:
            raise DcacheError(
                f"site {spec!r} does not exist in {self._what()}: no such sublayer is declared for its "
                f"blocks; it has: {self.offers()}"
            )
        return [self._site(s) for s in chosen]

    def _runs(self, spec: str) -> Iterable[Site]:
        if not self.blocks:
            hint = "a UNet has brackets instead" if self.skips else "use sites='model'"
            raise DcacheError(
                f"site {spec!r} needs a list of blocks and {self._what()} has none: {hint}; it has: "
                f"{self.offers()}"
            )
        end = len(self.blocks) - 1
        if spec == "trunk":
            return [Site("trunk", "trunk", 0, end)]
        if spec == "block":
            return [Site(f"block:{i}", "block", i, i) for i in range(end + 1)]
        kind, _, where = spec.partition(":")
        first, last = (int(depth) for depth in (where.split("-") if kind == "run" else (where, where)))
        if not 0 <= first <= last <= end:
            raise DcacheError(f"site {spec!r} is out of range: {self._what()} has blocks 0 to {end}")
        return [Site(spec, kind, first, last)]

    def _bracket(self, level: int) -> Iterable[Site]:
        skips = self.skips or self.long_skips
        if not skips:
            raise DcacheError(
                f"site 'bracket:{level}' needs a UNet with skips and {self._what()} has none; it has: "
                f"{self.offers()}"
            )
        if level >= len(skips):
            raise DcacheError(
                f"site 'bracket:{level}' is out of range: {self._what()} has skips 0 to {len(skips) - 1}"
            )
        if not self.skips:
            # What runs strictly between two blocks is a run of blocks, and is made skippable as one.
            join = self.long_skips[level]
            return [Site(f"bracket:{level}", "run", join.source + 1, join.sink - 1)]
        return [Site(f"bracket:{level}", "bracket", level, level)]

    def _relative(self, spec: str) -> list[Site] | None:
        """Sites whose names depend on the depth, or that need not exist; None for any other specification."""
        end, middle = _END.fullmatch(spec), _MIDDLE.fullmatch(spec)
        if end is not None:
            return [self._end(end)]
        if middle is not None:
            return [self._middle(spec, int(middle["front"]), int(middle["back"]))]
        if spec.endswith("?") and spec.removesuffix("?") in SUBLAYER_KINDS:
            return [self._site(s) for s in self.sublayers if s.kind == spec.removesuffix("?")]
        return None

    def _middle(self, spec: str, front: int, back: int) -> Site:
        last = len(self.blocks) - 1 - back
        if last < front:
            raise DcacheError(
                f"site {spec!r} leaves nothing between {front} front and {back} back blocks: {self._what()} "
                f"has {len(self.blocks)} block(s)"
            )
        return Site(f"run:{front}-{last}", "run", front, last)

    def _end(self, spec: re.Match[str]) -> Site:
        depth = len(self.blocks)
        count = round(float(spec["count"]) * depth / 100) if spec["share"] else round(float(spec["count"]))
        if not 0 < count <= depth:
            raise DcacheError(
                f"site {spec[0]!r} is {count} blocks, and {self._what()} has {depth}; it has: {self.offers()}"
            )
        first = 0 if spec["end"] == "front" else depth - count
        return Site(f"run:{first}-{first + count - 1}", "run", first, first + count - 1)

    def _check_overlap(self, sites: Sequence[Site]) -> None:
        brackets = [s for s in sites if s.kind == "bracket"]
        if len(brackets) > 1:
            raise DcacheError(
                f"brackets nest, so only one can be remembered at a time; got {[s.name for s in brackets]}"
            )

    def _what(self) -> str:
        return type(self.model).__name__

    @staticmethod
    def _site(sublayer: Sublayer) -> Site:
        return Site(sublayer.name, sublayer.kind, sublayer.depth, sublayer.depth)


def split_overlapping_runs(sites: Sequence[Site]) -> list[Site]:
    """Cut runs that overlap into the runs they have in common and those they do not.

    A run's delta is the sum of its parts' deltas, so a decision on a run is the same decision on its atoms.
    """
    runs = [s for s in sites if s.is_run]
    ordered = sorted(runs, key=lambda s: (s.first, s.last))
    if all(b.first > a.last for a, b in pairwise(ordered)):
        return list(sites)
    edges = sorted({s.first for s in runs} | {s.last + 1 for s in runs})
    atoms = []
    for first, after in pairwise(edges):
        last = after - 1
        if any(s.first <= first and last <= s.last for s in runs):
            same = next((s for s in runs if (s.first, s.last) == (first, last)), None)
            name = f"block:{first}" if first == last else f"run:{first}-{last}"
            atoms.append(same or Site(name, "block" if first == last else "run", first, last))
    return [*(s for s in sites if not s.is_run), *atoms]


def refuse_cut_long_skips(structure: Structure, sites: Sequence[Site]) -> None:
    """Raise if a run would be predicted with one end of a long skip inside it and the other end outside.

    A run has one entry and one exit: a skip may begin at its exit or at its entry, and its first block may be
    given one by the model.
    """
    for site in sites:
        for level, (source, sink) in enumerate(structure.long_skips if site.is_run else ()):
            leaves = site.first <= source < site.last < sink
            enters = source < site.first - 1 and site.first < sink <= site.last
            if leaves or enters:
                what = "begins" if leaves else "ends"
                raise DcacheError(
                    f"site {site.name!r} (blocks {site.first} to {site.last}) cuts skip {level} of "
                    f"{type(structure.model).__name__}: it joins block {source} to block {sink}, and only "
                    f"{what} inside the run. Use a run with both blocks, 'bracket:{level}' (blocks "
                    f"{source + 1} to {sink - 1}) or 'trunk'"
                )
