"""Which tokens kvpress and lm_kv keep on the recall model; test_kvpress runs it in a new process.

kvpress 0.5.5 patches transformers when it is imported, and is not made for its present releases: attention
modules no longer get the `cache_position` that its hooks read. Its import alone needs `datasets` and `fire`.
"""

import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch

ROWS, TOKENS, SINKS, WINDOW = 2, 120, 4, 16


def stub(name: str) -> None:
    """An empty module, of which any public name can be imported."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)

    def attribute(wanted: str) -> type:
        if wanted.startswith("__"):
            raise AttributeError(wanted)
        return object

    module.__getattr__ = attribute
    sys.modules[name] = module


def give_cache_position(model: Any) -> None:
    """Pass every attention module the positions that it no longer gets."""

    def add(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "cache_position": torch.arange(kwargs["hidden_states"].shape[1])}

    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(add, with_kwargs=True)


def compared(model: Any, ids: torch.Tensor, press: Any, policy: Any) -> tuple[int, int]:
    """How many tokens kvpress keeps, and how many of them lm_kv keeps too."""
    from transformers import DynamicCache

    from dcache import lm_kv

    full, theirs = DynamicCache(config=model.config), DynamicCache(config=model.config)
    model(ids, past_key_values=full)
    with press(model):
        model(ids, past_key_values=theirs)
    kept = theirs.layers[0].keys.shape[2]
    ours = lm_kv.KVCache(model, policy, budget=kept)
    model(ids, past_key_values=ours)
    both = 0
    for layer in range(len(full.layers)):
        # A kept key is the one of all keys that it equals.
        index = torch.cdist(theirs.layers[layer].keys, full.layers[layer].keys).argmin(-1)
        stored = ours.layers[layer].store.stored()
        for row in range(ROWS):
            for head in range(index.shape[1]):
                mine = stored.positions[row, head][stored.valid[row, head]].tolist()
                both += len(set(mine) & set(index[row, head].tolist()))
    return kept * heads_of(full) * ROWS, both


def heads_of(cache: Any) -> int:
    """KV heads of all layers."""
    return sum(layer.keys.shape[1] for layer in cache.layers)


@torch.no_grad()
def main(folder: Path) -> None:
    """Print name -> [kept by kvpress, kept by both]."""
    stub("datasets")
    stub("fire")
    import kvpress
    from transformers import LlamaForCausalLM

    from dcache import lm_kv

    model = LlamaForCausalLM.from_pretrained(folder).eval()
    give_cache_position(model)
    ids = torch.randint(1, 136, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    pairs = {
        "snapkv": (kvpress.SnapKVPress(0.5, WINDOW, 5), lm_kv.snapkv(window=WINDOW, pool=5)),
        "keydiff": (kvpress.KeyDiffPress(0.5), lm_kv.keydiff()),
        "tova": (kvpress.TOVAPress(0.5), lm_kv.tova()),
        "streaming_llm": (
            kvpress.StreamingLLMPress(0.5, SINKS),
            lm_kv.streaming_llm(sinks=SINKS, shift=False),
        ),
        "expected_attention": (
            kvpress.ExpectedAttentionPress(0.5, n_sink=SINKS),
            lm_kv.expected_attention(sinks=SINKS),
        ),
    }
    counts = {name: compared(model, ids, *pair) for name, pair in pairs.items()}
    sys.stdout.write(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
