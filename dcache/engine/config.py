"""The configuration of a session: everything that `enable` decides, once and for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dcache.engine.budget import Budget
from dcache.errors import DcacheError
from dcache.identity.denoisers import config_digest
from dcache.identity.run import Run
from dcache.method import Method

LOWERINGS = ("auto", "replay")


@dataclass(frozen=True)
class SessionConfig:
    """How one denoiser is cached.

    Attributes:
        method: what to do; a schedule is replayed by a method.
        component: the denoiser's name in its pipeline, "" for a bare module.
        compile_options: arguments of `torch.compile` for the blocks that were found, or None to leave them.
        lowering: "auto", or "replay" for the slow reference.
        strict: refuse what differs from what the method was made with, instead of warning.
        skips_first: the first evaluation of a run is not cached: it is the one in which a denoiser is still
            being looked for (`identity.detect`), and later runs do as the first.
        budget: the most bytes that the histories may hold, together with other denoisers', or None.
        made_with: what the method was made with, for messages: "the schedule", "the profile of bac".
        sampler: class of the sampler that it was made with, "" where that is not known or no matter.
        guidance: guidance scale that it was made with, None where that is not known or no matter.

    Raises:
        DcacheError: the lowering is unknown.
    """

    method: Method
    component: str = ""
    compile_options: Mapping[str, Any] | None = None
    lowering: str = "auto"
    strict: bool = False
    skips_first: bool = False
    budget: Budget | None = None
    made_with: str = ""
    sampler: str = ""
    guidance: float | None = None

    def __post_init__(self) -> None:
        """Check the lowering."""
        if self.lowering not in LOWERINGS:
            raise DcacheError(f"lowering must be 'auto' or 'replay', got {self.lowering!r}")

    def differences_of_module(self, module: nn.Module) -> Iterator[str]:
        """How a denoiser differs from the one that the method was made for: sentences for warnings.

        Raises:
            DcacheError: it differs, and the configuration is strict.
        """
        here = (type(module).__name__, config_digest(module))
        for what, made, now in zip(("model", "config"), self.method.made_for, here, strict=True):
            yield from self._difference(what, made, now)

    def differences_of_run(self, run: Run, guidance: float | None) -> Iterator[str]:
        """How a run differs from those that the method was made for: sentences for warnings.

        Raises:
            DcacheError: it differs, and the configuration is strict.
        """
        yield from self._difference("sampler", self.sampler, run.sampler)
        if self.guidance is not None and guidance is not None:
            yield from self._difference("guidance", f"{self.guidance:g}", f"{guidance:g}")

    def _difference(self, what: str, made: str, now: str) -> Iterator[str]:
        if made and now and made != now:
            text = f"{self.made_with} was made with {what} {made} and is used with {now}"
            if self.strict:
                raise DcacheError(f"{text} (strict=True)")
            yield text
