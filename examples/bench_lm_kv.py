"""Decode steps and bytes of lm_kv's caches against transformers' DynamicCache: python examples/bench_lm_kv.py

A small Llama with random weights (4 layers, width 512, 8 query and 4 KV heads of 64), one row. Each cache has
a process of its own, as it would in use: what one allocates and frees decides how fast another one is. They
take turns of a few decode steps. A figure is the median over the rounds of the ratio to DynamicCache's turn
of the same round, in CPU seconds of one thread: they hardly change when the machine does other work. After a
turn the newest tokens are cropped, so that the length stays.

A bound is what no cache can be faster than: transformers' forward, with one fused attention a layer over keys
and values that lie ready, without a cache's bookkeeping.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import AttentionMaskInterface

from dcache import lm_kv

# Decode step's share of DynamicCache's, by tokens of context.
BARS = {
    ("a quarter", 8192): 0.28,
    ("all tokens", 8192): 0.40,
    ("a quarter", 1024): 1.05,
    ("all tokens", 1024): 1.05,
}
HELD = 0.27
BOUNDS = {"bound, all tokens": 1, "bound, a quarter": 4}
NAMES = (
    "DynamicCache",
    "all tokens",
    "bound, all tokens",
    "a quarter, uniform",
    "a quarter, heads",
    "a quarter, h2o",
    "bound, a quarter",
)
WIDTH = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 4}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, 1 thread, torch {torch.__version__}")
    for context in options.context:
        print(f"\nDecode steps at {context} tokens, {options.rounds} rounds of {options.steps}")
        compare_steps(context, options.rounds, options.steps)
        print(f"\nBytes after {options.steps} more tokens, a quarter kept (bar {HELD:.0%} at 8192)")
        compare_bytes(context, options.steps)


def caches(model: Any) -> dict[str, Any]:
    """The caches whose steps are timed."""
    return {
        "DynamicCache": lambda: DynamicCache(config=model.config),
        "all tokens": lambda: lm_kv.KVCache(model, "keydiff", budget=1.0),
        "a quarter, uniform": lambda: lm_kv.KVCache(model, lm_kv.keydiff(window=32), budget=0.25),
        "a quarter, heads": lambda: lm_kv.KVCache(model, lm_kv.keydiff(allocation="heads"), budget=0.25),
        "a quarter, h2o": lambda: lm_kv.KVCache(model, lm_kv.h2o(every=0), budget=0.25),
    }


def make_model() -> Any:
    """The model, the same in every process."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=1000, max_position_embeddings=2**15, num_hidden_layers=4, **WIDTH)
    return LlamaForCausalLM(config).eval()


def serve(name: str, context: int, pipe: Any) -> None:
    """Fill one cache; then time a turn for every count of steps that comes, until 0 does."""
    model = make_model()
    cache: Any = Slabs(model, context // BOUNDS[name]) if name in BOUNDS else caches(model)[name]()
    if name not in BOUNDS:
        model(torch.randint(0, 1000, (1, context)), past_key_values=cache, logits_to_keep=1)
    while count := pipe.recv():
        pipe.send(turn(model, cache, context, count))


class Slabs:
    """Random keys and values in place of a cache: what attention reads, and room for a few tokens more."""

    def __init__(self, model: Any, tokens: int) -> None:
        AttentionInterface.register("bound", self.attend)
        AttentionMaskInterface.register("bound", lambda **_: None)
        model.set_attn_implementation("bound")
        shape = (1, WIDTH["num_key_value_heads"], tokens + 64, 64)
        self.slabs = [(torch.randn(shape), torch.randn(shape)) for _ in model.model.layers]
        self.last, self.tokens = len(self.slabs) - 1, tokens

    def attend(
        self, module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **_: Any
    ) -> tuple[torch.Tensor, None]:
        """Attention of one token; a group's queries are rows of one matrix."""
        keys, values = self.slabs[module.layer_idx]
        end = self.tokens + 1
        keys[:, :, end - 1 : end], values[:, :, end - 1 : end] = key, value
        if module.layer_idx == self.last:
            self.tokens = end
        folded = query.view(1, keys.shape[1], -1, keys.shape[3])
        output = F.scaled_dot_product_attention(folded, keys[:, :, :end], values[:, :, :end], scale=scaling)
        return output.view(1, 1, -1, keys.shape[3]), None

    def crop(self, tokens_to_remove: int) -> None:
        """Take tokens back."""
        self.tokens += tokens_to_remove


def turn(model: Any, cache: Any, context: int, count: int) -> float:
    """CPU seconds of some decode steps, which are taken back."""
    token = torch.tensor([[5]])
    given = {"use_cache": False} if isinstance(cache, Slabs) else {"past_key_values": cache}
    began = time.process_time()
    for index in range(count):
        model(token, position_ids=torch.tensor([[context + index]]), **given)
    seconds = time.process_time() - began
    cache.crop(-count)
    return seconds


def compare_steps(context: int, rounds: int, count: int) -> None:
    """Print each cache's median step and its median ratio to DynamicCache's, beside the bar."""
    spawn = multiprocessing.get_context("spawn")
    pipes, workers = {}, []
    for name in NAMES:
        pipes[name], theirs = spawn.Pipe()
        workers.append(spawn.Process(target=serve, args=(name, context, theirs), daemon=True))
        workers[-1].start()

    def timed(name: str, steps: int) -> float:
        pipes[name].send(steps)
        return pipes[name].recv()

    for name in NAMES:
        timed(name, 2)
    turns = [{name: timed(name, count) for name in NAMES} for _ in range(rounds)]
    for pipe in pipes.values():
        pipe.send(0)
    for worker in workers:
        worker.join()
    for name in NAMES:
        ratio = statistics.median(seconds[name] / seconds["DynamicCache"] for seconds in turns)
        step = statistics.median(seconds[name] for seconds in turns) / count
        bar = BARS.get((name.partition(",")[0], context))
        print(
            f"  {name:<20}  {1000 * step:7.1f} ms  x{ratio:.2f}" + ("" if bar is None else f"  bar {bar:.2f}")
        )


def compare_bytes(context: int, count: int) -> None:
    """Print the share of the full keys' and values' bytes that each policy's cache holds."""
    model = make_model()
    ids = torch.randint(0, 1000, (1, context))
    for name in lm_kv.available("policy"):
        policy = lm_kv.make(name)
        # Layers or heads that are encoded together store all tokens.
        cache = lm_kv.KVCache(model, policy, budget=0.25 if policy.joint is None else 1.0)
        model(ids, past_key_values=cache, logits_to_keep=1)
        for index in range(count):
            model(ids[:, :1], past_key_values=cache, position_ids=torch.tensor([[context + index]]))
        stats = cache.stats()
        print(f"  {name:<20}  {stats.bytes_held / stats.bytes_full:.2%}", flush=True)


if __name__ == "__main__":
    main()
