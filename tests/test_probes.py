"""Probes: what their indicators say of a change, where they sit, and what looking costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import dcache
from dcache import DcacheError
from dcache.engine.session import session_of
from dcache.method import Method
from dcache.methods.output_rate import OutputRate
from dcache.methods.seacache import WienerFiltered
from dcache.probes import Probe, SinceCompute, SinceStep
from dcache.schedulers import Accumulated, Listed
from tests.engine.tiny_models import Double, Toy, walk
from tests.laws.product import PRESETS
from tests.pipelines import PIXART, SHAPES, STEPS, Shape, at_step_end, generator


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def feed(
    indicator: SinceCompute, *seen: tuple[torch.Tensor, bool], logsnr: float | None = None
) -> list[float]:
    """The changes told in evaluations that see this and are computed or not; the output is ten times it."""
    told = []
    for x, computed in seen:
        indicator.update(x, logsnr)
        told.append(indicator.change())
        indicator.end_step(computed, (x * 10,))
    return told


# Gauges ---------------------------------------------------------------------------------------------


def test_an_indicator_compares_with_the_last_computed_evaluation():
    told = feed(
        SinceCompute(),
        (tensor(1, -1), True),
        (tensor(1, -2), False),  # |0| + |1| over 2
        (tensor(3, -1), False),  # against the first still
        (tensor(2, 2), True),  # 1 + 3 over 2
        (tensor(2, 1), False),  # against (2, 2)
    )
    assert told == [math.inf, 0.5, 1.0, 2.0, 0.25]


def test_a_step_indicator_compares_with_the_evaluation_before():
    told = feed(
        SinceStep(),
        (tensor(1, -1), True),
        (tensor(1, -2), False),
        (tensor(4, -2), False),
        (tensor(4, -2), True),
    )
    assert told == [math.inf, 0.5, 1.0, 0.0]


def test_the_change_is_relative_l1_in_float32():
    random = np.random.default_rng(0)
    then, now = random.normal(size=(2, 3, 5)), random.normal(size=(2, 3, 5))
    for dtype, close in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)):
        a, b = torch.tensor(then).to(dtype), torch.tensor(now).to(dtype)
        found = feed(SinceCompute(), (a, True), (b, False))[1]
        assert found == pytest.approx(np.abs(now - then).mean() / np.abs(then).mean(), rel=close)
        exact = (b.double() - a.double()).abs().mean() / a.double().abs().mean()
        assert found == pytest.approx(float(exact), rel=1e-5)


def test_what_cannot_be_compared():
    assert SinceCompute().change() == math.inf
    assert feed(SinceCompute(), (tensor(0.0), True), (tensor(1.0), False))[1] == math.inf
    assert math.isnan(feed(SinceCompute(), (tensor(1.0), True), (tensor(math.nan), False))[1])
    # Nothing was seen in this evaluation: no claim is made.
    indicator = SinceCompute()
    feed(indicator, (tensor(1.0), True))
    assert indicator.change() == math.inf


@pytest.mark.parametrize("make", [SinceCompute, SinceStep, WienerFiltered])
def test_an_indicator_holds_one_tensor_between_evaluations(make):
    indicator = make()
    for i in range(4):
        feed(indicator, (torch.full((1, 2, 4, 4), float(i)), i % 2 == 0), logsnr=0.0)
        (held,) = indicator.tensors()
        assert held.untyped_storage().nbytes() == 32 * 4
        assert sum(t.untyped_storage().nbytes() for t in indicator.capacity()) == 32 * 4


def test_easycaches_rate_by_hand():
    indicator = OutputRate()

    def evaluation(x: float, y: float | None) -> float:
        indicator.update(tensor(x), None)
        change = indicator.change()
        indicator.end_step(y is not None, {"sample": tensor(math.nan if y is None else y)})
        return change

    assert evaluation(0.0, 10.0) == math.inf
    assert evaluation(1.0, 14.0) == math.inf
    # From the two computed: k = 4 / 1; then k |x - x before| / |y| = 4 * 0.5 / 14.
    assert evaluation(1.5, None) == pytest.approx(4 * 0.5 / 14)
    assert evaluation(-0.5, None) == pytest.approx(4 * 2.0 / 14)
    assert evaluation(0.0, 20.0) == pytest.approx(4 * 0.5 / 14)
    # Now k = |20 - 14| / |0 - 1|, between computed evaluations and not neighbours.
    assert evaluation(3.0, None) == pytest.approx(6 * 3.0 / 20)


def test_easycaches_indicator_tells_beforehand_what_it_will_hold():
    indicator = OutputRate()
    feed(indicator, (torch.ones(3), True))
    full = sum(t.untyped_storage().nbytes() for t in indicator.capacity())
    for i in range(5):
        feed(indicator, (torch.ones(3) * i, i < 2))
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in indicator.tensors()}
        assert sum(held.values()) <= full
    assert sum(held.values()) == full == 5 * 3 * 4


def wiener(x: np.ndarray, logsnr: float, axes: tuple[int, ...]) -> np.ndarray:
    """A signal of power 1 / f^3 under noise of power exp(-logsnr): signal / (signal + noise), per axis."""
    gain: Any = 1.0
    for axis in axes:
        f = np.abs(np.fft.fftfreq(x.shape[axis]))
        power = 1 / (f**3 + 1e-16)
        one = power / (power + math.exp(-logsnr))
        gain = gain * one.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return np.fft.ifftn(np.fft.fftn(x, axes=axes) * gain / gain.mean(), axes=axes).real


@pytest.mark.parametrize("logsnr", [-4.0, 0.0, 5.0])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((1, 3, 8, 6), (2, 3)), ((2, 2, 3, 8, 4), (2, 3, 4)), ((2, 10, 4), (1,)), ((1, 2, 9), (1,))],
)
def test_seacache_filters_as_wiener_does(shape, axes, logsnr):
    a, b = (torch.randn(shape, generator=generator(i)) for i in (1, 2))
    left, right = (wiener(x.numpy(), logsnr, axes) for x in (a, b))
    expected = np.abs(right - left).mean() / np.abs(left).mean()
    assert feed(WienerFiltered(), (a, True), (b, False), logsnr=logsnr)[1] == pytest.approx(
        expected, rel=1e-4
    )


def test_seacache_sees_fine_changes_only_where_there_is_little_noise():
    flat = torch.ones(1, 1, 16, 16)
    fine = torch.cos(torch.pi * torch.arange(16.0)).expand(1, 1, 16, 16)
    # Next to no noise: the filter lets everything through, and the indicator is a plain one.
    for change in (0.5 * fine, 0.5 * flat):
        assert feed(WienerFiltered(), (flat, True), (flat + change, False), logsnr=99.0)[1] == pytest.approx(
            0.5
        )
    noisy = [
        feed(WienerFiltered(), (flat, True), (flat + change, False), logsnr=-10.0)[1]
        for change in (0.5 * fine, 0.5 * flat)
    ]
    assert noisy == pytest.approx([0.0, 0.5], abs=1e-3)


def test_seacache_takes_inputs_without_any_space():
    x = torch.randn(2, 5, generator=generator(1))
    assert feed(WienerFiltered(), (x, True), (x * 1.5, False), logsnr=None)[1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"where": "middle"}, "front, modulated, input, frames, got 'middle'"),
        ({"where": None}, "front, modulated, input"),
        ({"blocks": 0}, "at least 1, got 0"),
        ({"blocks": 1.0}, "got 1.0"),
        ({"blocks": True}, "got True"),
    ],
)
def test_bad_probes_are_refused(options, says):
    with pytest.raises(DcacheError, match=says):
        Probe(**options)


# Where they sit ---------------------------------------------------------------------------------------


class Told(SinceCompute):
    """Keeps everything that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def update(self, x: torch.Tensor, logsnr: float | None) -> None:
        self.seen.append(x)
        super().update(x, logsnr)


