"""Removal: how much the denoiser's output changes without a block, at the end of a run (Yume's importance).

In the last evaluation each block in turn passes its inputs on in place of its outputs. The error is the mean
square of the change of the denoiser's first output, over all calls of that evaluation, averaged over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dcache.engine.call import Call
from dcache.engine.observe import Observer, observe
from dcache.errors import DcacheError
from dcache.eval.progress import StageProgress
from dcache.eval.subject import Subject
from dcache.identity.denoisers import denoisers
from dcache.intercept.pytree import copy_containers, flatten
from dcache.profile import Profile
from dcache.search.check import refuse_other
from dcache.search.observing.numbered import numbered
from dcache.sites.discovery import discover
from dcache.sites.streams import StreamTracer

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def with_removal(
    subject: Subject,
    profile: Profile,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    progress: StageProgress = lambda _stage: None,
) -> Profile:
    """The profile with `removal`: the output's error without each block in the last evaluation.

    Args:
        subject: the pipeline.
        profile: a profile of the pipeline.
        prompts: one run each, and one call of the denoiser for each block.
        seed: picture i has seed + i.
        progress: called with a description of each stage.

    Raises:
        DcacheError: no prompts, a profile of another model, or a model without a list of blocks.
    """
    if not prompts:
        raise DcacheError("expected at least one prompt to measure removal, got none")
    refuse_other(profile, subject)
    module = denoisers(subject.pipe)[profile.component]
    blocks = discover(module).blocks
    if not blocks:
        raise DcacheError(
            f"removal is measured block by block, and {type(module).__name__} has no list of blocks"
        )
    total = [0.0] * len(blocks)
    for i, prompt in enumerate(prompts):
        progress(f"removal: run {i + 1} of {len(prompts)}")
        calls = last_calls(subject, module, prompt, seed + i)
        for depth, error in enumerate(errors_of(module, blocks, calls)):
            total[depth] += error / len(prompts)
    made = {**profile.made, "removal": {"prompts": len(prompts)}}
    return replace(profile, removal={f"block:{i}": error for i, error in enumerate(total)}, made=made)


class LastCalls(Observer):
    """Keeps the arguments of the calls of the newest evaluation."""

    sees_outputs = False
    stores = False

    def __init__(self) -> None:
        self.index = -1
        self.calls: list[Arguments] = []

    def on_call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Keep a call's arguments; those of an evaluation before it are dropped."""
        if call.index != self.index:
            self.index, self.calls = call.index, []
        self.calls.append((copy_containers(tuple(args)), copy_containers(dict(kwargs))))


def last_calls(subject: Subject, module: nn.Module, prompt: str, seed: int) -> list[Arguments]:
    """The arguments of the denoiser's calls in the last evaluation of one run."""
    last = LastCalls()
    with numbered(subject.pipe), observe(module, last):
        subject([prompt], [seed])
    return last.calls


@torch.no_grad()
def errors_of(module: nn.Module, blocks: Sequence[nn.Module], calls: Sequence[Arguments]) -> list[float]:
    """For each block the mean squared change of the output without it.

    Args:
        module: the denoiser.
        blocks: its blocks.
        calls: arguments of its calls.

    Raises:
        DcacheError: an output of a block continues none of its inputs.
    """
    tracer = StreamTracer()
    before = [_first(module, call, _recording(blocks, tracer)) for call in calls]
    tracer.end_call()
    errors = []
    for block in blocks:
        passing = tracer.pass_through(block) if block in tracer.seen else None
        if passing is None:
            raise DcacheError(
                f"{type(block).__name__} cannot be removed: it is not called, or an output continues none of "
                "its inputs"
            )
        hook = {block: lambda _block, args, kwargs, _output, by=passing: by(args, kwargs)}
        after = [_first(module, call, hook) for call in calls]
        errors.append(
            sum(float((a - b).square().mean()) for a, b in zip(after, before, strict=True)) / len(calls)
        )
    return errors


def _recording(blocks: Sequence[nn.Module], tracer: StreamTracer) -> dict[nn.Module, Callable[..., Any]]:
    def record(block: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        tracer.record(block, args, kwargs, *flatten(output))

    return dict.fromkeys(blocks, record)


def _first(module: nn.Module, call: Arguments, hooks: Mapping[nn.Module, Callable[..., Any]]) -> torch.Tensor:
    """The first output of a call with these forward hooks on modules, in float32."""
    handles = [part.register_forward_hook(hook, with_kwargs=True) for part, hook in hooks.items()]
    try:
        args, kwargs = copy_containers(call)
        output: torch.Tensor = flatten(module(*args, **kwargs))[0][0].float()
    finally:
        for handle in handles:
            handle.remove()
    return output
