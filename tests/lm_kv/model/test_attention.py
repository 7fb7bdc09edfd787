from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dcache.lm_kv.model import attention
from dcache.lm_kv.model.attention import Fresh, Logits, attend, attend_fresh, attend_one, attend_some
from dcache.lm_kv.storage.parts import DensePart, RaggedPart
from dcache.lm_kv.storage.segment import Segment

ROWS, HEADS, GROUPS, SIZE = 2, 2, 2, 8
PLAIN = Logits(SIZE**-0.5)


def tensors(*columns: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(ROWS, HEADS, n, SIZE), torch.randn(ROWS, HEADS, n, SIZE)) for n in columns]


def queries(count: int) -> torch.Tensor:
    return torch.randn(ROWS, HEADS * GROUPS, count, SIZE)


def dense(query, keys, values, bias, logits=PLAIN):
    """The specification: every key for every query, with what must not be seen at -inf."""
    keys, values = keys.repeat_interleave(GROUPS, 1), values.repeat_interleave(GROUPS, 1)
    scores = logits.of(query @ keys.mT) + bias.repeat_interleave(GROUPS, 1)
    if logits.sinks is not None:
        sinks = logits.sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return (weights @ values).transpose(1, 2), weights


def causal(count: int, older: int) -> torch.Tensor:
    mask = torch.ones(count, older + count).tril(older).bool()
    return torch.zeros(ROWS, HEADS, count, older + count).masked_fill(~mask, float("-inf"))


@pytest.mark.parametrize("logits", [PLAIN, Logits(0.3, softcap=2.0), Logits(0.3, sinks=torch.randn(4))])
def test_parts_are_normalised_together(logits):
    (k0, v0), (k1, v1), (k2, v2) = tensors(5, 3, 4)
    query = queries(4)
    parts = [DensePart(k0, v0), DensePart(k1, v1), DensePart(k2, v2)]
    keys, values = torch.cat([k0, k1, k2], 2), torch.cat([v0, v1, v2], 2)
    expected, weights = dense(query, keys, values, causal(4, 8), logits)
    result = attend(query, parts, logits, Fresh(), "sum")
    torch.testing.assert_close(result.output, expected, atol=1e-6, rtol=1e-5)
    sums = weights.unflatten(1, (HEADS, GROUPS)).mean(2).sum(2)
    torch.testing.assert_close(result.columns, sums, atol=1e-6, rtol=1e-5)


def test_ragged_runs_equal_dense_attention_with_dropped_keys_at_minus_infinity():
    ((k0, v0), (k1, v1)) = tensors(6, 1)
    query, lengths = queries(1), torch.tensor([[6, 0], [2, 4]])
    kept = torch.arange(6) < lengths[..., None]
    bias = torch.randn(ROWS, HEADS, 6)
    part = RaggedPart(k0[kept], v0[kept], lengths, lengths.flatten().tolist(), bias)
    full = torch.cat([bias.masked_fill(~kept, float("-inf")), torch.zeros(ROWS, HEADS, 1)], -1)[:, :, None]
    expected, weights = dense(query, torch.cat([k0, k1], 2), torch.cat([v0, v1], 2), full)
    result = attend(query, [part, DensePart(k1, v1)], PLAIN, Fresh(), "max")
    torch.testing.assert_close(result.output, expected, atol=1e-6, rtol=1e-5)
    largest = weights.unflatten(1, (HEADS, GROUPS)).amax((2, 3))
    torch.testing.assert_close(result.columns, largest, atol=1e-6, rtol=1e-5)


def test_pads_of_this_call_are_neither_seen_nor_counted():
    ((k0, v0),) = tensors(4)
    query, valid = queries(4), torch.tensor([[False, True, True, True], [True] * 4])
    result = attend(query, [DensePart(k0, v0)], PLAIN, Fresh(valid), "sum")
    lone = attend(query[:1, :, 1:], [DensePart(k0[:1, :, 1:], v0[:1, :, 1:])], PLAIN, Fresh(), "sum")
    torch.testing.assert_close(result.output[:1, 1:], lone.output)
    torch.testing.assert_close(result.columns[:1, :, 1:], lone.columns)
    assert result.columns[0, :, 0].tolist() == [0.0, 0.0]
    assert result.output.isfinite().all()


