import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.scoring.observers import Observed
from dcache.lm_kv.scoring.sentences import Sentences, SentenceWindow, ends_of


def call(values: list[float], ids: list[int] | None, start: int = 0, valid: list[int] | None = None):
    query = torch.tensor(values).view(1, 1, -1, 1)
    there = torch.tensor([valid or [1] * len(values)]).bool()
    positions = start + (there.long().cumsum(1) - 1).clamp_min(0)
    given = None if ids is None else torch.tensor([ids])
    return Observed(query, there, positions, query.clone, None, given, columns=int(positions.max()) + 1)


def test_queries_are_summed_until_a_sentence_ends():
    observer = SentenceWindow(2, (7,))
    state = observer.observe({}, call([1.0, 2.0, 3.0], [7, 5, 7], valid=[0, 1, 1]))
    # The pad's id ends nothing, and a prompt is not summed.
    assert state["ends"].tolist() == [[False, True]]
    assert (state["sum"].item(), state["count"].item()) == (0, 0)
    for position, (value, token) in enumerate(((4.0, 5), (6.0, 5)), 2):
        state = observer.observe(state, call([value], [token], position))
    assert (state["sum"].item(), state["count"].item()) == (10, 2)
    # The new token is of the sentence too.
    assert Sentences(9).asks(torch.full((1, 1, 1, 1), 2.0), state).item() == 4
    state = observer.observe(state, call([9.0], [7], 4))
    assert state["ends"].tolist() == [[False, True, False, False, True]]
    assert (state["sum"].item(), state["count"].item()) == (0, 0)
    assert state["query"].flatten().tolist() == [6, 9]


def test_what_is_taken_back_ends_no_sentence():
    observer = SentenceWindow(2, (7,))
    state = observer.observe({}, call([1.0, 2.0], [5, 7]))
    state = observer.crop(observer.observe(state, call([4.0], [5], 2)), torch.tensor([1]))
    assert state["ends"].tolist() == [[False, False, False]]
    assert (state["sum"].item(), state["count"].item()) == (0, 0)
    assert observer.crop({}, torch.tensor([1])) == {}


def test_ids_are_read_where_a_token_ends_a_sentence():
    assert SentenceWindow(2, (7,)).reads_ids
    assert not SentenceWindow(2).reads_ids
    assert "ends" not in SentenceWindow(2).observe({}, call([1.0], None))
    with pytest.raises(DcacheError, match="reads the ids"):
        SentenceWindow(2, (7,)).observe({}, call([1.0], None))


def test_means_and_sizes_are_those_of_the_kept_tokens_of_each_sentence():
    # Sentences are tokens 0 to 1, 2 to 6 (cut after four) and 7; the head lost tokens 1, 3 and 5.
    ends = torch.tensor([[0, 1, 0, 0, 0, 0, 1, 0]]).bool()
    state = {"ends": ends, "count": torch.tensor([0]), "places": torch.tensor([[[0, 2, 4, 6, 7, 0]]])}
    keys = torch.tensor([1.0, 2.0, 4.0, 6.0, 8.0, 99.0]).view(1, 1, 6, 1)
    valid = torch.tensor([[[1, 1, 1, 1, 1, 0]]]).bool()
    index = Sentences(4).index(keys, valid, state)
    assert index["sizes"].tolist() == [[[1, 2, 1, 1]]]
    assert index["means"].flatten().tolist() == [1, 3, 6, 8]
    assert Sentences(4).products(torch.tensor([[[[2.0]]]]), index).flatten().tolist() == [2, 6, 12, 16]
    # Without ends each four tokens are one.
    del state["ends"]
    assert Sentences(4).index(keys, valid, state)["sizes"].tolist() == [[[2, 3]]]


def test_ids_come_from_a_tokenizer_or_as_they_are():
    class Tokenizer:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return {".": [3], "!": [9], "\n\n": [4, 4]}.get(text, [8, 8])

    assert ends_of(Tokenizer()) == (3, 9)
    assert ends_of([5, 2]) == (2, 5)
    assert ends_of(None) == ()
    Tokenizer.encode = lambda self, text, add_special_tokens: [1, 2]
    with pytest.raises(DcacheError, match="no token for the end of a sentence"):
        ends_of(Tokenizer())


@pytest.mark.parametrize("ends", [(), "x", 3, [0.5]], ids=repr)
def test_ends_of_another_kind_are_refused(ends):
    with pytest.raises(DcacheError, match="ends must be ids of tokens"):
        ends_of(ends)
