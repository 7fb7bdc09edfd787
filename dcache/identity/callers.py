"""The sampler of a denoiser that nobody enabled a pipeline for: found in the loop that calls it.

A loop that is driven by a sampler has it within reach and calls its `step`: a local variable (`scheduler`),
or an attribute of one (`self.scheduler`, `pipe.scheduler`). So the frames of the callers are looked through,
from the inside out, for a function whose code names both. That is done once a run; afterwards one look at the
same variable says whether the loop is still the same sampler's.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import CO_OPTIMIZED, unwrap
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from dcache.identity.sampler import is_sampler, tap_of

_PACKAGE = str(Path(__file__).parent.parent)
# Rooms with loops that drive a denoiser; frames of the others lie between a loop and its call.
_LOOPS = tuple(str(Path(_PACKAGE, room)) for room in ("demo", "policy"))


# Whether this Python keeps a copy of a function's variables beside a frame that was asked for them.
_COPIES = sys.version_info < (3, 13)


@dataclass(frozen=True)
class CallMark:
    """What tells a pipeline's call from the next one.

    Attributes:
        frame: identity of its frame, which another call may have after it.
        state: an object of its own, which no other call has; None where it has none.
    """

    frame: int | None = None
    state: weakref.ref[Any] | None = None

    def is_of(self, other: CallMark | None) -> bool:
        """Whether the other mark is that of the same call, as far as it tells."""
        if other is None or self.frame != other.frame:
            return False
        state = None if self.state is None else self.state()
        return state is (None if other.state is None else other.state())


@dataclass(frozen=True)
class LoopVariable:
    """Where a loop has its sampler.

    Attributes:
        code: of the function that the loop is in.
        local: the variable.
        attribute: the attribute of that variable which is the sampler, "" where it is the sampler itself.
    """

    code: CodeType
    local: str
    attribute: str

    def sampler(self) -> Any:
        """The sampler of the innermost such loop that the call came from, None where there is none."""
        # No call of a function of ours: this is done in every evaluation.
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not self.code:
            frame = frame.f_back
        if frame is None:
            return None
        variables = frame.f_locals
        value = variables.get(self.local)
        # As `_is_copy` has it.
        if _COPIES and self.code.co_flags & CO_OPTIMIZED and frame.f_trace is None:
            variables.clear()
        return getattr(value, "__dict__", {}).get(self.attribute) if self.attribute else value


def find_sampler(wanted: Any, timestep: Callable[[], float | None]) -> tuple[Any, LoopVariable] | None:
    """The sampler that drives the loop from which a denoiser is called, and where the loop has it.

    Args:
        wanted: the sampler that is meant where the loop has several.
        timestep: reads what the denoiser is called with; else the sampler whose table lists it is meant. Of
            several, that is one which did not walk through its table yet, and whose `step` comes next.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if "step" in code.co_names and _may_loop(code.co_filename):
            places = [place for place in _samplers(frame) if _is_set(place[0])]
            if len(places) > 1:
                places.sort(key=lambda place: place[0] is not wanted)
                if places[0][0] is not wanted:
                    value, following = timestep(), _steps_next(frame)
                    places.sort(key=lambda place: _doubts(place, value, following))
            if places:
                return places[0]
        frame = frame.f_back
    return None


def call_code(pipe: Any) -> CodeType | None:
    """The code of a pipeline's call, without decorators; None where it is no Python function."""
    code: CodeType | None = getattr(unwrap(type(pipe).__call__), "__code__", None)
    return code


def call_frame(code: CodeType) -> int | None:
    """Identity of the innermost frame of this code that the call came from, None where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return None if frame is None else id(frame)


def is_within_call(pipe: Any) -> bool:
    """Whether this is called from within the pipeline's call, and not by one who cleans up after it broke."""
    code = call_code(pipe)
    return code is not None and call_frame(code) is not None


def call_argument(pipe: Any, name: str) -> Any:
    """The value of a variable in the pipeline's call that the call came from, None where there is none."""
    code = call_code(pipe)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            original = frame.f_locals
            owner, value = original.get("self"), original.get(name)
            if _is_copy(frame):
                original.clear()
            if owner is pipe:
                return value
        frame = frame.f_back
    return None


def drives(frame: FrameType, sampler: Any) -> bool:
    """Whether a function's code names `step` and has this sampler within reach."""
    return "step" in frame.f_code.co_names and any(place[0] is sampler for place in _samplers(frame))


def _may_loop(file: str) -> bool:
    """Whether code of this file may be a loop that drives a denoiser."""
    return not file.startswith(_PACKAGE) or file.startswith(_LOOPS)


def _samplers(frame: FrameType) -> Iterator[tuple[Any, LoopVariable]]:
    code, original = frame.f_code, frame.f_locals
    variables = dict(original)
    if _is_copy(frame):
        original.clear()
    for name in (*code.co_varnames, *code.co_freevars, *code.co_cellvars, *code.co_names):
        value = variables.get(name)
        if value is None or isinstance(value, torch.Tensor | type):
            continue
        if is_sampler(value):
            yield value, LoopVariable(code, name, "")
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            for attribute in code.co_names:
                if is_sampler(attributes.get(attribute)):
                    yield attributes[attribute], LoopVariable(code, name, attribute)


def _is_copy(frame: FrameType) -> bool:
    """Whether the frame keeps a copy of a function's variables, which would keep their values alive.

    Python does so before 3.13. What a debugger looks at is left alone.
    """
    return _COPIES and bool(frame.f_code.co_flags & CO_OPTIMIZED) and frame.f_trace is None


def _doubts(place: tuple[Any, LoopVariable], timestep: float | None, following: str) -> tuple[bool, ...]:
    """What speaks against a sampler's driving the loop, the strongest first; to sort by."""
    sampler, variable = place
    watched = tap_of(sampler)
    walked = watched is not None and not watched.in_use
    return not _lists(sampler, timestep), walked, (variable.attribute or variable.local) != following


def _steps_next(frame: FrameType) -> str:
    """The variable or attribute whose `step` a function names next behind the call under way, "" for none."""
    from dis import get_instructions

    before: Any = ""
    for instruction in get_instructions(frame.f_code):
        if instruction.offset > frame.f_lasti and instruction.argval == "step":
            return before if isinstance(before, str) else ""
        before = instruction.argval
    return ""


def _is_set(sampler: Any) -> bool:
    """Whether a sampler has the table of a run."""
    timesteps = getattr(sampler, "timesteps", None)
    return (
        timesteps is not None
        and len(timesteps) > 0
        and getattr(sampler, "num_inference_steps", 0) is not None
    )


def _lists(sampler: Any, timestep: float | None) -> bool:
    """True if the table lists the timestep, which may come as t / 1000 or 1 - t / 1000."""
    if timestep is None:
        return False
    scaled = (timestep, timestep * 1000.0, (1.0 - timestep) * 1000.0, 1.0 - timestep)
    return any(abs(float(t) - s) <= 1e-3 * max(1.0, abs(s)) for t in sampler.timesteps for s in scaled)
