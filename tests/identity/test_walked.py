"""What a pipeline's loop goes through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dcache.identity.walked import Walked, entries_in


def test_a_walked_table_is_as_the_table_and_says_when_a_loop_is_behind_it() -> None:
    ended: list[str] = []
    table = torch.tensor([9.0, 5.0, 1.0])
    walked = Walked(table, lambda: ended.append("over"))
    assert (len(walked), float(walked[1]), walked.dtype) == (3, 5.0, torch.float32)
    seen = []
    for i, value in enumerate(walked):
        assert not ended
        seen.append((i, float(value)))
    assert seen == [(0, 9.0), (1, 5.0), (2, 1.0)]
    assert ended == ["over"]
    # A loop that is broken off says nothing.
    for _ in walked:
        break
    assert ended == ["over"]


@pytest.mark.parametrize(
    ("part", "entries"),
    [
        (torch.tensor([9.0, 5.0, 1.0]), 3),
        (torch.tensor([9.0, 5.0]), 2),
        (torch.tensor([5, 1]), 2),
        ([torch.tensor(5.0), torch.tensor(1.0)], 2),
        (np.array([9.0, 5.0]), 2),
        ((5.0,), 1),
        # Neither a part of it, nor one of numbers.
        (torch.tensor([9.0, 1.0]), None),
        (torch.tensor([9.0, 5.0, 1.0, 0.0]), None),
        (torch.tensor([[9.0, 5.0]]), None),
        ([], None),
        (range(3), None),
        (["9", "5"], None),
        (None, None),
    ],
)
def test_a_part_of_a_table_has_so_many_entries(part: Any, entries: int | None) -> None:
    assert entries_in(part, torch.tensor([9.0, 5.0, 1.0])) == entries
    if part is not None:
        assert entries_in(part, None) is None
