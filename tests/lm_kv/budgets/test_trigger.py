import pytest

from dcache.lm_kv.budgets.trigger import due, due_at_crop


@pytest.mark.parametrize(
    ("new", "since", "every", "expected"),
    [(40, 40, 0, True), (1, 500, 0, False), (1, 7, 8, False), (1, 8, 8, True), (2, 2, 8, True)],
)
def test_after_prompts_and_every_so_many_tokens(new, since, every, expected):
    assert due(new, since, every, recording=False) is expected


def test_never_while_calls_may_be_taken_back():
    assert not due(40, 40, 1, recording=True)


@pytest.mark.parametrize(
    ("evictions", "since", "every", "expected"),
    [(0, 40, 0, True), (1, 40, 0, False), (1, 3, 4, False), (1, 4, 4, True)],
)
def test_at_a_crop_after_the_prompt_and_then_every(evictions, since, every, expected):
    assert due_at_crop(evictions, since, every) is expected
