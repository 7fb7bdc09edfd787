import torch

from dcache import lm_kv
from tests.lm_kv.reuse.common import NEW, PARTS, behind, chunks, close, usual, whole


def test_a_model_of_one_layer_is_exact():
    model = usual(1)
    parts = [chunks(1)[0], NEW, chunks(1)[2]]
    joined = lm_kv.join(model, parts, "pie")
    close(behind(model, joined), whole(model, PARTS[0], NEW, PARTS[2]))
    assert joined.tokens[0].nonzero()[:, 0].tolist() == [*range(9, 16)]
    assert joined.computed == (7 / 27,)


def test_values_behind_new_text_stay_and_keys_are_turned():
    joined = lm_kv.join(usual(), [chunks()[0], NEW, chunks()[2]], lm_kv.pie()).cache
    once = lm_kv.join(usual(), [PARTS[1][:, :16], chunks()[2]], lm_kv.pie()).cache
    for layer, chunk in zip(joined.layers, range(3), strict=True):
        assert torch.equal(layer.store.tail.values[:, :, 16:], chunks()[2].states.values[chunk])
    # 16 places at once, or 14 of an earlier text and 2 more by an edit.
    moved = lm_kv.edit(usual(), once, 0, 0, NEW[:, :2])
    for layer, other in zip(joined.layers, moved.layers, strict=True):
        close(other.store.tail.keys[:, :, 16:], layer.store.tail.keys[:, :, 16:])


def test_new_text_at_the_end_is_exact():
    joined = lm_kv.join(usual(), [chunks()[0], NEW], lm_kv.pie())
    close(behind(usual(), joined), whole(usual(), PARTS[0], NEW))
