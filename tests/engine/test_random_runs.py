"""Runs at random: shapes, methods, limits, orders of branches, breakdowns, inference mode on and off.

No anchor beyond the limit is ever alive, none outlives its run, and memory that is written again and again
gives the bits that fresh memory gives.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dcache
from dcache import DcacheError, Method, methods
from dcache.cache.codec import Codec
from dcache.cache.history import History, tensors_of
from dcache.engine.pipeline import sessions_of
from dcache.engine.region import Region
from dcache.util.bytes import bytes_of
from tests.engine.tiny_models import Double, Mix, Toy

METHODS: list[Callable[[], Method]] = [
    lambda: methods.newton(order=1, interval=2, clock="step", warmup=1),
    lambda: methods.newton(order=2, interval=3, clock="step", warmup=0, codec="value"),
    lambda: methods.newton(order=1, interval=2, clock="step", codec="delta:int8"),
    lambda: methods.newton(order=3, interval=2, clock="step", sites=["run:0-0", "run:1-1"]),
    lambda: methods.foca(interval=3, sites="trunk", codec="delta:bfloat16"),
    lambda: methods.interval(interval=2, sites="model"),
    lambda: methods.fbcache(threshold=0.3),
    lambda: methods.seacache(threshold=5.0),
    lambda: methods.easycache(threshold=0.3),
]


class Breaking(Mix):
    """A block that writes over its input, and breaks down where it is told to."""

    breaks = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        if Breaking.breaks:
            x.fill_(float("nan"))
            raise ValueError("broken")
        return y


@dataclass(frozen=True)
class Step:
    """One call: what its branch is called with, and what happens in it.

    Attributes:
        size: from here on, of this branch's input without the width; None leaves it.
        breaks: whether the blocks break down.
        inference: whether it runs in inference mode.
    """

    index: int
    branch: str
    size: tuple[int, int] | None
    breaks: bool
    inference: bool


@dataclass(frozen=True)
class Plan:
    """A whole run; `limit` is of its bytes."""

    seed: int
    width: int
    dtype: torch.dtype
    blocks: int
    method: int
    limit: int
    sizes: tuple[tuple[int, int], ...]
    steps: tuple[Step, ...]


SIZES = st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 40]))
RARELY = st.integers(0, 19).map(lambda drawn: drawn == 19)


@st.composite
def plans(draw: Callable[..., Any]) -> Plan:
    """Twelve evaluations of one to three branches each, in any order."""
    steps = [
        Step(i, branch, draw(SIZES) if draw(RARELY) else None, draw(RARELY), draw(st.booleans()))
        for i in range(12)
        for branch in draw(st.permutations("abc"))[: draw(st.integers(1, 3))]
    ]
    return Plan(
        draw(st.integers(0, 1000)),
        draw(st.sampled_from([3, 8, 65])),
        draw(st.sampled_from([torch.float32, torch.bfloat16])),
        draw(st.integers(1, 3)),
        draw(st.integers(0, len(METHODS) - 1)),
        int(10 ** draw(st.floats(2, 5))),
        tuple(draw(SIZES) for _ in "abc"),
        tuple(steps),
    )


# The same runs everywhere; what fails is made as short as can be.
SAME = settings(derandomize=True, deadline=None, max_examples=20, database=None)
MANY = settings(SAME, max_examples=200)


def run(plan: Plan, limited: bool, after: Callable[[Any, int], None] = lambda *_: None) -> list[Any]:
    """What comes out of a run; `after` every call."""
    torch.manual_seed(plan.seed)
    toy = Toy([Double(1.1), *(Breaking(plan.width) for _ in range(plan.blocks))]).to(plan.dtype)
    dcache.enable(toy, METHODS[plan.method](), max_cache_bytes=plan.limit if limited else None)
    sizes = dict(zip("abc", plan.sizes, strict=True))
    came: list[Any] = []
    for step in plan.steps:
        sizes[step.branch] = step.size or sizes[step.branch]
        Breaking.breaks = step.breaks
        dcache.step(toy, step.index, branch=step.branch)
        with torch.no_grad(), torch.inference_mode(step.inference):
            generator = torch.Generator().manual_seed(step.index)
            x = torch.randn(*sizes[step.branch], plan.width, generator=generator).to(plan.dtype)
            try:
                y = toy(x, 0.1 * step.index)
            except (ValueError, DcacheError) as error:
                came.append(str(error)[:40])
            else:
                came.append(y.clone())
                # Whoever called may write where he likes.
                y.fill_(float("nan"))
            x.fill_(float("nan"))
        after(toy, plan.limit)
    Breaking.breaks = False
    dcache.disable(toy)
    return came


@contextmanager
def anchors_noted() -> Iterator[list[weakref.ref[torch.Tensor]]]:
    """Every tensor that a codec makes, as long as somebody holds it."""
    made: list[weakref.ref[torch.Tensor]] = []
    close = Codec.close

    def noted(*args: Any) -> Any:
        stored = close(*args)
        made.extend(weakref.ref(t) for t in tensors_of((stored,)))
        return stored

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Codec, "close", noted)
        yield made


@pytest.mark.filterwarnings("ignore::dcache.DcacheWarning")
@SAME
@given(plan=plans())
def test_the_limit_holds_at_any_time(plan: Plan) -> None:
    check_limit(plan)


@pytest.mark.filterwarnings("ignore::dcache.DcacheWarning")
def test_it_holds_where_a_branch_goes_on_with_smaller_samples() -> None:
    # The first call of other shapes may be withdrawn: the old anchors were alive beside its own.
    steps = tuple(Step(i, "a", (1, 40) if i == 8 else None, False, False) for i in range(12))
    check_limit(Plan(0, 3, torch.float32, 1, 0, 3162, ((3, 40), (1, 1), (1, 1)), steps))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::dcache.DcacheWarning")
@MANY
@given(plan=plans())
def test_it_holds_in_many_runs(plan: Plan) -> None:
    check_limit(plan)


def check_limit(plan: Plan) -> None:
    """What is remembered never exceeds the limit of a run, and is gone behind it."""
    alive: list[int] = []
    sessions: set[Any] = set()
    remember = Region.remember

    with anchors_noted() as anchors, pytest.MonkeyPatch.context() as patch:

        def look(*_: Any) -> None:
            alive.append(bytes_of(t for ref in anchors if (t := ref()) is not None))

        def remembered(region: Region, *args: Any) -> None:
            remember(region, *args)
            look()

        def after(toy: Any, limit: int) -> None:
            look()
            assert max(alive) <= limit
            (session,) = sessions_of(toy).values()
            sessions.add(session)
            assert session.state.bytes_now() <= limit
            assert dcache.stats(toy).bytes_held <= limit

        patch.setattr(Region, "remember", remembered)
        run(plan, True, after)
        gc.collect()
        look()
    assert sessions
    assert alive[-1] == 0


@pytest.mark.filterwarnings("ignore::dcache.DcacheWarning")
@SAME
@given(plan=plans())
def test_memory_that_is_written_again_gives_the_bits_of_fresh_memory(plan: Plan) -> None:
    came = run(plan, False)
    make_room = History.make_room

    def made_room(history: History, tau: float) -> None:
        make_room(history, tau)
        history.spare = ()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(History, "make_room", made_room)
        fresh = run(plan, False)
    assert sum(isinstance(y, torch.Tensor) for y in came) > 0
    torch.testing.assert_close(
        [y for y in came if isinstance(y, torch.Tensor)],
        [y for y in fresh if isinstance(y, torch.Tensor)],
        rtol=0,
        atol=0,
    )
    assert [y for y in came if isinstance(y, str)] == [y for y in fresh if isinstance(y, str)]
