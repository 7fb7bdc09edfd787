"""A policy: one choice of observer, scorer, allocation and so on; a published method returns one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeAlias

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.budgets.allocation import ALLOCATIONS
from dcache.lm_kv.budgets.budget import Budget
from dcache.lm_kv.codecs.codec import Codec, Plain
from dcache.lm_kv.codecs.jointly import Joint
from dcache.lm_kv.scoring.coverage import Coverage
from dcache.lm_kv.scoring.observers import Nothing, Observer
from dcache.lm_kv.scoring.preference import Preference
from dcache.lm_kv.scoring.questions import Question
from dcache.lm_kv.scoring.scorers import Scorer
from dcache.lm_kv.scoring.selectors import OtherLayers, Selector
from dcache.lm_kv.storage.reducers import Reducer, drop
from dcache.util.checks import check_whole, is_number, is_whole

# ids int64 and validity bool, both `[B, T]`.
Reader: TypeAlias = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
POSITIONS = ("original", "shifted")


@dataclass(frozen=True)
class Policy:
    """Which tokens of a KV cache are kept, and how they are stored.

    Attributes:
        name: the preset's name.
        scorer: says how much each stored token matters.
        observer: gathers what the scorer reads.
        budget: a float in (0, 1], the share of a row's true tokens, or an int, tokens per KV head; None where
            `KVCache` is given it.
        sinks: first true tokens of a row that are always kept.
        window: newest true tokens that are always kept: an int, or a float in [0, 0.5], a share of the
            budget. Sinks and window together take at most half the budget.
        allocation: how the budget is divided: "uniform"; "heads" of a layer share it (AdaKV); "layers" get
            less from the first to the last (PyramidKV); "global", all heads of all layers share it;
            "preference", layers get it in proportion to `preference` (CAKE); "coverage", each layer takes
            what `coverage` says, and the budget is an upper limit (ZipVL).
        floor: the share of the mean budget that any head (layer, for "layers") keeps at least, 0 to 1.
        positions: "original" positions of kept tokens, or "shifted" together behind the newest
            (StreamingLLM).
        every: decoded tokens between evictions; 0 evicts after prompts alone.
        dense_layers: indices of layers that keep everything, beside the budget.
        codec: how kept tokens are stored; a policy with a codec stands for it, such as `kivi(bits=4)`.
        layer_group: neighbouring layers that keep the tokens which the first of them chooses; they need the
            allocation "uniform".
        reducer: what becomes of the others.
        selector: which kept tokens a decoded token reads; then all tokens are kept, and the budget is of
            those that are read at a step.
        held: where a selector reads some, the tokens that are kept, a share or a number as `budget`, at least
            as many as are read; None for all of them.
        choosing: layers that read everything and choose what those behind them read, up to the next one that
            chooses, for the selector `OtherLayers`: places among the layers with full attention, or shares of
            their number; layers before the first one read everything.
        question: the query by which a call of several tokens chooses what it reads of those before it, where
            a selector reads some; None to read everything.
        local_frames: whether calls that bring images' tokens alone read no more than sinks and window.
        preference: how much of the budget a layer wants, for the allocation "preference".
        coverage: how many tokens a layer needs, for the allocation "coverage".
        reader: what a probe reads behind the cache: (ids, validity) of the text -> the same of what is read;
            None for the text itself.
        calibration: path of the file that the policy reads, measured on the cache's model; None without one.
        parameters: what the preset was called with, for reports and files.

    Raises:
        DcacheError: a field is outside its range.
    """

    name: str = "policy"
    _: KW_ONLY
    scorer: Scorer
    observer: Observer = field(default_factory=Nothing)
    budget: float | None = None
    sinks: int = 4
    window: float = 32
    allocation: str = "uniform"
    floor: float = 0.2
    positions: str = "original"
    every: int = 0
    dense_layers: tuple[int, ...] = ()
    codec: Codec = field(default_factory=Plain, compare=False)
    layer_group: int = 1
    reducer: Reducer = drop
    preference: Preference | None = None
    coverage: Coverage | None = None
    selector: Selector | None = None
    held: float | None = None
    choosing: tuple[float, ...] = ()
    question: Question | None = None
    local_frames: bool = False
    reader: Reader | None = None
    calibration: str | None = field(default=None, compare=False)
    parameters: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Check every field's range."""
        object.__setattr__(self, "codec", _codec_of(self.codec))
        if self.budget is not None:
            object.__setattr__(self, "budget", Budget(self.budget).size)
        check_whole("sinks", self.sinks, 0)
        check_whole("every", self.every, 0)
        if is_whole(self.window):
            check_whole("window", self.window, 0)
        elif not is_number(self.window) or not 0.0 <= self.window <= 0.5:
            raise DcacheError(
                f"window must be a whole number of tokens or a float in [0, 0.5], a share of the budget, "
                f"got {self.window!r}"
            )
        _check_allocation(self)
        if self.held is not None:
            object.__setattr__(self, "held", Budget(self.held, "held").size)
            if self.selector is None or self.allocation != "uniform":
                raise DcacheError(
                    "tokens are held beside those that are read only where a selector reads some, as many in "
                    "every head: give the policy a selector and the allocation uniform, or held=None"
                )
        check_whole("layer_group", self.layer_group, 1)
        if self.layer_group > 1 and self.allocation != "uniform":
            raise DcacheError(
                "layers that keep the same tokens need as many of them: choose the allocation uniform, or "
                f"layer_group=1; got {self.allocation!r} and {self.layer_group}"
            )
        _check_selection(self)
        _check_tiers(self)
        if self.positions not in POSITIONS:
            raise DcacheError(f"positions must be one of {', '.join(POSITIONS)}, got {self.positions!r}")
        if not is_number(self.floor) or not 0.0 <= self.floor <= 1.0:
            raise DcacheError(f"floor must be a number from 0 to 1, got {self.floor!r}")
        if not isinstance(self.dense_layers, tuple) or not all(is_whole(i) for i in self.dense_layers):
            raise DcacheError(f"dense_layers must be a tuple of layer indices, got {self.dense_layers!r}")

    @property
    def after_forward(self) -> bool:
        """Whether tokens can be evicted only when all layers have run; the whole cache is held till then."""
        together = self.joint is not None and not self.joint.alone
        return self.allocation in ("global", "preference") or self.scorer.probes or together

    @property
    def joint(self) -> Joint | None:
        """The codec, where it encodes several layers together."""
        codec: Any = self.codec
        return codec if hasattr(codec, "encode_group") else None

    @property
    def follows_positions(self) -> bool:
        """Whether stored keys are turned, by themselves or by the codec, so that positions must not jump."""
        return self.positions == "shifted" or self.codec.needs_rotary

    @property
    def needs_rotary(self) -> bool:
        """Whether keys or queries are turned, so that the model's rotation must be known."""
        turned = self.selector is not None and self.selector.distance is not None
        return self.positions == "shifted" or turned or self.observer.needs_rotary or self.codec.needs_rotary


