"""Accelerate's hooks replace and restore `forward`; dcache must neither lose its place nor bypass them."""

from typing import Any

import accelerate.hooks as ah
import pytest
import torch
from accelerate import cpu_offload_with_hook
from engine_toys import flux_pipe, flux_run
from torch import nn

import dcache
from dcache import methods

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
    from accelerate import cpu_offload

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
