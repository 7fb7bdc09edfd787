import pytest
import torch
from transformers import LlamaConfig, SmolLM3Config

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import GROUPED, YARN, family, language_model, llama
from tests.lm_kv.reuse.common import PARTS, chunks, close


def states(model):
    """Keys and values of the first layer: of the parts joined, and of the text computed as one."""
    parts = [lm_kv.encode(model, part) for part in PARTS]
    joined = lm_kv.join(model, parts, lm_kv.pie()).cache.layers
    return joined, lm_kv.encode(model, torch.cat(PARTS, 1)).states


FAMILIES = {
    "yarn": lambda: language_model(LlamaConfig(**YARN)),
    "part of the channels": lambda: family("phi"),
    # Its fourth layer does not rotate.
    "NoPE": lambda: language_model(SmolLM3Config(**{**GROUPED, "num_hidden_layers": 4})),
}


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_keys_of_the_first_layer_are_turned_to_their_places(name):
    joined, right = states(FAMILIES[name]())
    torch.testing.assert_close(joined[0].store.tail.keys, right.keys[0], atol=1e-4, rtol=0)
    close(joined[0].store.tail.values, right.values[0])
    # The first chunk stands where it was computed, in all layers.
    for layer, cached in enumerate(joined):
        close(cached.store.tail.keys[:, :, :9], right.keys[layer][:, :, :9])


def test_a_chunk_of_another_model_is_refused():
    with pytest.raises(DcacheError, match=r"a chunk is of a model with num_hidden_layers 3.*encode the text"):
        lm_kv.join(llama(2), chunks(), lm_kv.pie())
