import torch

from dcache import lm_kv
from dcache.lm_kv.reuse.context import name_of
from tests.lm_kv.language_models import llama
from tests.lm_kv.reuse.common import PARTS, close, usual


def test_sums_are_those_of_the_models_own_attention():
    model = llama(attention="eager")
    chunk = lm_kv.encode(model, PARTS[2], behind=PARTS[:2])
    with torch.no_grad():
        weights = model(torch.cat(PARTS, 1), output_attentions=True).attentions
    # Tokens 23 to 33 behind parts of 9 and 14 tokens.
    rows = torch.stack(weights)[:, 0].mean(1)[:, 23:]
    close(chunk.context.inter, torch.stack([rows[:, :, :9].sum((1, 2)), rows[:, :, 9:23].sum((1, 2))], 1))
    close(chunk.context.intra, rows[:, :, 23:].sum((1, 2)))
    close(chunk.context.tokens, rows[:, :, :23].sum(2).mean(0))
    assert chunk.context.names == tuple(name_of(part) for part in PARTS[:2])
    assert chunk.context.lengths.tolist() == [9, 14]


def test_a_chunk_behind_others_has_the_states_of_the_whole_text_turned_to_its_begin():
    chunk = lm_kv.encode(usual(), PARTS[1], behind=[lm_kv.encode(usual(), PARTS[0])])
    right = lm_kv.encode(usual(), torch.cat(PARTS[:2], 1)).states
    joined = lm_kv.join(usual(), [PARTS[0], chunk], lm_kv.pie()).cache
    for layer, cached in enumerate(joined.layers):
        close(cached.store.tail.keys, right.keys[layer])
        close(cached.store.tail.values, right.values[layer])
    # Keys of the first layer depend on nothing but their own tokens and places.
    close(chunk.states.keys[0], lm_kv.encode(usual(), PARTS[1]).states.keys[0])


def test_a_saved_context_is_the_same(tmp_path):
    chunk = lm_kv.encode(usual(), PARTS[1], behind=[PARTS[0]])
    loaded = lm_kv.Chunk.load(chunk.save(tmp_path / "chunk.safetensors")).context
    assert loaded.names == chunk.context.names
    for part in ("lengths", "inter", "intra", "tokens"):
        assert torch.equal(getattr(loaded, part), getattr(chunk.context, part))
