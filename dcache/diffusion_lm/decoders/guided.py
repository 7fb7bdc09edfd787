"""Guided decoding: a small causal model accepts a prefix of the draft (FlashDLM, arXiv 2505.21467)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from dcache.diffusion_lm.decoders.base import Decoder, Proposal
from dcache.diffusion_lm.tokens import tokens_of
from dcache.errors import DcacheError
from dcache.util.checks import check_number, check_whole

Rule = Literal["argmax", "probability", "top_k", "relative", "all", "none"]
Accept = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def guided(
    guide: nn.Module | None,
    rule: Rule = "probability",
    level: float = 0.1,
    span: int = 32,
    cache: Any = None,
) -> Decoder:
    """Draft every masked token of the block, and commit the longest prefix that the guide accepts.

    At least one token is committed. The guide only accepts: what it accepts is the draft's.

    Args:
        guide: a causal language model with the same tokens.
        rule: "argmax" accepts the guide's own choice; "probability" at least `level`; "top_k" the first
            `level` choices; "relative" at least `level` of the best probability; "all" and "none" for
            comparison.
        level: of the rule.
        span: tokens that are verified at once.
        cache: function that makes a KV cache for the guide, such as a `lm_kv.KVCache`; None makes a plain
            one, False reads the whole text at every step.

    Raises:
        DcacheError: there is no guide, or an option does not fit.
    """
    if not isinstance(guide, nn.Module):
        came = "" if guide is None else f", got {type(guide).__name__}"
        raise DcacheError(
            f"decoder='guided' needs guide=, a small causal language model with the same tokens{came}"
        )
    rules = _rules(level)
    if rule not in rules:
        raise DcacheError(f"rule must be one of {', '.join(rules)}, got {rule!r}")
    check_number("level", level, 0)
    check_whole("span", span, 1)
    verifier = _Verifier(guide, cache)

    def pick(proposal: Proposal) -> torch.Tensor:
        tokens = proposal.tokens_or(proposal.ids)
        draft = torch.where(proposal.candidates, tokens, proposal.ids)
        take = torch.zeros_like(proposal.candidates)
        for row in range(len(draft)):
            columns = proposal.candidates[row].nonzero().flatten()
            if len(columns):
                start = int(columns[0])
                # Behind a token that is still masked, because its row was not computed, nothing is verified.
                masked = proposal.ids[row] == proposal.ids[row, start]
                gap = (masked & ~proposal.candidates[row])[start:].nonzero().flatten()
                end = min(start + span, int(columns[-1]) + 1, *(gap[:1] + start).tolist())
                count = _accepted(
                    verifier.logits(row, draft[row], start, end), draft[row, start:end], rules[rule]
                )
                take[row, start : start + count] = proposal.candidates[row, start : start + count]
        return take

    return Decoder("guided", pick, guide=guide)


class _Verifier:
    """The guide with a cache for each row, which holds committed tokens alone."""

    def __init__(self, guide: nn.Module, cache: Any) -> None:
        self.guide, self.make = guide, cache
        self.caches: dict[int, Any] = {}
        self.texts: dict[int, torch.Tensor] = {}

    def logits(self, row: int, ids: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Logits `[end - start, V]` that predict ids `[T]` from `start` to before `end`."""
        if start == 0:
            raise DcacheError("guided decoding needs at least one token of prompt")
        tokens, most = tokens_of(self.guide), int(ids[:end].max())
        if most >= tokens:
            raise DcacheError(
                f"the draft has token {most}, and the guide has tokens 0 to {tokens - 1:.0f}: it must have "
                "the model's tokens"
            )
        if self.make is False:
            return self.guide(input_ids=ids[None, : end - 1], use_cache=False).logits[0, start - 1 :]
        cache = self._cache(row, ids, start)
        length = int(cache.get_seq_length())
        output = self.guide(input_ids=ids[None, length : end - 1], past_key_values=cache, use_cache=True)
        self.texts[row] = ids[: end - 1].clone()
        return output.logits[0, start - 1 - length :]

    def _cache(self, row: int, ids: torch.Tensor, start: int) -> Any:
        """The row's cache, with the tokens before the last committed one that are as they were."""
        # It is put back behind the guide's forward: an error in that leaves a cache that is written in part.
        text = self.texts.pop(row, None)
        if text is not None and len(text) >= 1:
            same = int((text[: start - 1] == ids[: min(start - 1, len(text))]).long().cumprod(0).sum())
            cache = self.caches[row]
            length = int(cache.get_seq_length())
            if same < length:
                # Negative numbers take tokens off the end.
                cache.crop(same - length)
            return cache
        from transformers import DynamicCache

        config: Any = getattr(self.guide, "config", None)
        cache = DynamicCache(config=config) if self.make is None else self.make()
        # Drafts are taken back by `crop`: sliding layers keep what it needs, and eviction waits for it.
        cache.activate_past_recording()
        self.caches[row] = cache
        return cache


def _accepted(logits: torch.Tensor, tokens: torch.Tensor, accept: Accept) -> int:
    return max(1, int(accept(logits.float(), tokens).long().cumprod(0).sum()))


def _rules(level: float) -> dict[str, Accept]:
    def chance(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return logits.softmax(-1).gather(-1, tokens[:, None])[:, 0]

    def better(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return (logits > logits.gather(-1, tokens[:, None])).sum(-1)

    return {
        "argmax": lambda logits, tokens: logits.argmax(-1) == tokens,
        "probability": lambda logits, tokens: chance(logits, tokens) >= level,
        "top_k": lambda logits, tokens: better(logits, tokens) < level,
        "relative": lambda logits, tokens: chance(logits, tokens) >= level * logits.softmax(-1).amax(-1),
        "all": lambda logits, tokens: torch.ones_like(tokens, dtype=torch.bool),
        "none": lambda logits, tokens: torch.zeros_like(tokens, dtype=torch.bool),
    }
