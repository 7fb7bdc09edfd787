"""What every policy promises, by the names that there are: one run of each with padded rows."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from dcache import lm_kv
from dcache.lm_kv.codecs.codec import Plain
from tests.lm_kv.language_models import alone, batch, generate, llama

NAMES = sorted(lm_kv.available("policy"))
# True tokens of both rows: the prompt, and what was decoded behind it but for the last token.
SEEN = (27 + 11, 40 + 11)
# They encode several layers or heads together and so store all tokens.
JOINT = {name for name in NAMES if lm_kv.make(name, budget=1.0).joint is not None}
# So small that there is something to vote, group, encode and select of 27 and 40 tokens.
SMALL: dict[str, dict[str, Any]] = {
    "a2ats": {"codes": 8, "sinks": 1, "window": 2},
    "actqkv": {"page": 2, "window": 2},
    "cake": {"window": 4, "pool": 3},
    "compresskv": {"window": 4, "pool": 3},
    "cskv": {"group": 8, "residual": 4},
    "d2o": {"sinks": 1},
    "double_sparsity": {"channels": 4, "window": 2},
    "duo_attention": {"sinks": 2, "window": 2},
    "elastic_vlm": {"window": 3},
    "ems": {"window": 4, "threshold": 0.2},
    "expected_attention": {"sinks": 2},
    "gear": {"group": 8, "residual": 4},
    "keyformer": {"history": 8},
    "kivi": {"group": 8, "residual": 4},
    "kvcrush": {"window": 4},
    "kvmerger": {"threshold": 0.2},
    "lacache": {"sinks": 2},
    "lazy_eviction": {"window": 4, "threshold": 0.02},
    "leoam": {"page": 2, "window": 2},
    "loopserve": {"window": 2},
    "matryoshka": {"residual": 4},
    "minicache": {"start": 0.0, "residual": 4},
    "mpcache": {"page": 2, "window": 2},
    "prefixkv": {"sinks": 1},
    "quest": {"page": 2, "window": 2},
    "razor_attention": {"sinks": 2},
    "rekv": {"page": 2},
    "retrieval_attention": {"sinks": 1, "window": 2},
    "rotatekv": {"residual": 4},
    "scissorhands": {"history": 8, "window": 2},
    "sentencekv": {"longest": 4, "sinks": 1, "window": 2},
    "shadowkv": {"page": 2, "rank": 4, "window": 2},
    "snapkv": {"window": 4, "pool": 3},
    "speckv": {"tokens": 4, "window": 2},
    "streaming_llm": {"sinks": 2},
    "think": {"block": 8, "residual": 4},
    "tidal_decode": {"start": 0, "again": 0, "window": 2},
    "vidkv": {"group": 8, "residual": 4},
    "windowkv": {"window": 4, "review": 3, "best": 2, "layers": 2},
    "xkv": {"rank": 16, "value_rank": 16, "residual": 4},
    "xquant": {"group": 8, "residual": 4},
    "xquant_cl": {"group": 8, "residual": 4},
    "zipcache": {"group": 8, "residual": 4, "window": 2},
    "zipvl": {"share": 0.8, "window": 2},
}


@dataclass
class Run:
    """A policy's logits and cache, of both rows and of the first one by itself."""

    both: torch.Tensor
    single: torch.Tensor
    cache: Any
    other: Any


@cache
def model() -> Any:
    # In float64, for a sum in another order may move a float32 number to another level of a codec.
    return llama().double()


@cache
def run(name: str) -> Run:
    """Prompts and decoded tokens with a third of the tokens, evicted every three of them."""
    more = {} if name in JOINT else {"budget": 1 / 3}
    policy = lm_kv.make(name, every=3, **more, **SMALL.get(name, {}))
    caches = [lm_kv.KVCache(model(), policy) for _ in range(2)]
    _, both = generate(model(), batch(), caches[0])
    _, single = generate(model(), alone(batch()), caches[1])
    return Run(both, single, *caches)


@cache
def full() -> torch.Tensor:
    return generate(model(), batch(), None)[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_padded_row_is_what_it_is_alone(name: str) -> None:
    done = run(name)
    torch.testing.assert_close(done.both[:1], done.single, atol=1.5e-5, rtol=0)
    pairs = zip(done.cache.layers, done.other.layers, strict=True)
    assert all(torch.equal(layer.store.kept()[:1], single.store.kept()) for layer, single in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_no_full_cache_by_another_name(name: str) -> None:
    done, stats = run(name), run(name).cache.stats()
    assert stats.seen == SEEN
    assert (done.both - full()).abs().max() > 1e-3
    policy = done.cache.policy
    if policy.selector is not None:
        assert all(read < 0.9 * seen for read, seen in zip(stats.read, SEEN, strict=True))
    elif isinstance(policy.codec, Plain) and policy.reducer.lower is None:
        # 9 and 13 tokens at the prompt; 36 and 49 at the last eviction, behind which two were decoded.
        assert all(kept <= most for kept, most in zip(stats.kept, (12 + 2, 16 + 2), strict=True))
    else:
        held = sum(t.nbytes for layer in done.cache.layers for t in layer.store.storages())
        assert held < stats.bytes_full


@pytest.mark.parametrize("name", NAMES)
def test_budgets_add_up_over_layers_and_heads(name: str) -> None:
    done = run(name)
    policy = done.cache.policy
    counts = torch.stack([layer.store.kept() for layer in done.cache.layers]).sum((0, 2)).tolist()
    whole = policy.selector is not None or policy.reducer.lower is not None or name in JOINT
    for count, seen, last in zip(counts, SEEN, (36, 49), strict=True):
        tokens = seen if whole else last // 3 + seen - last
        if policy.held is not None:
            tokens = int(last * policy.held) + seen - last
        # A head that loses none leaves its slot empty; attention may ask for fewer; nobody takes more.
        least = 0 if policy.coverage else 6 * (tokens - policy.reducer.slots)
        assert least <= count <= 6 * tokens


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_those_of_the_tensors_that_are_held(name: str) -> None:
    held = run(name).cache
    tensors = [tensor for layer in held.layers for tensor in layer.storages()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    # Ids and validity of the columns, which policies with a probe remember.
    text = 2 * (40 + 11) * (8 + 1) if held.policy.scorer.probes else 0
    assert held.nbytes == held.stats().bytes_held
    assert held.nbytes == sum(storage.nbytes() for storage in storages.values()) + text


def test_a_policys_file_is_short() -> None:
    files = sorted(Path(lm_kv.__file__).parent.joinpath("policies").glob("*.py"))
    lines = {file.stem: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert set(NAMES) <= set(lines)
    assert max(lines.values()) <= 120