def shown(
    model: nn.Module, where: str, computed: tuple[int, ...], sites: str = "model", blocks: int = 1
) -> Any:
    """What a probe is shown in a walk that computes these evaluations."""
    indicator = Told()
    method = Method(
        "mine",
        rule=Listed(computed),
        sites=(sites,),
        codec="value" if sites == "model" else "delta",
        probe=Probe(where, blocks, indicator=lambda: indicator),
    )
    dcache.enable(model, method)
    walk(model, range(5), torch.ones(1, 2, 4))
    dcache.disable(model)
    return indicator.seen


def test_the_input_is_seen_in_every_evaluation_and_copied():
    x = torch.ones(1, 2, 4)
    seen = shown(Toy(), "input", (0, 3))
    assert len(seen) == 5
    assert all(torch.equal(s, x) for s in seen)
    assert len({s.data_ptr() for s in seen[-2:]}) == 2


def test_the_front_is_what_its_blocks_add():
    # (1 + t) doubled so often, less 1 + t.
    for blocks, gain in ((1, 1.0), (2, 3.0)):
        seen = shown(Toy([Double() for _ in range(4)]), "front", (0, 3), "auto", blocks)
        assert [float(s.mean()) for s in seen] == [gain * (1 + t) for t in range(5)]


def count_runs(modules: dict[str, nn.Module]) -> tuple[dict[str, int], Callable[[], None]]:
    """How often each module ran to its end."""
    runs = dict.fromkeys(modules, 0)

    def counter(name: str) -> Any:
        def hook(*_: Any) -> None:
            runs[name] += 1

        return hook

    handles = [m.register_forward_hook(counter(name)) for name, m in modules.items()]
    return runs, lambda: [h.remove() for h in handles]  # type: ignore[func-returns-value,return-value]


