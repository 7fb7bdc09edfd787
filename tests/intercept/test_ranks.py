"""What ranks agree on, with a group that answers from a list instead of other processes."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed, nn

from dcache import DcacheError
from dcache.intercept.ranks import Ranks, ranks_of
from dcache.kernels.changes import changes


class Group:
    """Two ranks; the other one's part of each collective is given."""

    def __init__(self, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.other = other
        monkeypatch.setattr(distributed, "get_world_size", lambda group: 2)
        monkeypatch.setattr(distributed, "get_rank", lambda group: 0)
        monkeypatch.setattr(distributed, "get_backend", lambda group: "gloo")
        monkeypatch.setattr(distributed, "all_reduce", self.reduce)
        monkeypatch.setattr(distributed, "all_gather_object", self.gather)

    def reduce(self, values: torch.Tensor, operation: Any, group: Any) -> None:
        both = torch.stack([values, torch.tensor(self.other, dtype=values.dtype)])
        values.copy_(both.sum(0) if operation == distributed.ReduceOp.SUM else both.amax(0))

    def gather(self, values: list[Any], value: Any, group: Any) -> None:
        values[:] = [value, self.other]


def test_the_change_of_all_tokens_is_a_ratio_of_their_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    now, then = torch.tensor([1.0, 2.0, 3.0, 8.0]), torch.ones(4)
    whole = changes(now, then, ("distance", "length")).relative()
    rest = changes(now[2:], then[2:], ("distance", "length"))
    group = Group([float(rest["distance"]), float(rest["length"])], monkeypatch)
    part = changes(now[:2], then[:2], ("distance", "length"))
    assert float(part.relative()) != float(whole)
    assert float(Ranks(group).total(part).relative()) == float(whole) == 2.5


@pytest.mark.parametrize(
    ("mine", "other", "agreed"),
    [(0.5, 0.25, 0.5), (0.25, 0.5, 0.5), (0.5, math.inf, math.inf), (math.inf, 0.0, math.inf)],
)
def test_the_largest_change_counts(
    mine: float, other: float, agreed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Ranks(Group([0.0, other], monkeypatch)).agreed(mine) == agreed


def test_no_number_on_one_rank_is_none_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert math.isnan(Ranks(Group([1.0, 0.0], monkeypatch)).agreed(0.5))
    assert math.isnan(Ranks(Group([0.0, 0.5], monkeypatch)).agreed(math.nan))


def test_objects_come_in_the_order_of_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ranks(Group("theirs", monkeypatch)).gathered("mine") == ["mine", "theirs"]


def test_a_rank_that_is_gone_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group([0.0, 0.0], monkeypatch)

    def fails(*_: Any) -> None:
        raise RuntimeError("Connection closed by peer\nat some place")

    monkeypatch.setattr(distributed, "all_reduce", fails)
    with pytest.raises(DcacheError, match=r"rank 0 of 2 .*Connection closed by peer\).*first error"):
        Ranks(group).agreed(0.5)


def test_a_denoiser_has_ranks_where_its_tokens_are_split() -> None:
    model = nn.Linear(1, 1)
    assert ranks_of(model) is None
    model._parallel_config = None
    assert ranks_of(model) is None
    for size, expected in ((1, None), (2, Ranks("group"))):
        mesh = SimpleNamespace(size=lambda size=size: size, get_group=lambda: "group")
        config = SimpleNamespace(context_parallel_config=SimpleNamespace(_flattened_mesh=mesh))
        model._parallel_config = config
        assert ranks_of(model) == expected
    # Split weights give every rank all tokens.
    model._parallel_config = SimpleNamespace(context_parallel_config=None)
    assert ranks_of(model) is None
