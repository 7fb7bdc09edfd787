"""Parsing of `--methods`: presets, presets with options, schedule files.

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
from dcache.eval.policy_list import named_twice
from dcache.method import Method
from dcache.methods.resolve import preset_called, read_options
from dcache.schedule import Schedule

# Preset -> its option for measured numbers; preset -> its option for a profile.
NUMBERS = {
    "teacache": "coefficients",
    "magcache": "ratios",
    "smoothcache": "table",
    "sencache": "sensitivities",
}
PROFILED = dict.fromkeys(("bac", "cachequant", "ertacache", "fitted", "profilingdit", "yume"), "profile")
# Name of a shipped model's profile, in the folder of its coefficients file.
PROFILE = "demo.profile.safetensors"


@dataclass(frozen=True)
class MethodEntry(BenchEntry):
    """One of dcache's methods.

    Attributes:
        method: the method or schedule, for `dcache.enable`.
    """

    method: Method | Schedule | None = None

    @property
    def portable(self) -> bool:
        """False for a schedule, which is for one model, and for measurements of a shipped model."""
        return not (isinstance(self.method, Schedule) or self.note)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits over all parts of the method."""
        return digest_of(self.method)

    def same_as(self, spec: str, trace: Schedule | None) -> bool:
        """Whether old pictures were made by this method.

        True for a schedule that the trace followed. True for a preset with the same specification, unless it
        reads a file, whose content may have changed since.
        """
        if isinstance(self.method, Schedule):
            return trace is not None and _followed(self.method, trace)
        return spec == self.spec and not any(map(os.path.isfile, _values(spec)))

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        """Enable the method with `dcache.enabled`."""
        with dcache.enabled(pipe, self.method):
            yield

    def observe(self, pipe: Any) -> tuple[dcache.Stats | None, dcache.Schedule | None]:
        """Statistics and trace of the last call."""
        return dcache.stats(pipe), dcache.trace(pipe)


def parse(text: str, numbers: Path | None = None) -> list[MethodEntry]:
    """Read specifications separated by `;`, or by `,` if the next word is not an option.

    Args:
        text: the specifications.
        numbers: a shipped model's coefficients file, for presets whose numbers are not given.

    Raises:
        DcacheError: an unknown method or option, a file that is no schedule, a duplicate, or an empty text.
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
    entries = [_entry(spec, numbers) for spec in specs]
    twice = named_twice([(entry.label, entry.file_name) for entry in entries])
    if twice:
        raise DcacheError(
            f"--methods names {', '.join(map(repr, twice))} more than once: name each method once"
        )
    return entries


def shipped(name: str, numbers: Path) -> dict[str, Path]:
    """The preset's option for measurements of a shipped model, with the file; {} if it has no such option.

    Args:
        name: name of the preset.
        numbers: the model's coefficients file.
    """
    if name in PROFILED:
        return {PROFILED[name]: numbers.with_name(PROFILE)}
    return {NUMBERS[name]: numbers} if name in NUMBERS else {}


def _followed(schedule: Schedule, trace: Schedule) -> bool:
    """Whether the trace of a run equals the schedule."""
    plans = list(schedule.components.values())
    if len(plans) == len(trace.components) == 1:
        # A schedule of one component fits a denoiser of any name.
        schedule = replace(schedule, components=dict(zip(trace.components, plans, strict=True)))
    return trace.digest() == schedule.digest()


def _values(spec: str) -> list[str]:
    """The values of a specification's options, as texts."""
    words = spec.partition(":")[2].split(",")
    return [value.strip() for word in words for value in word.partition("=")[2].split("+")]


def _entry(spec: str, numbers: Path | None) -> MethodEntry:
    name, _, inside = spec.partition(":")
    name = preset_called(name) or name
    # A path may also be an option's value, so a known preset comes first.
    if methods.find(name) is None and (spec.endswith(".json") or os.sep in spec):
        schedule = Schedule.load(spec)
        return MethodEntry(spec, f"file {Path(spec).stem}", f", {spec!r})", method=schedule)
    return preset_entry(spec, name, read_options(inside, spec), numbers)


def preset_entry(spec: str, name: str, options: Mapping[str, Any], numbers: Path | None) -> MethodEntry:
    """One preset with options.

    Args:
        spec: the specification, for messages.
        name: name of the preset.
        options: its options.
        numbers: as for `parse`.

    Raises:
        DcacheError: the preset or an option is unknown, or a value is out of range.
    """
    measured = (
        {} if numbers is None else {k: v for k, v in shipped(name, numbers).items() if k not in options}
    )
    try:
        method = methods.make(name, **measured, **options)
    except DcacheError as error:
        raise DcacheError(f"{spec}: {error}") from None
    if name == "default" and not options:
        return MethodEntry(spec, name, ")", method=method)
    shown = {option: f"FILE{file.suffix}" for option, file in measured.items()}
    arguments = ", ".join(f"{key}={value!r}" for key, value in {**options, **shown}.items())
    how = "dcache calibrate" if "profile" in measured else "examples/measure_coefficients.py"
    note = f"{next(iter(measured))} of the shipped model; for yours: {how}" if measured else ""
    call = f", dcache.methods.{name}({arguments}))"
    return MethodEntry(spec, _label(name, options), call, note, method=method)


def _label(name: str, options: Mapping[str, Any]) -> str:
    """The name, the value of the first option, and all other options that differ from the defaults."""
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
