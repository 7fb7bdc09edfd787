import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.scoring.heads import HeadClasses
from dcache.lm_kv.storage.stored import Stored
from tests.lm_kv.scoring.test_scorers import context


def tokens(keys):
    keys = torch.tensor(keys)[None, ..., None]
    positions = torch.arange(keys.shape[2]).expand(1, keys.shape[1], -1)
    return Stored(keys, keys, positions, torch.ones(keys.shape[:3], dtype=torch.bool))


def test_heads_come_before_positions_and_newer_before_older():
    score = HeadClasses(pattern=((0.2, 0.7),)).score(tokens([[0.0] * 4, [0.0] * 4]), context(4))
    assert score[0, 1].min() > score[0, 0].max()
    assert (score.diff(dim=-1) > 0).all()


def test_newer_tokens_come_first_in_long_texts_too():
    long = tokens([[0.0] * 100_000])
    score = HeadClasses(pattern=((1.0,),)).score(long, context(100_000))
    assert (score.diff(dim=-1) > 0).all()


def test_an_estimate_is_the_attention_to_what_lies_far_back():
    # Ten tokens: two are the fifth before the query at 9, so positions 1 to 7 are far; the first is a sink.
    near, far = [0.0] * 9 + [50.0], [0.0] * 4 + [50.0] + [0.0] * 5
    query = torch.ones(1, 2, 1, 1)
    state = {"query": query, "position": torch.tensor([[9]]), "valid": torch.ones(1, 1, dtype=torch.bool)}
    even = HeadClasses(sinks=1).score(tokens([[0.0] * 10, far]), context(10, state)).floor()
    assert even[0, :, 0].tolist() == [int(1024 * 7 / 10), 1024]
    score = HeadClasses(sinks=1).score(tokens([near, far]), context(10, state)).floor()
    assert score[0, :, 0].tolist() == [0, 1024]


@pytest.mark.parametrize("pattern", [(), ((0.5,),), ((0.5, 0.5, 0.5),)])
def test_a_pattern_of_another_model_is_refused(pattern):
    with pytest.raises(DcacheError, match=r"pattern must have 2 numbers for layer 0.*lm_kv.head_pattern"):
        HeadClasses(pattern).score(tokens([[0.0], [0.0]]), context(1))
