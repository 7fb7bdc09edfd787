"""Published methods where the right answer is known: toys that answer in integers, tiny real pipelines."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, Schedule, methods
from dcache.engine.session import session_of
from dcache.method import Method
from dcache.predictors import Foca
from dcache.schedulers import Listed
from dcache.sites.blocks import SUBLAYERS
from tests.engine.tiny_models import Toy, integers, walk
from tests.laws.product import ONES, plain
from tests.pipelines import SHAPES, STEPS, at_step_end, generator
from tests.rules import computed_steps

PIXART, SD, FLUX, WAN = (SHAPES[name] for name in ("pixart", "sd", "flux", "wan"))


class Add(nn.Module):
    """x + a number: a block whose delta never changes. Counts its own runs."""

    def __init__(self, what: float) -> None:
        super().__init__()
        self.what = nn.Parameter(torch.tensor(what), requires_grad=False)
        self.runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return x + self.what


def adding(depth: int = 4) -> Toy:
    """(x + t) through blocks that add 1, 10, 100, ..."""
    return Toy([Add(10.0**i) for i in range(depth)])


def runs_of(model: Toy) -> list[int]:
    return [block.runs for block in model.blocks]  # type: ignore[misc]


def row_of(target: Any, site: str = "") -> list[int]:
    """The computed evaluations of a site, alike on every branch."""
    rows = {
        row
        for plan in dcache.trace(target).components.values()
        for sites in plan.rows.values()
        for name, row in sites.items()
        if not site or name == site
    }
    assert len(rows) == 1, rows
    return [i for i, computed in enumerate(rows.pop()) if computed]


# Predictors through the engine ------------------------------------------------------------------------


def test_foca_on_a_line():
    # The model's output is 8 (1 + t): errors are eight times those of the line t.
    model = Toy()
    dcache.enable(
        model,
        Method(
            "mine", rule=Listed((0, 1, 4, 8)), predictor=Foca(), sites=("model",), codec="value", clock="step"
        ),
    )
    found = integers(walk(model, range(12)))
    errors = [(y - 8 * (1 + t)) / 8 for t, y in enumerate(found)]
    assert errors == [0, 0, 0, 0, 0, 1, 2.5, 4.25, 0, -0.625, 0.5625, 2.65625]


@pytest.mark.parametrize("sites", ["model", "trunk"])
def test_foca_computes_its_warmup_and_every_interval(sites):
    model = Toy()
    dcache.enable(model, "foca", interval=4, warmup=2, sites=sites)
    found = integers(walk(model, range(6)))
    # One step apart a line is followed exactly.
    assert found == [8 * (1 + t) for t in range(6)]
    assert row_of(model) == [0, 1, 5]


def test_spectrum_without_a_ridge_is_exact_on_a_line():
    model = Toy()
    options = {"ridge": 0.0, "blend": 1.0, "steps": 16}
    dcache.enable(model, "spectrum", warmup=3, sites="model", **options)
    found = [float(y.flatten()[0]) for y in walk(model, range(16))]
    assert found == pytest.approx([8 * (1 + t) for t in range(16)], rel=1e-5)
    # After 0 to 2: intervals of 2, 2 (2.75), 3 (3.5), 4 (4.25).
    assert row_of(model) == [0, 1, 2, 4, 6, 9, 13]


@pytest.mark.parametrize(("scale", "slope"), [(0.5, 0.5), (0.5**0.5, 1.0), (1.0, 2.0)])
def test_hicache_on_a_line(scale, slope):
    model = Toy()
    dcache.enable(model, "hicache", interval=4, order=1, scale=scale, warmup=1, sites="model")
    found = integers(walk(model, range(12)))
    assert row_of(model) == [0, 4, 8]
    # With one anchor it is reused, with two it goes on at `slope` times the line's slope of 8.
    expected = [8 + 0 * t for t in range(4)] + [8 * (1 + a + slope * k) for a in (4, 8) for k in range(4)]
    assert found == pytest.approx(expected)


def test_seacache_of_order_one_is_exact_on_a_line_and_of_order_zero_reuses():
    for order, exact in ((1, True), (0, False)):
        model = Toy()
        dcache.enable(model, "seacache", threshold=1e9, order=order, warmup=2, max_run=None, last=False)
        found = integers(walk(model, range(6)))
        assert row_of(model) == [0, 1]
        # The trunk's delta is 7 (1 + t).
        assert found == [8 * (1 + t) if exact or t < 2 else 1 + t + 14 for t in range(6)]


# Delta-DiT ----------------------------------------------------------------------------------------------


def test_delta_dit_is_exact_where_deltas_are_constant_and_runs_no_block_that_it_predicts():
    model = adding()
    dcache.enable(model, "delta_dit", interval=2, blocks=3, boundary=4)
    found = integers(walk(model, range(8)))
    assert found == [1 + t + 1111 for t in range(8)]
    # The front run is 0-2, the rear one 1-3: three atoms.
    (plan,) = dcache.trace(model).components.values()
    assert plan.sites == ("block:0", "run:1-2", "block:3")
    assert row_of(model, "block:0") == [0, 1, 2, 3, 4, 6]
    assert row_of(model, "run:1-2") == [0, 2, 4, 6]
    assert row_of(model, "block:3") == [0, 2, 4, 5, 6, 7]
    assert runs_of(model) == [6, 4, 4, 6]


def test_delta_dit_remembers_a_change_and_not_a_value():
    # The same with values would freeze t in every prediction.
    model = adding()
    dcache.enable(model, methods.delta_dit(interval=2, blocks=4, boundary=4))
    assert integers(walk(model, range(8))) == [1 + t + 1111 for t in range(8)]
    assert row_of(model, "run:0-3") == [0, 2, 4, 6]
    assert runs_of(model) == [4] * 4


def test_delta_dit_with_ends_that_do_not_meet():
    model = adding()
    dcache.enable(model, "delta_dit", interval=3, blocks=1, boundary=4)
    assert integers(walk(model, range(8))) == [1 + t + 1111 for t in range(8)]
    assert row_of(model, "run:0-0") == [0, 1, 2, 3, 6]
    assert row_of(model, "run:3-3") == [0, 3, 4, 5, 6, 7]
    # What ran once more in the self-check of the first call is not seen: its counts are put back.
    assert runs_of(model) == [5, 8, 8, 6]


def test_delta_dit_in_a_pipeline():
    pipe = dcache.enable(PIXART.build(), "delta_dit", interval=2, blocks=2, boundary=0.5)
    PIXART.run(pipe)
    # Seven evaluations, boundary 4 (3.5 rounds to it), three blocks: front 0-1, rear 1-2.
    assert row_of(pipe, "block:0") == [0, 1, 2, 3, 4, 6]
    assert row_of(pipe, "block:1") == [0, 2, 4, 6]
    assert row_of(pipe, "block:2") == [0, 2, 4, 5, 6]


# DBCache ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [PIXART, FLUX, WAN], ids=str)
def test_dbcache_with_one_front_block_and_no_back_block_is_fbcache(shape):
    options = {"threshold": 0.3, "warmup": 2, "max_run": 2}
    first = dcache.enable(shape.build(), "fbcache", **options)
    second = dcache.enable(shape.build(), "dbcache", front=1, back=0, **options)
    assert torch.equal(shape.run(first), shape.run(second))
    traces = [dcache.trace(pipe).components for pipe in (first, second)]
    assert traces[0] == traces[1]
    assert dcache.stats(first).predicted == dcache.stats(second).predicted > 0
    assert dcache.stats(first).reasons == dcache.stats(second).reasons


def test_dbcaches_front_and_back_blocks_run_in_every_evaluation():
    for front, back in ((1, 0), (2, 0), (1, 2), (2, 1)):
        model = adding()
        dcache.enable(model, "dbcache", front=front, back=back, threshold=0.5, warmup=2)
        assert integers(walk(model, range(8))) == [1 + t + 1111 for t in range(8)]
        # The front adds the same in every evaluation, so nothing is computed after the warm-up.
        middle = 4 - front - back
        # What the self-check of the first call ran once more is not seen: its counts are put back.
        assert runs_of(model) == [8] * front + [2] * middle + [8] * back
        assert row_of(model) == [0, 1]


def test_dbcaches_threshold_is_strict_and_zero_is_the_plain_model():
    model = adding()
    dcache.enable(model, "dbcache", front=1, threshold=0.0, warmup=1)
    assert integers(walk(model, range(6))) == [1 + t + 1111 for t in range(6)]
    assert dcache.stats(model).predicted == 0


@pytest.mark.parametrize(("front", "back"), [(4, 0), (5, 0), (8, 0), (2, 2), (1, 3), (3, 9)])
def test_dbcache_needs_blocks_between_front_and_back(front, back):
    with pytest.raises(DcacheError, match=r"4 block\(s\)") as caught:
        dcache.enable(adding(), "dbcache", front=front, back=back)
    assert str(front) in str(caught.value)
    assert "leaves nothing between" in str(caught.value) or "the others are cached" in str(caught.value)


# Rules that add up --------------------------------------------------------------------------------------


class Declared(nn.Module):
    """A block that a row declares; its attention is given one and the same in every evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.ff = Add(0.0), Add(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attn1(torch.ones_like(x)) + self.ff(x * 0)


@pytest.fixture
def declared(monkeypatch):
    monkeypatch.setitem(SUBLAYERS, "tests.Declared", {"attn": ("attn1",), "mlp": ("ff",)})


@pytest.mark.parametrize(
    ("threshold", "full"), [(0.25, list(range(8))), (0.4, [0, 2, 4, 6]), (0.6, [0, 3, 6]), (0.8, [0, 4])]
)
def test_teacache_with_flux_coefficients_and_a_probe_that_never_changes(threshold, full, declared):
    model = Toy([Declared() for _ in range(2)])
    dcache.enable(model, "teacache", threshold=threshold, coefficients="flux", last=False)
    # Each block adds 1, so the reused delta is right.
    found = integers(walk(model, range(8)))
    assert found == [1 + t + 2 for t in range(8)]
    assert row_of(model) == full
    # The probe is in the first block; what lies behind its attention runs only when computed.
    assert model.blocks[1].attn1.runs == len(full)
    assert model.blocks[0].ff.runs == len(full)
    assert model.blocks[0].attn1.runs == len(full)


@pytest.mark.parametrize("guidance", ["off", "batched"])
def test_magcaches_plan_is_known_beforehand(guidance):
    ratios = (1.0, 0.97, 0.9, 0.99, 1.02, 0.95, 0.8)
    method = methods.magcache(threshold=0.12, ratios=ratios, max_run=3)
    plan = computed_steps(method, STEPS)
    # By hand: 1 is predicted (0.03), 2 not (0.03 + 0.127); 3, 4 and 5 are; 6 comes after three of them.
    assert plan == [0, 2, 6]
    online = dcache.enable(PIXART.build(), method)
    latents = PIXART.run(online, guidance)
    assert row_of(online) == plan
    table = Schedule.of_steps(plan, STEPS, "trunk", codec="delta")
    assert torch.equal(PIXART.run(dcache.enable(PIXART.build(), table), guidance), latents)
    # Whatever the prompt, the plan is the same.
    PIXART.run(online, guidance, seed=77)
    assert row_of(online) == plan


class Shift(nn.Module):
    """x plus a constant field."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Parameter(torch.arange(8.0).view(1, 2, 4), requires_grad=False)
        self.runs = 0
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> tuple[torch.Tensor]:
        self.runs += 1
        return (x + self.field,)


def test_easycache_is_exact_where_the_output_is_the_input_and_a_constant():
    model = Shift()
    dcache.enable(model, "easycache", threshold=1e9, warmup=3, last=False)
    for t in range(8):
        x = torch.full((1, 2, 4), 2.0**t)
        with torch.no_grad():
            assert torch.equal(model(x, t)[0], x + model.field)
    assert model.runs == 3
    assert row_of(model) == [0, 1, 2]


def test_sencaches_decisions_by_hand():
    # The input stays the same: only the noise level counts, sigma / (1 + sigma), from the last compute on.
    model = adding()
    options = {"sensitivities": (0.5, 1.0, 2.0), "early": 4, "early_threshold": 0.3, "last": False}
    dcache.enable(model, "sencache", threshold=0.5, **options)
    found = []
    for i, level in enumerate((0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25)):
        dcache.step(model, i, sigma=level / (1.0 - level))
        found += integers(walk(model, [i]))
    # 0.2, then 0.4 above 0.3; 0.2; from evaluation 4 on 0.4, then 0.6 above 0.5; 0.2, 0.3.
    assert row_of(model) == [0, 2, 5]
    assert found == [1112.0 + i for i in range(8)]


def test_easycaches_decisions_by_hand():
    """Input and output are walked beside it: k |x - x'| / |y|, summed since the last compute."""
    model = Shift()
    dcache.enable(model, "easycache", threshold=0.3, warmup=2, last=False)
    xs = [torch.full((1, 2, 4), 1.0 + 0.7**t * (-1) ** (t // 3)) for t in range(12)]
    anchors: list[tuple[torch.Tensor, torch.Tensor]] = []
    full, total = [], 0.0
    for t, x in enumerate(xs):
        with torch.no_grad():
            model(x, t)
        if len(anchors) == 2:
            (x0, y0), (x1, y1) = anchors
            rate = (y1 - y0).abs().mean() / (x1 - x0).abs().mean()
            total += float(rate * (x - xs[t - 1]).abs().mean() / y1.abs().mean())
        if len(anchors) < 2 or total >= 0.3:
            anchors = [*anchors[-1:], (x, x + model.field)]
            full.append(t)
            total = 0.0
    assert row_of(model) == full
    assert 2 < len(full) < 12


def test_easycache_lets_the_first_branch_decide_for_all():
    pipe = dcache.enable(WAN.build(), "easycache", threshold=5.0, warmup=2, last=False)
    WAN.run(pipe, "sequential")
    (plan,) = dcache.trace(pipe).components.values()
    assert len(set(map(str, plan.rows.values()))) == 1
    assert dcache.stats(pipe).predicted > 0


# Windows, kinds and tables --------------------------------------------------------------------------------


def test_pabs_kinds_go_by_their_own_intervals_within_the_window():
    pipe = PIXART.build()
    method = methods.pab(attn=2, cross_attn=3, mlp=None, window=(100.0, 850.0))
    dcache.enable(pipe, method)
    PIXART.run(pipe)
    times = [float(t) for t in pipe.scheduler.timesteps]
    assert [100 < t < 850 for t in times] == [False, *[True] * 5, False], times
    for kind in ("attn", "cross_attn"):
        expected = computed_steps(method, STEPS, site=f"{kind}:0", times=times)
        for depth in range(PIXART.depth):
            assert row_of(pipe, f"{kind}:{depth}") == expected
    assert row_of(pipe, "attn:0") == [0, 2, 4, 6]
    assert row_of(pipe, "cross_attn:0") == [0, 3, 6]


def test_a_window_of_timesteps_in_a_loop_that_counts_from_one_to_zero(declared):
    model = Toy([Declared() for _ in range(2)])
    method = methods.pab(attn=2, cross_attn=None, window=(100.0, 850.0))
    dcache.enable(model, method)
    times = [1 - i / 10 for i in range(10)]
    walk(model, times)
    expected = computed_steps(method, 10, site="attn:0", times=[1000 * t for t in times])
    assert row_of(model) == expected == [0, 1, 3, 5, 7, 9]


BASE = {
    "pab-window": (methods.pab(window=(500.0, 500.0)), True),
    "tgate-never": (methods.tgate(gate=None, attn_interval=1), False),
    "tgate-behind-the-end": (methods.tgate(gate=STEPS, attn_interval=1), True),
    "smoothcache-zero": (methods.smoothcache(ONES), False),
    "seacache-zero": (methods.seacache(threshold=0), False),
    "teacache-zero": (methods.teacache(0, "flux"), False),
    "easycache-zero": (methods.easycache(threshold=0, codec="value"), False),
    "dbcache-zero": (methods.dbcache(1, threshold=0), False),
    "magcache-zero": (methods.magcache(threshold=0, ratios=[0.9, 0.9]), True),
    "fastercache-ones": (methods.fastercache(attn_interval=1, guidance_interval=1), False),
    "fastercache-windows": (methods.fastercache(attn_below=0.0, guidance_below=0.0), True),
}


@pytest.mark.parametrize("name", BASE)
def test_what_predicts_nothing_is_the_plain_pipeline_bit_for_bit(name):
    method, wonders = BASE[name]
    pipe = dcache.enable(PIXART.build(), method)
    expected, _ = plain("pixart", "ddim", "batched")
    if wonders:
        # That it comes to nothing was not asked for in so many words.
        with pytest.warns(DcacheWarning, match="nothing was predicted in this run"):
            found = PIXART.run(pipe, "batched")
    else:
        found = PIXART.run(pipe, "batched")
    assert torch.equal(found, expected)
    assert dcache.stats(pipe).predicted == 0


def test_smoothcaches_rows_are_the_plan():
    table = {"attn1": [1, 0, 1, 0, 0, 1, 1], "attn2": [1, 1, 0, 0, 0, 0, 0], "ff": [1, 1, 1, 1, 0, 1, 1]}
    pipe = dcache.enable(PIXART.build(), "smoothcache", table=table)
    PIXART.run(pipe)
    for kind, row in zip(("attn", "cross_attn", "mlp"), table.values(), strict=True):
        for depth in range(PIXART.depth):
            assert row_of(pipe, f"{kind}:{depth}") == [i for i, computed in enumerate(row) if computed]
    with pytest.raises(DcacheError, match="for 7 evaluations"):
        PIXART.run(pipe, num_inference_steps=8)


# T-GATE ---------------------------------------------------------------------------------------------------


def swapped(gate: int, scale: float, seed: int) -> dict[str, Any]:
    """From the gate on another negative prompt and another guidance scale."""

    def callback(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if i == gate - 1:
            pipe._guidance_scale = scale
            negative, positive = tensors["prompt_embeds"].chunk(2)
            other = torch.randn(negative.shape, generator=generator(seed))
            tensors["prompt_embeds"] = torch.cat([other, positive])
        return tensors

    return {
        "callback_on_step_end": callback,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }


@pytest.mark.parametrize("images", [1, 2])
def test_behind_the_gate_neither_the_negative_prompt_nor_the_scale_is_of_any_consequence(images):
    gate, more = 4, {"num_images_per_prompt": images}
    pipe = dcache.enable(SD.build(), "tgate", gate=gate, attn_interval=2)
    rows: list[int] = []
    found = SD.run(pipe, "batched", **more)
    handle = SD.denoiser(pipe).conv_in.register_forward_hook(lambda m, a, y: rows.append(y.shape[0]))
    other = SD.run(pipe, "batched", **more, **swapped(gate, 50.0, 5))
    handle.remove()
    assert torch.equal(other, found)
    # The plain pipeline does mind.
    assert not torch.allclose(SD.run(SD.build(), "batched", **more, **swapped(gate, 50.0, 5)),
                              SD.run(SD.build(), "batched", **more))  # fmt: skip
    assert rows == [2 * images] * gate + [images] * (STEPS - gate)


def test_behind_the_gate_the_prompt_is_not_read_either():
    pipe = dcache.enable(PIXART.build(), "tgate", gate=3, attn_interval=1)
    runs = [0, 0]

    def counter(which: int) -> Any:
        def hook(*_: Any) -> None:
            runs[which] += 1

        return hook

    block = PIXART.denoiser(pipe).transformer_blocks[0]
    handles = [m.register_forward_hook(counter(i)) for i, m in enumerate((block.attn1, block.attn2))]
    PIXART.run(pipe)
    for handle in handles:
        handle.remove()
    # The check of halves runs one evaluation's attentions once more.
    assert runs == [STEPS + 1, 3 + 1]


@pytest.mark.parametrize("gate", [1, 2, 3])
def test_an_early_gate_closes_as_soon_as_guidance_is_known(gate):
    # Evaluation 0 shows which half is which, evaluation 1 whether one may be run without the other.
    pipe = dcache.enable(PIXART.build(), "tgate", gate=gate, attn_interval=5, warmup=0)
    rows: list[int] = []
    handle = PIXART.denoiser(pipe).proj_out.register_forward_hook(lambda m, a, y: rows.append(y.shape[0]))
    PIXART.run(pipe, "batched")
    handle.remove()
    assert row_of(pipe, "guidance") == list(range(max(gate, 2)))
    assert rows[-(STEPS - max(gate, 2)) :] == [1] * (STEPS - max(gate, 2))
    # Two evaluations, the self-check, and evaluation 1 in full (attention was predicted) and by half.
    assert sorted(rows) == [1] * (STEPS - max(gate, 2) + 1) + [2] * (max(gate, 2) + 2)


def test_the_frozen_cross_attention_is_the_mean_of_both_branches():
    pipe = dcache.enable(PIXART.build(), "tgate", gate=3, attn_interval=2, warmup=1)
    model = PIXART.denoiser(pipe)
    session = session_of(model)
    assert session is not None
    block = model.transformer_blocks[1]
    cross: list[torch.Tensor] = []
    own: list[torch.Tensor] = []
    handles = [
        module.register_forward_hook(lambda m, a, y, kept=kept: kept.append(y.clone()))
        for module, kept in ((block.attn1, own), (block.attn2, cross))
    ]
    frozen: list[torch.Tensor] = []

    def look(i: int) -> None:
        if i >= 3 and session.state.branches:
            (branch,) = session.state.branches.values()
            frozen.append(branch.histories["cross_attn:1"].leaves[-1][0])

    PIXART.run(pipe, "batched", **at_step_end(PIXART, look))
    for handle in handles:
        handle.remove()
    uncond, cond = next(y for y in reversed(cross) if y.shape[0] == 2).chunk(2)
    assert len(frozen) >= 3
    assert all(torch.equal(f, (uncond + cond) / 2) for f in frozen)
    # Self-attention has no other branch any more: its rows are those with the prompt.
    assert [y.shape[0] for y in own][-4:] == [1] * 4


def test_with_two_calls_the_gate_leaves_out_the_one_without_the_prompt():
    pipe = dcache.enable(WAN.build(), "tgate", gate=3, attn_interval=1)
    contexts: list[str] = []
    block = WAN.denoiser(pipe).blocks[0]
    handle = block.register_forward_pre_hook(lambda m, a: contexts.append("run"))
    WAN.run(pipe, "sequential")
    handle.remove()
    # Two calls before the gate (and the self-check's replay of the first), one from it on.
    assert len(contexts) == 2 * 3 + 1 + 4
    # The site is one of the second call; on the first it is never asked.
    (plan,) = dcache.trace(pipe).components.values()
    gated = tuple(i < 3 for i in range(STEPS))
    assert sorted(rows["guidance"] for rows in plan.rows.values()) == [gated, (True,) * STEPS]


# FasterCache ----------------------------------------------------------------------------------------------


def test_fastercache_alternates_attention_and_leaves_the_other_branch_out():
    pipe = dcache.enable(
        PIXART.build(), "fastercache", attn_below=1001.0, guidance_below=1001.0, guidance_interval=3
    )
    rows: list[int] = []
    handle = (
        PIXART.denoiser(pipe)
        .transformer_blocks[0]
        .ff.register_forward_hook(lambda m, a, y: rows.append(y.shape[0]))
    )
    found = PIXART.run(pipe, "batched")
    handle.remove()
    expected, _ = plain("pixart", "ddim", "batched")
    assert torch.isfinite(found).all()
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.5
    guidance = row_of(pipe, "guidance")
    assert guidance[0] == 0
    computed = set(guidance)
    assert 0 < len(computed) < STEPS
    assert all(b - a <= 3 for a, b in pairwise([*guidance, STEPS]))
    # One run of the first block per evaluation, of half its rows where guidance is predicted.
    per_evaluation = [2 if i in computed else 1 for i in range(STEPS)]
    extra = len(rows) - STEPS
    assert sorted(rows) == sorted(per_evaluation + [2] * (extra - 1) + [1])