def test_a_peek_runs_the_first_block_as_far_as_its_attention():
    pipe = PIXART.build()
    model: Any = PIXART.denoiser(pipe)
    first, second = model.transformer_blocks[0], model.transformer_blocks[1]
    parts = {"norm": first.norm1, "attn": first.attn1, "cross": first.attn2, "ff": first.ff}
    parts |= {"second": second.norm1, "embed": model.pos_embed, "out": model.proj_out}
    runs, done = count_runs(parts)
    per_step: list[dict[str, int]] = []

    def look(i: int) -> None:
        per_step.append(dict(runs))
        runs.update(dict.fromkeys(runs, 0))

    method = Method(
        "mine",
        # Adds 1 for every evaluation: computed at 0, 3, 6, always after a look.
        rule=Accumulated(3.0, (1.0,)),
        sites=("trunk",),
        codec="delta",
        probe=Probe("modulated", indicator=SinceStep),
    )
    dcache.enable(pipe, method)
    PIXART.run(pipe, "off", **at_step_end(PIXART, look))
    done()
    full = {"attn": 1, "cross": 1, "ff": 1, "second": 1}
    peeked = {"norm": 1, "attn": 0, "cross": 0, "ff": 0, "second": 0}
    for i, step in enumerate(per_step[1:], 1):
        # What is computed after a look has run the norm twice: that much a decision costs.
        expected = {"norm": 2, **full} if i % 3 == 0 else peeked
        assert {**step} == {**expected, "embed": 1, "out": 1}, i
    assert dcache.stats(pipe).predicted == 4


def test_what_is_peeked_at_is_the_modulated_input_of_the_attention():
    """With everything computed the run is the plain one, so what TeaCache reads can be read beside it."""
    given: list[torch.Tensor] = []
    pipe = PIXART.build()
    attention = PIXART.denoiser(pipe).transformer_blocks[0].attn1
    handle = attention.register_forward_pre_hook(
        lambda m, args, kwargs: given.append(args[0].clone()), with_kwargs=True
    )
    PIXART.run(pipe, "batched")
    handle.remove()
    expected = [float((b - a).abs().mean() / a.abs().mean()) for a, b in pairwise(given)]
    told: list[float] = []

    class Noting(SinceStep):
        def change(self) -> float:
            told.append(super().change())
            return told[-1]

    method = Method(
        "mine",
        rule=Accumulated(0.0),
        sites=("trunk",),
        codec="delta",
        probe=Probe("modulated", indicator=Noting),
    )
    dcache.enable(pipe, method)
    PIXART.run(pipe, "batched")
    assert told == pytest.approx(expected)
    assert len(told) == STEPS - 1
    assert min(told) > 0


