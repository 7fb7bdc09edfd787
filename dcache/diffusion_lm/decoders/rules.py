"""The decoders that read one step's proposal."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dcache.diffusion_lm.decoders.base import Decoder, Proposal, ranks
from dcache.errors import DcacheError
from dcache.util.checks import check_number
from dcache.util.options import did_you_mean


def low_confidence() -> Decoder:
    """The most confident tokens, as many as the schedule has (LLaDA, Nie et al. 2025, arXiv 2502.09992)."""

    def pick(proposal: Proposal) -> torch.Tensor:
        return _first(proposal, _confidence(proposal))

    return Decoder("low_confidence", pick)


def random() -> Decoder:
    """Tokens in a random order that is drawn once."""
    return Decoder("random", lambda proposal: _first(proposal, proposal.order), ahead=True)


def left() -> Decoder:
    """Tokens from left to right."""

    def pick(proposal: Proposal) -> torch.Tensor:
        columns = torch.arange(proposal.candidates.shape[1], device=proposal.candidates.device)
        return _first(proposal, -columns.double().expand(proposal.candidates.shape))

    return Decoder("left", pick, ahead=True)


def threshold(threshold: float = 0.9) -> Decoder:
    """Every token of at least this probability, and always the best (Fast-dLLM, arXiv 2505.22618).

    Args:
        threshold: from 0 to 1.
    """
    check_number("threshold", threshold, 0, 1)

    def pick(proposal: Proposal) -> torch.Tensor:
        confidence = _confidence(proposal)
        best = ranks(confidence, proposal.candidates) == 0
        return proposal.candidates & (best | (confidence >= threshold))

    return Decoder("threshold", pick)


def factor(factor: float = 1.0) -> Decoder:
    """The n most confident tokens, n the largest with (n + 1) (1 - c_n) < factor (arXiv 2505.22618).

    Args:
        factor: larger decodes more at once.
    """
    check_number("factor", factor, 0)

    def pick(proposal: Proposal) -> torch.Tensor:
        confidence = _confidence(proposal).double()
        rank = ranks(confidence, proposal.candidates)
        passes = proposal.candidates & ((rank + 2) * (1 - confidence) < factor)
        return _prefix(proposal.candidates, rank, passes)

    return Decoder("factor", pick)


def entropy_bound(bound: float = 0.1) -> Decoder:
    """The tokens of lowest entropy whose sum without the largest is within a bound (EB-Sampler, 2505.24857).

    Args:
        bound: in nats; 0 decodes one token a step, and ties at entropy 0.
    """
    check_number("bound", bound, 0)

    def pick(proposal: Proposal) -> torch.Tensor:
        if proposal.entropy is None:
            return torch.zeros_like(proposal.candidates)
        entropy = proposal.entropy.double()
        rank = ranks(-entropy, proposal.candidates)
        ordered = entropy.masked_fill(~proposal.candidates, torch.inf).sort(dim=1, stable=True).values
        before = (ordered.cumsum(1) - ordered).nan_to_num(torch.inf, torch.inf).gather(1, rank)
        return _prefix(proposal.candidates, rank, proposal.candidates & (before <= bound))

    return Decoder("entropy_bound", pick, entropy=True)


DECODERS: dict[str, Callable[[], Decoder]] = {
    "low_confidence": low_confidence,
    "random": random,
    "left": left,
    "threshold": threshold,
    "factor": factor,
    "entropy_bound": entropy_bound,
}


def make_decoder(decoder: str | Decoder, level: float) -> Decoder:
    """A decoder by name.

    Args:
        decoder: a name, or a decoder, which is returned.
        level: probability for "threshold".

    Raises:
        DcacheError: the name is unknown.
    """
    if isinstance(decoder, Decoder):
        return decoder
    if decoder == "threshold":
        return threshold(level)
    if decoder == "guided":
        raise DcacheError(
            "decoder='guided' needs a guide, a small causal model: give generate guide=, or build it with "
            "dcache.diffusion_lm.decoders.guided(guide)"
        )
    if not isinstance(decoder, str) or decoder not in DECODERS:
        known = [*DECODERS, "guided"]
        raise DcacheError(
            f"decoder {decoder!r} is unknown: expected one of {', '.join(known)}, or one of "
            f"dcache.diffusion_lm.decoders.{did_you_mean(str(decoder), known)}"
        )
    return DECODERS[decoder]()


def _confidence(proposal: Proposal) -> torch.Tensor:
    if proposal.confidence is None:
        return torch.zeros(proposal.candidates.shape)
    return proposal.confidence


def _first(proposal: Proposal, score: torch.Tensor) -> torch.Tensor:
    return proposal.candidates & (ranks(score, proposal.candidates) < proposal.quota[:, None])


def _prefix(candidates: torch.Tensor, rank: torch.Tensor, passes: torch.Tensor) -> torch.Tensor:
    """Candidates by rank up to the first that does not pass; the first one always."""
    in_order = torch.zeros_like(passes).scatter(1, rank, passes)
    count = in_order.long().cumprod(1).sum(1, keepdim=True).clamp(min=1)
    return candidates & (rank < count)
