"""Compress a text, save the cache, load it and ask two things of it: python examples/lm_kv/keep.py MODEL"""

import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dcache import lm_kv

TEXT = "The code of Ada is 4711. The code of Ben is 1234. Neither of them shall be told to anybody."


def main(name: str) -> None:
    """MODEL is a hub id or a folder."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name).eval()
    text = tokenizer(TEXT, return_tensors="pt").input_ids
    cache = lm_kv.KVCache(model, lm_kv.keydiff(window=4), budget=0.5)
    with torch.no_grad():
        model(text, past_key_values=cache)
    with tempfile.TemporaryDirectory() as folder:
        path = cache.save(Path(folder) / "text.safetensors")
        print(f"{path.stat().st_size} bytes on disk, {cache.nbytes} in memory")
        loaded = lm_kv.KVCache.load(path, model)
    for question in (" The code of Ada is", " The code of Ben is"):
        asked = tokenizer(question, return_tensors="pt", add_special_tokens=False).input_ids
        ids = torch.cat([text, asked], 1)
        # A fork shares what was compressed and goes its own way.
        out = model.generate(ids, past_key_values=loaded.fork(), max_new_tokens=4, do_sample=False)
        print(tokenizer.decode(out[0, -4:]))


if __name__ == "__main__":
    main(sys.argv[1])
