"""From the text of `--methods` to methods: presets, presets with options, schedule files.

>>> [c.label for c in parse("default; newton:interval=4,order=2")]
['default', 'newton 4 order=2']
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dcache
from dcache import methods
from dcache.errors import DcacheError
from dcache.eval.digest import digest_of
from dcache.eval.entries import BenchEntry
from dcache.method import Method
from dcache.methods.resolve import preset_called, read_options
from dcache.schedule import Schedule

# Which option of a preset takes measured numbers, and which takes a profile.
NUMBERS = {
    "teacache": "coefficients",
    "magcache": "ratios",
    "smoothcache": "table",
    "sencache": "sensitivities",
}
PROFILED = dict.fromkeys(("bac", "cachequant", "ertacache", "fitted", "profilingdit"), "profile")
# A shipped model's profile lies beside the file with its numbers.
PROFILE = "demo.profile.safetensors"


@dataclass(frozen=True)
class MethodEntry(BenchEntry):
    """One of dcache's methods.

    Attributes:
        method: what `dcache.enable` takes.
    """

    method: Method | Schedule | None = None

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of everything that the method is made of."""
        return digest_of(self.method)

    def same_as(self, spec: str, trace: Schedule | None) -> bool:
        """A schedule is the same if it was followed; a preset if it reads no file of the user's.

        Such a file may hold something else today.
        """
        if isinstance(self.method, Schedule):
            return trace is not None and _followed(self.method, trace)
        return spec == self.spec and not any(map(os.path.isfile, _values(spec)))

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        """As `dcache.enabled`."""
        with dcache.enabled(pipe, self.method):
            yield

    def observe(self, pipe: Any) -> tuple[dcache.Stats | None, dcache.Schedule | None]:
        """The statistics and the trace of the last call."""
        return dcache.stats(pipe), dcache.trace(pipe)


def parse(text: str, numbers: Path | None = None) -> list[MethodEntry]:
    """Read specifications separated by `;` (or by `,` where that is not an option of the one before).

    Args:
        text: the specifications.
        numbers: the file that presets read their measured numbers from where none are given.

    Raises:
        DcacheError: an unknown method or option, a file that is no schedule, a method twice, or nothing.
    """
    specs: list[str] = []
    for part in text.split(";"):
        for i, word in enumerate(part.split(",")):
            if i and "=" in word and ":" in specs[-1]:
                specs[-1] += f",{word.strip()}"
            elif word.strip():
                specs.append(word.strip())
    if not specs:
        known = ", ".join(methods.available())
        raise DcacheError(f"--methods names none: give some of {known}, as in 'default;newton:interval=4'")
    choices = [_choice(spec, numbers) for spec in specs]
    names = [choice.file_name for choice in choices]
    twice = sorted({choice.label for choice in choices if names.count(choice.file_name) > 1})
    if twice:
        raise DcacheError(
            f"--methods names {', '.join(map(repr, twice))} more than once: each method once is enough"
        )
    return choices


def shipped(name: str, numbers: Path) -> dict[str, Path]:
    """The option of a preset that takes what was measured of a shipped model, and the file; {} if none does.

    Args:
        name: the preset's.
        numbers: the model's file of numbers.
    """
    if name in PROFILED:
        return {PROFILED[name]: numbers.with_name(PROFILE)}
    return {NUMBERS[name]: numbers} if name in NUMBERS else {}


def _followed(schedule: Schedule, trace: Schedule) -> bool:
    """Whether a run of a pipeline with one denoiser or more computed what the schedule says."""
    plans = list(schedule.components.values())
    if len(plans) == len(trace.components) == 1:
        # A schedule of one component fits a denoiser of any name.
        schedule = replace(schedule, components=dict(zip(trace.components, plans, strict=True)))
    return trace.digest() == schedule.digest()


def _values(spec: str) -> list[str]:
    """The values of a specification's options, as text."""
    words = spec.partition(":")[2].split(",")
    return [value.strip() for word in words for value in word.partition("=")[2].split("+")]


def _choice(spec: str, numbers: Path | None) -> MethodEntry:
    name, _, inside = spec.partition(":")
    name = preset_called(name) or name
    # An option of a preset may be a file too.
    if methods.find(name) is None and (spec.endswith(".json") or os.sep in spec):
        schedule = Schedule.load(spec)
        return MethodEntry(spec, f"file {Path(spec).stem}", f", {spec!r})", method=schedule)
    options = read_options(inside, spec)
    own = {} if numbers is None else {k: v for k, v in shipped(name, numbers).items() if k not in options}
    try:
        method = methods.make(name, **own, **options)
    except DcacheError as error:
        raise DcacheError(f"{spec}: {error}") from None
    if name == "default" and not options:
        return MethodEntry(spec, name, ")", method=method)
    theirs = {option: f"FILE{file.suffix}" for option, file in own.items()}
    arguments = ", ".join(f"{key}={value!r}" for key, value in {**options, **theirs}.items())
    how = "dcache calibrate" if "profile" in own else "examples/measure_coefficients.py"
    note = f"{next(iter(own))} of the shipped model; for yours: {how}" if own else ""
    call = f", dcache.methods.{name}({arguments}))"
    return MethodEntry(spec, _label(name, options), call, note, method=method)


def _label(name: str, options: Mapping[str, Any]) -> str:
    """The name, the value of the main option, and whatever else differs from the preset's own defaults."""
    parameters = inspect.signature(getattr(methods, name)).parameters
    main = next(iter(parameters), "")
    words = [name]
    if main in options:
        words.append(str(options[main]))
    for key, value in options.items():
        if key == main or value == parameters[key].default:
            continue
        if key == "sites":
            words.append("@" + ("+".join(value) if isinstance(value, list) else str(value)))
        else:
            words.append(key if value is True else f"{key}={value}")
    return " ".join(words)
