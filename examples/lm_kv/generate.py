"""Generate with a cache that keeps a quarter of each prompt: python examples/lm_kv/generate.py MODEL"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

from dcache import lm_kv

PROMPTS = ["The keeper counts ships by day and by night. " * 8, "A river comes down from the hills. " * 5]


def main(name: str) -> None:
    """MODEL is a hub id or a folder."""
    tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(name).eval()
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    cache = lm_kv.KVCache(model, lm_kv.snapkv(window=4, allocation="heads"), budget=0.25)
    out = model.generate(**batch, past_key_values=cache, max_new_tokens=16, do_sample=False)
    for row in out:
        print(tokenizer.decode(row, skip_special_tokens=True))
    # Pads do not count: each row keeps a quarter of its own tokens, and the new ones.
    print(cache.report())


if __name__ == "__main__":
    main(sys.argv[1])
