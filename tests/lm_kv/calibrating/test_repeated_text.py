import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.calibrating.repeated_text import head_pattern
from tests.lm_kv.language_models import family, llama


@torch.no_grad()
def test_a_pattern_is_read_off_the_attention_matrix():
    tokens = 12
    pattern = head_pattern(llama(2), tokens, seed=3)
    ids = torch.randint(97, (1, tokens), generator=torch.Generator().manual_seed(3)).repeat(1, 2)
    eager = llama(2, attention="eager")
    for layer, weights in enumerate(eager(ids, output_attentions=True, use_cache=False).attentions):
        second = weights[0, :, tokens:]
        echo = second.diagonal(0, 1, 2).mean(1)
        induction = second.diagonal(1, 1, 2)[:, :tokens].mean(1)
        expected = torch.maximum(echo, induction).unflatten(0, (2, 2)).amax(1)
        torch.testing.assert_close(torch.tensor(pattern[layer]), expected, atol=1e-6, rtol=1e-5)


def test_layers_of_the_librarys_have_no_heads():
    assert [len(heads) for heads in head_pattern(family("gemma2"), 4)] == [0, 2, 0]


def test_it_is_part_of_the_front_door_and_checks_its_input():
    assert lm_kv.head_pattern is head_pattern
    with pytest.raises(DcacheError, match="tokens must be a whole number of at least 2"):
        lm_kv.head_pattern(llama(1), 1)
