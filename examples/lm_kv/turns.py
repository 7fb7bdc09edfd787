"""Read a text, compress it once, then ask in several turns: python examples/lm_kv/turns.py MODEL"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dcache import lm_kv

TEXT = "Ada keeps the red boat. Ben keeps the blue boat. The harbour opens at nine and closes at six."
QUESTIONS = (" Question: who keeps the red boat? Answer:", " Question: when does the harbour open? Answer:")


def main(name: str) -> None:
    """MODEL is a hub id or a folder."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name).eval()
    cache = lm_kv.KVCache(model, lm_kv.kvzip(allocation="global"), budget=0.5)
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    # Nothing is evicted inside; kvzip then reads the text once more to find out what matters.
    with cache.hold(), torch.no_grad():
        model(ids, past_key_values=cache)
    cache.compress()
    print(cache.stats())
    for question in QUESTIONS:
        asked = tokenizer(question, return_tensors="pt", add_special_tokens=False).input_ids
        ids = torch.cat([ids, asked], 1)
        # The questions and answers of a conversation stay whole: only the text was compressed.
        with cache.hold():
            ids = model.generate(ids, past_key_values=cache, max_new_tokens=8, do_sample=False)
        print(tokenizer.decode(ids[0, -8:]))


if __name__ == "__main__":
    main(sys.argv[1])
