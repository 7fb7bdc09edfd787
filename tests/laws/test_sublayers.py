"""The laws over sublayers that are found by structure, on families that no row of the block table names.

1. With everything computed the output equals the uncached one, bit for bit.
2. Sublayers of the family's kinds are predicted; the second run equals the first.
3. The trace of a run replays to the same output.
4. `disable` restores the pipeline: the uncached output again, bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

import dcache
from dcache import DcacheWarning, Method, methods
from dcache.sites import blocks
from dcache.sites.blocks import key_of
from dcache.sites.discovery import discover
from tests.zoo.entry import Entry
from tests.zoo.registry import ENTRIES

ZOO = {entry.name.removesuffix("Pipeline"): entry for entry in ENTRIES}
SELF, CROSSED = ("attn", "mlp"), ("attn", "cross_attn", "mlp")
# Pipeline -> the kinds of its sublayers.
FAMILIES: dict[str, tuple[str, ...]] = {
    "QwenImage21": SELF,
    "Krea2": SELF,
    "NucleusMoEImage": SELF,
    "ErnieImage": SELF,
    "OvisImage": (*SELF, "fused"),
    "LongCatImage": (*SELF, "fused"),
    "HunyuanImage": (*SELF, "fused"),
    "SanaVideo": CROSSED,
    "Kandinsky5T2I": CROSSED,
    "Kandinsky6TI2VA": CROSSED,
    "AnyFlow": CROSSED,
    "MotifVideo": (*SELF, "fused"),
    "Ideogram4": SELF,
    "GlmImage": SELF,
    "Bria": (*SELF, "fused"),
    "Cosmos2TextToImage": CROSSED,
    "ConsisID": SELF,
    "EasyAnimate": SELF,
    "Latte": CROSSED,
    "StableAudio3": CROSSED,
}
# Every evaluation lies inside PAB's window.
ALL = (-1.0, 1001.0)
METHODS: dict[str, Callable[[int], Method]] = {
    "taylorseer": lambda steps: methods.taylorseer(interval=3, warmup=2),
    "pab": lambda steps: methods.pab(attn=2, cross_attn=3, mlp=2, window=ALL),
    "teacache": lambda steps: methods.teacache(threshold=0.4, coefficients=(1.0, 0.0)),
    "smoothcache": lambda steps: methods.smoothcache({"attn": alternating(steps), "mlp": alternating(steps)}),
}


def alternating(steps: int) -> list[int]:
    """A row that computes every second evaluation."""
    return [1 - i % 2 for i in range(steps)]


FAST = {(name, list(METHODS)[i % len(METHODS)]) for i, name in enumerate(FAMILIES) if i % 2 == 0}
CASES = [
    pytest.param(name, method, marks=[] if (name, method) in FAST else [pytest.mark.slow])
    for name in FAMILIES
    for method in METHODS
]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    """Whether two outputs have the same bits."""
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("name", "method"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_sublayers_by_structure_keep_the_laws(name: str, method: str) -> None:
    entry: Entry = ZOO[name]
    pipe = entry.pipeline()
    plain = entry.run(pipe)
    dcache.enable(pipe, methods.interval(interval=1, sites="sublayers"))
    assert equal(entry.run(pipe), plain), "all computed differs from uncached"
    kinds = {sublayer.kind for sublayer in discover(pipe.transformer).sublayers}
    assert kinds == set(FAMILIES[name])
    classes = {key_of(type(module)) for module in pipe.transformer.modules()}
    assert not classes & {*blocks.SUBLAYERS, *blocks.FUSED}
    steps = dcache.stats(pipe).steps

    with warnings.catch_warnings():
        warnings.simplefilter("error", DcacheWarning)
        dcache.enable(pipe, METHODS[method](steps))
        first = entry.run(pipe)
    assert dcache.stats(pipe).predicted > 0
    assert not equal(first, plain), "sites are predicted without any effect"
    schedule = dcache.trace(pipe)
    assert equal(entry.run(pipe), first), "the second run differs from the first"
    sites = [site for plan in schedule.components.values() for site in plan.sites]
    expected = {
        "taylorseer": kinds,
        "pab": kinds - {"fused"},
        "teacache": {"trunk"},
        "smoothcache": {"attn", "mlp"},
    }
    assert {site.partition(":")[0].partition(".")[0] for site in sites} == expected[method]

    # On a pipeline of its own, whose sublayers no call has confirmed yet.
    assert equal(entry.run(dcache.enable(entry.pipeline(), schedule)), first), "the trace does not replay"
    dcache.disable(pipe)
    assert equal(entry.run(pipe), plain), "disable does not restore"