def _codec_of(codec: Any) -> Codec:
    """A codec, or that of a policy which stands for it.

    Raises:
        DcacheError: it is neither, or needs a calibration, which only a cache's own policy reads.
    """
    policy = codec if isinstance(codec, Policy) else None
    stored = codec if policy is None else policy.codec
    if not hasattr(stored, "encode_keys") or (policy is not None and isinstance(stored, Plain)):
        raise DcacheError(
            "codec must be a codec, or a policy that has one such as lm_kv.kivi(bits=4), got "
            + (repr(codec) if policy is None else f"{policy.name}, which stores tokens as they come")
        )
    if policy is not None and policy.calibration is not None:
        raise DcacheError(
            f"{policy.name} reads a calibration, which only the cache's own policy can: leave it out of the "
            "codec, or use that policy by itself"
        )
    return stored


def _check_allocation(policy: Policy) -> None:
    """A policy says what its allocation divides the budget by.

    Raises:
        DcacheError: it does not, or there is no such allocation.
    """
    if policy.allocation not in ALLOCATIONS:
        raise DcacheError(f"allocation must be one of {', '.join(ALLOCATIONS)}, got {policy.allocation!r}")
    if policy.allocation == "preference" and policy.preference is None:
        raise DcacheError(
            f"{policy.name} does not say which layers want more of the budget: choose another allocation, "
            "or a policy with a preference, such as cake"
        )
    if (policy.allocation == "coverage") != (policy.coverage is not None):
        raise DcacheError(
            "the allocation coverage and a policy that says how many tokens a layer needs go together, got "
            f"{policy.allocation!r} for {policy.name}: leave its allocation as it is, or choose zipvl"
        )


def _check_selection(policy: Policy) -> None:
    """What a selector needs, and what needs one.

    Raises:
        DcacheError: attention is summed or tokens shifted though some are not read; layers that choose for
            others are no places or shares, or their selector is another one; a question has no selector.
    """
    if policy.selector is not None and (policy.observer.statistic or policy.positions != "original"):
        raise DcacheError(
            "a selector reads some tokens at a step, so the attention that all receive cannot be summed, nor "
            "can they be shifted: choose an observer without a statistic and original positions"
        )
    if policy.selector is not None and policy.allocation not in ("uniform", "preference"):
        raise DcacheError(
            f"{policy.name} keeps all tokens and reads as many of them in every head and layer: leave its "
            f"allocation as it is, got {policy.allocation!r}, or choose a policy that evicts, such as snapkv"
        )
    if policy.question is not None and (policy.selector is None or policy.choosing):
        raise DcacheError(
            "a call of several tokens chooses what it reads only where a selector of its layer does: give "
            "the policy one, or question=None"
        )
    for place in policy.choosing:
        if not (is_whole(place) and place >= 0) and not (is_number(place) and 0.0 <= place < 1.0):
            raise DcacheError(
                "a layer that chooses for others must be a place from 0 on, or a share of the layers' number "
                f"in [0, 1), got {place!r}"
            )
    if bool(policy.choosing) != isinstance(policy.selector, OtherLayers):
        raise DcacheError(
            "layers that choose for others go with the selector OtherLayers: give the policy both or neither"
        )


def _check_tiers(policy: Policy) -> None:
    """Tokens of two precisions have two codecs, and stay at their positions.

    Raises:
        DcacheError: they have one, or are shifted.
    """
    lower = policy.reducer.lower
    if lower is None:
        return
    if policy.positions != "original":
        raise DcacheError(
            f"{policy.name} stores tokens of two precisions, which do not lie in their order and cannot be "
            "shifted: choose original positions"
        )
    if policy.codec == lower:
        raise DcacheError(f"{policy.name} stores all tokens by {lower!r}: give what is kept another codec")
