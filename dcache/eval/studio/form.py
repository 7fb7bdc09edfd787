"""`Form`: what the page asks for, checked; a method by its name, its options as literals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dcache import methods
from dcache.errors import DcacheError
from dcache.eval.entries import BenchEntry
from dcache.eval.limits import LIMITS, check_limit, check_within
from dcache.eval.sources import check_source
from dcache.eval.specs import preset_entry
from dcache.eval.subject import Subject
from dcache.methods.resolve import read_options
from dcache.util.checks import is_finite

# Options whose values may be words. Texts of all others could be paths, and the page opens no files.
WORDS = ("sites", "codec", "clock", "branches", "metric")
LONGEST_PROMPT, LONGEST_OPTIONS = 4000, 1000


@dataclass(frozen=True)
class Form:
    """One comparison, as the page asks for it.

    Attributes:
        pipeline: name of one of the studio's pipelines.
        prompt: the prompt, or a class number as text.
        seed: seed of the noise.
        steps: sampling steps.
        guidance: guidance scale; None keeps that of the pipeline.
        method: name of a preset, or the specification of one of the studio's own entries.
        options: the preset's options, as in "interval=3,warmup=2".
        warm_up: make an untimed call of each side first, which counts FLOPs.
    """

    pipeline: str
    prompt: str
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    method: str = "tuned"
    options: str = ""
    warm_up: bool = True

    def __post_init__(self) -> None:
        """Check the numbers and the lengths of the texts.

        Raises:
            DcacheError: one is out of range.
        """
        check_within(LIMITS["seed"], self.seed, "seed")
        for name in ("steps", "guidance"):
            check_limit(name, getattr(self, name))
        for name, most in (("prompt", LONGEST_PROMPT), ("options", LONGEST_OPTIONS)):
            if len(getattr(self, name)) > most:
                raise DcacheError(
                    f"{name} has {len(getattr(self, name))} characters: expected at most {most}"
                )

    @staticmethod
    def of(content: object) -> Form:
        """The form in a JSON object.

        Raises:
            DcacheError: a field is unknown, missing, of another type or out of range.
        """
        known = [field.name for field in fields(Form)]
        if not isinstance(content, dict):
            raise DcacheError(f"expected an object with {', '.join(known)}, got {type(content).__name__}")
        unknown = [str(name) for name in content if name not in known]
        missing = [name for name in ("pipeline", "prompt") if name not in content]
        if unknown or missing:
            raise DcacheError(
                f"expected the fields {', '.join(known)}; unknown: {unknown}, missing: {missing}"
            )
        for name in ("pipeline", "prompt", "method", "options"):
            if not isinstance(content.get(name, ""), str):
                raise DcacheError(f"{name} must be a text, got {content[name]!r}")
        if not isinstance(content.get("warm_up", True), bool):
            raise DcacheError(f"warm_up must be true or false, got {content['warm_up']!r}")
        guidance = content.get("guidance")
        return Form(**content | {"guidance": float(guidance) if is_finite(guidance) else guidance})

    def content(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)

    def subject(self, pipelines: Mapping[str, Subject]) -> Subject:
        """The pipeline with the options of this call.

        Raises:
            DcacheError: there is no such pipeline, or it does not take an option.
        """
        if self.pipeline not in pipelines:
            raise DcacheError(
                f"there is no pipeline {self.pipeline!r} here: expected one of {', '.join(pipelines)}"
            )
        base = pipelines[self.pipeline]
        if base.condition and not self.prompt.strip():
            raise DcacheError("the prompt is empty: write one")
        given = {"num_inference_steps": self.steps, "guidance_scale": self.guidance}
        options = base.options | {key: value for key, value in given.items() if value is not None}
        check_source(base.name, options)
        return Subject(base.pipe, base.name, options)

    def entry(self, own: Mapping[str, BenchEntry], numbers: Path | None) -> BenchEntry:
        """The method as a contestant.

        Args:
            own: specification -> entry, of those that the command line named.
            numbers: coefficients file of a shipped pipeline, as for `dcache.eval.specs.parse`.

        Raises:
            DcacheError: the method or an option is unknown, or an option would be a file.
        """
        if self.method in own:
            if self.options.strip():
                raise DcacheError(f"{self.method} has its options already: leave the field empty")
            return own[self.method]
        if self.method not in methods.available():
            known = ", ".join([*own, *methods.available()])
            raise DcacheError(f"method {self.method!r} is unknown: expected one of {known}")
        spec = ":".join(filter(None, (self.method, self.options.strip())))
        options = read_options(self.options, spec)
        for name, value in options.items():
            if name not in WORDS and _has_text(value):
                raise DcacheError(
                    f"{name} must be a number, true, false or none, got {value!r}. Options are separated by "
                    "commas; methods that read files are named on the command line: dcache studio --methods "
                    "LIST"
                )
        return preset_entry(spec, self.method, options, numbers)


def _has_text(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_text, (*value, *value.values())))
    return any(map(_has_text, value)) if isinstance(value, list) else isinstance(value, str)
