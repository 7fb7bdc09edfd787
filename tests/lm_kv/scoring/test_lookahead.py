import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.scoring.lookahead import Lookahead, greedy, prompt_lookup
from tests.lm_kv.language_models import llama


def test_the_longest_repeated_end_decides_what_follows():
    ids = torch.tensor([5, 1, 2, 3, 8, 8, 2, 3, 9, 9, 1, 2, 3])
    # 1, 2, 3 came at 1, and 8 behind it; the later 2, 3 at 6 is shorter.
    assert prompt_lookup(ids, 2).tolist() == [8, 8]
    assert prompt_lookup(ids[2:], 2).tolist() == [9, 9]
    # Nothing came before: the last tokens again.
    assert prompt_lookup(torch.arange(9), 3).tolist() == [6, 7, 8]


def test_rows_are_drafted_without_pads_and_short_ones_are_padded():
    read = []

    def draft(ids, tokens):
        read.append(ids.tolist())
        return ids[: len(ids) - 1]

    ids, valid = torch.tensor([[0, 4, 5], [6, 7, 8]]), torch.tensor([[0, 1, 1], [1, 1, 1]]).bool()
    written, there = Lookahead(draft, 2)(ids, valid)
    assert read == [[4, 5], [6, 7, 8]]
    assert written.tolist() == [[4, 0], [6, 7]]
    assert there.tolist() == [[True, False], [True, True]]


def test_a_model_writes_its_likeliest_tokens():
    model, ids = llama(1), torch.arange(5, 25)
    expected = model.generate(ids[None], max_new_tokens=4, do_sample=False)[0, 20:]
    assert torch.equal(greedy(model)(ids, 4), expected)


def test_a_draft_of_something_else_is_refused():
    with pytest.raises(DcacheError, match="a draft must return ids of one text"):
        Lookahead(lambda ids, tokens: ids[None].float(), 2)(torch.ones(1, 3).long(), torch.ones(1, 3).bool())
