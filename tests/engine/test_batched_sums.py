"""Many sites, one launch: how many sums are launched, whose, and that nothing of it shows or stays."""

import gc
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import Method, methods
from dcache.cache.history import History
from dcache.engine import batched_sums as together
from dcache.engine.session import Session, session_of
from dcache.kernels import launch
from dcache.kernels.weighted_sum import batch, launching
from dcache.predictors.corrections import Correction, Corrections
from dcache.predictors.fitted import Fitted
from dcache.probes import Probe
from dcache.schedulers import ChangeAbove, StepContext, guarded
from tests.engine.tiny_models import Mix, Toy, walk
from tests.families.mmdit import COGVIEW4, SD3
from tests.laws.product import PRESETS
from tests.pipelines import SHAPES, STEPS, Shape, before_step

PIXART, WAN = SHAPES["pixart"], SHAPES["wan"]
TAYLOR = methods.taylorseer(order=1, interval=3, warmup=2)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels by Triton's interpreter, for the pipelines here lie on the CPU."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("with a GPU Triton compiles, and what is on a CPU takes no kernel")
    monkeypatch.setattr(launch, "mode", "on")


@contextmanager
def launches() -> Iterator[list[int]]:
    """How many sums each launch makes, in turn."""
    found: list[int] = []
    run, run_one = batch.run, launching.run
    batch.run = lambda jobs: found.append(len(jobs)) or run(jobs)
    launching.run = lambda *given: found.append(1) or run_one(*given)
    try:
        yield found
    finally:
        batch.run, launching.run = run, run_one


def session_on(pipe: Any, shape: Shape = PIXART) -> Session:
    session = session_of(shape.denoiser(pipe))
    assert session is not None
    return session


def histories_of(session: Session) -> list[History]:
    return [history for branch in session.state.branches.values() for history in branch.histories.values()]


