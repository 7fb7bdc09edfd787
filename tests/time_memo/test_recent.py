"""A dictionary of bounded size."""

from __future__ import annotations

from dcache.time_memo.recent import Recent


def test_the_oldest_keys_make_way() -> None:
    recent = Recent[int, int](3)
    for key in range(5):
        recent[key] = key
    recent[2] = 7
    assert recent == {2: 7, 3: 3, 4: 4}
