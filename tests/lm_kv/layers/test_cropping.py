import pytest
import torch

from dcache import DcacheError
from tests.lm_kv.language_models import batch, family, llama, prefilled


def test_where_one_layer_refuses_none_is_cropped():
    # A dense layer has all columns in its tail, the others have packed them.
    cache = prefilled(llama(3), "keydiff", batch(), budget=0.5, dense_layers=(0,))
    with pytest.raises(DcacheError, match=r"crop\(-39\) reaches into compressed tokens"):
        cache.crop(-39)
    assert [layer.get_seq_length() for layer in cache.layers] == [40, 40, 40]


@torch.no_grad()
@pytest.mark.parametrize("name", ["gemma2", "qwen3_next"])
def test_where_a_layer_of_the_librarys_refuses_none_is_cropped(name):
    model = family(name)
    cache = prefilled(model, "keydiff", batch(), budget=1.0)
    # A window of 16 is full, and recurrent states cannot be taken back.
    with pytest.raises(RuntimeError, match="does not track past states"):
        cache.crop(-2)
    assert {cache.layers[i].get_seq_length() for i in cache.compressed_layers} == {40}


def test_a_positive_number_is_no_length_that_stays():
    cache = prefilled(llama(1), "keydiff", batch(), budget=1.0)
    with pytest.raises(
        DcacheError, match=r"minus the number of columns.*got 30: crop\(-30\) takes the newest 30"
    ):
        cache.crop(30)
    with pytest.raises(DcacheError, match="minus the number of columns"):
        cache.layers[0].crop(1)
    assert cache.get_seq_length() == 40
    cache.crop(0)
    cache.crop(-3)
    assert cache.get_seq_length() == 37
