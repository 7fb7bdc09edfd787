"""A model that drafts for itself: it decodes on a part of its own cache, and verifies on all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation.candidate_generator import CandidateGenerator

from dcache.errors import DcacheError
from dcache.lm_kv.cache import KVCache
from dcache.lm_kv.model import adapter
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.sharing.begun import length_of


@dataclass
class Counts:
    """How the drafts of one text fared.

    Attributes:
        drafted: tokens that were drafted.
        accepted: of those, tokens that the model would have written itself.
        calls: calls of the model that verified, the prompt's included.
    """

    drafted: int = 0
    accepted: int = 0
    calls: int = 0

    @property
    def acceptance(self) -> float:
        """The share of drafted tokens that were accepted; NaN where none was drafted."""
        return self.accepted / self.drafted if self.drafted else float("nan")


@dataclass
class SelfDraft:
    """For `model.generate(..., custom_generate=this)`: a model drafts on what a selector reads of its cache.

    A call of one token reads what the policy's selector chooses, one of several tokens reads all: the same
    cache serves draft and verification, and drafted tokens are stored in a fork that is thrown away.

    Attributes:
        policy: of the cache, with a selector.
        tokens: drafted at once; at least 1.
        counts: of the last text.
    """

    policy: Policy
    tokens: int
    counts: Counts = field(default_factory=Counts, compare=False)

    def __call__(self, model: Any, input_ids: torch.Tensor, **arguments: Any) -> Any:
        """The ids that `generate` returns, as transformers' assisted decoding makes them.

        Raises:
            DcacheError: there are several rows or beams, the call brings its own cache or none is used, or
                the model cannot take tokens back.
        """
        config = arguments["generation_config"]
        _check(model, input_ids, config, arguments)
        self.counts = Counts()
        cache = KVCache(model, self.policy)
        drafts = _Drafts(model, cache, self, arguments.get("logits_processor"), config)
        return adapter.assisted(model, drafts, input_ids, **{**arguments, "past_key_values": cache})


class _Drafts(CandidateGenerator):
    """The candidates of one text."""

    def __init__(self, model: Any, cache: KVCache, draft: SelfDraft, processor: Any, config: Any) -> None:
        self.model, self.cache, self.draft = model, cache, draft
        self.processor, self.config = processor, config

    def get_candidates(self, input_ids: torch.Tensor, **kwargs: Any) -> tuple[Any, Any]:
        """The ids with drafted ones behind them, and their logits; none in front of the prompt's call."""
        self.draft.counts.calls += 1
        if not self.cache.get_seq_length():
            return input_ids, None
        fork, ids, scores = self.cache.fork(), input_ids, []
        _, seen = length_of(fork)
        # At least one: a call of a single token would verify on a part of the cache.
        count = max(1, min(self.draft.tokens, self.config.max_length - ids.shape[1] - 1))
        for step in range(count):
            place = torch.tensor([[seen + step]], device=ids.device)
            out = self.model(input_ids=ids[:, -1:], position_ids=place, past_key_values=fork, use_cache=True)
            logits = out.logits[:, -1].float()
            if self.processor:
                logits = self.processor(ids, logits)
            scores.append(logits)
            drawn = self.config.do_sample
            new = logits.softmax(-1).multinomial(1) if drawn else logits.argmax(-1, keepdim=True)
            ids = torch.cat([ids, new], 1)
        self.draft.counts.drafted += count
        return ids, torch.stack(scores, 1)

    def update_candidate_strategy(
        self, input_ids: torch.Tensor, scores: torch.Tensor, num_matches: int
    ) -> None:
        """Count what was accepted."""
        self.draft.counts.accepted += int(num_matches)


def _check(model: Any, input_ids: torch.Tensor, config: Any, arguments: dict[str, Any]) -> None:
    if len(input_ids) != 1 or config.num_beams != 1 or config.num_return_sequences != 1:
        raise DcacheError(
            f"drafts are verified for one row and no beams, got {len(input_ids)} rows and {config.num_beams} "
            "beams: generate for one text at a time"
        )
    cache = arguments.get("past_key_values")
    if not arguments.get("use_cache", True) or (cache is not None and not adapter.is_empty_dynamic(cache)):
        raise DcacheError(
            "drafts are read from a cache of their own: leave past_key_values, cache_implementation and "
            f"use_cache out, got {type(cache).__name__}"
        )
    if getattr(model, "_is_stateful", False):
        raise DcacheError(
            f"{type(model).__name__} cannot take tokens back, so drafts cannot be verified: generate without "
            "custom_generate"
        )
