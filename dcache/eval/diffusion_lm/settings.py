"""Settings of an evaluation of row policies, checked on construction."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from dcache.errors import DcacheError
from dcache.eval.limits import LIMITS, Real, Whole, check_within

if TYPE_CHECKING:
    from dcache.eval.diffusion_lm.subject import RowSubject

_LIMITS: dict[str, Whole | Real] = {
    "prompts": Whole(1),
    "seeds": Whole(1),
    "seed": LIMITS["seed"],
    "length": Whole(32),
    "new": Whole(1),
    "block": Whole(1),
    "steps": Whole(1),
    "threshold": Real(0),
    "temperature": Real(0),
}


@dataclass(frozen=True)
class RowSettings:
    """What is generated. None stands for the model's own choice.

    Attributes:
        prompts: number of prompts.
        seeds: runs of all prompts, with seeds that follow each other.
        seed: the first one.
        length: tokens of a prompt; those of shipped models are of one length.
        new: tokens to decode.
        block: tokens of a block, where the policy has none of its own.
        steps: forwards of the fixed schedule; None decodes one token a step.
        decoder: one of `dcache.diffusion_lm.decoders.DECODERS`.
        threshold: probability, for the decoder "threshold".
        temperature: of sampling; 0 takes the likeliest token.
    """

    prompts: int = 100
    seeds: int = 3
    seed: int = 0
    length: int = 200
    new: int | None = None
    block: int | None = None
    steps: int | None = None
    decoder: str = "low_confidence"
    threshold: float = 0.9
    temperature: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            DcacheError: a number is out of range, or there is no such decoder.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _LIMITS and value is not None:
                check_within(_LIMITS[field.name], value, field.name)
        from dcache.diffusion_lm.decoders import make_decoder

        make_decoder(self.decoder, self.threshold)

    def of(self, subject: RowSubject) -> RowSettings:
        """The settings with the subject's choices in place of None.

        Raises:
            DcacheError: the subject's texts have another number of tokens.
        """
        if subject.fixed and self.new not in (None, subject.new):
            raise DcacheError(
                f"new must be {subject.new} for {subject.name}, whose texts are of one length, got "
                f"{self.new}: leave it out"
            )
        return replace(
            self,
            new=self.new or subject.new,
            block=self.block or subject.block,
            temperature=subject.temperature if self.temperature is None else self.temperature,
        )
