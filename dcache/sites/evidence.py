"""What one call of a block shows of its sublayers, and what is concluded from it.

`dcache.sites.block_flow` watches the call. A sublayer that was found by structure is cached only if the call
agrees: it is called, on what belongs to a stream, and what it returns is added to a stream and read nowhere
outside of the block.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from weakref import WeakKeyDictionary

from torch import nn

from dcache.sites.sublayers import Part, parts_of, suffixes

# Assignments of kinds that are tried for the names of a schedule.
_MOST_KINDS = 5000

# Block -> its sublayers by structure, and those that its first call confirmed. Sites are named by them, and a
# second `enable` must find what the first one did.
_confirmed: WeakKeyDictionary[nn.Module, tuple[tuple[Part, ...], tuple[Part, ...]]] = WeakKeyDictionary()


# Where a tensor is computed from: (argument of the block, sublayers on the way), the fewest of these.
Way = tuple[str, frozenset[str]]
Ways = frozenset[Way]
Ends = tuple[frozenset[str], frozenset[frozenset[str]]]


@dataclass(frozen=True)
class Use:
    """What one call of a block showed of one of its sublayers.

    Attributes:
        calls: number of its calls; more than one for several streams, or for one in chunks.
        reads_stream: whether one of its arguments is computed from a stream of the block.
        keys_of_queries: whether its keys are projected from what its queries are projected from; None where
            its projections were not called.
        outputs: for each output of the block that is computed from its output: the sublayers in between, and
            for each way from a stream to what was added to it, the sublayers on that way.
        added: the same of all outputs of functions, where none of the block's is.
        multiplies: whether its output multiplies a stream.
        residual: whether its output is its own input with something added to it.
        plain: whether every output is a tensor, None, or a tuple of these.
        read_by: the sublayers and feeders that read its output, or what it was added to.
    """

    calls: int = 0
    reads_stream: bool = False
    keys_of_queries: bool | None = None
    outputs: tuple[Ends, ...] = ()
    added: tuple[Ends, ...] = ()
    multiplies: bool = False
    residual: bool = False
    plain: bool = True
    read_by: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Verdict:
    """What is concluded of one sublayer.

    Attributes:
        part: the sublayer as it was found.
        kind: its kind, "" if it is none that can be cached.
        why: what the call showed, "" if it agrees.
    """

    part: Part
    kind: str
    why: str = ""


def judged(parts: Sequence[Part], uses: dict[str, Use], streams: int) -> list[Verdict]:
    """The verdicts on the sublayers of one block.

    A stream goes on through a module that is no sublayer (`x = attn(x)`), so what the others are added to
    depends on which are refuted. Refuted first is what is no sublayer even if all others are not.

    Args:
        parts: the sublayers, as they were found.
        uses: attribute path -> what the call showed of it, for every sublayer and feeder.
        streams: number of the block's outputs that continue an argument.
    """
    paths = frozenset(uses)
    verdicts = {part: judge(part, uses, streams, paths - {part.path}) for part in parts}
    while True:
        refuted = frozenset(part.path for part, verdict in verdicts.items() if not verdict.kind)
        left = [part for part, verdict in verdicts.items() if verdict.kind]
        verdicts |= {part: judge(part, uses, streams, refuted) for part in left}
        if all(verdicts[part].kind for part in left):
            return list(verdicts.values())


def judge(part: Part, uses: dict[str, Use], streams: int, refuted: frozenset[str] = frozenset()) -> Verdict:
    """Whether a call of the block agrees that this is a sublayer, and of which kind.

    Args:
        part: the sublayer.
        uses: attribute path -> what the call showed of it, for every sublayer and feeder.
        streams: number of the block's outputs that continue an argument.
        refuted: paths of the modules that are no sublayers.
    """
    use = uses[part.path]
    why = _why_not(part, use, streams, refuted) or _feeders_elsewhere(part, uses)
    if why:
        return Verdict(part, "", why)
    if part.kind in {"attn", "cross_attn"} and use.keys_of_queries is not None:
        kind = "attn" if use.keys_of_queries else "cross_attn"
        if kind != part.kind:
            source = "what its queries are from" if use.keys_of_queries else "something else than its queries"
            return Verdict(part, kind, f"its keys are from {source}")
    return Verdict(part, part.kind)


def _why_not(part: Part, use: Use, streams: int, refuted: frozenset[str]) -> str:
    against = {
        "no output of the block continues an argument": not streams,
        "it is not called": not use.calls,
        "it is called in a loop, on what it returned before": part.path in use.read_by,
        "it returns more than tensors": not use.plain,
        "it reads no stream of the block": not use.reads_stream,
        "its output is its own input with something added": use.residual,
        "its output multiplies a stream": use.multiplies,
        "its output leaves the block without being added to a stream": _leaves(use, refuted),
        "its output is not added to a stream": not _added(use, refuted),
    }
    return next((why for why, holds in against.items() if holds), "")


def _added(use: Use, refuted: frozenset[str]) -> bool:
    """Whether an output was added to a stream that goes through no sublayer."""
    return any(via <= refuted and _meets(met, refuted) for via, met in use.added)


def _leaves(use: Use, refuted: frozenset[str]) -> bool:
    return any(via <= refuted and not _meets(met, refuted) for via, met in use.outputs)


def _meets(ways: frozenset[frozenset[str]], refuted: frozenset[str]) -> bool:
    return any(passed <= refuted for passed in ways)


def _feeders_elsewhere(part: Part, uses: dict[str, Use]) -> str:
    inside = {part.path, *part.feeders}
    for feeder in part.feeders:
        use = uses[feeder]
        elsewhere = any(not via for via, _ in (*use.added, *use.outputs))
        if use.calls and (elsewhere or not use.read_by or not use.read_by <= inside):
            return f"{feeder} is not read by {part.path} alone"
    return ""


def fewest(ways: Iterable[Way]) -> Ways:
    """These ways without those that go through more sublayers than another from the same argument."""
    distinct = frozenset(ways)
    return frozenset(
        (name, passed)
        for name, passed in distinct
        if not any(other == name and fewer < passed for other, fewer in distinct)
    )


def sublayers_of(block: nn.Module) -> tuple[Part, ...]:
    """The sublayers of a block: as its first call showed them, else by structure."""
    parts = parts_of(block)
    known = _confirmed.get(block)
    return known[1] if known is not None and known[0] == parts else parts


def named_sublayers(block: nn.Module, names: Collection[str]) -> tuple[Part, ...]:
    """The sublayers of a block under kinds by which they have these names, where there are such kinds.

    A schedule names what the first call confirmed. On a model that was not called yet, sublayers may look
    like others: of another kind of attention, or like some that a call refutes.

    Args:
        block: the block.
        names: kinds with suffixes, such as "attn" and "mlp.context".
    """
    parts = sublayers_of(block)
    if is_confirmed(block):
        return parts
    for kinds in islice(product(*map(_possible_kinds, parts)), _MOST_KINDS):
        named = tuple(replace(part, kind=kind) for part, kind in zip(parts, kinds, strict=True) if kind)
        suffix = suffixes(named)
        if {part.kind + suffix[part] for part in named} >= set(names):
            return named
    return parts


def may_hide_a_kind(block: nn.Module) -> bool:
    """Whether a block that was not called yet has several attentions, of which a call may tell the kinds."""
    return not is_confirmed(block) and sum(len(_possible_kinds(part)) > 2 for part in parts_of(block)) > 1


def _possible_kinds(part: Part) -> tuple[str, ...]:
    if part.declared:
        return (part.kind,)
    if part.kind in {"attn", "cross_attn"}:
        return (part.kind, "cross_attn" if part.kind == "attn" else "attn", "")
    return (part.kind, "")


def is_confirmed(block: nn.Module) -> bool:
    """True if a call of the block was watched, or if nothing in it is found by structure alone."""
    parts = parts_of(block)
    known = _confirmed.get(block)
    return all(part.declared for part in parts) or (known is not None and known[0] == parts)


def confirm(block: nn.Module, verdicts: list[Verdict]) -> None:
    """Keep what a call of a block showed, for as long as the block lives."""
    parts = parts_of(block)
    kinds = {verdict.part: verdict.kind for verdict in verdicts}
    shown = [replace(part, kind=kinds.get(part, part.kind)) for part in parts]
    _confirmed[block] = parts, tuple(part for part in shown if part.kind)
