"""Accelerate's hooks replace and restore `forward`; dcache must neither lose its place nor bypass them.

With sequential offloading the weights live on "meta" between the calls of their modules, so whoever bypasses
a hook computes nothing.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate.hooks as ah
import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook, disk_offload
from torch import nn

import dcache
from dcache import methods
from tests.cover import all_pairs, each_value, with_slow
from tests.engine.coexistence_checks import LATE, anatomy, branches, compares, skippable
from tests.engine.tiny_models import flux_pipe, flux_run
from tests.pipelines import FLUX, PIXART, SD, SHAPES, WAN, Shape

EVERY_2 = methods.interval(interval=2)


class Counting(ah.AlignDevicesHook):
    """Counts the calls that reach the block behind it."""

    def __init__(self) -> None:
        super().__init__(execution_device="cpu", io_same_device=True)
        self.calls = 0

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().pre_forward(module, *args, **kwargs)


def blocks(pipe: Any) -> list[nn.Module]:
    return [*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks]


def hook_blocks(pipe: Any) -> list[Counting]:
    hooks = [Counting() for _ in blocks(pipe)]
    for block, hook in zip(blocks(pipe), hooks, strict=True):
        ah.add_hook_to_module(block, hook)
    return hooks


def offload(pipe: Any) -> None:
    """What `enable_model_cpu_offload` does on a GPU: model hooks, put on again after every call."""

    def free() -> None:
        ah.remove_hook_from_module(pipe.transformer, recurse=False)
        cpu_offload_with_hook(pipe.transformer, "cpu")

    free()
    pipe.maybe_free_model_hooks = free


@pytest.mark.parametrize("before", [True, False])
def test_model_offload_keeps_predicting_over_several_calls(before: bool) -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, EVERY_2)
    expected = flux_run(pipe)
    dcache.disable(pipe)
    if before:
        offload(pipe)
        dcache.enable(pipe, EVERY_2)
    else:
        dcache.enable(pipe, EVERY_2)
        # A pipeline's offload hooks come and go with its own method: only the module's hooks are added here.
        cpu_offload_with_hook(pipe.transformer, "cpu")
    for _ in range(3):
        assert torch.equal(flux_run(pipe), expected)
        stats = dcache.stats(pipe)
        assert (stats.computed, stats.predicted, stats.bytes_now) == (3, 3, 0)
        if not before:
            ah.remove_hook_from_module(pipe.transformer)
            cpu_offload_with_hook(pipe.transformer, "cpu")


@pytest.mark.parametrize("before", [True, False])
def test_block_hooks_run_on_computed_steps_and_not_on_predicted_ones(before: bool) -> None:
    pipe = flux_pipe()
    plain = flux_run(pipe)
    if before:
        hooks = hook_blocks(pipe)
        dcache.enable(pipe, EVERY_2)
    else:
        dcache.enable(pipe, EVERY_2)
        hooks = hook_blocks(pipe)
    for run in (1, 2):
        flux_run(pipe)
        assert dcache.stats(pipe).predicted == 3
        assert [hook.calls for hook in hooks] == [3 * run] * 4
    dcache.disable(pipe)
    assert torch.equal(flux_run(pipe), plain)
    assert [hook.calls for hook in hooks] == [12] * 4


def traces(pipe: Any, with_dcache: bool) -> tuple[list[list[str]], list[str]]:
    hook_blocks(pipe)
    cpu_offload_with_hook(pipe.transformer, "cpu")
    if with_dcache:
        dcache.enable(pipe, EVERY_2)
    flux_run(pipe)
    if with_dcache:
        dcache.disable(pipe)
    ah.remove_hook_from_module(pipe.transformer, recurse=True)
    return [sorted(m.__dict__) for m in pipe.transformer.modules()], sorted(pipe.__dict__)


def test_hooks_removed_after_disable_leave_what_they_leave_without_dcache() -> None:
    assert traces(flux_pipe(), True) == traces(flux_pipe(), False)


def test_hooks_removed_before_disable_change_nothing_either() -> None:
    pipe = flux_pipe()
    plain = flux_run(pipe)
    hook_blocks(pipe)
    dcache.enable(pipe, EVERY_2)
    cached = flux_run(pipe)
    ah.remove_hook_from_module(pipe.transformer, recurse=True)
    assert torch.equal(flux_run(pipe), cached)
    assert dcache.stats(pipe).predicted == 3
    dcache.disable(pipe)
    assert torch.equal(flux_run(pipe), plain)


def test_sequential_offload_to_the_host_gives_the_same_bits() -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, EVERY_2)
    cached = flux_run(pipe)
    # Weights live on "meta" between the calls of their modules, so whoever bypasses a hook computes nothing.
    cpu_offload(pipe.transformer, torch.device("cpu"))
    assert torch.equal(flux_run(pipe), cached)
    assert dcache.stats(pipe).predicted == 3
    dcache.enable(pipe, EVERY_2)
    assert torch.equal(flux_run(pipe), cached)
    dcache.enable(pipe, methods.interval(interval=2, sites=["attn", "mlp", "fused"]))
    flux_run(pipe)
    assert dcache.stats(pipe).predicted > 3


# every shape --------------------------------------------------------------------------------------


def model_offload(shape: Shape, disk: Path) -> Callable[[Any], None]:
    return lambda pipe: pipe.enable_model_cpu_offload(device="cpu")


def sequential_offload(shape: Shape, disk: Path) -> Callable[[Any], None]:
    """As `enable_sequential_cpu_offload`, whose "cpu:0" accelerate does not take for a place to compute."""

    def prepare(pipe: Any) -> None:
        pipe.remove_all_hooks()
        model = shape.denoiser(pipe)
        cpu_offload(model, torch.device("cpu"), offload_buffers=len(model._parameters) > 0)

    return prepare


def to_disk(shape: Shape, disk: Path) -> Callable[[Any], None]:
    made: list[Any] = []

    def prepare(pipe: Any) -> None:
        made.append(pipe)
        disk_offload(
            shape.denoiser(pipe), str(disk / str(len(made))), torch.device("cpu"), offload_buffers=True
        )

    return prepare


WAYS = {"model": model_offload, "sequential": sequential_offload, "disk": to_disk}


@pytest.mark.parametrize(
    *all_pairs(
        shape=SHAPES,
        way=("model", "sequential"),
        late=LATE,
    )
)
def test_offloaded_pipelines(shape: Shape, way: str, late: bool, tmp_path: Path) -> None:
    pipe = compares(shape, WAYS[way](shape, tmp_path), late)
    assert isinstance(shape.denoiser(pipe)._hf_hook, ah.ModelHook)
    weights = [p for block in skippable(shape, pipe) for p in block.parameters()]
    assert all(p.is_meta for p in weights) == (way != "model")


@pytest.mark.parametrize(*each_value(shape=SHAPES, way=("sequential", "disk")))
def test_a_skipped_block_does_not_fetch_its_weights(
    shape: Shape, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: Counter[nn.Module] = Counter()
    original = ah.AlignDevicesHook.pre_forward

    def pre_forward(hook: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        fetched[module] += 1
        return original(hook, module, *args, **kwargs)

    pipe = shape.build()
    WAYS[way](shape, tmp_path)(pipe)
    monkeypatch.setattr(ah.AlignDevicesHook, "pre_forward", pre_forward)
    shape.run(pipe)
    plain = dict(fetched)
    inside = {m for block in skippable(shape, pipe) for m in block.modules()}
    assert len(inside.intersection(plain)) >= 10
    dcache.enable(pipe, EVERY_2)
    shape.run(pipe)
    fetched.clear()
    cached = shape.run(pipe)
    assert torch.equal(cached, shape.run(dcache.enable(shape.build(), EVERY_2)))
    # Steps 0, 2, 4, 6 of seven; what is outside is always needed, but for more of the UNet's inside.
    for module, times in plain.items():
        if module in inside:
            assert fetched[module] == times * 4 // 7
        elif shape.depth:
            assert fetched[module] == times


@pytest.mark.parametrize("shape", with_slow(PIXART, FLUX, slow=(SD, WAN)), ids=str)
def test_offloading_that_is_switched_over_and_off_while_caching_is_enabled(
    shape: Shape, tmp_path: Path
) -> None:
    twin, pipe = shape.build(), shape.build()
    plain = shape.run(twin)
    dcache.enable(pipe, EVERY_2)
    cached = shape.run(pipe)
    model, sequential = model_offload(shape, tmp_path), sequential_offload(shape, tmp_path)
    none = type(pipe).remove_all_hooks
    for switch in (sequential, none, model, sequential, none):
        for each in (twin, pipe):
            switch(each)
        for _ in range(2):
            assert torch.equal(shape.run(pipe), cached)
            assert dcache.stats(pipe).predicted == 3 * branches(shape)
        shape.run(twin)
    dcache.disable(pipe)
    assert anatomy(shape, pipe) == anatomy(shape, twin)
    assert torch.equal(shape.run(pipe), plain)
