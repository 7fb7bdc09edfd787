"""`Loop`: the steps of one call of `generate`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from dcache.diffusion_lm.decoders.base import Decoder, Proposal
from dcache.diffusion_lm.engine import RowLogits
from dcache.diffusion_lm.run import Run
from dcache.diffusion_lm.sampling import keys_of, sample, uniform
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.step import bool_rows
from dcache.errors import DcacheError
from dcache.util.checks import check_number, check_whole, is_whole

# A seed is hashed in 64 bits, and one is added to it.
SEEDS = 2**62
Callback = Callable[[int, torch.Tensor, torch.Tensor], None]


@dataclass(frozen=True)
class Options:
    """The options of `generate` that are no decoder's.

    Raises:
        DcacheError: one is out of range.
    """

    new: int
    block: int
    steps: int | None
    temperature: float
    seed: int
    attention_mask: torch.Tensor | None
    mask_id: int | None
    eos_id: int | None
    callback: Callback | None

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_whole("max_new_tokens", self.new, 1)
        check_whole("block", self.block, 1)
        check_number("temperature", self.temperature, 0)
        # Logits divided by infinity are no numbers.
        if math.isinf(self.temperature):
            raise DcacheError("temperature must be finite, got inf")
        if not is_whole(self.seed) or not -SEEDS <= self.seed < SEEDS:
            raise DcacheError(f"seed must be a whole number of at most 62 bits, got {self.seed!r}")
        if self.callback is not None and not callable(self.callback):
            raise DcacheError(
                f"callback must be a function of step, ids and rows, got {type(self.callback).__name__}"
            )
        if self.steps is not None:
            check_whole("steps", self.steps, 1)


@dataclass
class Loop:
    """The steps of one call of `generate`.

    Attributes:
        run: the batch under its method.
        decoder: which tokens are committed.
        mask_id: id of the mask token.
        size: tokens of a block.
        options: the others.
        order: float64 `[B, T]`, the random order.
        begun: int64 `[B]`, masked tokens when the block began.
    """

    run: Run
    decoder: Decoder
    mask_id: int
    size: int
    options: Options
    order: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    begun: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def decode(self, prompt: torch.Tensor) -> torch.Tensor:
        """Ids `[B, P + new]`, all decoded."""
        B, P = prompt.shape
        new = self.options.new
        ids = torch.cat([prompt, prompt.new_full((B, new), self.mask_id)], 1)
        columns = torch.arange(P + new, device=ids.device).expand(B, -1)
        self.order = uniform(keys_of(self.options.seed + 1, self.run.turns, columns), 1)[..., 0]
        masked = self.run.region
        self._begin(masked)
        block = self.run.block
        while True:
            while not bool(masked[:, block.start : block.end].any()):
                if block.end == P + new:
                    return ids
                block.move(block.end, min(block.end + self.size, P + new))
                self._begin(masked)
            ids = self._step(ids, masked)
            masked = (ids == self.mask_id) & self.run.region

    def _begin(self, masked: torch.Tensor) -> None:
        """Count what each row has to decode in a new block."""
        self.begun = masked[:, self.run.block.start : self.run.block.end].sum(1)

    def _step(self, ids: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        run, window, turns = self.run, self.run.method.policy.window, self.run.turns
        here = run.step_of(ids, masked)
        candidates = here.leftmost(window) if window else masked & here.block
        active = candidates.any(1)
        quota = self._quota()
        if self.decoder.ahead and run.method.policy.upcoming:
            here = replace(here, upcoming=self.decoder.pick(Proposal(ids, candidates, quota, self.order)))
        rows, reason = run.rows(here, active)
        result = run.forward(ids, rows, reason, self.more)
        proposal = self._proposal(ids, result, candidates, rows, quota, turns)
        take = bool_rows(self.decoder.pick(proposal), ids, f"decoder {self.decoder.name!r}")
        take = take & proposal.candidates
        count = int(take.sum())
        # The same step would come again, without an end.
        if not count:
            raise DcacheError(
                f"{run.method.describe()} and decoder {self.decoder.name!r} committed no token in a step: "
                "rows must have a masked position of the block in it, and pick a candidate, of each sequence"
            )
        run.stats.tokens += count
        new = self._ended(torch.where(take, proposal.tokens_or(ids), ids))
        if self.options.callback is not None:
            self.options.callback(run.index - 1, new.clone(), rows)
        return new

    def _quota(self) -> torch.Tensor:
        """Tokens `[B]` of the fixed schedule at this step; the first steps of a block take the remainder."""
        if self.options.steps is None:
            return torch.ones_like(self.begun)
        # The first blocks take the remainder of the steps, too.
        blocks = -(-self.options.new // self.size)
        index = (self.run.block.start - self.run.region.shape[1] + self.options.new) // self.size
        steps = self.options.steps // blocks + (index < self.options.steps % blocks)
        more = self.run.block.steps < self.begun % steps
        return (self.begun // steps + more.long()).clamp(min=1)

    @cached_property
    def more(self) -> dict[str, Any]:
        """Arguments of the model beside ids and positions."""
        return {} if bool(self.run.real.all()) else {"attention_mask": self.run.real.long()}

    def _proposal(
        self,
        ids: torch.Tensor,
        result: RowLogits,
        candidates: torch.Tensor,
        rows: torch.Tensor,
        quota: torch.Tensor,
        turns: torch.Tensor,
    ) -> Proposal:
        """Sample the candidates that were computed, and no other row: noise over a vocabulary is dear."""
        shift = int(self.run.shift)
        # Column 0 is no candidate behind a prompt, so what comes around does not matter.
        candidates = candidates & (rows.roll(shift, 1) if shift else rows)
        wanted = Selection(candidates)
        positions = wanted.positions
        logits = result.at((positions - shift).clamp(min=0) if shift else positions).float()
        logits[..., self.mask_id] = -torch.inf
        warm = self.options.temperature > 0
        keys = keys_of(self.options.seed, turns, positions) if warm else positions
        tokens = sample(logits, self.options.temperature, keys)
        chances = logits.softmax(-1)
        confidence = chances.gather(-1, tokens[..., None])[..., 0]
        entropy = -(chances * chances.clamp(min=1e-30).log()).sum(-1) if self.decoder.entropy else None
        empty = torch.zeros(ids.shape, device=ids.device)
        return Proposal(
            ids,
            candidates,
            quota,
            self.order,
            wanted.put(ids.clone(), tokens),
            wanted.put(empty.clone(), confidence),
            None if entropy is None else wanted.put(empty.clone(), entropy),
        )

    def _ended(self, ids: torch.Tensor) -> torch.Tensor:
        """Fill rows with EOS behind a decoded EOS that has nothing masked before it."""
        if self.options.eos_id is None:
            return ids
        region = self.run.region
        open_before = ((ids == self.mask_id) & region).long().cumsum(1) > 0
        ends = (ids == self.options.eos_id) & region & ~open_before
        return torch.where((ends.long().cumsum(1) > 0) & region, self.options.eos_id, ids)
