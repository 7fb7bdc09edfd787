"""What the layers of one cache share: its policy, whether a forward runs, what is held."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.budgets.budget import Budget
from dcache.lm_kv.codecs.bases import HeadBasis
from dcache.lm_kv.codecs.carry import Carry
from dcache.lm_kv.codecs.codec import Codec, LayerFacts
from dcache.lm_kv.codecs.jointly import check_joint
from dcache.lm_kv.codecs.latents import Latent, Linear
from dcache.lm_kv.layers.places import choosers_of
from dcache.lm_kv.model.adapter import InputHooks
from dcache.lm_kv.model.calls import Call, read_call
from dcache.lm_kv.model.directions import bases_of
from dcache.lm_kv.model.forwards import take_input
from dcache.lm_kv.model.projections import latents_of, linears_of
from dcache.lm_kv.model.rotary import Rotary, attention_modules, find_rotary
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring import calibration
from dcache.lm_kv.scoring.calibration import Calibration


@dataclass
class Shared:
    """State of one cache; layers know it and not the cache, so that no circle keeps a cache alive.

    Attributes:
        policy: what is kept, with the cache's own options in it.
        budget: how much.
        evict: evicts tokens of a list of layers.
        places: index -> place of every layer that has a budget, from the first to the last.
        rotary: the model's rotations, None for policies that turn nothing.
        calibration: what was measured of the model, for policies that read it.
        bases: each layer's directions of keys and of values, for codecs that need them.
        latents: what each layer's projections make keys and values of, likewise.
        carry: what the running forward's layers hand on to the next one.
        live: whether the decoder's forward runs with this cache.
        holding: depth of `hold()`; nothing is evicted above 0.
        reader: called in a read-only forward with each layer's index and the largest weights that its
            stored columns got, `[B, h, columns]`; nothing is stored meanwhile.
        rope: the running forward's position ids.
        bytes_held: bytes of all storages of the compressed layers.
        peak_bytes: the most that they were.
        warned: whether it was said that sinks and window shrink.
        warned_of_pages: whether it was said that no page fits the budget.
        marks: bool `[B, columns]`, which columns of the calls to come are images'; None where none are.
        marked: those of the running forward.
        ids: the running forward's ids `[B, S]`, for observers that read them; else None.
        layers: how many layers the model has.
        input_hooks: note what attention is given, for observers that read it.
        choosers: indices of the layers that choose what those behind them read.
        choice: float32 `[B, h, positions]`, the attention of the running forward's last layer that chose.
        problems: what went wrong in this forward and cost nothing but room.
        group_scores: place of the first layer of a group, and the scores that its other layers take from it.
    """

    policy: Policy
    budget: Budget
    evict: Callable[[list[Any]], None]
    places: dict[int, int] = field(default_factory=dict)
    rotary: Rotary | None = None
    calibration: Calibration | None = None
    bases: Mapping[int, Mapping[str, tuple[HeadBasis, ...]]] = field(default_factory=dict)
    latents: Mapping[int, Mapping[str, Latent | Linear]] = field(default_factory=dict)
    carry: Carry = field(default_factory=Carry)
    live: bool = False
    holding: int = 0
    reader: Callable[[int, torch.Tensor], None] | None = None
    rope: torch.Tensor | None = None
    bytes_held: int = 0
    peak_bytes: int = 0
    warned: bool = False
    warned_of_pages: bool = False
    marks: torch.Tensor | None = None
    marked: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    layers: int = 1
    choosers: frozenset[int] = frozenset()
    choice: torch.Tensor | None = None
    problems: list[str] = field(default_factory=list)
    group_scores: tuple[int, torch.Tensor] | None = None
    input_hooks: InputHooks | None = None
    _call: tuple[Any, Call] | None = None
    _allowed: tuple[torch.Tensor, torch.Tensor] | None = None

    def prepare(self, decoder: torch.nn.Module, layers: Sequence[int]) -> None:
        """Find out what the policy needs to know of the model.

        Args:
            decoder: of the model.
            layers: indices of its layers with full attention.

        Raises:
            DcacheError: keys cannot be turned, the policy's calibration is of another model, layers that are
                encoded together have a budget, or no layer is behind those that choose.
        """
        check_joint(self.policy.joint, self.budget.whole == math.inf, len(self.places))
        if self.policy.calibration is not None:
            self.calibration = calibration.load(self.policy.calibration)
            self.calibration.check(decoder, layers)
        self.choosers = choosers_of(self.policy, layers, self.places)
        if self.policy.needs_rotary:
            self.rotary = find_rotary(decoder, list(layers))
        if getattr(self.policy.codec, "needs_bases", False):
            self.bases = bases_of(decoder, layers, self.policy.codec.share)  # type: ignore[attr-defined]
        needs, name = (getattr(self.policy.codec, field, "") for field in ("needs_latents", "name"))
        if self.rotary is not None and needs:
            found = latents_of if needs == "latents" else linears_of
            self.latents = found(decoder, layers, self.rotary, name)
        if self.reads_inputs:
            self.input_hooks = InputHooks(attention_modules(decoder, list(layers)))

    @property
    def reads_inputs(self) -> bool:
        """Whether an observer or a tail takes what attention is given."""
        return self.policy.observer.needs_hidden or any(self.width(layer) for layer in self.places)

    def width(self, layer: int) -> int | None:
        """Numbers of what a layer's attention is given, where its tail keeps them; else None."""
        linear = self.latents.get(layer, {}).get("keys")
        return linear.size if isinstance(linear, Linear) and layer in self.places else None

    def lender(self, layer: int) -> int:
        """Index of the layer that counts what this one shares with others: the first of its group."""
        if self.policy.joint is None or layer not in self.places:
            return layer
        groups = self.policy.joint.groups(len(self.places))
        place = next((group[0] for group in groups if self.places[layer] in group), self.places[layer])
        return list(self.places)[place]

    def fork(self) -> Shared:
        """That of a second cache: no forward of it runs, and it is not held."""
        return replace(
            self,
            live=False,
            holding=0,
            reader=None,
            rope=None,
            bytes_held=0,
            peak_bytes=0,
            problems=[],
            carry=self.carry.fork(),
            _call=None,
        )

    def begin(self, rope: torch.Tensor | None) -> None:
        """A forward begins."""
        self.live, self.rope, self._call, self.choice = True, rope, None, None
        self.carry.open()

    def mark(self, images: torch.Tensor) -> None:
        """Remember marks of columns to come.

        Raises:
            DcacheError: they are not bool `[B, columns]`, or the policy reads none.
        """
        if not self.policy.observer.reads_marks:
            raise DcacheError(
                f"{self.policy.name} does not tell images from text, so marks would change nothing: choose "
                "look_m, which does, or leave mark() out"
            )
        if not isinstance(images, torch.Tensor):
            raise DcacheError(f"images must be a bool tensor [rows, columns], got {images!r}")
        if images.ndim != 2 or images.dtype != torch.bool:
            raise DcacheError(
                f"images must be bool [rows, columns], got {images.dtype} {tuple(images.shape)}"
            )
        self.marks = images

    def take_inputs(self, inputs: torch.Tensor) -> None:
        """Take what observers read of the running forward's ids `[B, S]` or embeddings `[B, S, D]`.

        Raises:
            DcacheError: marks are of another batch, or ids are read and embeddings came.
        """
        reads_ids = self.policy.observer.reads_ids
        if reads_ids and inputs.ndim != 2:
            raise DcacheError(
                f"{self.policy.name} reads the ids of the text, but this call came as embeddings: call "
                "the model with input_ids, or choose a policy that reads none, such as quest"
            )
        if self.marks is not None:
            self.marked, self.marks = _divided(self.marks.to(inputs.device), inputs)
        self.ids = inputs if reads_ids else None

    def end(self) -> None:
        """It ended."""
        self.live, self.rope, self._call = False, None, None
        self.carry.close()
        self.marked = self.ids = self.choice = None

    def raise_problem(self) -> None:
        """Say the first thing that went wrong, once.

        Raises:
            DcacheError: something did.
        """
        if self.problems:
            message = self.problems[0]
            self.problems.clear()
            raise DcacheError(message)

    def call(self, mask: Any, key: torch.Tensor, start: int) -> Call:
        """This forward's call; read once, for all layers are given the same mask."""
        if self._call is None or self._call[0] is not mask:
            rows, _, queries, _ = key.shape
            self._call = (mask, read_call(mask, self.rope, rows, queries, start, key.device))
        return self._call[1]

    def allowed(self, seen: torch.Tensor) -> torch.Tensor:
        """int64 `[B]`, budgets of rows that have seen so many tokens; made once where layers share them."""
        if self._allowed is None or self._allowed[0] is not seen:
            self._allowed = seen, torch.tensor(self.budget.tokens(seen.tolist()), device=seen.device)
        return self._allowed[1]

    def codec(self, layer: int, state: Mapping[str, torch.Tensor] | None = None) -> Codec:
        """The policy's codec, with what it wants to know of a layer and of what was observed there."""
        # Not `self.turn`: segments keep their codec, and should not keep this alive.
        turn = None if self.rotary is None else partial(self.rotary.turn, layer)
        # Where a selector reads some tokens, those that all fit the budget are all read.
        whole = 0.0 if self.policy.selector is None else self.budget.whole
        basis = None
        if self.calibration is not None and self.policy.codec.needs_rotary:
            basis = self.calibration.tensor("basis", layer)
        measured = self.bases.get(layer), self.latents.get(layer)
        facts = LayerFacts(turn, whole, basis, *measured, state, self.problems.append)
        return self.policy.codec.bound(replace(facts, carry=self.carry, place=self.places.get(layer, 0)))

    def input_of(self, layer: int, shape: torch.Size) -> torch.Tensor | None:
        """What a layer's attention is given in the running forward, where that is noted.

        Args:
            layer: its index.
            shape: of the call's keys.

        Raises:
            DcacheError: the tail keeps it, and it did not come row by row.
        """
        hidden = take_input(layer) if self.input_hooks is not None else None
        wanted = self.width(layer) is not None and self.reader is None
        if wanted and (hidden is None or hidden.shape[:2] != (shape[0], shape[2])):
            raise DcacheError(
                f"{self.policy.name} stores the inputs of attention, which do not come row by row here: fill "
                "the cache by calls of the model, without prepacking"
            )
        return hidden

    def turn(self, layer: int, states: torch.Tensor, positions: torch.Tensor, mode: str) -> torch.Tensor:
        """Keys or queries turned as `Rotary.turn` turns them."""
        return self._known_rotary().turn(layer, states, positions, mode)

    def mean_rotation(
        self, layer: int, size: int, start: int, count: int, like: torch.Tensor
    ) -> torch.Tensor:
        """The mean of a layer's rotations at these positions, as `Rotary.mean` has it."""
        return self._known_rotary().mean(layer, size, start, count, like)

    def count_bytes(self, change: int) -> None:
        """Storages grew or shrank."""
        self.bytes_held += change
        self.peak_bytes = max(self.peak_bytes, self.bytes_held)

    def _known_rotary(self) -> Rotary:
        """The model's rotations, which only policies that say so look for."""
        if self.rotary is None:
            raise DcacheError(
                "this policy turns keys or queries, but says that it does not: set `needs_rotary`"
            )
        return self.rotary


def _divided(marks: torch.Tensor, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Marks bool `[B, S]` of these inputs, False where there are none, and those of the calls to come.

    Raises:
        DcacheError: they are of another batch.
    """
    rows, columns = inputs.shape[:2]
    if len(marks) != rows:
        raise DcacheError(
            f"{len(marks)} rows were marked, the call has {rows}: mark the batch that the model gets, "
            "with beams images.repeat_interleave(num_beams, 0)"
        )
    marked, rest = marks[:, :columns], marks[:, columns:]
    missing = columns - marked.shape[1]
    if missing:
        marked = torch.cat([marked, marked.new_zeros(rows, missing)], 1)
    return marked, rest if rest.shape[1] else None
