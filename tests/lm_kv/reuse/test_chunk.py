import pytest
import torch
from transformers import DynamicCache

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import family
from tests.lm_kv.reuse.common import PARTS, behind, chunks, close, usual, whole


def test_a_chunk_has_the_keys_and_values_of_its_text_by_itself():
    own = DynamicCache(config=usual().config)
    with torch.no_grad():
        usual()(PARTS[1], past_key_values=own)
    chunk = chunks()[1]
    assert len(chunk) == 14
    for layer, cached in enumerate(own.layers):
        close(chunk.states.keys[layer], cached.keys)
        close(chunk.states.values[layer], cached.values)
    assert repr(chunk) == "Chunk(14 tokens, 11 KiB)"
    assert (
        repr(lm_kv.encode(usual(), PARTS[0], [PARTS[1]]))
        == "Chunk(9 tokens, 7 KiB, computed behind other text)"
    )
    # Keys and values of two heads of 16 channels in three layers, and the ids.
    assert chunk.nbytes == 14 * (3 * 2 * 2 * 16 * 4 + 8)
    assert torch.equal(lm_kv.encode(usual(), PARTS[1][0].int()).ids, chunk.ids)


def test_a_saved_chunk_is_the_same(tmp_path):
    path = chunks()[1].save(tmp_path / "chunk.safetensors")
    loaded = lm_kv.Chunk.load(path).to("cpu")
    assert loaded.name == chunks()[1].name != chunks()[0].name
    parts = [chunks()[0], loaded, chunks()[2]]
    joined = lm_kv.join(usual(), parts, lm_kv.cacheblend(ratio=1.0))
    close(behind(usual(), joined), whole(usual(), *PARTS))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("x")
    with pytest.raises(DcacheError, match="cannot read the chunk"):
        lm_kv.Chunk.load(tmp_path / "text")
    joined = lm_kv.join(usual(), chunks(), lm_kv.pie())
    path = joined.cache.save(tmp_path / "cache.safetensors")
    with pytest.raises(DcacheError, match="is not a chunk that Chunk"):
        lm_kv.Chunk.load(path)
    with pytest.raises(DcacheError, match="expected the path of a chunk file"):
        chunks()[0].save("")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.ones(2, 3, dtype=torch.long), r"one text without pads.*got the shape \(2, 3\): encode each"),
        (torch.ones(0, dtype=torch.long), r"got the shape \(0,\)"),
        (torch.ones(1, 3), "must be a tensor of ids.*got dtype torch.float32"),
        ([1, 2], "got list"),
    ],
    ids=["batch", "empty", "floats", "list"],
)
def test_what_is_not_one_text_is_refused(ids, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.encode(usual(), ids)


@pytest.mark.parametrize("several", [False, True])
def test_what_stands_before_a_text_is_a_list(several):
    behind = torch.tensor([[3, 4]]) if several else lm_kv.encode(usual(), torch.tensor([3, 4]))
    with pytest.raises(DcacheError, match=r"behind must be a list.*write behind=\[\.\.\.\]"):
        lm_kv.encode(usual(), torch.tensor([5, 6]), behind=behind)


def test_models_with_sliding_layers_are_refused():
    with pytest.raises(DcacheError, match="has layers whose cache is the library's"):
        lm_kv.encode(family("gemma2"), PARTS[0])
