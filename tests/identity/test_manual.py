"""What `dcache.step` says: which evaluation and branch the next calls are, and where a run begins."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch

import dcache
from dcache import DcacheError, DcacheWarning, methods
from dcache.identity.manual import ManualStep
from dcache.identity.run import Run
from tests.engine.tiny_models import Mix, Toy

EVERY_2 = methods.interval(interval=2)


def call(toy: Toy, index: int, **told: object) -> None:
    """One denoiser call in a hand-written loop; its timestep never changes, so it tells nothing."""
    dcache.step(toy, index, **told)
    with torch.no_grad():
        toy(torch.ones(1, 2, 4), 0)


def rows(toy: Toy) -> dict[str, str]:
    """Branch -> 1 where it was computed."""
    (plan,) = dcache.trace(toy).components.values()
    return {b: "".join("01"[c] for c in sites["trunk"]) for b, sites in plan.rows.items()}


def test_an_index_is_an_evaluation_whatever_the_timestep() -> None:
    toy = dcache.enable(Toy(), EVERY_2)
    for i in range(5):
        call(toy, i)
    assert dcache.stats(toy).steps == 5
    assert rows(toy) == {"*": "10101"}


def test_branches_are_told_apart_by_their_names_in_any_order() -> None:
    toy = dcache.enable(Toy(), EVERY_2)
    for i, order in enumerate([("cond", "uncond"), ("uncond", "cond"), ("cond",), ("uncond", "cond")]):
        for branch in order:
            call(toy, i, branch=branch)
    assert dcache.stats(toy).steps == 4
    made = rows(toy)
    assert made["cond"] == "1010"
    # Left out at evaluation 2; what it was computed with at 0 is one prediction old at 3.
    assert (made["uncond"][:2], made["uncond"][3]) == ("10", "1")


def test_an_index_that_falls_opens_a_new_run() -> None:
    toy = dcache.enable(Toy(), EVERY_2)
    for i in (0, 1, 2, 1):
        call(toy, i)
    assert dcache.stats(toy).computed == 1
    call(toy, 2)
    assert dcache.stats(toy).predicted == 1


@pytest.mark.filterwarnings("ignore:nothing was predicted in this run")
def test_evaluation_0_of_a_branch_that_was_called_opens_a_new_run_and_of_another_branch_does_not() -> None:
    toy = dcache.enable(Toy(), EVERY_2)
    call(toy, 0, branch="a")
    call(toy, 0, branch="b")
    assert dcache.stats(toy).computed == 2
    call(toy, 0, branch="a")
    assert dcache.stats(toy).computed == 1


def test_the_number_of_evaluations_is_that_of_the_run() -> None:
    toy = dcache.enable(Toy(), methods.interval(interval=9, last=True))
    for i in range(4):
        call(toy, i, steps=4)
    assert rows(toy) == {"*": "1001"}
    # Without it nobody knows which one is the last.
    for i in range(4):
        call(toy, i)
    assert rows(toy) == {"*": "1000"}


def test_timesteps_and_noise_levels_are_clocks() -> None:
    # The line through (timestep 8, 8 * 8) and (6, 8 * 6): at 2 it is 8 * 2, whatever the index says.
    line = methods.newton(order=1, interval=3, warmup=2, clock="timestep", codec="value", sites="model")
    toy = dcache.enable(Toy(), line)
    outputs = []
    for i, t in enumerate([8.0, 6.0, 2.0]):
        dcache.step(toy, i, timestep=t)
        with torch.no_grad():
            outputs.append(float(toy(torch.zeros(1), t)))
    assert outputs == [64.0, 48.0, 16.0]
    assert dcache.stats(toy).predicted == 1


def sample(value: float) -> torch.Tensor:
    return torch.full((1, 2, 4), value)


def test_a_run_that_broke_off_at_its_first_evaluation_is_over_where_another_sample_comes() -> None:
    toy = dcache.enable(Toy(), methods.interval(interval=2, codec="delta"))
    with torch.no_grad():
        dcache.step(toy, 0, steps=3)
        toy(sample(1), 9.0)
        outputs = []
        for i, t in enumerate((9.0, 8.0, 7.0)):
            dcache.step(toy, i, steps=3)
            outputs.append(float(toy(sample(2), t).flatten()[0]))
    # 8 (x + t); the second one is 7 (2 + 9) more than its own input 2 + 8.
    assert outputs == [88.0, 10.0 + 77.0, 72.0]
    assert dcache.stats(toy).steps == 3
    assert list(dcache.trace(toy).components[""].rows) == ["*"]


def test_unnamed_calls_with_the_same_sample_are_branches() -> None:
    toy = dcache.enable(Toy(), methods.interval(interval=2, codec="delta"))
    with torch.no_grad():
        for i, t in enumerate((9.0, 8.0)):
            for _ in range(2):
                dcache.step(toy, i)
                toy(sample(1), t)
    # Two branches: computed in the first evaluation, predicted in the second.
    assert (dcache.stats(toy).steps, dcache.stats(toy).computed, dcache.stats(toy).predicted) == (2, 2, 2)


def test_a_manual_step_keeps_its_run_or_opens_another() -> None:
    manual = ManualStep(Run(started=True, count=5, flow=True), "a")
    assert manual.announce(0, "a")
    # Nothing was called yet: the same again.
    assert manual.announce(0, "a")
    manual.run.calls = 1
    assert manual.announce(0, "b")
    assert not manual.announce(0, "a")
    assert manual.announce(1, "a")
    assert manual.announce(1, "a")
    assert not manual.announce(0, "b")


def mixing() -> Toy:
    """Two blocks on latents that are large enough to be recognised."""
    torch.manual_seed(0)
    return Toy([Mix(64), Mix(64)])


def loop(
    net: torch.nn.Module,
    seed: int,
    times: list[float],
    announce: bool,
    branch: str | None = None,
    calls: int = 1,
) -> torch.Tensor:
    """A loop that announces its evaluations, or does not; with guidance where it has two calls for each."""
    x = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for i, t in enumerate(times):
            if announce:
                dcache.step(net, i, timestep=t, branch=branch)
            outputs = [net(x, torch.tensor(t)) for _ in range(calls)]
            x = x - 0.05 * sum(outputs)
    return x


DOWN = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]


@pytest.mark.filterwarnings("ignore:nothing was predicted in this run")
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("branch", [None, "c"])
@pytest.mark.parametrize("announced", [1, 3, 6])
def test_a_loop_that_announces_nothing_is_none_of_what_was_announced(
    announced: int, branch: str | None, calls: int
) -> None:
    net = dcache.enable(mixing(), EVERY_2)
    loop(net, 1, DOWN[:announced], True, branch, calls)
    fresh = dcache.enable(mixing(), EVERY_2)
    assert torch.equal(loop(net, 2, DOWN, False, calls=calls), loop(fresh, 2, DOWN, False, calls=calls))
    assert (dcache.stats(net).steps, dcache.stats(net).predicted) == (6, 3 * calls)
    # And it may announce again.
    assert torch.equal(
        loop(net, 3, DOWN, True, branch, calls),
        loop(dcache.enable(mixing(), EVERY_2), 3, DOWN, True, branch, calls),
    )


@pytest.mark.filterwarnings("ignore:nothing was predicted in this run")
def test_a_broken_off_first_evaluation_with_guidance_is_forgotten() -> None:
    net, fresh = dcache.enable(mixing(), EVERY_2), dcache.enable(mixing(), EVERY_2)
    loop(net, 1, DOWN[:1], True, calls=2)
    assert torch.equal(loop(net, 2, DOWN, True, calls=2), loop(fresh, 2, DOWN, True, calls=2))
    assert dcache.stats(net).steps == 6


def test_a_second_order_step_is_announced_once_and_calls_at_two_timesteps() -> None:
    net = dcache.enable(mixing(), EVERY_2)
    x = torch.randn(1, 4, 64)
    with torch.no_grad():
        for i, (t, following) in enumerate(pairwise(DOWN)):
            dcache.step(net, i, timestep=t)
            slope = net(x, torch.tensor(t))
            x = x - 0.05 * (slope + net(x - 0.1 * slope, torch.tensor(following)))
    stats = dcache.stats(net)
    # Two branches of five evaluations, of which 0, 2 and 4 are computed.
    assert (stats.steps, stats.computed, stats.predicted) == (5, 6, 4)


def test_timesteps_in_one_tensor_that_is_written_to_are_told_apart() -> None:
    step, t = ManualStep(Run(started=True), None), torch.tensor(5.0)
    for index in range(3):
        step.announce(index, None)
        assert step.speaks_for(t.fill_(5.0 - index), (), {})
    assert step.speaks_for(t, (), {})
    assert not step.speaks_for(t.fill_(0.0), (), {})


def announced(net: torch.nn.Module, seed: int, steps: int | None = None) -> Iterator[torch.Tensor]:
    """The outputs of a loop that names no branches, one by one, so that others may take turns with it."""
    x = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(seed))
    for i, t in enumerate(DOWN):
        dcache.step(net, i, timestep=t, steps=steps)
        with torch.no_grad():
            output = net(x, torch.tensor(t))
        x = x - 0.05 * output
        yield output


def in_turns(net: torch.nn.Module, steps: int | None, ahead: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The outputs of two loops in turns; the first has a start of so many evaluations."""
    first, second = announced(net, 1, steps), announced(net, 2, steps)
    for _ in range(ahead):
        next(first)
    return list(zip(first, second, strict=False))


