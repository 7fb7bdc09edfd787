"""The cost of a call: FLOPs by hand, time inside the denoiser, bytes, and nothing left behind."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dcache
from dcache.engine.session import session_of
from dcache.eval.call_cost import counting, device_of, measure_call


class Attention(nn.Module):
    """One attention of 2 heads over 8 tokens of 16 channels, and one linear."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(16, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = x.reshape(1, 8, 2, 8).transpose(1, 2)
        return self.out(F.scaled_dot_product_attention(q, q, q).transpose(1, 2).reshape(1, 8, 16))


LINEAR = 2 * 8 * 16 * 16
ATTENTION = 2 * (2 * 8 * 8 * 8) * 2  # two products of 8 x 8 scores with 8 channels, in two heads


@torch.no_grad()
def test_flops_are_those_counted_by_hand_with_the_cpus_fused_attention() -> None:
    with counting() as counter:
        Attention()(torch.randn(1, 8, 16))
    assert counter.get_total_flops() == LINEAR + ATTENTION


@torch.no_grad()
def test_convolutions_are_counted_by_hand() -> None:
    with counting() as counter:
        nn.Conv2d(3, 5, 3, padding=1)(torch.randn(2, 3, 4, 4))
    assert counter.get_total_flops() == 2 * (2 * 5 * 4 * 4) * (3 * 3 * 3)


@torch.no_grad()
def test_the_denoisers_share_is_told_apart() -> None:
    module, x = Attention(), torch.randn(1, 8, 16)
    with measure_call([module], count_flops=True) as cost:
        module(module(x))
        module.out(x)
    assert cost.denoiser_flops == 2 * (LINEAR + ATTENTION)
    assert cost.flops == cost.denoiser_flops + LINEAR


class Slow(nn.Module):
    """Takes two seconds of a clock that stands still otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0

    def forward(self, x: torch.Tensor, timestep: float) -> torch.Tensor:
        self.clock += 2.0
        return x + timestep


@torch.no_grad()
@pytest.mark.parametrize(("cached", "calls"), [(False, 4), (True, 2)])
def test_seconds_are_those_inside_the_denoiser_and_of_the_whole_call(cached: bool, calls: int) -> None:
    module, x = Slow().eval(), torch.zeros(1, 4)
    if cached:
        dcache.enable(module, "interval", interval=2, sites="model")
    with measure_call([module], clock=lambda: module.clock) as cost:
        for t in (4.0, 3.0, 2.0, 1.0):
            module(x, timestep=t)
        module.clock += 5.0
    dcache.disable(module)
    # The self-check after the first computed call runs nothing: the whole model is the site.
    assert cost.denoiser_seconds == 2.0 * calls
    assert cost.seconds == 2.0 * calls + 5.0
    assert (cost.flops, cost.denoiser_flops, cost.bytes_held) == (None, None, None)


def test_nothing_is_left_on_the_module_also_after_an_error() -> None:
    module = Slow().eval()
    before = {k: dict(v) if isinstance(v, dict) else v for k, v in vars(module).items()}

    def broken() -> None:
        with measure_call([module], count_flops=True):
            module(torch.zeros(1), timestep=1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    module.clock = 0.0
    assert {k: dict(v) if isinstance(v, dict) else v for k, v in vars(module).items()} == before
    with dcache.enabled(module, "interval", sites="model"):
        session = session_of(module)
        own = set(vars(session))
        with pytest.raises(KeyboardInterrupt):
            broken()
        assert set(vars(session)) == own
        module(torch.zeros(1), timestep=0.5)


@torch.no_grad()
def test_the_most_that_was_held_counts() -> None:
    held, module = iter([3, 9, 1]), Slow().eval()
    with measure_call([module], bytes_held=lambda: next(held)) as cost:
        for t in (3.0, 2.0, 1.0):
            module(torch.zeros(1), timestep=t)
    assert cost.bytes_held == 9


def test_a_model_that_is_offloaded_works_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.hooks import apply_group_offloading

    plain, grouped, hooked = Attention(), nn.Sequential(Attention()), Attention()
    where = {"onload_device": torch.device("cpu"), "offload_device": torch.device("cpu")}
    apply_group_offloading(grouped, **where, offload_type="leaf_level")
    hooked._hf_hook = object()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device_of([m]).type for m in (plain, grouped, hooked)] == ["cpu", "cuda", "cuda"]


def test_peak_memory_sees_what_was_allocated_for_a_while() -> None:
    with measure_call([Slow()]) as small:
        pass
    with measure_call([Slow()]) as large:
        torch.ones(16 * 1024 * 1024)
    if small.peak_memory is None or large.peak_memory is None:
        pytest.skip("this system does not tell a process's largest resident size")
    assert 50e6 < large.peak_memory - small.peak_memory < 200e6
