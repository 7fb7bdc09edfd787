"""L2, L4 and L8 over every further family and every preset: runs repeat, bytes are true, nothing is left."""

from typing import Any

import pytest
import torch

import dcache
from dcache.engine.pipeline import sessions_of
from tests.families import FAMILIES
from tests.laws.product import PRESETS, Case, product
from tests.laws.test_memory import reachable, storages
from tests.laws.test_undo import StopError, anatomy, unchanged, weights
from tests.pipelines import before_step

FIRST: dict[tuple[str, str], Case] = {}
for one in product():
    if one.shape.name in FAMILIES:
        FIRST.setdefault((one.shape.name, one.preset), one)
# One preset per way of making a site skippable is enough for the fast lane, with every third family.
WAYS = ("interval", "taylorseer", "interval-model", "fbcache", "teacache", "tgate", "deepcache-2")
CASES = [
    pytest.param(
        case,
        id=f"{family}-{preset}",
        marks=() if preset == WAYS[i % len(WAYS)] else (pytest.mark.slow,),
    )
    for i, family in enumerate(FAMILIES)
    for (name, preset), case in FIRST.items()
    if name == family
]


class Look:
    """Compares, before every step, the bytes that are reported with those that are held; stops where told."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.held: list[int] = []
        self.stop = False
        before_step(pipe, self)

    def __call__(self) -> None:
        if self.stop and len(self.held) == 3:
            raise StopError
        sessions = sessions_of(self.pipe).values()
        learning = [s.binding.guidance for s in sessions if s.binding.guidance is not None]
        passing = storages([t for region in learning for t in region.watched()])
        held = storages(reachable([vars(s) for s in sessions]))
        own = sum(size for where, size in held.items() if where not in passing)
        if sessions:
            assert dcache.stats(self.pipe).bytes_now == own
        self.held.append(own)


def use(case: Case, pipe: Any, look: Look) -> list[torch.Tensor]:
    """Two whole runs, one that is interrupted, one more."""
    outputs = [case.run(pipe), case.run(pipe)]
    look.held, look.stop = [], True
    with pytest.raises(StopError):
        case.run(pipe)
    look.stop = False
    return [*outputs, case.run(pipe)]


@pytest.mark.parametrize("case", CASES)
def test_runs_repeat_bytes_are_true_and_nothing_is_left(case: Case) -> None:
    twin, pipe = case.build(), case.build()
    plain = use(case, twin, Look(twin))
    before = weights(case.shape, pipe)
    look = Look(pipe)
    dcache.enable(pipe, PRESETS[case.preset].method())
    cached = use(case, pipe, look)
    assert all(torch.equal(cached[0], other) for other in cached[1:])
    assert not torch.equal(cached[0], plain[0])
    stats = dcache.stats(pipe)
    assert stats.predicted > 0
    assert stats.bytes_now == 0
    assert stats.bytes_held >= max(look.held)
    sessions = list(sessions_of(pipe).values())
    assert dcache.disable(pipe) is pipe
    assert storages(reachable([vars(s) for s in sessions])) == {}
    assert anatomy(case.shape, pipe) == anatomy(case.shape, twin)
    assert unchanged(before, weights(case.shape, pipe))
    assert torch.equal(case.run(pipe), plain[0])
