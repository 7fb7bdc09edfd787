"""Features of several processes are put together, and one of them speaks for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from dcache import DcacheError
from dcache.observation.tuning import shared


class Ranks:
    """This process and others, whose values are given."""

    def __init__(self, others: list[Any], rank: int = 0) -> None:
        self.others, self.rank = others, rank

    def gathered(self, value: Any) -> list[Any]:
        return [*self.others[: self.rank], value, *self.others[self.rank :]]


class Watch:
    def __init__(self, seen: Any) -> None:
        self.seen = seen

    def features(self, steps: int) -> Any:
        if isinstance(self.seen, str):
            raise DcacheError(self.seen)
        return self.seen


def features(value: float) -> tuple[int, dict[str, Any]]:
    return 1, {"0": np.full((3, 2), value), "1": np.full((3, 2, 4), value)}


def of(ranks: Ranks | None, seen: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(shared, "ranks_of", lambda module: ranks)
    return shared.features_of_all(nn.Linear(1, 1), Watch(seen), 4)  # type: ignore[arg-type]


def test_samples_of_all_lie_behind_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of(None, features(1.0), monkeypatch)[1]["0"].shape == (3, 2)
    first, every = of(Ranks([features(2.0)]), features(1.0), monkeypatch)
    assert first == 1
    assert every["0"].tolist() == [[1.0, 1.0, 2.0, 2.0]] * 3
    assert every["1"].shape == (3, 2, 8)


@pytest.mark.parametrize("mine", ["NaN in mine", features(1.0)], ids=["mine", "theirs"])
def test_what_one_cannot_plan_from_none_can(mine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = features(2.0) if isinstance(mine, str) else "NaN in theirs"
    with pytest.raises(DcacheError, match="NaN in"):
        of(Ranks([other]), mine, monkeypatch)


def test_the_first_speaks_for_all_and_keeps_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(1, 1)
    for ranks, value, keeps in (
        (None, "mine", True),
        (Ranks([None]), "mine", True),
        (Ranks(["first"], 1), "first", False),
    ):
        monkeypatch.setattr(shared, "ranks_of", lambda _, ranks=ranks: ranks)
        assert shared.of_first_rank(module, "mine") == value
        assert shared.keeps_files(module) is keeps
