"""Changes of the trunk between successive evaluations, for MagCache (ratios) and TeaCache (pairs)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from dcache.engine.call import Call
from dcache.engine.observe import Observer, SiteOutput, observe
from dcache.intercept.pytree import first_tensor
from dcache.kernels.changes import changes, relative_change
from dcache.profile import Floats
from dcache.sites.discovery import discover

Now = tuple[int, torch.Tensor]


class Changes(Observer):
    """Collects ratios of magnitudes and pairs of relative changes, over runs.

    d_t is the trunk's delta in evaluation t (its first stream that is read later), x_t is the input of the
    first block's attention (of the block itself where it has none), relL1(p, q) = mean|p - q| / mean|q|. The
    ratio is the mean over tokens of |d_t| / |d_{t-1}| (Euclidean norms over channels, the last dimension).
    The pair is relL1(x_t, x_{t-1}) and relL1(d_t, d_{t-1}).

    Args:
        module: the denoiser.
    """

    stores = False

    def __init__(self, module: nn.Module) -> None:
        structure = discover(module)
        attentions = [s.module for s in structure.sublayers if s.kind == "attn" and s.depth == 0]
        # Where the first block has no attention, its own input is TeaCache's probe.
        self._probed = next(iter((*attentions, *structure.blocks[:1])), None)
        self._call: Call | None = None
        self._inputs: dict[str, Now] = {}
        self._deltas: dict[str, Now] = {}
        self._input_changes: dict[str, Now] = {}
        self._run: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._ratios: dict[int, list[float]] = defaultdict(list)
        self._pairs: list[tuple[float, float]] = []

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Observe the trunk and the input of the first attention, during one run of the denoiser."""

        def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            now = first_tensor(args, kwargs)
            if self._call is not None and now is not None:
                self._see_input(self._call, now)

        hook = None
        if self._probed is not None:
            hook = self._probed.register_forward_pre_hook(see, with_kwargs=True)
        try:
            with observe(module, self):
                yield
        finally:
            if hook is not None:
                hook.remove()
            for pairs in self._run.values():
                self._pairs += pairs
            for buffer in (self._inputs, self._deltas, self._input_changes, self._run):
                buffer.clear()

    def on_call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note the call."""
        self._call = call

    def on_output(self, call: Call, output: Any) -> None:
        """Forget the call: later calls of the modules belong to the engine's self-check."""
        self._call = None

    def on_compute(self, site: str, call: Call, output: SiteOutput) -> None:
        """Record the trunk's delta."""
        if site == "trunk" and output.changes:
            self._see_delta(call, output.changes[0])

    def content(self) -> dict[str, Floats]:
        """What was observed so far, as arrays: `moments` (N, 2) of evaluation and ratio, `pairs` (M, 2)."""
        moments = [(t, ratio) for t, ratios in self._ratios.items() for ratio in ratios]
        return {
            "moments": np.array(moments, np.float64).reshape(-1, 2),
            "pairs": np.array(self._pairs, np.float64).reshape(-1, 2),
        }

    def restore(self, content: Mapping[str, Floats]) -> None:
        """Replace what was observed by a `content`."""
        self._ratios.clear()
        for t, ratio in content["moments"].tolist():
            self._ratios[int(t)].append(ratio)
        self._pairs = [(a, b) for a, b in content["pairs"].tolist()]

    def _see_delta(self, call: Call, delta: torch.Tensor) -> None:
        branch = call.branch.name
        index, before = self._deltas.get(branch, (-1, delta))
        self._deltas[branch] = (call.index, delta)
        if index != call.index - 1 or index < 0 or before.shape != delta.shape:
            return
        self._ratios[call.index].append(_magnitude(delta, before))
        when, moved = self._input_changes.get(branch, (-1, delta))
        if when == call.index:
            self._run[branch].append((float(moved), float(relative_change(delta, before))))

    def ratios(self, steps: int) -> tuple[Floats | None, float]:
        """(T,) mean ratio of every evaluation (the first is 1), and the largest standard deviation.

        None and 0 if the trunk was not observed in every evaluation.
        """
        if any(t not in self._ratios for t in range(1, steps)):
            return None, 0.0
        means = [1.0, *(float(np.mean(self._ratios[t])) for t in range(1, steps))]
        return np.array(means), max(float(np.std(self._ratios[t])) for t in range(1, steps))

    def pairs(self) -> Floats | None:
        """(N, 2) pairs, by run, branch and evaluation (from 1 on); None if nothing was observed."""
        return np.array(self._pairs) if self._pairs else None

    def _see_input(self, call: Call, now: torch.Tensor) -> None:
        branch = call.branch.name
        index, before = self._inputs.get(branch, (-1, now))
        if index == call.index:
            # Some models call one module for two streams: the first call is the picture's.
            return
        if index == call.index - 1 and index >= 0 and before.shape == now.shape:
            self._input_changes[branch] = (call.index, relative_change(now, before))
        self._inputs[branch] = (call.index, now.detach().clone())


def _magnitude(now: torch.Tensor, before: torch.Tensor) -> float:
    squares = changes(now, before, ("xx", "yy"), lead=now.ndim - 1)
    return float((squares["xx"].sqrt() / squares["yy"].sqrt()).mean())