def test_a_probe_without_a_run_that_begins_there_is_refused():
    method = Method(
        "mine", rule=Accumulated(1.0), sites=("run:1-2",), codec="delta", probe=Probe("modulated")
    )
    with pytest.raises(DcacheError, match=r"none of the sites \['run:1-2'\] begins with it: choose 'trunk'"):
        dcache.enable(PIXART.build(), method)


# What looking costs -----------------------------------------------------------------------------------


class Syncs(TorchDispatchMode):
    """Counts what would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}
        return func(*args, **(kwargs or {}))


def syncs_per_step(shape: Shape, method: Method | None) -> list[int]:
    """Syncs of every step of the second run, when everything has been looked at once."""
    pipe = shape.build()
    if method is not None:
        dcache.enable(pipe, method)
        shape.run(pipe)
    with Syncs() as syncs:
        marks: list[int] = []
        shape.run(pipe, **at_step_end(shape, lambda i: marks.append(syncs.count)))
    return [b - a for a, b in zip([0, *marks], marks, strict=False)]


@pytest.mark.parametrize("shape", [SHAPES["pixart"], SHAPES["flux"]], ids=str)
@pytest.mark.parametrize("name", ["fbcache", "dbcache", "teacache", "easycache", "seacache", "sencache"])
def test_a_decision_costs_one_sync_and_a_guard_none(shape, name):
    plain = syncs_per_step(shape, None)
    found = syncs_per_step(shape, PRESETS[name].method())
    more = [b - a for a, b in zip(plain, found, strict=True)]
    # The first evaluation is computed without a look; its rows' timesteps are read to find the run's place.
    assert more[0] <= 2
    assert max(more[1:]) == 1
    assert min(more[1:]) >= 0


@pytest.mark.parametrize("name", ["magcache", "pab", "hicache", "foca", "delta_dit", "smoothcache"])
def test_methods_that_look_at_nothing_cost_no_sync(name):
    found = syncs_per_step(PIXART, PRESETS[name].method())
    assert [b - a for a, b in zip(syncs_per_step(PIXART, None), found, strict=True)][1:] == [0] * (STEPS - 1)


@pytest.mark.parametrize("name", ["fbcache", "dbcache", "teacache", "easycache", "seacache", "sencache"])
def test_the_indicators_tensors_are_counted_and_estimated(name):
    pipe = PIXART.build()
    method = PRESETS[name].method()
    estimate = dcache.memory_estimate(pipe, method, **PIXART.arguments("off"))
    dcache.enable(pipe, method)
    session = session_of(PIXART.denoiser(pipe))
    assert session is not None
    looked: list[tuple[int, int, int]] = []

    def look(i: int) -> None:
        if not session.state.branches:
            return  # The last step is over, and with it the run.
        (branch,) = session.state.branches.values()
        histories = {t.data_ptr(): t for h in branch.histories.values() for a in h.leaves for t in a}
        indicator = {t.data_ptr(): t for t in branch.indicator.tensors()}
        sizes = [sum(t.untyped_storage().nbytes() for t in part.values()) for part in (histories, indicator)]
        looked.append((dcache.stats(pipe).bytes_now, *sizes))

    PIXART.run(pipe, "off", **at_step_end(PIXART, look))
    assert all(held == histories + indicator for held, histories, indicator in looked)
    assert all(indicator > 0 for _, _, indicator in looked)
    assert len(looked) >= STEPS - 1
    assert max(held for held, _, _ in looked) == estimate
