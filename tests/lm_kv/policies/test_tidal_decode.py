import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.layers.places import choosers_of
from tests.lm_kv.language_models import batch, check_a_padded_row_is_as_alone, generate, llama, prefilled
from tests.lm_kv.policies.common import check_a_part_is_read

NEW = {"input_ids": torch.tensor([[6]]), "position_ids": torch.tensor([[40]])}


def test_all_tokens_are_kept_and_a_part_is_read():
    check_a_part_is_read(lm_kv.tidal_decode(window=4))


@torch.no_grad()
@pytest.mark.parametrize(("chooser", "again", "readers"), [(0, 0, (1, 2)), (0, 1, (2,)), (1, 1, (2,))])
def test_layers_read_what_the_last_layer_that_chose_attended_to(chooser, again, readers):
    model, inputs = llama(3), {name: tensor[1:] for name, tensor in batch().items()}
    policy = lm_kv.tidal_decode(start=chooser, again=again, window=0)
    cache = prefilled(model, policy, inputs, budget=11)
    logits = model(**NEW, past_key_values=cache).logits
    eager = llama(3, attention="eager")
    text = torch.cat([inputs["input_ids"], NEW["input_ids"]], 1)
    weights = eager(text, output_attentions=True, use_cache=False).attentions[again][0, :, -1, :40]
    mask = torch.zeros(1, 4, 41, 41).masked_fill(~torch.ones(41, 41, dtype=torch.bool).tril(), float("-inf"))
    for head in range(2):
        # Ten beside the new token, which is one of the eleven.
        best = weights[2 * head : 2 * head + 2].mean(0).topk(10).indices
        others = torch.ones(41, dtype=torch.bool)
        others[best] = others[40] = False
        mask[0, 2 * head : 2 * head + 2, 40, others] = float("-inf")
    for layer in readers:
        eager.model.layers[layer].register_forward_pre_hook(
            lambda _module, args, kwargs: (args, {**kwargs, "attention_mask": mask}), with_kwargs=True
        )
    expected = eager(text, use_cache=False).logits[:, -1:]
    torch.testing.assert_close(logits, expected, atol=1.5e-5, rtol=0)
    # Layers that choose, and those before them, read all 41.
    assert cache.stats().read == pytest.approx([(41 * (3 - len(readers)) + 11 * len(readers)) / 3])


def test_shares_of_the_depth_are_the_published_layers():
    layers = range(32)
    assert choosers_of(lm_kv.tidal_decode(), layers, dict.fromkeys(layers, 0)) == {2, 13}
    # Of layers with other kinds between them, places are counted among those with full attention.
    assert choosers_of(lm_kv.tidal_decode(start=1, again=2), (3, 7, 11, 15), {11: 0, 15: 1}) == {7, 11}


def test_a_padded_row_equals_its_single_run():
    policy = lm_kv.tidal_decode(start=1, again=1, window=4, every=4)
    both, caches = check_a_padded_row_is_as_alone(llama(), batch(), policy, budget=0.4)
    _, full = generate(llama(), batch(), None)
    assert (both - full).abs().max() > 0.1
    # Two layers read all 38 and 51 tokens, one 15 and 20 of them.
    assert caches[0].stats().read == pytest.approx([(2 * 38 + 15) / 3, (2 * 51 + 20) / 3])


def test_layers_that_leave_nothing_to_choose_for_are_refused():
    model = llama(3)
    with pytest.raises(DcacheError, match="no layer is left to read what layer 2 chooses"):
        lm_kv.KVCache(model, lm_kv.tidal_decode(start=2, again=2), budget=8)
    with pytest.raises(DcacheError, match="layer 13 cannot choose: of 3 layers"):
        lm_kv.KVCache(model, lm_kv.tidal_decode(again=13), budget=8)
    for wrong in (1.5, -1, "x"):
        with pytest.raises(DcacheError, match="must be a place from 0 on"):
            lm_kv.tidal_decode(start=wrong)


def test_layers_that_choose_go_with_their_selector():
    with pytest.raises(DcacheError, match="give the policy both or neither"):
        lm_kv.Policy(scorer=lm_kv.quest().scorer, selector=lm_kv.quest().selector, choosing=(1,))
