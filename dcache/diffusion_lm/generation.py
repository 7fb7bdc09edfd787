"""`generate`: a decoding loop for masked-diffusion language models, with the method that is enabled."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dcache.diffusion_lm import enabled, limits
from dcache.diffusion_lm.bind.choose import refuse_causal
from dcache.diffusion_lm.bind.plain import PlainBinding
from dcache.diffusion_lm.decoders.base import Decoder, Proposal
from dcache.diffusion_lm.decoders.rules import make_decoder
from dcache.diffusion_lm.engine import Engine, RowLogits, Stream
from dcache.diffusion_lm.method import RowMethod
from dcache.diffusion_lm.policies.none import none
from dcache.diffusion_lm.row_stats import RowStats
from dcache.diffusion_lm.run import Block, Run
from dcache.diffusion_lm.sampling import keys_of, sample, uniform
from dcache.diffusion_lm.selection import Selection
from dcache.errors import DcacheError
from dcache.util.checks import check_number, check_whole

Callback = Callable[[int, torch.Tensor, torch.Tensor], None]
_checked: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@torch.no_grad()
def generate(  # noqa: PLR0913 - the options of a decoding loop, all by keyword
    model: nn.Module,
    input_ids: torch.Tensor,
    *,
    max_new_tokens: int,
    block: int = 32,
    steps: int | None = None,
    decoder: str | Decoder = "low_confidence",
    threshold: float = 0.9,
    temperature: float = 0.0,
    seed: int = 0,
    attention_mask: torch.Tensor | None = None,
    mask_id: int | None = None,
    eos_id: int | None = None,
    guide: nn.Module | None = None,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Decode masked tokens behind a prompt, block by block.

    The method that `dcache.enable` has put on the model is used; without one every step computes every row.
    Noise depends on seed, step, row and position alone, so cached and uncached runs of one seed compare.

    Args:
        model: a masked-diffusion language model, in evaluation mode.
        input_ids: int64 `[B, P]`.
        max_new_tokens: tokens to decode.
        block: tokens of a block; a method's own block takes its place.
        steps: forwards that the fixed schedule has for all blocks together; None for one token a step.
        decoder: "low_confidence", "random", "left", "threshold", "factor", "entropy_bound", "guided" or one
            of `dcache.diffusion_lm.decoders`.
        threshold: probability for "threshold".
        temperature: 0 takes the likeliest token.
        seed: of the noise.
        attention_mask: `[B, P]`, 0 for pads at the left.
        mask_id: id of the mask token; None for that of the method or the config.
        eos_id: a row ends where this token is decoded and nothing before it is masked.
        guide: for "guided", a small causal language model with the same tokens.
        callback: called after each step with its number, ids `[B, T]` and the rows bool `[B, T]` it computed.

    Returns:
        Int64 `[B, P + max_new_tokens]`; behind EOS everything is EOS.

    Raises:
        DcacheError: the model or an option does not fit; nothing ran then.
    """
    check_whole("max_new_tokens", max_new_tokens, 1)
    check_whole("block", block, 1)
    check_number("temperature", temperature, 0)
    rule = _decoder(decoder, threshold, guide)
    entry = enabled.find(model)
    method = none() if entry is None else entry.method
    if mask_id is None and entry is not None and entry.intercept is not None:
        mask_id = entry.intercept.mask_id
    mask = limits.mask_of(model, mask_id if mask_id is not None else method.mask_id)
    real = _check(model, method, rule, input_ids, attention_mask, mask, max_new_tokens)
    size = min(method.policy.block or block, max_new_tokens)
    blocks = -(-max_new_tokens // size)
    if steps is not None and check_whole("steps", steps, 1) < blocks:
        raise DcacheError(
            f"steps={steps} are fewer than the {blocks} blocks of {size} tokens: give one a block"
        )
    run = _run(model, entry, method, input_ids, real, size, max_new_tokens)
    loop = _Loop(run, rule, mask, size, steps and steps // blocks, temperature, seed, eos_id, callback)
    try:
        return loop.decode(input_ids, max_new_tokens)
    finally:
        if run.stream.observer is not None:
            run.stream.observer.remove()


@dataclass
class _Loop:
    """The steps of one call of `generate`."""

    run: Run
    decoder: Decoder
    mask_id: int
    size: int
    steps: int | None
    temperature: float
    seed: int
    eos_id: int | None
    callback: Callback | None
    counts: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    order: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    begun: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def decode(self, prompt: torch.Tensor, new: int) -> torch.Tensor:
        """Ids `[B, P + new]`, all decoded."""
        B, P = prompt.shape
        ids = torch.cat([prompt, prompt.new_full((B, new), self.mask_id)], 1)
        self.counts = torch.zeros(B, dtype=torch.long, device=ids.device)
        columns = torch.arange(P + new, device=ids.device).expand(B, -1)
        self.order = uniform(keys_of(self.seed + 1, self.counts, columns), 1)[..., 0]
        masked = self.run.region
        self._begin(masked)
        while bool(masked.any()):
            while not bool(masked[:, self.run.block.start : self.run.block.end].any()):
                self.run.block.move(self.run.block.end, min(self.run.block.end + self.size, P + new))
                self._begin(masked)
            ids = self._step(ids, masked)
            masked = (ids == self.mask_id) & self.run.region
        return ids

    def _begin(self, masked: torch.Tensor) -> None:
        """Count what each row has to decode in a new block."""
        self.begun = masked[:, self.run.block.start : self.run.block.end].sum(1)

    def _step(self, ids: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        run, window = self.run, self.run.method.policy.window
        here = run.step_of(ids, masked, None)
        candidates = here.leftmost(window) if window else masked & here.block
        active = candidates.any(1)
        quota = self._quota()
        upcoming = None
        if self.decoder.ahead and run.method.policy.upcoming:
            upcoming = self.decoder.pick(Proposal(ids, candidates, quota, self.order))
        rows, reason = run.rows(run.step_of(ids, masked, upcoming), active)
        result = run.forward(ids, rows, reason, self._more())
        proposal = self._proposal(ids, result, candidates, rows, quota)
        take = self.decoder.pick(proposal) & proposal.candidates
        new = torch.where(take, proposal.tokens_or(ids), ids)
        run.stats.tokens += int(take.sum())
        self.counts = self.counts + active
        if self.callback is not None:
            self.callback(run.index - 1, new, rows)
        return self._ended(new)

    def _quota(self) -> torch.Tensor:
        """Tokens `[B]` of the fixed schedule at this step; the first steps of a block take the remainder."""
        if self.steps is None:
            return torch.ones_like(self.begun)
        step = self.run.block.steps
        more = step < self.begun % self.steps
        return (self.begun // self.steps + more.long()).clamp(min=1)

    def _more(self) -> dict[str, Any]:
        return {} if bool(self.run.real.all()) else {"attention_mask": self.run.real.long()}

    def _proposal(
        self,
        ids: torch.Tensor,
        result: RowLogits,
        candidates: torch.Tensor,
        rows: torch.Tensor,
        quota: torch.Tensor,
    ) -> Proposal:
        """Sample the candidates that were computed, and no other row: noise over a vocabulary is dear."""
        shift = int(self.run.shift)
        sources = rows.clone()
        if shift:
            sources[:, 1:] = rows[:, :-1]
        candidates = candidates & sources
        wanted = Selection(candidates)
        positions = wanted.positions
        logits = result.at((positions - shift).clamp(min=0)).float()
        logits[..., self.mask_id] = -torch.inf
        tokens = sample(logits, self.temperature, keys_of(self.seed, self.counts, positions))
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
        if self.eos_id is None:
            return ids
        region = self.run.region
        open_before = ((ids == self.mask_id) & region).long().cumsum(1) > 0
        ends = (ids == self.eos_id) & region & ~open_before
        return torch.where((ends.long().cumsum(1) > 0) & region, self.eos_id, ids)


def _decoder(decoder: str | Decoder, level: float, guide: nn.Module | None) -> Decoder:
    if decoder == "guided":
        from dcache.diffusion_lm.decoders.guided import guided

        return guided(guide)
    if guide is not None:
        raise DcacheError(f"guide= goes with decoder='guided', got decoder={decoder!r}")
    return make_decoder(decoder, level)


def _check(
    model: nn.Module,
    method: RowMethod,
    decoder: Decoder,
    ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    mask_id: int,
    new: int,
) -> torch.Tensor:
    """Refuse what does not fit; returns bool `[B, P]`, prompt tokens that are no pads."""
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or ids.dtype != torch.long or 0 in ids.shape:
        given = f"{tuple(ids.shape)} in {ids.dtype}" if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise DcacheError(f"input_ids must be int64 [B, P] with at least one token, got {given}")
    if method.policy.upcoming and not decoder.ahead:
        raise DcacheError(
            f"{method.describe()} needs the positions to be decoded before each forward, and {decoder.name} "
            "knows them behind it: use decoder='random' or 'left', or dkv(variant='decode')"
        )
    if model not in _checked:
        limits.check_model(model)
        if enabled.find(model) is None:
            refuse_causal(model, model)
        _checked.add(model)
    real = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
    if real.shape != ids.shape or bool((real[:, :-1] & ~real[:, 1:]).any()):
        raise DcacheError(
            f"attention_mask must be {tuple(ids.shape)} with pads at the left alone, got {tuple(real.shape)}"
        )
    limits.check_pads(model, mask_id, real)
    limits.check_width(model, ids.shape[1] + new)
    return real


def _run(
    model: nn.Module,
    entry: enabled.Enabled | None,
    method: RowMethod,
    prompt: torch.Tensor,
    real: torch.Tensor,
    size: int,
    new: int,
) -> Run:
    engine = Engine(model, model, PlainBinding(model)) if entry is None else entry.engine
    B, P = prompt.shape
    real = torch.cat([real, real.new_ones(B, new)], 1)
    region = torch.zeros_like(real)
    region[:, P:] = True
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    stats = RowStats(method.describe(), engine.binding.name)
    if entry is not None:
        entry.stats = stats
    stream = Stream(engine, positions, None if entry is None else method.policy.drift(model))
    block = Block(P, P + size, P)
    return Run(engine, method, region, real, stream, block, limits.shifted(model, method.shift), stats)
