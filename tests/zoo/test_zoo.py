"""Five checks of every pipeline class under four methods.

1. With everything computed the output equals the uncached one, bit for bit.
2. Something is predicted, or dcache says why not.
3. Two runs with equal seeds give equal outputs, the first one included.
4. The trace of a run replays to the same output on the pipeline that made it.
5. `disable` restores the pipeline: the uncached output again, bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

import dcache
from dcache import DcacheError, Method, methods
from tests.zoo.entry import Entry
from tests.zoo.registry import ENTRIES

METHODS: dict[str, Callable[[], Method | None]] = {
    "default": lambda: None,
    "interval": lambda: methods.interval(interval=3),
    "fbcache": lambda: methods.fbcache(threshold=0.2),
    "easycache": lambda: methods.easycache(threshold=0.3, warmup=2),
}
# The fast lane gives each entry of its cover one of the methods, in turns.
COVER = [entry.name for entry in ENTRIES if entry.fast]


def marks(entry: Entry, method: str) -> list[pytest.MarkDecorator]:
    """The lane that a case runs in."""
    fast = entry.fast and method == list(METHODS)[COVER.index(entry.name) % len(METHODS)]
    return [] if fast else [pytest.mark.slow]


CASES = [
    pytest.param(entry, method, id=f"{entry.name}-{method}", marks=marks(entry, method))
    for entry in ENTRIES
    for method in METHODS
]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    """Whether two outputs have the same bits."""
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("entry", "name"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_five_checks(entry: Entry, name: str) -> None:
    pipe = entry.pipeline()
    plain = entry.run(pipe)
    assert equal(entry.run(pipe), plain), "the pipeline itself does not repeat: mend the entry"

    if "every" in entry.refused:
        with pytest.raises(DcacheError, match=entry.refused["every"]):
            dcache.enable(pipe, METHODS[name]())
        return
    dcache.enable(pipe, methods.interval(interval=1))
    assert equal(entry.run(pipe), plain), "all computed differs from uncached"
    dcache.disable(pipe)

    if name in entry.refused:
        with pytest.raises(DcacheError, match=entry.refused[name]):
            entry.run(dcache.enable(pipe, METHODS[name]()))
        dcache.disable(pipe)
        assert equal(entry.run(pipe), plain), "a refused method left something behind"
        return

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dcache.enable(pipe, METHODS[name]())
        first = entry.run(pipe)
    stats = dcache.stats(pipe)
    said = any(issubclass(w.category, dcache.DcacheWarning) for w in caught)
    if name in entry.nothing:
        assert stats.predicted == 0
        assert entry.nothing[name] in stats.why_nothing() + str(stats)
    assert stats.predicted > 0 or said, f"nothing is predicted, and nothing is said: {stats}"
    if stats.predicted:
        assert not equal(first, plain), "sites are predicted without any effect"
    if stats.computed + stats.predicted:
        schedule = dcache.trace(pipe)
        assert equal(entry.run(pipe), first), "the second run differs from the first"
        dcache.enable(pipe, schedule)
        assert equal(entry.run(pipe), first), "the trace does not replay"
    else:
        # Every call writes somewhere and is passed through: attention maps, for one.
        assert stats.reasons["writes"] > 0
        assert equal(first, plain)
        with pytest.raises(DcacheError, match="no run to trace"):
            dcache.trace(pipe)
        assert equal(entry.run(pipe), first), "the second run differs from the first"

    dcache.disable(pipe)
    assert equal(entry.run(pipe), plain), "disable does not restore"


def test_the_fast_cover_has_thirty_classes() -> None:
    assert len(COVER) >= 30
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES) >= 150