def test_blocks_of_queries_change_nothing(monkeypatch):
    ((k0, v0), (k1, v1)) = tensors(3, 7)
    query, parts = queries(7), [DensePart(k0, v0), DensePart(k1, v1)]
    whole = attend(query, parts, PLAIN, Fresh(), "sum")
    largest = attend(query, parts, PLAIN, Fresh(), "max")
    # One query at a time.
    monkeypatch.setattr(attention, "LOGITS", 1)
    split = attend(query, parts, PLAIN, Fresh(), "sum")
    torch.testing.assert_close(split.output, whole.output)
    torch.testing.assert_close(split.columns, whole.columns)
    torch.testing.assert_close(attend(query, parts, PLAIN, Fresh(), "max").columns, largest.columns)


@pytest.mark.parametrize(
    "fresh",
    [
        Fresh(),
        Fresh(valid=torch.tensor([[False, True, True, True], [True] * 4])),
        Fresh(visible=torch.ones(ROWS, 4, 4, dtype=torch.bool)),
    ],
)
def test_fused_attention_of_a_first_call_equals_the_reference(fresh):
    ((k0, v0),) = tensors(4)
    query = queries(4)
    expected = attend(query, [DensePart(k0, v0)], PLAIN, fresh).output
    torch.testing.assert_close(attend_fresh(query, DensePart(k0, v0), PLAIN, fresh), expected)


