"""Runs at random: shapes, methods, limits, orders of branches, breakdowns, inference mode on and off.

No anchor beyond the limit is ever alive, none outlives its run, and memory that is written again and again
gives the bits that fresh memory gives.
"""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

import dcache
from dcache import DcacheError, Method, methods
from dcache.cache.codec import Codec
from dcache.cache.history import History, bytes_of, tensors_of
from dcache.engine.pipeline import sessions_of
from dcache.engine.region import Region
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


def run(seed: int, limited: bool, after: Callable[[Any, int], None] = lambda *_: None) -> list[Any]:
    """What comes out of a run that the seed alone decides; `after` every call."""
    choose = random.Random(seed)
    torch.manual_seed(seed)
    width, dtype = choose.choice([3, 8, 65]), choose.choice([torch.float32, torch.bfloat16])
    toy = Toy([Double(1.1), *(Breaking(width) for _ in range(choose.choice([1, 2, 3])))]).to(dtype)
    limit = int(10 ** choose.uniform(2, 5))
    dcache.enable(toy, choose.choice(METHODS)(), max_cache_bytes=limit if limited else None)
    sizes = {branch: (choose.choice([1, 2, 3]), choose.choice([1, 2, 40]), width) for branch in "abc"}
    came: list[Any] = []
    for i in range(12):
        for branch in choose.sample("abc", choose.choice([1, 2, 3])):
            if choose.random() < 0.05:
                sizes[branch] = (choose.choice([1, 2, 3]), choose.choice([1, 2, 40]), width)
            Breaking.breaks = choose.random() < 0.05
            dcache.step(toy, i, branch=branch)
            with torch.no_grad(), torch.inference_mode(choose.random() < 0.5):
                x = torch.randn(sizes[branch], generator=torch.Generator().manual_seed(i)).to(dtype)
                try:
                    y = toy(x, 0.1 * i)
                except (ValueError, DcacheError) as error:
                    came.append(str(error)[:40])
                else:
                    came.append(y.clone())
                    # Whoever called may write where he likes.
                    y.fill_(float("nan"))
                x.fill_(float("nan"))
            after(toy, limit)
    Breaking.breaks = False
    dcache.disable(toy)
    return came


@pytest.fixture
def anchors(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[torch.Tensor]]:
    """Every tensor that a codec makes, as long as somebody holds it."""
    made: list[weakref.ref[torch.Tensor]] = []
    close = Codec.close

    def noted(*args: Any) -> Any:
        stored = close(*args)
        made.extend(weakref.ref(t) for t in tensors_of((stored,)))
        return stored

    monkeypatch.setattr(Codec, "close", noted)
    return made


@pytest.mark.filterwarnings("ignore::dcache.DcacheWarning")
@pytest.mark.parametrize("seed", range(40))
def test_the_limit_holds_at_any_time(
    seed: int, anchors: list[weakref.ref[torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    sessions: set[Any] = set()
    remember = Region.remember

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

    monkeypatch.setattr(Region, "remember", remembered)
    run(seed, True, after)
    gc.collect()
    look()
    assert sessions
    assert alive[-1] == 0


@pytest.mark.filterwarnings("ignore::dcache.DcacheWarning")
@pytest.mark.parametrize("seed", range(40))
def test_memory_that_is_written_again_gives_the_bits_of_fresh_memory(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = run(seed, False)
    make_room = History.make_room

    def made_room(history: History, tau: float) -> None:
        make_room(history, tau)
        history.spare = ()

    monkeypatch.setattr(History, "make_room", made_room)
    fresh = run(seed, False)
    assert sum(isinstance(y, torch.Tensor) for y in came) > 0
    torch.testing.assert_close(
        [y for y in came if isinstance(y, torch.Tensor)],
        [y for y in fresh if isinstance(y, torch.Tensor)],
        rtol=0,
        atol=0,
    )
    assert [y for y in came if isinstance(y, str)] == [y for y in fresh if isinstance(y, str)]
