"""`Structure`: the regions of a model that can be cached, and the names by which they are selected.

A site is named by kind and depth, never by module path, so that a schedule fits related models. A
specification names one or more sites:

| specification             | sites                                                                      |
|---------------------------|----------------------------------------------------------------------------|
| `model`, `trunk`          | the whole model; all transformer blocks                                    |
| `run:3-9`, `block:3`      | blocks 3 to 9, both included; block 3                                      |
| `attn:3`, `cross_attn:3`, `mlp:3`, `fused:3` | a sublayer of block 3                                   |
| `mlp.context:3`           | a further sublayer of its kind in block 3, here the text stream's          |
| `bracket:2`               | all between source and sink of skip 2 of a UNet, counted from the outermost |
| `block`, `attn`, ...      | all sites of a kind; with `?` at the end (`cross_attn?`) there may be none |
| `sublayers`               | all sublayers                                                              |
| `frames`, `frames:2`      | blocks of frames of a video that is denoised block by block; the third of them |
| `auto`                    | the trunk, else the outermost bracket, else the model                      |
| `front:4`, `rear:75%`     | so many of the first or last blocks                                        |
| `middle:2-1`              | all blocks but the first 2 and the last 1                                  |
| `sublayers|block`         | the first of these that exists                                             |

Runs that overlap are split into disjoint runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from torch import nn

from dcache.errors import DcacheError
from dcache.sites.blocks import SUBLAYERS, key_of
from dcache.sites.names import SITE_NAME
from dcache.sites.overlap import split_overlapping_runs
from dcache.sites.site import LongSkip, Site, Skip, Sublayer

SUBLAYER_KINDS = ("attn", "cross_attn", "mlp", "fused")


_KINDS = ("block", "bracket", *SUBLAYER_KINDS)


_MIDDLE = re.compile(r"middle:(?P<front>\d+)-(?P<back>\d+)")


_END = re.compile(r"(?P<end>front|rear):(?P<count>\d+(?:\.\d+)?)(?P<share>%)?")


@dataclass(eq=False)
class Structure:
    """The regions of a model, as `dcache.sites.discovery` finds them.

    Attributes:
        model: the model.
        blocks: the trunk, in order of registration.
        sublayers: every sublayer that is found or declared.
        skips: the UNet's skips, outermost first; empty if the model is not a UNet.
        long_skips: long skips between blocks of the trunk, outermost first.
        shared: modules of sublayers that several blocks share, which are no sites.
    """

    model: nn.Module
    blocks: list[nn.Module] = field(default_factory=list)
    sublayers: list[Sublayer] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    long_skips: list[LongSkip] = field(default_factory=list)
    shared: list[nn.Module] = field(default_factory=list)

    def select(self, specs: Sequence[str]) -> list[Site]:
        """The sites of these specifications; runs that overlap are split.

        Raises:
            DcacheError: a specification is unknown or out of range, sites are nested, or a run cuts a long
                skip.
        """
        sites: dict[str, Site] = {}
        for spec in self.existing(specs):
            for site in self._expand(str(spec)):
                sites[site.name] = site
        selected = split_overlapping_runs(list(sites.values()))
        if not selected:
            raise DcacheError(
                f"no site of {list(specs)} exists in {self._class_name()}; it has: {self.available_specs()}"
            )
        self._check_overlap(selected)
        refuse_cut_long_skips(self, selected)
        return selected

    def existing(self, specs: Sequence[str]) -> tuple[str, ...]:
        """The specifications, each with the first of its alternatives that names a site of this model.

        The last alternative stands where none does, so that `select` can say what is missing.
        """
        return tuple(self._existing(str(spec).split("|")) for spec in specs)

    def _existing(self, alternatives: Sequence[str]) -> str:
        if len(alternatives) > 1 and not all(alternatives):
            raise DcacheError(
                f"site {'|'.join(alternatives)!r} has an empty alternative: expected names on both sides of "
                "'|', as in 'sublayers|block'"
            )
        for spec in alternatives[:-1]:
            with suppress(DcacheError):
                if list(self._expand(spec)):
                    return spec
        return alternatives[-1]

    def available_specs(self) -> str:
        """The specifications that select a site of this model, as text for messages."""
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
            raise DcacheError(
                f"site {spec!r} is not understood; {self._class_name()} has: {self.available_specs()}"
            )
        if spec in {"model", "guidance", "frames"}:
            return [Site(spec, spec)]
        if match is not None and match["kind"] == "frames":
            return [Site(spec, "frames", int(match["depth"]), int(match["depth"]))]
        if spec.startswith(("trunk", "run", "block")):
            return self._runs(spec)
        if spec.startswith("bracket"):
            return self._bracket(int(spec.partition(":")[2] or 0))
        chosen = [s for s in self.sublayers if spec in ("sublayers", s.kind, s.name)]
        if not chosen:
            raise DcacheError(
                f"site {spec!r} does not exist in {self._class_name()}: no such sublayer is found in its "
                f"blocks, or declared for them; it has: {self.available_specs()}.{self._how_to_declare(spec)}"
            )
        return [self._site(s) for s in chosen]

    def _how_to_declare(self, spec: str) -> str:
        """The line that declares a sublayer; "" where a row would be refused or would not help."""
        kind = "attn" if spec == "sublayers" else re.split("[:.]", spec)[0]
        block = key_of(type(self.blocks[0])) if self.blocks else ""
        if not block or block in SUBLAYERS or kind == "fused" or any(s.kind == kind for s in self.sublayers):
            return ""
        return (
            f" Declare it with dcache.sites.blocks.register_block({block!r}, sublayers={{{kind!r}: "
            "('NAME',)}) before dcache.enable (docs/add-a-family.md)."
        )

    def _check_blocks(self, spec: str) -> None:
        if not self.blocks:
            # Presets with fixed sites take no sites=.
            other = (
                "choose a method that caches the whole model, as in dcache.enable(pipe, 'interval', sites="
            )
            hint = "a UNet has brackets instead" if self.skips else f"{other}'model')"
            raise DcacheError(
                f"site {spec!r} needs a list of blocks and {self._class_name()} has none: {hint}; it has: "
                f"{self.available_specs()}"
            )

    def _runs(self, spec: str) -> Iterable[Site]:
        self._check_blocks(spec)
        end = len(self.blocks) - 1
        if spec == "trunk":
            return [Site("trunk", "trunk", 0, end)]
        if spec == "block":
            return [Site(f"block:{i}", "block", i, i) for i in range(end + 1)]
        kind, _, where = spec.partition(":")
        first, last = (int(depth) for depth in (where.split("-") if kind == "run" else (where, where)))
        if not 0 <= first <= last <= end:
            raise DcacheError(f"site {spec!r} is out of range: {self._class_name()} has blocks 0 to {end}")
        return [Site(spec, kind, first, last)]

    def _bracket(self, level: int) -> Iterable[Site]:
        skips = self.skips or self.long_skips
        if not skips:
            raise DcacheError(
                f"site 'bracket:{level}' needs a UNet with skips and {self._class_name()} has none; it has: "
                f"{self.available_specs()}"
            )
        if level >= len(skips):
            raise DcacheError(
                f"site 'bracket:{level}' is out of range: {self._class_name()} has skips 0 to "
                f"{len(skips) - 1}"
            )
        if not self.skips:
            # The region between two blocks is a run of blocks, and is lowered as one.
            skip = self.long_skips[level]
            return [Site(f"bracket:{level}", "run", skip.source + 1, skip.sink - 1)]
        return [Site(f"bracket:{level}", "bracket", level, level)]

    def _relative(self, spec: str) -> list[Site] | None:
        """Sites of a specification that depends on the depth, or may match nothing; None for any other."""
        end, middle = _END.fullmatch(spec), _MIDDLE.fullmatch(spec)
        if end is not None or middle is not None:
            self._check_blocks(spec)
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
                f"site {spec!r} leaves nothing between {front} front and {back} back blocks: "
                f"{self._class_name()} has {len(self.blocks)} block(s)"
            )
        return Site(f"run:{front}-{last}", "run", front, last)

    def _end(self, spec: re.Match[str]) -> Site:
        depth = len(self.blocks)
        if not spec["share"] and not spec["count"].isdecimal():
            raise DcacheError(
                f"site {spec[0]!r} must be a whole number of blocks, as in 'front:2', or a share of them, as "
                "in 'front:50%'"
            )
        count = round(float(spec["count"]) * depth / 100) if spec["share"] else round(float(spec["count"]))
        if not 0 < count <= depth:
            raise DcacheError(
                f"site {spec[0]!r} is {count} blocks, and {self._class_name()} has {depth}; it has: "
                f"{self.available_specs()}"
            )
        first = 0 if spec["end"] == "front" else depth - count
        return Site(f"run:{first}-{first + count - 1}", "run", first, first + count - 1)

    def _check_overlap(self, sites: Sequence[Site]) -> None:
        brackets = [s for s in sites if s.kind == "bracket"]
        if len(brackets) > 1:
            raise DcacheError(
                f"brackets nest, so only one can be cached at a time: got {[s.name for s in brackets]}"
            )

    def _class_name(self) -> str:
        return type(self.model).__name__

    @staticmethod
    def _site(sublayer: Sublayer) -> Site:
        return Site(sublayer.name, sublayer.kind, sublayer.depth, sublayer.depth)


def refuse_cut_long_skips(structure: Structure, sites: Sequence[Site]) -> None:
    """Check that no run contains one end of a long skip and not the other.

    A predicted run returns only its last block's output, so a skip out of it may start only there. A skip
    into it may start at the block before it, whose output is the run's input, or end at its first block, to
    which the model passes the skip.

    Raises:
        DcacheError: a run cuts a skip; the message names sites that do not.
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
