"""Blocks that double their input: computed and predicted outputs are integers worked out by hand."""

import pytest
import torch
from torch import nn

import dcache
from dcache import methods
from dcache.sites.blocks import SUBLAYERS
from tests.engine.tiny_models import Double, Toy, integers, walk

TIMES = [4, 3, 2, 1]


# x = 1, so h = t + 1 enters three doubling blocks: 8h = 40, 32, 24, 16 uncached. Interval 2 computes t = 4
# and t = 2. trunk value: the 8h of the anchor; delta: h + (8h - h of the anchor) = 4 + 35 and 2 + 21.
# run:1-2 value: the anchor's output; delta: 2h + (8h - 2h of the anchor) = 8 + 30 and 4 + 18. block:1
# value: 2 x the anchor's 4h; delta: 2 x (2h + 2h of the anchor) = 2 (8 + 10) and 2 (4 + 6). model: the
# entry is x, which does not change, so both remember the anchor's output.
@pytest.mark.parametrize(
    ("sites", "codec", "expected"),
    [
        ("trunk", "value", [40, 40, 24, 24]),
        ("trunk", "delta", [40, 39, 24, 23]),
        ("run:1-2", "value", [40, 40, 24, 24]),
        ("run:1-2", "delta", [40, 38, 24, 22]),
        ("block:1", "value", [40, 40, 24, 24]),
        ("block:1", "delta", [40, 36, 24, 20]),
        ("block", "value", [40, 40, 24, 24]),
        ("model", "value", [40, 40, 24, 24]),
        ("model", "delta", [40, 40, 24, 24]),
    ],
)
@pytest.mark.parametrize("lowering", ["auto", "replay"])
def test_every_site_gives_the_integers_worked_out_by_hand(
    sites: str, codec: str, expected: list[int], lowering: str
) -> None:
    toy = Toy()
    dcache.enable(toy, methods.interval(interval=2, sites=sites, codec=codec), lowering=lowering)
    assert integers(walk(toy, TIMES)) == expected
    events = 3 if sites == "block" else 1
    stats = dcache.stats(toy)
    assert (stats.steps, stats.computed, stats.predicted) == (4, 2 * events, 2 * events)
    dcache.disable(toy)
    assert integers(walk(toy, TIMES)) == [40, 32, 24, 16]


def test_a_predicted_step_runs_no_block_and_a_computed_one_each_once_beside_the_self_check() -> None:
    toy = Toy()
    dcache.enable(toy, "interval", interval=2)
    walk(toy, TIMES[:1])
    first = [b.runs for b in toy.blocks]
    walk(toy, TIMES[1:2])
    assert [b.runs for b in toy.blocks] == first == [1, 1, 1]
    walk(toy, TIMES[2:])
    assert [b.runs for b in toy.blocks] == [2, 2, 2]


# One block x -> x * x on h = t: 16 and 9 are computed, a line through them gives 2 and -5 at t = 2 and 1.
# The deltas 12 and 6 give 0 and -6, plus the fresh t: 2 and -5 again, as they must, for the entry itself is
# a line.
@pytest.mark.parametrize("codec", ["value", "delta"])
def test_order_one_on_the_timestep_is_the_line_through_two_anchors(codec: str) -> None:
    class Square(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x

    toy = Toy([Square()])
    dcache.enable(
        toy, methods.newton(interval=9, order=1, warmup=2, codec=codec, clock="timestep", last=False)
    )
    outputs = walk(toy, TIMES, torch.zeros(1, 2, 4))
    assert integers(outputs) == pytest.approx([16, 9, 2, -5])


# Block: x + mlp(x) with a doubling mlp, so h -> 3h. Predicted: h + 2 x the anchor's h, with the outer sum
# kept fresh.
def test_a_predicted_sublayer_keeps_the_residual_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    class ToyBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ff = Double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.ff(x)

    monkeypatch.setitem(SUBLAYERS, "tests.ToyBlock", {"mlp": ("ff",)})
    toy = Toy([ToyBlock()])
    dcache.enable(toy, methods.interval(interval=2, sites="mlp"))
    assert integers(walk(toy, TIMES)) == [15, 4 + 10, 9, 2 + 6]


def test_an_unpredicted_front_block_stays_fresh_under_first_block_cache() -> None:
    # Probe = h (2h - h). Relative change from t = 4 to 3 is 1/5, so a threshold of 0.3 predicts once; 5 ->
    # 3 is 0.4.
    toy = Toy()
    dcache.enable(toy, methods.fbcache(threshold=0.3))
    # delta behind block 0: 2h + 30 with h = 4; then h = 3 computes; then 2h + 18 with h = 2 (change 1/3:
    # computes).
    assert integers(walk(toy, TIMES)) == [40, 38, 24, 16]
    assert dcache.stats(toy).reasons == {"no_history": 1, "threshold": 2}


def test_two_inputs_have_two_histories() -> None:
    toy = Toy()
    dcache.enable(toy, methods.interval(interval=2, codec="value"))
    a, b = torch.ones(1, 2, 4), torch.full((1, 2, 4), 2.0)
    with torch.no_grad():
        seen = [integers([toy(a, t), toy(b, t)]) for t in TIMES]
    assert seen == [[40, 48], [40, 48], [24, 32], [24, 32]]