@pytest.mark.parametrize("steps", [None, 6])
@pytest.mark.parametrize("ahead", [0, 2])
def test_announced_loops_in_turns_are_not_predicted_from_each_other_and_that_is_said_once(
    steps: int | None, ahead: int
) -> None:
    net = dcache.enable(mixing(), methods.interval(interval=9, codec="value"))
    with pytest.warns(DcacheWarning) as warned:
        outputs = in_turns(net, steps, ahead)
    assert sum("take turns" in str(w.message) for w in warned) == 1
    computed = dcache.enable(mixing(), methods.interval(interval=1))
    assert len(outputs) == 6 - ahead
    assert all(torch.equal(b, right) for (_, b), right in zip(outputs, announced(computed, 2), strict=False))
    # The start of the first one was predicted, so what follows is another walk.
    assert ahead or all(map(torch.equal, [a for a, _ in outputs], announced(computed, 1)))


def test_a_loop_that_goes_on_where_another_stands_is_not_predicted_from_it() -> None:
    net = dcache.enable(mixing(), methods.interval(interval=9, codec="value"))
    first, second = announced(net, 1), announced(net, 2)
    for _ in range(3):
        next(first)
    for _ in range(3):
        next(second)
    stale = next(first)
    alone = dcache.enable(mixing(), methods.interval(interval=3, codec="value"))
    # Evaluation 3 of the first loop: computed, on the latents that evaluations 0 (computed), 1 and 2 led to.
    assert torch.equal(stale, list(announced(alone, 1))[3])


