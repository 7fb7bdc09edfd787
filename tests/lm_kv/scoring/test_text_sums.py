import torch

from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.scoring.observers import Observed
from dcache.lm_kv.scoring.scorers import Context
from dcache.lm_kv.scoring.text_sums import (
    AnchorsOfThePrompt,
    GlobalAndLocal,
    MarkedSums,
    TextFirst,
    is_marked,
)
from dcache.lm_kv.storage.stored import Stored
from tests.lm_kv.scoring.test_scorers import context, stored, window


def call(positions: list[int], valid: list[int], marked: list[int] | None = None) -> Observed:
    query = torch.zeros(1, 1, len(positions), 1)
    marks = None if marked is None else torch.tensor([marked]).bool()
    there, places = torch.tensor([valid]).bool(), torch.tensor([positions])
    return Observed(query, there, places, query.clone, marks, columns=max(positions) + 1)


def test_marks_lie_at_true_positions_and_a_prompt_has_an_end():
    observer = MarkedSums()
    # Two pads, of which one is marked, then tokens 0 to 2.
    state = observer.observe({}, call([0, 0, 0, 1, 2], [0, 0, 1, 1, 1], [1, 0, 0, 1, 0]))
    assert state["prompt"].tolist() == [3]
    assert state["marked"].tolist() == [[False, True, False]]
    state = observer.observe(state, call([3], [1]))
    assert state["prompt"].tolist() == [3]
    state = observer.observe(state, call([4, 5], [1, 1], [0, 1]))
    assert state["prompt"].tolist() == [6]
    assert is_marked(stored([[1.0]] * 7), state)[0, 0].tolist() == [0, 1, 0, 0, 0, 1, 0]


def test_what_is_taken_back_is_neither_marked_nor_of_the_prompt():
    observer = MarkedSums()
    state = observer.observe({}, call([0, 1, 2], [1, 1, 1], [0, 1, 1]))
    state = observer.crop(state, torch.tensor([2]))
    assert state["prompt"].tolist() == [2]
    assert state["marked"].tolist() == [[False, True, False]]
    assert observer.crop({}, torch.tensor([2])) == {}


def test_text_comes_before_images():
    tokens = stored([[1.0]] * 4, score=[1.0, 5.0, 2.0, 3.0])
    marked = {"marked": torch.tensor([[True, True, False]])}
    assert TextFirst().score(tokens, context(4, marked)).tolist() == [[[1, 5, 7, 8]]]
    assert TextFirst().score(tokens, context(4)).tolist() == [[[6, 10, 7, 8]]]


def test_text_keeps_its_order_beside_a_token_with_nearly_all_attention():
    tokens = stored([[1.0]] * 3, score=[1e5, 1e-3, 2e-3])
    score = TextFirst().score(tokens, context(3))[0, 0]
    assert score.argsort(descending=True).tolist() == [0, 2, 1]
    assert score[1] < score[2]


def test_the_prompts_tokens_come_before_decoded_ones_of_which_the_oldest_come_first():
    tokens = stored([[1.0]] * 5, score=[0.5, 2.0, 9.0, 9.0, 9.0])
    score = AnchorsOfThePrompt().score(tokens, context(5, {"prompt": torch.tensor([2])}))[0, 0]
    torch.testing.assert_close(score, torch.tensor([1.5, 3.0, 4 / 6, 3 / 6, 2 / 6]))


def test_anchors_are_tokens_and_not_places_where_heads_hold_other_ones():
    keys, valid = torch.ones(1, 2, 2, 1), torch.ones(1, 2, 2, dtype=torch.bool)
    # Token 2 received 6 from one head and 4 from the other; 0 and 1 are held by one head each.
    received = torch.tensor([[[1.0, 6.0], [3.0, 4.0]]])
    tokens = Stored(keys, keys, torch.tensor([[[0, 2], [1, 2]]]), valid, score=received)
    score = AnchorsOfThePrompt().score(tokens, context(3, {"prompt": torch.tensor([3])}))
    torch.testing.assert_close(score, 1 + torch.tensor([[[1.0, 5.0], [3.0, 5.0]]]))


def test_the_larger_share_of_all_and_of_the_last_queries_decides():
    # The last query, at position 3, gives halves to tokens 0 and 1 and nearly nothing to the others.
    tokens = stored([[50.0, 0.0], [50.0, 0.0], [0.0, 1.0], [0.0, 1.0]], score=[2.0, 0.0, 4.0, 2.0])
    state = window([[1.0, 0.0]], [3])
    one = Context(0, state, torch.tensor([4]), Logits(1.0), lambda start, count: torch.eye(2))
    score = GlobalAndLocal().score(tokens, one)[0, 0]
    # Four, three, two queries and one see the tokens: means 0.5, 0, 2 and 2 of 4.5.
    torch.testing.assert_close(score, torch.tensor([0.5, 0.5, 2 / 4.5, 2 / 4.5]))
