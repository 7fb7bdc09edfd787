import json

import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import alone, batch, generate, llama, prefilled

NEW = {"input_ids": torch.tensor([[5], [6]]), "position_ids": torch.tensor([[27], [40]])}


@torch.no_grad()
def step(model, cache):
    return model(**NEW, attention_mask=torch.ones(2, 41), past_key_values=cache).logits


@pytest.mark.parametrize(
    "policy",
    [
        lm_kv.snapkv(window=4, allocation="heads"),
        lm_kv.h2o(),
        lm_kv.razor_attention(),
        lm_kv.quest(page=4, window=2),
    ],
    ids=lambda policy: policy.name,
)
def test_a_coded_cache_goes_on_nearly_as_the_saved_one(policy, tmp_path):
    pytest.importorskip("constriction")
    model = llama()
    cache = prefilled(model, policy, batch(), budget=0.5)
    fine = lm_kv.cachegen(bins=(256, 256, 256), value_bins=(256, 256, 256))
    loaded = lm_kv.KVCache.load(cache.save(tmp_path / "cache.safetensors", codec=fine), model)
    assert loaded.policy == cache.policy
    for one, other in zip(loaded.layers, cache.layers, strict=True):
        near, exact = one.store.stored(), other.store.stored()
        assert torch.equal(near.valid, exact.valid)
        assert torch.equal(near.positions[near.valid], exact.positions[near.valid])
        for part in ("keys", "values"):
            numbers = getattr(exact, part)[near.valid]
            # A step of a difference is at most a 127th of twice the largest number.
            torch.testing.assert_close(
                getattr(near, part)[near.valid], numbers, atol=float(numbers.abs().max()) / 120, rtol=0
            )
    logits = step(model, cache)
    assert (step(model, loaded) - logits).abs().max() < 0.1 * logits.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("held", [False, True], ids=["packed", "tail"])
def test_a_padded_row_is_coded_as_alone(held, tmp_path):
    pytest.importorskip("constriction")
    model, inputs = llama(1), batch()
    stored = []
    for given in (inputs, alone(inputs)):
        cache = lm_kv.KVCache(model, "keydiff", budget=0.5)
        with cache.hold():
            places = (given["attention_mask"].cumsum(1) - 1).clamp_min(0)
            model(**given, position_ids=places, past_key_values=cache)
        if not held:
            cache.compress()
        exact = cache.layers[0].store.stored()
        cache.save(tmp_path / "cache.safetensors", codec=lm_kv.cachegen())
        loaded = lm_kv.KVCache.load(tmp_path / "cache.safetensors", model)
        stored.append((loaded.layers[0].store.stored(), exact))
    (both, exact), (single, _) = stored
    for part in ("keys", "values"):
        row, valid = getattr(both, part)[0], both.valid[0]
        expected = getattr(single, part)[0][single.valid[0]]
        torch.testing.assert_close(row[valid], expected, atol=1e-3, rtol=0)
        numbers = getattr(exact, part)[exact.valid]
        near = getattr(both, part)[both.valid]
        assert (near - numbers).abs().max() < numbers.abs().max() / 7


def test_a_coded_file_is_smaller_and_generation_continues_from_it(tmp_path):
    pytest.importorskip("constriction")
    model, inputs = llama(), batch(pads=0, length=600)
    cache = prefilled(model, "keydiff", inputs, budget=1.0)
    plain = cache.save(tmp_path / "plain.safetensors").stat().st_size
    coded = cache.save(tmp_path / "coded.safetensors", codec=lm_kv.cachegen()).stat().st_size
    # Random numbers of 32 bits in 31 and 15 levels: at most 5 bits, with positions and tables.
    assert coded < 0.25 * plain
    loaded = lm_kv.KVCache.load(tmp_path / "coded.safetensors", model)
    longer = torch.cat([inputs["input_ids"], torch.full((2, 1), 7)], 1)
    again = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
    assert generate(model, again, loaded, 3)[0].shape == (2, 3)


def test_what_it_cannot_code_is_refused(tmp_path):
    path = tmp_path / "cache.safetensors"
    for policy in (lm_kv.kivi(group=8, residual=4), lm_kv.mikv(window=4)):
        cache = prefilled(llama(1), policy, batch(), budget=0.5)
        with pytest.raises(DcacheError, match=r"this cache stores them by LowBitCodec.*without a codec"):
            cache.save(path, codec=lm_kv.cachegen())
    cache = prefilled(llama(1), "keydiff", batch(), budget=0.5)
    with pytest.raises(DcacheError, match=r"must be one for files, such as lm_kv.cachegen\(\), got kivi"):
        cache.save(path, codec=lm_kv.kivi())
    assert not path.exists()


def test_a_damaged_file_is_refused(tmp_path):
    pytest.importorskip("constriction")
    from safetensors import safe_open
    from safetensors.torch import save_file

    model = llama(1)
    path = prefilled(model, "keydiff", batch(), budget=0.5).save(
        tmp_path / "cache.safetensors", codec=lm_kv.cachegen()
    )
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    header = json.loads(metadata["header"])
    assert header["codec"] == {"bins": [32, 16, 16], "value_bins": [32, 16, 16], "group": 10}
    tensors["layer0.0.keys.differences.words"][3] ^= 4
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(DcacheError, match="is damaged: its content is not what was written"):
        lm_kv.KVCache.load(path, model)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DcacheError, match="cannot read the cache"):
        lm_kv.KVCache.load(path, model)
