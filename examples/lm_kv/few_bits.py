"""Keep a quarter of the tokens, in 4 bits: python examples/lm_kv/few_bits.py MODEL"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

from dcache import lm_kv

PROMPT = "The keeper wrote down every ship that passed the light, its flag, its cargo and its hour. " * 8


def main(name: str) -> None:
    """MODEL is a hub id or a folder."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name).eval()
    batch = tokenizer(PROMPT, return_tensors="pt")
    bits = lm_kv.kivi(bits=4, group=16, residual=16)
    caches = {
        "evicted": lm_kv.KVCache(model, lm_kv.keydiff(window=8), budget=0.25),
        "4 bits": lm_kv.KVCache(model, bits, budget=1.0),
        "both": lm_kv.KVCache(model, lm_kv.keydiff(window=8), codec=bits, budget=0.25),
    }
    for label, cache in caches.items():
        out = model.generate(**batch, past_key_values=cache, max_new_tokens=8, do_sample=False)
        stats = cache.stats()
        share = stats.bytes_held / stats.bytes_full
        print(f"{label:<8} {share:6.1%} of the bytes: {tokenizer.decode(out[0, -8:])}")


if __name__ == "__main__":
    main(sys.argv[1])
