"""Cost of one pipeline call: seconds, FLOPs, bytes held by the cache, peak memory.

It is measured from outside, so it works for any caching method. On a CUDA GPU, denoiser calls are timed by
two events on the stream, without synchronisation inside the pipeline call; the whole call is synchronised at
its ends. On Apple's GPU every denoiser call is synchronised.
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
    """Cost of one pipeline call.

    Attributes:
        seconds: wall clock of the whole call, text encoder and VAE included.
        denoiser_seconds: time inside the denoisers, the overhead of caching included.
        calls: seconds of each denoiser call, in order.
        flops, denoiser_flops: floating point operations (two for a multiply-add) of matrix products,
            convolutions and attention; None if they were not counted.
        bytes_held: most bytes that the cache held; None if it was not measured.
        peak_memory: most bytes allocated on the GPU; on a CPU the largest resident size of the process (Linux
            only, else None).
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
    denoisers: list[nn.Module],
    count_flops: bool = False,
    bytes_held: Callable[[], int] | None = None,
    clock: Callable[[], float] = perf_counter,
) -> Iterator[Cost]:
    """Measure one pipeline call made inside the `with` block; the `Cost` is complete after the block.

    Args:
        denoisers: the modules to time; their parameters' device is the device of the call.
        count_flops: count FLOPs; this slows the call down, so its seconds are not usable.
        bytes_held: returns the bytes that the cache holds; called after every denoiser call.
        clock: gives the seconds on devices other than CUDA.
    """
    cost, device = Cost(), device_of(denoisers)
    counter = counting() if count_flops else None
    watch = _Clock(cost, device, counter, bytes_held, clock)
    with ExitStack() as stack:
        for module in denoisers:
            stack.enter_context(_around(module, watch))
        _reset_peak(device)
        began = _now(device, clock)
        if counter is not None:
            stack.enter_context(counter)
        yield cost
        cost.seconds = _now(device, clock) - began
        cost.peak_memory = _peak(device)
    watch.finish()
    if counter is not None:
        cost.flops = counter.get_total_flops()


def counting() -> FlopCounterMode:
    """Torch's FLOP counter, silent, extended by the fused attention kernel of CPUs."""

    def attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    return FlopCounterMode(display=False, custom_mapping=mapping)


class _Clock:
    """Sums up seconds, FLOPs and bytes of denoiser calls; nested calls count once."""

    def __init__(
        self,
        cost: Cost,
        device: torch.device,
        counter: FlopCounterMode | None,
        bytes_held: Callable[[], int] | None,
        clock: Callable[[], float],
    ) -> None:
        self.cost, self.device, self.counter, self.bytes_held = cost, device, counter, bytes_held
        self.clock = clock
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
            self.began = _now(self.device, self.clock)

    def end(self) -> None:
        self.depth -= 1
        if self.depth:
            return
        if self.device.type == "cuda":
            self.events[-1][1].record(torch.cuda.current_stream(self.device))
        else:
            self.cost.calls.append(_now(self.device, self.clock) - self.began)
        if self.counter:
            spent = self.counter.get_total_flops() - self.flops
            self.cost.denoiser_flops = (self.cost.denoiser_flops or 0) + spent
        if self.bytes_held:
            self.cost.bytes_held = max(self.cost.bytes_held or 0, self.bytes_held())

    def finish(self) -> None:
        """Read the CUDA events; all must be complete."""
        self.cost.calls += [first.elapsed_time(last) / 1000 for first, last in self.events]
        self.cost.denoiser_seconds = sum(self.cost.calls)


class _Timed(Observer):
    """Runs the clock around denoiser calls, with dcache's own work inside."""

    sees_outputs = False

    def __init__(self, clock: _Clock) -> None:
        self.clock = clock

    def around_call(self, denoise: Callable[[], Any]) -> Any:
        """Time one denoiser call."""
        self.clock.begin()
        try:
            return denoise()
        finally:
            self.clock.end()


@contextmanager
def _around(module: nn.Module, clock: _Clock) -> Iterator[None]:
    """Run the clock around every call of the module; with dcache enabled, around dcache's work too."""
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
    """The device on which the modules compute."""
    devices = (p.device for m in modules for p in m.parameters())
    # Offloaded parameters lie on the CPU or the meta device between calls, but the GPU computes.
    device = next(devices, torch.device("cpu"))
    offloaded = torch.cuda.is_available() and any(_offloaded(m) for m in modules)
    return torch.device("cuda") if offloaded else device


def _offloaded(module: nn.Module) -> bool:
    """Whether the module is offloaded, by accelerate's hooks or by diffusers' group offloading."""
    registries = (getattr(part, "_diffusers_hook", None) for part in module.modules())
    grouped = any(hooks is not None and hooks.get_hook("group_offloading") for hooks in registries)
    return grouped or hasattr(module, "_hf_hook")


def _now(device: torch.device, clock: Callable[[], float]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return perf_counter() if device.type == "cuda" else clock()


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
