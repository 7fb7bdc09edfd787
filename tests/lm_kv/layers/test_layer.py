import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dcache import DcacheError, lm_kv
from dcache.lm_kv.budgets.budget import Budget
from dcache.lm_kv.layers.layer import LayerCache
from dcache.lm_kv.layers.shared import Shared
from dcache.lm_kv.model.adapter import AttentionCall
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.scorers import KeyDistance
from tests.lm_kv.language_models import batch, llama, prefill, prefilled

HEADS, SIZE = 2, 4
PACKAGE = str(Path("dcache") / "lm_kv")


def layer(**policy) -> LayerCache:
    shared = Shared(Policy(scorer=KeyDistance(), budget=1.0, **policy), Budget(1.0), lambda layers: None)
    return LayerCache(0, shared)


def asked(query, key, value, mask=None, module=None) -> AttentionCall:
    return AttentionCall(module or torch.nn.Identity(), query, key, value, mask, Logits(0.5))


def run(one: LayerCache, columns: int, rows: int = 1, mask=None) -> torch.Tensor:
    keys = torch.randn(rows, HEADS, columns, SIZE)
    query = torch.randn(rows, 2 * HEADS, columns, SIZE)
    one.shared.begin(None)
    output = one.attend(asked(query, keys, keys, mask))
    one.shared.end()
    return output


def test_lengths_count_columns_and_rows_true_tokens():
    one = layer()
    assert one.get_seq_length() == 0
    assert one.batch_size == -1
    run(one, 3, rows=2, mask=torch.tensor([[0, 1, 1], [1, 1, 1]]))
    assert one.get_seq_length() == 3
    assert one.get_mask_sizes(2) == (5, 0)
    assert one.get_max_length() == -1
    assert one.store.seen.tolist() == [2, 3]
    assert one.batch_size == 2


def test_keys_and_values_that_are_views_do_not_keep_their_storage_alive():
    one = layer()
    fused = torch.randn(1, HEADS, 5, 3 * SIZE)
    key, value = fused[..., :SIZE], fused[..., 2 * SIZE :]
    one.shared.begin(None)
    one.attend(asked(torch.randn(1, 2 * HEADS, 5, SIZE), key, value))
    pointers = {tensor.untyped_storage().data_ptr() for tensor in one.storages()}
    assert fused.untyped_storage().data_ptr() not in pointers


def test_bytes_are_those_of_the_storages():
    one = layer()
    run(one, 5)
    held = sum(tensor.untyped_storage().nbytes() for tensor in one.storages())
    # A slab of 8 slots: keys and values of 2 heads and 4 channels, an int32 position, a validity.
    assert held == one.bytes_held == one.shared.bytes_held == 8 * (2 * 2 * 4 * 4 + 4 + 1)
    one.reset()
    assert one.shared.bytes_held == 0
    assert one.shared.peak_bytes == held


def test_another_batch_or_another_layers_keys_are_refused():
    one = layer()
    run(one, 2, rows=2)
    with pytest.raises(DcacheError, match="this cache holds 2 rows, the call has 3"):
        run(one, 1, rows=3)
    other = torch.nn.Identity()
    other.layer_idx = 7
    states = torch.zeros(2, 2, 1, SIZE)
    with pytest.raises(DcacheError, match="Identity shares keys between layers"):
        one.attend(asked(torch.zeros(2, 4, 1, SIZE), states, states, module=other))


def test_a_crop_takes_columns_of_the_tail_back_and_no_more():
    one = layer()
    run(one, 5)
    one.crop(-2)
    assert one.get_seq_length() == 3
    assert one.store.seen.tolist() == [3]
    with pytest.raises(DcacheError, match=r"crop\(-4\) reaches into compressed tokens: only the newest 3"):
        one.crop(-4)


def test_rows_are_selected_repeated_and_masked():
    one = layer()
    run(one, 3, rows=2, mask=torch.tensor([[0, 1, 1], [1, 1, 1]]))
    one.batch_repeat_interleave(2)
    assert one.store.seen.tolist() == [2, 2, 3, 3]
    one.reorder_cache(torch.tensor([3, 0]))
    assert one.store.seen.tolist() == [3, 2]
    one.batch_select_indices(torch.tensor([False, True]))
    assert one.store.seen.tolist() == [2]


