"""`SessionConfig`: the immutable configuration of a session, from the arguments of `enable`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import nn

from dcache.engine.budget import Budget
from dcache.engine.protocols import Tuner
from dcache.errors import DcacheError
from dcache.identity.denoisers import config_digest
from dcache.identity.run import Run
from dcache.method import Method

LOWERINGS = ("auto", "replay")


@dataclass(frozen=True)
class SessionConfig:
    """How one denoiser is cached.

    Attributes:
        method: the method; a schedule is given as its replay.
        component: the denoiser's name in its pipeline, "" for a bare module.
        compile_options: arguments of `torch.compile` for the blocks, or None not to compile them.
        lowering: "auto", or "replay" for the slow reference implementation.
        strict: raise instead of warning if model, sampler or guidance differ from those of the method.
        skips_first: do not cache the first evaluation of a run. In the first run the denoiser is detected
            during that evaluation (`identity.detect`); later runs skip it too, for equal results.
        budget: limit of the histories' bytes, shared with other denoisers, or None.
        made_with: source of the method, for messages: "the schedule", "the profile of bac".
        sampler: class name of the sampler it was made with, "" if unknown or irrelevant.
        guidance: guidance scale it was made with, None if unknown or irrelevant.
        tuner: chooses the method of every run, None where all have the same.

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
    tuner: Tuner | None = None

    def __post_init__(self) -> None:
        if self.lowering not in LOWERINGS:
            raise DcacheError(f"lowering must be 'auto' or 'replay', got {self.lowering!r}")

    def differences_of_module(self, module: nn.Module) -> Iterator[str]:
        """Sentences for warnings: how a denoiser differs from the one for which the method was made.

        Raises:
            DcacheError: it differs, and the configuration is strict.
        """
        actual = (type(module).__name__, config_digest(module))
        for name, expected, used in zip(("model", "config"), self.method.made_for, actual, strict=True):
            yield from self._difference(name, expected, used)

    def differences_of_run(self, run: Run, guidance: float | None) -> Iterator[str]:
        """Sentences for warnings: how a run differs from those for which the method was made.

        Raises:
            DcacheError: it differs, and the configuration is strict.
        """
        yield from self._difference("sampler", self.sampler, run.sampler)
        if self.guidance is not None and guidance is not None:
            yield from self._difference("guidance", f"{self.guidance:g}", f"{guidance:g}")

    def _difference(self, name: str, expected: str, used: str) -> Iterator[str]:
        if expected and used and expected != used:
            text = f"{self.made_with} was made with {name} {expected} and is used with {used}"
            if self.strict:
                raise DcacheError(f"{text} (strict=True)")
            yield text


def _check_compile(options: Mapping[str, Any]) -> None:
    """Check the options' names, also where nothing is compiled yet."""
    takes = list(signature(torch.compile).parameters)[1:]
    unknown = [name for name in options if name not in takes]
    if unknown:
        raise DcacheError(
            f"torch.compile refuses compile={dict(options)!r}: it has no option "
            f"{', '.join(map(repr, unknown))}, only {', '.join(takes)}"
        )


def shared_fields(compiling: Any, strict: Any, lowering: str, limit: int | str | None) -> dict[str, Any]:
    """The fields that the configurations of all denoisers of one `enable` share, such as the budget.

    Raises:
        DcacheError: an option is of the wrong type.
    """
    if not isinstance(compiling, bool | Mapping):
        raise DcacheError(f"compile must be True, False or arguments of torch.compile, got {compiling!r}")
    if not isinstance(strict, bool):
        raise DcacheError(f"strict must be True or False, got {strict!r}")
    if isinstance(compiling, Mapping):
        _check_compile(compiling)
    options = None if not compiling else dict(compiling) if isinstance(compiling, Mapping) else {}
    return {
        "compile_options": options,
        "lowering": lowering,
        "strict": strict,
        "budget": None if limit is None else Budget(limit),
    }
