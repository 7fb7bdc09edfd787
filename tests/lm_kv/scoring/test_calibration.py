import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.calibrating.key_statistics import basis_of, key_statistics
from dcache.lm_kv.calibrating.repeated_text import head_pattern
from dcache.lm_kv.model.facts import facts_of
from dcache.lm_kv.scoring import calibration
from tests.lm_kv.language_models import batch, family, generate, llama, prefilled


def written(model, path, **changed):
    """A calibration of a model on one text."""
    cache = lm_kv.KVCache(model, "keydiff", budget=1.0)
    statistics = key_statistics(model, batch(length=80)["input_ids"][1:])
    tensors = {"sensitivity": torch.zeros(len(cache.compressed_layers))}
    pattern = head_pattern(model, 12)
    for layer in cache.compressed_layers:
        tensors[f"pattern.{layer}"] = torch.tensor(pattern[layer])
        order = statistics.importance[layer].argsort(dim=-1, descending=True)
        tensors[f"channels.{layer}"] = order.to(torch.int16)
        tensors[f"basis.{layer}"] = basis_of(statistics.moments[layer])[0].half()
    facts = facts_of(cache.decoder, cache.compressed_layers)
    about = {"model": "toy", "facts": facts, "left_out": ""} | changed
    calibration.save(path, about, tensors)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return written(llama(), tmp_path_factory.mktemp("calibration") / "toy.safetensors")


def test_a_file_has_what_was_written(path):
    measured = calibration.load(path)
    assert measured.about["model"] == "toy"
    torch.testing.assert_close(torch.tensor(measured.pattern), torch.tensor(head_pattern(llama(), 12)))
    assert measured.tensor("basis", 2).shape == (2, 16, 16)
    assert calibration.load(str(path)) is measured


def test_layers_of_the_librarys_have_no_pattern(tmp_path):
    measured = calibration.load(written(family("gemma2"), tmp_path / "a"))
    assert [len(heads) for heads in measured.pattern] == [0, 2, 0]
    with pytest.raises(DcacheError, match="has no basis for layer 0: layer 0 was not measured"):
        measured.tensor("basis", 0)


@pytest.mark.parametrize("name", ["duo_attention", "razor_attention"])
def test_a_pattern_of_a_file_is_that_pattern(name, path, tmp_path):
    model, inputs = llama(), batch()
    options = {"sinks": 1, "window": 2, "every": 4, "budget": 0.5}
    pattern = calibration.load(path).pattern
    both = [lm_kv.KVCache(model, lm_kv.make(name, pattern=p, **options)) for p in (path, pattern)]
    logits = [generate(model, inputs, cache)[1] for cache in both]
    assert torch.equal(*logits)
    # A saved cache has the numbers, and needs the file no more.
    assert both[0].policy.parameters["pattern"] == pattern
    saved = both[0].save(tmp_path / "cache")
    assert lm_kv.KVCache.load(saved, model).policy == both[1].policy


def test_double_sparsity_looks_at_the_files_channels(path):
    model, inputs = llama(), batch()
    policy = lm_kv.double_sparsity(channels=4, calibration=path, window=4)
    cache = prefilled(model, policy, inputs, budget=0.4)
    for layer in cache.layers:
        index = layer.store.segments[0].index
        expected = calibration.load(path).tensor("channels", layer.index)[:, :4].sort(-1).values
        assert torch.equal(index["channels"], expected.long().expand(2, -1, -1))
        assert not layer.state


def test_shadowkv_projects_on_the_files_directions(path, tmp_path):
    model, inputs = llama().double(), batch()
    policy = lm_kv.shadowkv(rank=6, page=4, exact=0, calibration=path, window=4, every=4)
    cache = lm_kv.KVCache(model, policy, budget=0.4)
    _, both = generate(model, inputs, cache)
    _, single = generate(
        model, {n: t[:1, 13:] for n, t in inputs.items()}, lm_kv.KVCache(model, policy, budget=0.4)
    )
    torch.testing.assert_close(both[:1], single, atol=1.5e-5, rtol=0)
    (segment,) = cache.layers[1].store.segments
    # Decoded tokens too; no text has directions of its own.
    assert not segment.keys.whole.any()
    assert segment.keys.rest.right.shape == (2, 6, 16)
    assert torch.equal(segment.keys.rest.right, calibration.load(path).tensor("basis", 1)[:, :6])
    loaded = lm_kv.KVCache.load(cache.save(tmp_path / "cache"), model)
    assert loaded.policy == cache.policy
    assert torch.equal(loaded.layers[1].store.segments[0].decoded()[0], segment.decoded()[0])


@pytest.mark.parametrize("name", ["duo_attention", "razor_attention", "double_sparsity", "shadowkv"])
def test_a_file_of_another_model_is_refused_when_a_cache_is_made(name, path):
    option = "pattern" if name in ("duo_attention", "razor_attention") else "calibration"
    policy = lm_kv.make(name, budget=0.5, **{option: path})
    with pytest.raises(DcacheError, match=r"of 'toy' with num_hidden_layers 3, full_attention \[0, 1, 2\]"):
        lm_kv.KVCache(llama(2), policy)


def test_other_files_are_refused_when_a_policy_is_made(tmp_path):
    from safetensors.torch import save_file

    other = tmp_path / "other.safetensors"
    with pytest.raises(DcacheError, match="cannot read the calibration"):
        lm_kv.duo_attention(pattern=other)
    other.write_text("no")
    with pytest.raises(DcacheError, match="cannot read the calibration"):
        lm_kv.duo_attention(pattern=other)
    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(DcacheError, match="is not a calibration: expected the format"):
        lm_kv.shadowkv(calibration=other)
