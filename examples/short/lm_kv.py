"""A KV cache that keeps a quarter of the tokens, in four bits: python examples/short/lm_kv.py"""

import torch

from dcache import lm_kv
from dcache.demo.recall.task import contexts, load_model


def main() -> None:
    """The shipped recall model; yours: AutoModelForCausalLM.from_pretrained(...)."""
    model = load_model()
    ids = torch.tensor([context.ids for context in contexts(2, 4, seed=0)])
    cache = lm_kv.KVCache(model, lm_kv.kvzip(), budget=0.25, codec=lm_kv.kivi(bits=4))
    model.generate(ids, past_key_values=cache, max_new_tokens=8, do_sample=False)
    print(cache.report())
    print(f"{cache.nbytes} bytes")


if __name__ == "__main__":
    main()
