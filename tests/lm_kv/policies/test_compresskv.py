import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.scoring import calibration
from tests.lm_kv.language_models import batch, llama, prefilled


@torch.no_grad()
def test_heads_that_do_not_vote_keep_what_others_attend_to():
    model, inputs = llama(1, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    (weights,) = model(inputs["input_ids"], output_attentions=True, use_cache=False).attentions
    policy = lm_kv.compresskv(pattern=((0.2, 0.7),), window=4, pool=1)
    cache = prefilled(model, policy, inputs, budget=12)
    # The second KV head votes with its two query heads.
    expected = weights[0, 2:, -4:, :36].mean((0, 1)).topk(8).indices
    for run in cache.layers[0].store.segments[0].positions.split(8):
        assert set(run.tolist()) == set(expected.tolist())
    both = lm_kv.compresskv(pattern=((0.2, 0.7),), heads=2, window=4, pool=1)
    every = prefilled(model, both, inputs, budget=12)
    mean = weights[0, :, -4:, :36].mean((0, 1)).topk(8).indices
    assert set(every.layers[0].store.segments[0].positions[:8].tolist()) == set(mean.tolist())


def calibrated(model, path):
    """A file that says that the second of three layers matters three times as much as the others."""
    facts = calibration.facts_of(model.model, [0, 1, 2])
    tensors = {f"pattern.{layer}": torch.tensor([0.1, 0.9]) for layer in range(3)}
    tensors["sensitivity"] = torch.tensor([1.0, 3.0, 1.0])
    return calibration.save(path, {"model": "tiny", "facts": facts}, tensors)


def test_layers_get_tokens_by_their_measured_sensitivity(tmp_path):
    model = llama(3)
    path = calibrated(model, tmp_path / "tiny.safetensors")
    policy = lm_kv.compresskv(pattern=path, window=2)
    cache = prefilled(model, policy, batch(), budget=10, floor=0.0)
    assert [int(layer.store.kept()[1, 0]) for layer in cache.layers] == [6, 18, 6]
    loaded = lm_kv.KVCache.load(cache.save(tmp_path / "cache.safetensors"), model)
    assert loaded.policy == cache.policy


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heads": 0}, "heads must be"), ({"window": 0}, "window must be"), ({"pool": 2}, "pool must be odd")],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.compresskv(**options)


def test_a_pattern_of_another_model_is_refused():
    with pytest.raises(DcacheError, match="pattern must have 2 numbers for layer 0"):
        prefilled(llama(1), lm_kv.compresskv(pattern=((0.1, 0.2, 0.3),), window=4), batch(), budget=10)