def test_half_precision_is_normalised_in_float32_and_given_back_in_its_own():
    ((k0, v0),) = tensors(3)
    query = queries(1)
    low = [x.bfloat16() for x in (query, k0, v0)]
    result = attend(low[0], [DensePart(low[1], low[2])], PLAIN, Fresh()).output
    exact = attend(low[0].float(), [DensePart(low[1].float(), low[2].float())], PLAIN, Fresh()).output
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result, exact.bfloat16(), atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("valid", [None, torch.tensor([[[False, True, True, True]], [[True] * 4]])])
def test_fused_attention_of_one_query_equals_the_reference(valid, dtype):
    ((k0, v0),) = [[x.to(dtype) for x in pair] for pair in tensors(4)]
    query, part = queries(1).to(dtype), DensePart(k0, v0, valid)
    expected = attend(query, [part], PLAIN, Fresh()).output
    result = attend_one(query, [part], PLAIN, None)
    assert result.columns is None
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(result.output, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("logits", [PLAIN, Logits(0.3, softcap=2.0), Logits(0.3, sinks=torch.randn(4))])
@pytest.mark.parametrize("statistic", [None, "sum"])
def test_what_fused_attention_does_not_have_the_reference_does(logits, statistic):
    (k0, v0), (k1, v1) = tensors(4, 3)
    query, parts = queries(1), [DensePart(k0, v0), DensePart(k1, v1)]
    for some in (parts[:1], parts):
        expected = attend(query, some, logits, Fresh(), statistic)
        result = attend_one(query, some, logits, statistic)
        torch.testing.assert_close(result.output, expected.output)
        assert (result.columns is None) == (statistic is None)


@pytest.mark.parametrize("statistic", ["sum", "max"])
def test_one_query_gives_columns_the_statistic_of_the_reference(statistic):
    ((k0, v0), (k1, v1)) = tensors(5, 3)
    query, parts = queries(1), [DensePart(k0, v0), DensePart(k1, v1)]
    expected = attend(query, parts, PLAIN, Fresh(), statistic)
    result = attend_one(query, parts, PLAIN, statistic)
    torch.testing.assert_close(result.output, expected.output, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(result.columns, expected.columns, atol=1e-6, rtol=1e-5)


def ragged(biased: bool) -> RaggedPart:
    lengths = torch.tensor([[6, 0], [2, 4]])
    bias = torch.randn(ROWS, HEADS, 6) if biased else None
    return RaggedPart(torch.randn(12, SIZE), torch.randn(12, SIZE), lengths, lengths.flatten().tolist(), bias)


def stored(case: str) -> list:
    """Parts that every query sees: none, runs of any lengths, and columns of which a row may have none."""
    ((k0, v0),) = tensors(5)
    valid = torch.tensor([[False] * 5, [True, False, True, True, False]])[:, None]
    return {
        "nothing": [],
        "ragged": [ragged(biased=False)],
        "ragged with a bias, pads": [ragged(biased=True), DensePart(k0, v0, valid)],
        "a bias and pads": [DensePart(k0, v0, valid, torch.randn(ROWS, HEADS, 5)), ragged(biased=False)],
    }[case]


FRESH = {
    "causal": Fresh(),
    "pads": Fresh(valid=torch.tensor([[False, True, True, True], [True] * 4])),
    "both ways": Fresh(visible=torch.ones(ROWS, 4, 4, dtype=torch.bool)),
}
CASES = ("nothing", "ragged", "ragged with a bias, pads", "a bias and pads")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", sorted(FRESH))
@pytest.mark.parametrize("logits", [PLAIN, Logits(0.3, softcap=2.0), Logits(0.3, sinks=torch.randn(4))])
def test_parts_that_are_merged_equal_the_reference(case, kind, logits):
    ((k1, v1),) = tensors(4)
    query, parts = queries(4), [*stored(case), DensePart(k1, v1)]
    expected = attend(query, parts, logits, FRESH[kind]).output
    result = attend_some(query, parts, logits, FRESH[kind])
    torch.testing.assert_close(result, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("logits", [PLAIN, Logits(0.3, softcap=2.0), Logits(0.3, sinks=torch.randn(4))])
def test_one_query_on_merged_parts_equals_the_reference(case, logits):
    ((k1, v1),) = tensors(3)
    query, parts = queries(1), [*stored(case), DensePart(k1, v1)]
    expected = attend(query, parts, logits, Fresh()).output
    torch.testing.assert_close(attend_one(query, parts, logits, None).output, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_merged_parts_are_of_the_models_precision(dtype):
    parts = [*stored("a bias and pads"), DensePart(*tensors(4)[0])]
    query, parts = queries(4).to(dtype), [cast(part, dtype) for part in parts]
    exact = attend(query.double(), [cast(part, torch.float64) for part in parts], PLAIN, Fresh()).output
    result = attend_some(query, parts, PLAIN, Fresh())
    assert result.dtype == dtype
    tolerance = {torch.float64: 1e-9, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(result.double(), exact, atol=tolerance, rtol=tolerance)


def cast(part, dtype):
    return replace(part, keys=part.keys.to(dtype), values=part.values.to(dtype))


class Sizes(TorchDispatchMode):
    """Collects how many elements each new tensor has; views of what is there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.new: list[int] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in known:
                self.new.append(tensor.numel())
        return result


@pytest.mark.parametrize("lengths", [[[30, 30], [30, 30]], [[10, 50], [20, 40]]])
def test_a_decoded_token_copies_no_stored_keys_or_values(lengths):
    # Channels are many, so that even the shortest run has more elements than all weights.
    sizes, size = torch.tensor(lengths), 64
    flat = torch.randn(120, size)
    segment = Segment(flat, flat.clone(), torch.zeros(120, dtype=torch.int32), sizes)
    newest = torch.randn(ROWS, HEADS, 3, size)
    query, parts = torch.randn(ROWS, HEADS * GROUPS, 1, size), [segment.part(), DensePart(newest, newest)]
    attend_one(query, parts, PLAIN, None)
    with Sizes() as made:
        attend_one(query, parts, PLAIN, None)
    # The largest are queries and outputs, or weights of all columns of the longest run and the tail.
    weights = ROWS * HEADS * GROUPS * (int(sizes.max()) + 3)
    assert max(made.new) == max(weights, query.numel()) < int(sizes.min()) * size
