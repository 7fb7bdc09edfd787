"""What every test of coexistence asks: all-compute changes no bit, caching skips, disable leaves nothing."""

from collections.abc import Callable
from typing import Any

import torch

import dcache
from dcache import methods
from tests.laws.test_undo import anatomy
from tests.pipelines import STEPS, Shape

EVERY_2 = methods.interval(interval=2)
ALWAYS = methods.interval(interval=1)
# When what is tested is switched on, beside caching.
LATE = {"before": False, "while enabled": True}
Prepare = Callable[[Any], object]


def skippable(shape: Shape, pipe: Any) -> list[torch.nn.Module]:
    """Modules that do not run on a predicted step: all blocks, or the deep part of a UNet."""
    model = shape.denoiser(pipe)
    return shape.blocks(pipe) if shape.depth else [model.down_blocks[1], model.mid_block]


class Runs:
    """Counts the calls that get through to some modules; `forward` stays whose it is."""

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        self.counts = [0] * len(modules)
        self._handles = [
            m.register_forward_pre_hook(lambda *_, i=i: self._count(i)) for i, m in enumerate(modules)
        ]

    def _count(self, i: int) -> None:
        self.counts[i] += 1

    def stop(self) -> list[int]:
        """Take the hooks off; how often each module ran."""
        for handle in self._handles:
            handle.remove()
        return self.counts


def branches(shape: Shape) -> int:
    """Calls of the denoiser per evaluation in the shape's usual guidance."""
    return 2 if shape.name == "wan" else 1


def compares(shape: Shape, prepare: Prepare, late: bool = False, **over: Any) -> Any:
    """The three promises, for a pipeline that `prepare` did something to; returns the pipe, dcache off again.

    Args:
        shape: the pipeline's family.
        prepare: what the pipeline has to get along with.
        late: whether `prepare` comes after dcache was enabled (and ran) rather than before.
        **over: arguments of the pipeline call.
    """
    # Where a pipeline ran before it was prepared, the plain one does so too.
    twin, pipe = shape.build(), shape.build()
    if late:
        shape.run(twin)
        dcache.enable(pipe, ALWAYS)
        shape.run(pipe)
    for each in (twin, pipe):
        prepare(each)
    plain = shape.run(twin, **over)
    if not late:
        dcache.enable(pipe, ALWAYS)
    assert torch.equal(shape.run(pipe, **over), plain)
    stats = dcache.stats(pipe)
    assert (stats.steps, stats.predicted) == (STEPS, 0)
    assert stats.computed == STEPS * branches(shape)
    predicts(shape, pipe, plain, **over)
    dcache.disable(pipe)
    assert anatomy(shape, pipe) == anatomy(shape, twin)
    assert torch.equal(shape.run(pipe, **over), plain)
    return pipe


def predicts(shape: Shape, pipe: Any, plain: torch.Tensor, **over: Any) -> torch.Tensor:
    """Caching is enabled on the pipe and does its work there, the same in every run; returns the latents."""
    dcache.enable(pipe, EVERY_2)
    first = shape.run(pipe, **over)
    seen = Runs(skippable(shape, pipe))
    again = shape.run(pipe, **over)
    counts = seen.stop()
    # Steps 0, 2, 4, 6 of seven are computed; the modules run there and nowhere else.
    assert counts == [4 * branches(shape)] * len(counts)
    stats = dcache.stats(pipe)
    assert (stats.computed, stats.predicted) == (4 * branches(shape), 3 * branches(shape))
    assert torch.equal(again, first)
    assert again.isfinite().all()
    assert not torch.equal(again, plain)
    # Near enough that it is this picture: the error is a fraction of what the picture has.
    assert (again - plain).norm() < 0.5 * plain.norm()
    return again