@torch.no_grad()
@pytest.mark.parametrize("name", ["keydiff", "h2o"])
def test_one_new_token_sees_what_a_call_of_two_would_show_it(name):
    # A decoded token is stored before it is attended to, tokens of a longer call afterwards.
    model, inputs = llama(2), batch(pads=0)
    together, apart = (lm_kv.KVCache(model, name, budget=0.4) for _ in range(2))
    for cache in (together, apart):
        prefill(model, inputs, cache)
    new = torch.tensor([[5, 7], [6, 8]])
    positions = torch.tensor([[40, 41]]).expand(2, -1)
    with together.hold(), apart.hold():
        expected = model(new, position_ids=positions, past_key_values=together).logits[:, -1]
        for column in range(2):
            one = slice(column, column + 1)
            logits = model(new[:, one], position_ids=positions[:, one], past_key_values=apart).logits[:, -1]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    for first, second in zip(together.layers, apart.layers, strict=True):
        if name == "h2o":
            scores = (layer.store.stored().score for layer in (first, second))
            torch.testing.assert_close(*scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("budget", [0.4, 1.0])
def test_python_calls_of_a_decoded_token_do_not_grow_with_the_heads(budget):
    counts = {}
    for heads in (1, 4):
        model = llama(1, num_key_value_heads=heads)
        cache = prefilled(model, "keydiff", batch(pads=0), budget=budget)
        counts[heads] = [0, 0]
        # The first step grows the tail's slab.
        for index in range(2):
            new = {"input_ids": torch.tensor([[5], [6]]), "position_ids": torch.full((2, 1), 40 + index)}

            def count(frame, event, _, to=counts[heads], at=index):
                to[at] += event == "call" and PACKAGE in frame.f_code.co_filename

            with torch.no_grad():
                sys.setprofile(count)
                try:
                    model(**new, past_key_values=cache)
                finally:
                    sys.setprofile(None)
    assert 0 < counts[1][1] <= 100
    assert counts[1] == counts[4]


@torch.no_grad()
@pytest.mark.parametrize("policy", ["h2o", "keydiff", lm_kv.snapkv(window=4, sinks=0)])
def test_bytes_held_are_those_of_the_storages_after_every_decoded_token(policy):
    model = llama(1)
    cache = prefilled(model, policy, batch(pads=0), budget=0.4)
    for index in range(3):
        model(torch.tensor([[5], [6]]), position_ids=torch.full((2, 1), 40 + index), past_key_values=cache)
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in cache.layers[0].storages()}
        assert cache.layers[0].bytes_held == sum(storage.nbytes() for storage in storages.values())


class Questions(TorchDispatchMode):
    """Counts operations for which the host waits for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        asks = name in {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"}
        if name in {"aten::index", "aten::index_put", "aten::index_put_"}:
            asks = any(index is not None and index.dtype == torch.bool for index in args[1])
        self.count += asks
        return function(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize(
    "policy",
    [
        lm_kv.keydiff(),
        lm_kv.snapkv(window=2, sinks=0, allocation="heads"),
        lm_kv.h2o(window=2, sinks=0),
        lm_kv.d2o(window=2, sinks=0),
        lm_kv.razor_attention(window=2, sinks=0),
        lm_kv.kivi(residual=8, group=8),
        lm_kv.look_m(window=2),
        lm_kv.trained_scorer(lambda layer, states: states[..., :2], window=2, sinks=0),
    ],
    ids=lambda policy: policy.name,
)
def test_a_decoded_token_asks_the_device_no_more_in_more_layers(policy):
    counts, inputs = [], batch()
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 3, dtype=torch.long)], 1)
    for layers in (2, 4):
        model = llama(layers)
        cache = prefilled(model, policy, inputs, budget=1.0 if policy.name == "kivi" else 12)
        for step in range(3):
            place = torch.tensor([[27], [40]]) + step
            new = {"input_ids": torch.tensor([[5], [6]]), "attention_mask": mask[:, : 41 + step]}
            with Questions() as questions:
                model(**new, position_ids=place, past_key_values=cache)
        counts.append(questions.count)
    # Whether there are pads, read of the mask.
    assert counts == [1, 1]


@torch.no_grad()
def test_figures_of_what_was_read_move_with_their_rows():
    model, inputs = llama(4), batch()
    cache = prefilled(model, lm_kv.tidal_decode(start=1, again=2, sinks=0, window=2), inputs, budget=12)
    model(torch.tensor([[5], [6]]), position_ids=torch.tensor([[27], [40]]), past_key_values=cache)
    first, second = cache.stats().read
    assert first != second
    cache.reorder_cache(torch.tensor([1, 0]))
    assert cache.stats().read == (second, first)
    # Layers that read all have no figure of their own.
    cache.batch_select_indices(torch.tensor([0]))
    assert cache.stats().read == (second,)


@torch.no_grad()
@pytest.mark.parametrize("name", ["h2o", "keyformer"])
def test_statistics_of_a_model_in_float64_are_float32_and_counted(name):
    model, inputs = llama(2).double(), batch()
    cache = prefilled(model, lm_kv.make(name, sinks=1, window=2, every=2), inputs, budget=12)
    for step in range(5):
        place = torch.tensor([[27], [40]]) + step
        model(torch.tensor([[5], [6]]), position_ids=place, past_key_values=cache)
        tensors = [tensor for layer in cache.layers for tensor in layer.storages()]
        assert cache.nbytes == sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    stores = [layer.store for layer in cache.layers]
    assert {store.segments[0].score.dtype for store in stores} == {torch.float32}