@pytest.mark.filterwarnings("ignore:nothing was predicted in this run")
def test_a_number_of_steps_holds_for_the_run_that_it_was_announced_for() -> None:
    rule = methods.interval(interval=3, last=True)
    net = dcache.enable(mixing(), rule)
    # Announced, and never called: that loop had 3 evaluations, this one has 6.
    dcache.step(net, 0, steps=3)
    list(announced(net, 1, 6))
    assert rows(net) == {"*": "100101"}


class InterruptedCallError(Exception):
    """What a call fails with."""


def fail(*_: object) -> None:
    """A hook that fails, such as one that runs out of memory."""
    raise InterruptedCallError


@pytest.mark.parametrize("announces", [True, False])
@pytest.mark.parametrize("index", [1, 2, 4])
def test_a_call_that_failed_is_made_once_more_as_the_same_evaluation_of_the_same_branch(
    announces: bool, index: int
) -> None:
    rule = methods.interval(interval=3, codec="value", sites="run:0-0")
    expected = dcache.enable(mixing(), rule)
    right = loop(expected, 1, DOWN, announces)
    net, x = dcache.enable(mixing(), rule), torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for i, t in enumerate(DOWN):
            if announces:
                dcache.step(net, i, timestep=t)
            if i == index:
                hook = net.blocks[1].register_forward_pre_hook(fail)
                with pytest.raises(InterruptedCallError):
                    net(x, torch.tensor(t))
                hook.remove()
            x = x - 0.05 * net(x, torch.tensor(t))
    assert torch.equal(x, right)
    assert rows_of(net) == rows_of(expected)
    again = dcache.enable(mixing(), dcache.trace(net))
    assert torch.equal(loop(again, 1, DOWN, announces), right)


def rows_of(net: torch.nn.Module) -> dict[str, dict[str, tuple[bool, ...]]]:
    """Branch -> site -> whether each evaluation was computed."""
    (plan,) = dcache.trace(net).components.values()
    return {branch: dict(sites) for branch, sites in plan.rows.items()}


def test_a_call_that_failed_after_it_had_remembered_leaves_no_trace_that_would_replay_otherwise() -> None:
    net = dcache.enable(mixing(), methods.interval(interval=2, codec="value", sites="run:0-0"))
    x = torch.randn(1, 4, 64)
    with torch.no_grad():
        for i, t in enumerate(DOWN):
            if i == 2:
                hook = net.blocks[1].register_forward_pre_hook(fail)
                with pytest.raises(InterruptedCallError):
                    net(x, torch.tensor(t))
                hook.remove()
            net(x, torch.tensor(t))
    with pytest.raises(DcacheError, match="evaluation 2 failed after it had remembered"):
        dcache.trace(net)


@pytest.mark.filterwarnings("ignore:nothing was predicted in this run")
def test_a_run_that_was_left_and_went_on_has_no_trace_and_the_next_one_has() -> None:
    net = dcache.enable(mixing(), methods.interval(interval=3, codec="value"))
    first = announced(net, 1)
    for _ in range(2):
        next(first)
    list(announced(net, 2))
    assert rows(net) == {"*": "100100"}
    list(first)
    assert dcache.stats(net).predicted > 0
    # Its evaluations from 2 on began without what the first two had computed.
    with pytest.raises(
        DcacheError, match="first evaluations were not seen, or belong to a run that was left"
    ):
        dcache.trace(net)
    list(announced(net, 2))
    assert rows(net) == {"*": "100100"}
