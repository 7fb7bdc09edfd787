"""One timed module: computed, compared, then answered from its table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import dcache
from dcache import DcacheWarning
from tests.time_memo.nets import TIMED, draw, net, walk


class Calls:
    """Counts the forwards of modules."""

    def __init__(self, model: torch.nn.Module, names: list[str]) -> None:
        self.count = dict.fromkeys(names, 0)
        for name, part in model.named_modules():
            if name in names:
                part.forward = self._counted(name, part.forward)

    def _counted(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self.count[name] += 1
            return forward(*args)

        return counted


def test_each_output_is_computed_twice_and_never_again() -> None:
    model = dcache.memo(net())
    calls = Calls(model, TIMED)
    expected = walk(net())
    per_run = []
    for _ in range(4):
        before = dict(calls.count)
        assert torch.equal(walk(model), expected)
        per_run.append(calls.count["time_embed"] - before["time_embed"])
    # The first call of the first run is observed, so its timestep is kept in the second run.
    assert per_run == [3, 3, 1, 0]
    report = dcache.memo_report(model)
    assert (report.fills, report.checks, report.hits) == (3 * 3, 3 * 3, 4 * 3 * 3 - 3 - 9 - 9)


def test_another_timestep_is_computed() -> None:
    model = dcache.memo(net())
    for times in ((900.0, 500.0), (900.0, 500.0), (900.0, 501.0), (899.0, 500.0)):
        assert torch.equal(walk(model, times), walk(net(), times))


def test_a_module_that_hides_a_dependence_is_dropped_aloud() -> None:
    model = net()
    inner, seen = model.blocks[0].linear.forward, []
    model.register_forward_pre_hook(lambda _m, args: seen.append(float(args[0].sum())))
    model.blocks[0].linear.forward = lambda x: inner(x) + seen[-1]  # type: ignore[method-assign]
    plain = walk(model)
    dcache.memo(model)
    walk(model)
    # The same timesteps with another sample.
    with pytest.warns(DcacheWarning, match=r"blocks\.0\.linear is computed always"):
        walk(model, seed=2)
    assert set(dcache.memo_report(model).dropped) == {"blocks.0.linear"}
    assert torch.equal(walk(model), plain)


def test_a_module_called_outside_of_the_denoiser_is_computed() -> None:
    model = dcache.memo(net(), offload="cpu")
    for _ in range(4):
        walk(model)
    assert dcache.memo_report(model).bytes_away > 0
    with torch.no_grad():
        assert torch.equal(model.time_embed(draw(0, 1, 1)), net().time_embed(draw(0, 1, 1)))


def test_gradients_are_recorded_through_what_is_timed() -> None:
    model = dcache.memo(net())
    for _ in range(3):
        walk(model)
    model.requires_grad_(True)
    model(draw(0, 2, 8), torch.tensor([900.0])).sum().backward()
    assert model.time_embed[0].weight.grad is not None
