"""What one call of a pipeline costs, seen from outside whatever caching is on.

Seconds of the whole call and inside the denoisers, FLOPs by torch's own counter, bytes that a cache holds,
peak memory. On a CUDA GPU the denoisers' seconds are those between two events on its stream, and the call's
are waited for; nothing waits inside the call. On Apple's GPU every call of a denoiser is waited for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torch.utils.hooks import RemovableHandle

from dcache.engine.observe import Observer, is_observable, observe

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """What one call cost.

    Attributes:
        seconds: wall clock of the whole call, text encoder and VAE included.
        denoiser_seconds: the part inside the denoisers, the cache's own work on their calls included.
        calls: the same of each call of a denoiser, in order.
        flops, denoiser_flops: floating point operations (two for a multiply-add) of matrix products,
            convolutions and attention; None where they were not counted.
        bytes_held: most bytes that the cache held; None where nobody asked.
        peak_memory: most bytes allocated on the GPU; on a CPU the process's largest resident size (Linux), or
            None.
    """

    seconds: float = 0.0
    denoiser_seconds: float = 0.0
    flops: int | None = None
    denoiser_flops: int | None = None
    bytes_held: int | None = None
    peak_memory: int | None = None
    calls: list[float] = field(default_factory=list)


@contextmanager
def measure_call(
    denoisers: list[nn.Module], count_flops: bool = False, bytes_held: Callable[[], int] | None = None
) -> Iterator[Cost]:
    """Watch one call of a pipeline, made inside the block; the `Cost` is complete behind it.

    Args:
        denoisers: the modules to time; the call's device is that of the first one's parameters.
        count_flops: count them, which slows the call down: its seconds are worth nothing then.
        bytes_held: asked after every call of a denoiser.
    """
    cost, device = Cost(), device_of(denoisers)
    counter = counting() if count_flops else None
    clock = _Clock(cost, device, counter, bytes_held)
    with ExitStack() as stack:
        for module in denoisers:
            stack.enter_context(_around(module, clock))
        _reset_peak(device)
        began = _now(device)
        if counter is not None:
            stack.enter_context(counter)
        yield cost
        cost.seconds = _now(device) - began
        cost.peak_memory = _peak(device)
    clock.finish()
    if counter is not None:
        cost.flops = counter.get_total_flops()


def counting() -> FlopCounterMode:
    """Torch's counter of FLOPs, silent, with the CPU's fused attention added to what it knows."""

    def attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    return FlopCounterMode(display=False, custom_mapping=mapping)


class _Clock:
    """Adds up what happens between the begin and the end of denoiser calls; nested ones count once."""

    def __init__(
        self,
        cost: Cost,
        device: torch.device,
        counter: FlopCounterMode | None,
        bytes_held: Callable[[], int] | None,
    ) -> None:
        self.cost, self.device, self.counter, self.bytes_held = cost, device, counter, bytes_held
        self.depth, self.flops, self.began = 0, 0, 0.0
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def begin(self) -> None:
        self.depth += 1
        if self.depth > 1:
            return
        self.flops = self.counter.get_total_flops() if self.counter else 0
        if self.device.type == "cuda":
            pair = (torch.cuda.Event(True), torch.cuda.Event(True))  # type: ignore[no-untyped-call]
            self.events.append(pair)
            pair[0].record(torch.cuda.current_stream(self.device))
        else:
            self.began = _now(self.device)

    def end(self) -> None:
        self.depth -= 1
        if self.depth:
            return
        if self.device.type == "cuda":
            self.events[-1][1].record(torch.cuda.current_stream(self.device))
        else:
            self.cost.calls.append(_now(self.device) - self.began)
        if self.counter:
            spent = self.counter.get_total_flops() - self.flops
            self.cost.denoiser_flops = (self.cost.denoiser_flops or 0) + spent
        if self.bytes_held:
            self.cost.bytes_held = max(self.cost.bytes_held or 0, self.bytes_held())

    def finish(self) -> None:
        """Read the GPU's events, which are over by now."""
        self.cost.calls += [first.elapsed_time(last) / 1000 for first, last in self.events]
        self.cost.denoiser_seconds = sum(self.cost.calls)


class _Timed(Observer):
    """Runs the clock around calls of a denoiser, dcache's own work included."""

    sees_outputs = False

    def __init__(self, clock: _Clock) -> None:
        self.clock = clock

    def around_call(self, denoise: Callable[[], Any]) -> Any:
        """One call."""
        self.clock.begin()
        try:
            return denoise()
        finally:
            self.clock.end()


@contextmanager
def _around(module: nn.Module, clock: _Clock) -> Iterator[None]:
    """Let the clock see every call: where dcache stands in front of the module, outside of dcache."""
    if is_observable(module):
        with observe(module, _Timed(clock)):
            yield
        return
    hooks: list[RemovableHandle] = [
        module.register_forward_pre_hook(lambda *_: clock.begin(), prepend=True),
        module.register_forward_hook(lambda *_: clock.end(), always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def device_of(modules: list[nn.Module]) -> torch.device:
    """Where the modules compute."""
    found = (p.device for m in modules for p in m.parameters())
    # Offloaded parameters wait on the CPU or nowhere: where there is a GPU, it is what works.
    device = next(found, torch.device("cpu"))
    offloaded = torch.cuda.is_available() and any(_offloaded(m) for m in modules)
    return torch.device("cuda") if offloaded else device


def _offloaded(module: nn.Module) -> bool:
    """Whether accelerate's hooks or diffusers' group offloading move it about."""
    registries = (getattr(part, "_diffusers_hook", None) for part in module.modules())
    grouped = any(one is not None and one.get_hook("group_offloading") for one in registries)
    return grouped or hasattr(module, "_hf_hook")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return perf_counter()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            CLEAR.write_text("5")


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(sizes[0]) * 1024 if sizes else None