def by_evaluation(pipe: Any, shape: Shape = PIXART, **more: Any) -> tuple[torch.Tensor, list[list[int]]]:
    """A run's latents, and for each evaluation the sums of each of its launches."""
    found: list[list[int]] = []
    with launches() as now:
        before_step(pipe, lambda: found.append(now.copy()) or now.clear())
        return shape.run(pipe, **more), found


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run something with every site summing alone."""

    def run(make: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(together.BatchedSums, "leaves", lambda *_: None)
            return make()

    return run


def test_a_predicted_evaluation_is_one_launch(kernels: None) -> None:
    # Three blocks of attention, cross-attention and MLP; 0, 1 and 4 are computed, the first checks itself.
    _, found = by_evaluation(dcache.enable(PIXART.build(), TAYLOR), num_inference_steps=7)
    assert found[1:] == [[], [9], [9], [], [9], [9]]


def test_without_kernels_nothing_is_made_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "weighted_sums", None)
    _, found = by_evaluation(dcache.enable(PIXART.build(), TAYLOR))
    assert not any(found)


def test_with_kernels_and_one_by_one_there_are_as_many_launches_as_sites(
    kernels: None, one_by_one: Any
) -> None:
    _, found = one_by_one(lambda: by_evaluation(dcache.enable(PIXART.build(), TAYLOR), num_inference_steps=4))
    assert found[1:] == [[], [1] * 9, [1] * 9]


NAMES = (
    "taylorseer",
    "interval-sublayers",
    "hicache",
    "foca",
    "smoothcache",
    "bac",
    "pab",
    "tgate",
    "fastercache",
)
# A prediction of evaluation 2 from the anchors of 0 and 1, twice as large; and a line through both.
DOUBLED = Correction(torch.full((16,), 2.0), torch.zeros(16), 1)
LINE = {2: {0: -1.0, 1: 2.0}}
METHODS = {name: PRESETS[name].method() for name in NAMES} | {
    "order 2 in bfloat16": methods.taylorseer(order=2, interval=2, codec="value:bfloat16"),
    "int8": replace(TAYLOR, codec="value:int8"),
    "branches together": replace(TAYLOR, branches="together"),
    "corrected": replace(TAYLOR, corrections=Corrections({"attn:1": {2: DOUBLED}}, {"attn:1": -1})),
    "halves apart": replace(TAYLOR, predictor=Fitted({"*": LINE}, {"mlp:1": {2: {1: 1.0}}})),
    "blocks": methods.interval(interval=2, sites="block", codec="value"),
}
# Guidance in one batch and in two calls; the others are named so as not to test the same again. Those that
# differ from another one in when they compute alone, and a second shape, are for the slow lane.
SLOW = {"hicache", "bac", "interval-sublayers", "pab"}
ELSEWHERE = {"flux-foca", "wan-smoothcache"}
CASES = [
    pytest.param(
        shape,
        method,
        id=f"{shape}-{name}",
        marks=(pytest.mark.slow,)
        if name in SLOW or (shape.name != "pixart" and f"{shape}-{name}" not in ELSEWHERE)
        else (),
    )
    for shape in SHAPES.values()
    for name, method in METHODS.items()
    if PRESETS[name if name in PRESETS else "taylorseer"].fits(shape, next(iter(shape.samplers)))
    if shape.name == "pixart" or name in {"smoothcache", "branches together", "tgate", "foca"}
]


@pytest.mark.parametrize(("shape", "method"), CASES)
def test_the_bits_and_counts_are_those_of_sums_one_by_one(
    kernels: None, one_by_one: Any, shape: Shape, method: Method
) -> None:
    pipe, again = (dcache.enable(shape.build(), method) for _ in range(2))
    came, found = by_evaluation(pipe, shape)
    alone, apart = one_by_one(lambda: by_evaluation(again, shape))
    assert torch.equal(came, alone)
    assert dcache.trace(pipe) == dcache.trace(again)
    assert dcache.stats(pipe).reasons == dcache.stats(again).reasons
    # The same sums, none in vain, in no more launches.
    assert [sum(one) for one in found] == [sum(one) for one in apart]
    assert all(len(one) <= len(other) for one, other in zip(found, apart, strict=True))
    assert max(map(max, filter(None, found))) > 1


def test_what_is_no_plain_sum_is_made_at_its_turn(kernels: None) -> None:
    for name in ("corrected", "halves apart"):
        _, found = by_evaluation(dcache.enable(PIXART.build(), METHODS[name]), num_inference_steps=3)
        assert sorted(found[2]) == ([1, 8] if name == "corrected" else [1, 1, 8])


def test_a_replay_has_the_bits_of_its_run(kernels: None) -> None:
    pipe = dcache.enable(PIXART.build(), PRESETS["smoothcache"].method())
    came = PIXART.run(pipe)
    again = dcache.enable(PIXART.build(), dcache.trace(pipe))
    replayed, found = by_evaluation(again)
    assert torch.equal(replayed, came)
    assert any(one and one[0] > 1 for one in found[1:])


def test_a_dynamic_rule_is_not_asked_before_its_turn(kernels: None) -> None:
    rule = guarded(ChangeAbove(1e9), warmup=1)
    method = Method("near", rule=rule, sites=("attn",), probe=Probe("input"), clock="step")
    _, found = by_evaluation(dcache.enable(PIXART.build(), method))
    assert found[1:] == [[1] * 3] * 6


def every_second(moment: StepContext) -> str | None:
    """Keeps count in its memory of how often it was asked; attentions and MLPs are computed by turns."""
    moment.memory["asked"] = moment.memory.get("asked", -1.0) + 1.0
    return "turn" if (moment.memory["asked"] + (moment.site.kind == "mlp")) % 2 else None


def test_what_a_rule_notes_is_noted_once(kernels: None) -> None:
    pipe = dcache.enable(PIXART.build(), replace(TAYLOR, rule=every_second))
    session = session_on(pipe)
    asked: list[set[float]] = []
    before_step(pipe, lambda: asked.append({h.memory["asked"] for h in histories_of(session)}))
    _, found = by_evaluation(pipe)
    assert asked == [{float(i)} for i in range(7)]
    assert found[1:] == [[3], [6], [3], [6], [3], [6]]


def only_with_the_prompt(moment: StepContext) -> str | None:
    return "prompt" if moment.index < 2 or moment.branch != "cond" else None


def test_branches_that_decide_together_follow_the_first(kernels: None) -> None:
    method = replace(TAYLOR, rule=only_with_the_prompt, branches="together")
    pipe = dcache.enable(WAN.build(), method)
    _, found = by_evaluation(pipe, WAN)
    sites = len(session_on(pipe, WAN).binding.regions)
    assert found[2:] == [[sites, sites]] * (STEPS - 2)


def test_sites_that_need_their_input_are_left_to_their_turn(kernels: None) -> None:
    method = methods.interval(interval=3, sites=["attn:0", "mlp:0", "block:1"])
    _, found = by_evaluation(dcache.enable(PIXART.build(), method), num_inference_steps=3)
    assert found[1:] == [[2, 1], [2, 1]]


def sizes_of(found: list[list[int]]) -> list[list[int]]:
    return [one for one in found[1:] if one]


def test_what_waits_is_bounded(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # A leaf of the two halves, 16 tokens of 16 float32.
    leaf = 2 * 16 * 16 * 4
    monkeypatch.setattr(together, "MOST_BYTES", 4 * leaf)
    pipe = dcache.enable(PIXART.build(), TAYLOR)
    session = session_on(pipe)
    waits: list[int] = []
    leaves = together.BatchedSums.leaves

    def watched(its: together.BatchedSums, *given: Any) -> Any:
        made = leaves(its, *given)
        held = sum(leaf.nbytes for one in its.ready.values() for leaf in one)
        assert held == its.pending_bytes
        waits.append(held)
        return made

    monkeypatch.setattr(together.BatchedSums, "leaves", watched)
    _, found = by_evaluation(pipe, num_inference_steps=4)
    assert sizes_of(found) == [[4, 4, 1]] * 2
    assert max(waits) == 3 * leaf
    assert session.batched.pending_bytes == 0
    # Leaves that are too large to wait are summed alone.
    monkeypatch.setattr(together, "MOST_BYTES", leaf)
    _, found = by_evaluation(dcache.enable(PIXART.build(), TAYLOR), num_inference_steps=3)
    assert sizes_of(found) == [[1] * 9]


class BrokenError(RuntimeError):
    pass


def stop_in(module: nn.Module, at: int) -> None:
    """Let a module break down when it is called for the `at`-th time."""
    calls = count()

    def hook(*_: Any) -> None:
        if next(calls) == at:
            raise BrokenError

    module.register_forward_pre_hook(hook)


@pytest.mark.parametrize("breaks", [False, True])
def test_nothing_that_was_made_outlives_the_call(
    kernels: None, monkeypatch: pytest.MonkeyPatch, breaks: bool
) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    sums = together.weighted_sums

    def kept(jobs: Any) -> list[torch.Tensor]:
        result = sums(jobs)
        made.extend(map(weakref.ref, result))
        # The model may write over each: no memory is shared with another, or with an anchor.
        held = [t for history in histories_of(session) for t in history.tensors()]
        assert len({t.untyped_storage().data_ptr() for t in (*held, *result)}) == 18 + 9
        return result

    monkeypatch.setattr(together, "weighted_sums", kept)
    pipe = PIXART.build()
    blocks = PIXART.blocks(pipe)
    dcache.enable(pipe, TAYLOR)
    session = session_on(pipe)
    if breaks:
        # Twice computed and once replayed by the self-check; then the second block is never reached.
        stop_in(blocks[1], 3)
    with pytest.raises(BrokenError) if breaks else nullcontext():
        PIXART.run(pipe, num_inference_steps=3)
    gc.collect()
    assert len(made) == 9
    assert not any(ref() is not None for ref in made)
    assert not session.batched.ready
    assert not session.batched.waiting
    assert session.batched.pending_bytes == 0
    assert not session.decisions.foreseen
    if not breaks:
        return
    # The next run knows nothing of it.
    fresh = PIXART.run(dcache.enable(PIXART.build(), TAYLOR))
    assert torch.equal(PIXART.run(pipe), fresh)


def test_what_waits_is_no_history(kernels: None) -> None:
    pipe = dcache.enable(PIXART.build(), TAYLOR)
    bytes_now: list[int] = []
    for block in PIXART.blocks(pipe):
        block.register_forward_hook(lambda *_: bytes_now.append(dcache.stats(pipe).bytes_now))
    PIXART.run(pipe, num_inference_steps=4)
    assert max(bytes_now) == bytes_now[-1] == 9 * 2 * 2 * 16 * 16 * 4


def test_a_module_that_is_called_twice_has_both_its_sums_made(kernels: None, one_by_one: Any) -> None:
    method = methods.interval(interval=2, sites="mlp", codec="value")

    def run() -> tuple[torch.Tensor, list[list[int]]]:
        return by_evaluation(dcache.enable(COGVIEW4.build(), method), COGVIEW4, guidance="off")

    (came, found), (alone, _) = run(), one_by_one(run)
    assert torch.equal(came, alone)
    assert sizes_of(found) == [[2 * COGVIEW4.depth]] * 3


def test_layers_that_are_left_out_for_guidance_have_no_sums_made(kernels: None, one_by_one: Any) -> None:
    def run() -> tuple[torch.Tensor, list[list[int]]]:
        pipe = dcache.enable(SD3.build(), methods.interval(interval=2, sites="sublayers"))
        return by_evaluation(pipe, SD3, guidance="skip_layer")

    (came, found), (alone, apart) = run(), one_by_one(run)
    assert torch.equal(came, alone)
    assert [sum(one) for one in found] == [sum(one) for one in apart]
    # Attention and MLP of seven blocks, of image and text; then those of the branch without layer 3.
    assert [28] in found
    assert [24] in found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_too(one_by_one: Any, dtype: torch.dtype) -> None:
    def run() -> tuple[list[torch.Tensor], list[int]]:
        torch.manual_seed(0)
        toy = Toy([Mix(48) for _ in range(5)]).to("cuda", dtype)
        method = methods.newton(order=1, interval=3, sites="block", codec="value", clock="step", warmup=2)
        dcache.enable(toy, method)
        with launches() as found:
            return walk(toy, [4.0, 3.0, 2.0, 1.0], torch.randn(2, 37, 48).to("cuda", dtype)), found

    (came, found), (alone, apart) = run(), one_by_one(run)
    assert all(torch.equal(a, b) for a, b in zip(came, alone, strict=True))
    assert found[-2:] == [5, 5]
    assert apart[-10:] == [1] * 10
