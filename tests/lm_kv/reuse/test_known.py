import gc
import weakref

import pytest
from transformers import LlamaConfig

from dcache import DcacheError, lm_kv
from dcache.lm_kv.model.families import decoder_of
from dcache.lm_kv.reuse.known import known_of
from tests.lm_kv.language_models import family, language_model, llama, rope
from tests.lm_kv.reuse.common import PARTS, usual


def test_layers_rotations_and_logits_are_found_once():
    known = known_of(decoder_of(usual()))
    assert known.layers == [0, 1, 2]
    assert [logits.scaling for logits in known.logits.values()] == [0.25] * 3
    assert known_of(decoder_of(usual())) is known


def test_positions_that_are_no_rotation_are_refused():
    chunk = lm_kv.encode(family("gpt2"), PARTS[0])
    with pytest.raises(DcacheError, match=r"GPT2Model cannot stand at other places.*Run the whole text"):
        lm_kv.join(family("gpt2"), [chunk], lm_kv.pie())
    model = language_model(LlamaConfig(**rope("dynamic", factor=2.0)))
    with pytest.raises(DcacheError, match="frequencies are fixed; this model's type is 'dynamic'"):
        lm_kv.join(model, [PARTS[0]], lm_kv.pie())


def test_models_are_not_kept_alive():
    model = llama(1)
    lm_kv.join(model, [lm_kv.encode(model, PARTS[0])], lm_kv.pie())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
