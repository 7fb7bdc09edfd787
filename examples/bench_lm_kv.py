"""Decode steps and bytes of lm_kv's caches against transformers' DynamicCache: python examples/bench_lm_kv.py

A small Llama with random weights (4 layers, width 512, 8 query and 4 KV heads of 64), one row. Each cache has
a process of its own, as it would in use: what one allocates and frees decides how fast another one is. They
take turns of a few decode steps. A figure is the median over the rounds of the ratio to DynamicCache's turn
of the same round. After a turn the newest tokens are cropped, so that the length stays.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from dcache import lm_kv

# Decode step's share of DynamicCache's, by tokens of context.
BARS = {
    ("a quarter", 8192): 0.28,
    ("all tokens", 8192): 0.40,
    ("a quarter", 1024): 1.05,
    ("all tokens", 1024): 1.05,
}
HELD = 0.27
NAMES = ("DynamicCache", "all tokens", "a quarter, uniform", "a quarter, heads", "a quarter, h2o")
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
    cache = caches(model)[name]()
    model(torch.randint(0, 1000, (1, context)), past_key_values=cache, logits_to_keep=1)
    while count := pipe.recv():
        pipe.send(turn(model, cache, context, count))


def turn(model: Any, cache: Any, context: int, count: int) -> float:
    """Seconds of some decode steps, which are taken back."""
    token = torch.tensor([[5]])
    began = time.perf_counter()
    for index in range(count):
        model(token, past_key_values=cache, position_ids=torch.tensor([[context + index]]))
    seconds = time.perf_counter() - began
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
    seconds = [{name: timed(name, count) for name in NAMES} for _ in range(rounds)]
    for pipe in pipes.values():
        pipe.send(0)
    for worker in workers:
        worker.join()
    for name in NAMES:
        ratio = statistics.median(one[name] / one["DynamicCache"] for one in seconds)
        step = statistics.median(one[name] for one in seconds) / count
        bar = BARS.get((name.partition(",")[0], context))
        print(
            f"  {name:<20}  {1000 * step:7.1f} ms  x{ratio:.2f}" + ("" if bar is None else f"  bar {bar:.2f}")
        )


def compare_bytes(context: int, count: int) -> None:
    """Print the share of the full keys' and values' bytes that each policy's cache holds."""
    model = make_model()
    ids = torch.randint(0, 1000, (1, context))
    for name in lm_kv.available():
        cache = lm_kv.KVCache(model, name, budget=0.25)
        model(ids, past_key_values=cache, logits_to_keep=1)
        for index in range(count):
            model(ids[:, :1], past_key_values=cache, position_ids=torch.tensor([[context + index]]))
        stats = cache.stats()
        print(f"  {name:<20}  {stats.bytes_held / stats.bytes_full:.2%}", flush=True)


if __name__ == "__main__":
    main()
