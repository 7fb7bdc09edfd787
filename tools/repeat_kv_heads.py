"""Write a Llama with a KV head for each query head: python tools/repeat_kv_heads.py smollm2 FOLDER.

Each KV head is repeated for the query heads that share it, so the model computes what it did.
"""

import sys
from typing import Any

import torch
from transformers import LlamaForCausalLM

from dcache.eval.language import subject


def repeated(model: Any) -> Any:
    """The same model with as many KV heads as query heads, float32."""
    config = model.config
    heads, groups = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
    options = {**config.to_diff_dict(), "num_key_value_heads": config.num_attention_heads}
    for name in ("architectures", "quantization_config", "dtype"):
        options.pop(name, None)
    weights = model.state_dict()
    for name, weight in weights.items():
        if "k_proj" in name or "v_proj" in name:
            weights[name] = weight.unflatten(0, (heads, -1)).repeat_interleave(groups, 0).flatten(0, 1)
    wide = LlamaForCausalLM(type(config)(**options)).eval()
    wide.load_state_dict(weights)
    wide.tie_weights()
    return wide


@torch.no_grad()
def main() -> int:
    """Load, compare, save."""
    name, folder = sys.argv[1:]
    source, file = (subject.smollm2(), subject.WEIGHTS) if name == subject.SMOLLM2 else (name, None)
    model, tokenizer = subject._loaded(source, file, torch.float32)
    wide, ids = repeated(model), torch.arange(5, 60)[None] % model.config.vocab_size
    torch.testing.assert_close(wide(ids).logits, model.eval()(ids).logits)
    wide.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
