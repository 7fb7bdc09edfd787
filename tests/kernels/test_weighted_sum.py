"""`weighted_sum`: torch reference and Triton kernel against float64 arithmetic."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dcache.kernels import Job, Packed, launch, store, weighted_sum, weighted_sums
from dcache.kernels.store import empty
from dcache.kernels.weighted_sum import batch, blocks, reference
from tests.kernels.closeness import DEVICE, assert_near

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
STORES = (torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn)
WEIGHTS = {1: [1.0], 2: [-0.75, 1.75], 3: [1.0, -3.0, 3.0]}
MORE = [-0.75, 1.75, 0.5, -1.25, 2.0, 0.375]
# One element, odd ones, around a block, several blocks, rows longer than a block.
SHAPES = [(), (1,), (7,), (3, 5, 11), (1, 1023), (1025,), (2, 64, 192), (3, 2, 1030)]


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


def stored(z: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | Packed:
    out = empty(z, dtype)
    store(z, None, out)
    return out


def double(anchor: torch.Tensor | Packed) -> torch.Tensor:
    return anchor.to(torch.float64)


def terms(base: Any, anchors: list[Any], weights: list[float], gate: Any = None) -> list[torch.Tensor]:
    """The addends, in float64, with the weights as a kernel gets them."""
    by = 1.0 if gate is None else gate.double()
    narrow = torch.tensor(weights).double().tolist()
    found = [w * double(a) * by for w, a in zip(narrow, anchors, strict=True)]
    return found if base is None else [base.double(), *found]


@pytest.fixture
def only_kernels(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference may not be taken."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the reference was taken")

    monkeypatch.setattr(blocks, "weighted_sum", refuse)
    monkeypatch.setattr(reference, "weighted_sum", refuse)


@pytest.mark.parametrize(("kept", "dtype"), list(itertools.product(DTYPES[1:], DTYPES)))
@pytest.mark.parametrize("count", WEIGHTS)
@pytest.mark.parametrize("with_base", [False, True])
def test_sum_in_wide_arithmetic_rounded_once(path, kept, dtype, count, with_base):
    anchors = [tensor(3, 5, dtype=kept) for _ in range(count)]
    base = tensor(3, 5, dtype=dtype) if with_base else None
    before = [a.clone() for a in anchors], None if base is None else base.clone()
    out = weighted_sum(base, anchors, WEIGHTS[count], dtype)
    assert out.dtype == dtype
    assert_near("sum", out, terms(base, anchors, WEIGHTS[count]), path)
    assert all(torch.equal(a, b) for a, b in zip(anchors, before[0], strict=True))
    assert base is None or torch.equal(base, before[1])


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("count", range(1, 7))
@pytest.mark.parametrize("first", range(len(STORES)))
def test_any_mix_of_stores(path, dtype, count, first):
    anchors = [stored(tensor(2, 3, 65), STORES[(first + i) % len(STORES)]) for i in range(count)]
    for base in (None, tensor(2, 3, 65, dtype=dtype)):
        out = weighted_sum(base, anchors, MORE[:count], dtype)
        assert_near("sum", out, terms(base, anchors, MORE[:count]), path)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kept", [torch.float32, torch.int8])
def test_every_size(path, shape, kept):
    anchors = [stored(tensor(*shape), kept) for _ in range(2)]
    base = tensor(*shape)
    assert_near(
        "sum", weighted_sum(base, anchors, [-0.75, 1.75], base.dtype), terms(base, anchors, MORE[:2]), path
    )


def test_no_elements(path):
    assert weighted_sum(None, [tensor(0, 5)], [1.0], torch.float32).shape == (0, 5)


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("kept", STORES)
def test_the_kernel_takes_what_it_claims(only_kernels, count, kept):
    anchors = [stored(tensor(2, 65), kept) for _ in range(count)]
    for dtype in DTYPES[1:]:
        weighted_sum(tensor(2, 65, dtype=dtype), anchors, MORE[:count], dtype)
    with pytest.raises(AssertionError, match="reference"):
        weighted_sum(None, anchors, MORE[:count], torch.float64)


def test_more_anchors_than_a_launch_takes(path):
    anchors = [tensor(5) for _ in range(8)]
    weights = [0.5, -1.0] * 4
    assert_near(
        "sum", weighted_sum(None, anchors, weights, torch.float32), terms(None, anchors, weights), path
    )


@pytest.mark.parametrize(
    ("shape", "gate"),
    [
        ((2, 7, 65), (2, 1, 65)),
        ((2, 7, 64), (1, 1, 64)),
        ((3, 2, 5, 16), (3, 1, 1, 16)),
        ((2, 100, 48), (2, 1, 48)),
        ((4, 9), (4, 9)),
        ((2, 7, 5), (5,)),
        ((2, 7, 5), (2, 7, 5)),
        ((2, 3, 4, 4), (2, 3, 1, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("kept", [torch.float32, torch.int8])
@pytest.mark.parametrize("with_base", [False, True])
def test_a_gate_multiplies_the_sum_alone(path, shape, gate, kept, with_base):
    anchors = [stored(tensor(*shape), kept) for _ in range(2)]
    base, g = tensor(*shape) if with_base else None, tensor(*gate)
    out = weighted_sum(base, anchors, [-0.75, 1.75], torch.float32, gate=g)
    assert_near("gated sum", out, terms(base, anchors, MORE[:2], g.expand(shape)), path)


def test_gates_of_tokens_are_the_kernels(only_kernels):
    for gate in (tensor(2, 1, 65), tensor(1, 1, 65)):
        z = tensor(2, 7, 65)
        assert torch.equal(weighted_sum(None, [z], [1.0], torch.float32, gate=gate), gate * z)


@pytest.mark.parametrize("kind", ["transposed", "strided", "channels last", "expanded"])
def test_inputs_that_are_not_contiguous(path, kind):
    def make() -> torch.Tensor:
        if kind == "transposed":
            return tensor(2, 6, 5, 4).permute(0, 2, 3, 1)
        if kind == "strided":
            return tensor(4, 5, 4, 12)[::2, :, :, 1::2]
        if kind == "expanded":
            return tensor(1, 5, 1, 6).expand(2, 5, 4, 6)
        return tensor(2, 5, 4, 6).to(memory_format=torch.channels_last)

    base, anchors = make(), [make(), make()]
    assert not base.is_contiguous()
    for under, kept in ((base, anchors), (base, [a.contiguous() for a in anchors]), (None, anchors)):
        out = weighted_sum(under, kept, [-0.75, 1.75], torch.float32)
        assert_near("sum", out, terms(under, kept, MORE[:2]), path)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [[1.0], [2.0], [0.0, 1.0]])
@pytest.mark.parametrize("with_base", [False, True])
def test_the_result_is_new_memory(path, dtype, weights, with_base):
    anchors = [torch.ones(4, dtype=dtype, device=DEVICE) for _ in weights]
    base = torch.zeros(4, dtype=dtype, device=DEVICE) if with_base else None
    out = weighted_sum(base, anchors, weights, dtype)
    out.fill_(5)
    assert all(bool((a == 1).all()) for a in anchors)
    assert base is None or not base.any()


def test_one_anchor_of_weight_one_comes_back_bit_for_bit(path):
    for dtype in DTYPES:
        z = tensor(7, dtype=dtype)
        assert torch.equal(weighted_sum(None, [z], [1.0], dtype), z)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes_accumulate_in_float32(path, dtype):
    # 256 + 1 - 256 is 0 in bfloat16 (and 2048 + 1 - 2048 in float16) step by step, 1 in float32.
    big = torch.tensor([256.0 if dtype is torch.bfloat16 else 2048.0], dtype=dtype, device=DEVICE)
    one = torch.ones(1, dtype=dtype, device=DEVICE)
    assert weighted_sum(big, [one, big], [1.0, -1.0], dtype).item() == 1.0
    assert weighted_sum(None, [big, one, big], [1.0, 1.0, -1.0], dtype).item() == 1.0


def test_a_wide_anchor_times_its_weight_is_rounded_once(path):
    # 1 + 2^-8 is 1 in bfloat16; three times it, 3 + 3 * 2^-8, is nearest 3 + 2^-6 there.
    z = torch.tensor([1 + 2**-8], device=DEVICE)
    out = weighted_sum(None, [z], [3.0], torch.bfloat16).item()
    assert out == (3.0 if path == "on" and DEVICE == "cpu" else 3 + 2**-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", ["own", "base", "first", "last", "gate", "strided"])
def test_out_may_be_any_input(path, dtype, place):
    shape = (2, 1, 70)
    base, gate, anchors = tensor(*shape), tensor(*shape), [tensor(*shape) for _ in range(3)]
    base, gate, anchors = base.to(dtype), gate.to(dtype), [a.to(dtype) for a in anchors]
    expected = terms(base, anchors, MORE[:3], gate)
    own = torch.full(shape, torch.nan, dtype=dtype, device=DEVICE)
    strided = torch.full((2, 1, 140), torch.nan, dtype=dtype, device=DEVICE)[..., ::2]
    first, _, last = anchors
    places = {"own": own, "base": base, "first": first, "last": last, "gate": gate, "strided": strided}
    out = places[place]
    assert weighted_sum(base, anchors, MORE[:3], dtype, gate=gate, out=out) is out
    assert_near("sum", out, expected, path)


@pytest.mark.parametrize("place", [0, 1])
def test_out_may_be_an_anchor_without_a_gate(path, place):
    base, anchors = tensor(70), [tensor(70), tensor(70)]
    for under in (base, None):
        expected = terms(under, anchors, MORE[:2])
        assert_near(
            "sum", weighted_sum(under, anchors, MORE[:2], torch.float32, out=anchors[place]), expected
        )


def test_weights_may_be_a_tensor(path):
    base, anchors = tensor(3, 70), [tensor(3, 70), tensor(3, 70)]
    weights = torch.tensor([-0.75, 1.75], device=DEVICE)
    assert torch.equal(
        weighted_sum(base, anchors, weights, torch.float32),
        weighted_sum(base, anchors, [-0.75, 1.75], torch.float32),
    )


def test_the_same_weights_are_uploaded_once(kernels, monkeypatch):
    seen: list[Any] = []
    fresh, other = random.random(), random.random()
    upload = launch.upload
    monkeypatch.setattr(launch, "upload", lambda *given: seen.append(given[0]) or upload(*given))
    for weights in ([fresh, 1.5], [fresh, 1.5], (fresh, 1.5), [other, 1.5]):
        weighted_sum(None, [tensor(3), tensor(3)], weights, torch.float32)
    assert seen == [(fresh, 1.5), (other, 1.5)]


def test_the_reference_in_float32_is_the_plain_chain_bit_for_bit():
    x, a, b = (torch.randn(8, 64, 192) for _ in range(3))
    w = [-0.6180339, 1.6180339]
    chain = torch.add(x, a, alpha=w[0]).add_(b, alpha=w[1])
    assert torch.equal(weighted_sum(x, [a, b], w, torch.float32), chain)
    assert torch.equal(weighted_sum(x, [a, b], w, torch.float32, out=torch.empty_like(x)), chain)
    assert torch.equal(weighted_sum(None, [a, b], w, torch.float32), (a * w[0]).add_(b, alpha=w[1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kept", [torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("shape", [(50, 130), (3, 7, 65), (1000,)], ids=str)
def test_blocks_give_the_same_bits(monkeypatch, dtype, kept, shape):
    calls: list[Any] = []
    plain: Callable[..., torch.Tensor] = reference.weighted_sum
    base, anchors = torch.randn(shape).to(dtype), [stored(torch.randn(shape), kept) for _ in range(3)]
    whole = [plain(under, anchors, MORE[:3], dtype) for under in (base, None)]
    monkeypatch.setattr(launch, "CPU_BLOCK", 64)
    monkeypatch.setattr(reference, "weighted_sum", lambda *a, **k: calls.append(a) or plain(*a, **k))
    out = torch.empty(shape, dtype=dtype)
    assert torch.equal(blocks.weighted_sum(base, anchors, MORE[:3], dtype, out=out), whole[0])
    assert torch.equal(blocks.weighted_sum(None, anchors, MORE[:3], dtype), whole[1])
    row = anchors[0].numel() // anchors[0].scale.numel() if isinstance(anchors[0], Packed) else 1
    assert len(calls) == 2 * -(-base.numel() // (64 * row))


@pytest.mark.parametrize("kept", [torch.int8, torch.float8_e4m3fn])
def test_a_packed_anchor_times_a_weight_is_rounded_once(kept):
    z = stored(tensor(4, 192, dtype=torch.bfloat16), kept)
    found = weighted_sum(None, [z], [0.3], torch.bfloat16)
    assert torch.equal(found, (z.float32() * 0.3).to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_pass_through_the_reference(path, monkeypatch, dtype):
    monkeypatch.setattr(launch, "CPU_BLOCK", 64)
    z = tensor(3, 100).requires_grad_()
    weighted_sum(None, [z, tensor(3, 100, dtype=torch.float16)], [3.0, 1.0], dtype).sum().backward()
    assert bool((z.grad == 3).all())


def jobs() -> list[Job]:
    """Kinds of sums, in several shapes; one alone of its kind; one that no kernel takes."""
    found = []
    for shape in ((2, 16, 64), (3, 5), (2, 64, 192)):
        z = [tensor(*shape) for _ in range(3)]
        found.append(Job(tensor(*shape), z[:2], [-0.75, 1.75], torch.float32))
        found.append(Job(None, [a.half() for a in z], [1.0, -3.0, 3.0], torch.float16))
    int8 = [stored(tensor(2, 3, 64), torch.int8) for _ in range(4)]
    found.append(Job(None, int8[:2], [-0.3, 1.3], torch.float16))
    found.append(Job(None, int8[2:], [0.3, 0.7], torch.float16, out=tensor(2, 3, 64, dtype=torch.float16)))
    found += [Job(None, [tensor(5)], [w], torch.float32) for w in (0.5, 2.0)]
    found.append(Job(None, [tensor(5)], [0.5], torch.float16))
    found.append(Job(None, [tensor(5), tensor(5)], [0.5, 0.25], torch.float64))
    return found


def test_many_sums_are_each_one(path):
    its = jobs()
    for job, total in zip(its, weighted_sums(its), strict=True):
        assert total.dtype == job.dtype
        assert job.out is None or total is job.out
        assert_near("sum", total, terms(job.base, list(job.anchors), list(job.weights)), path)
    assert weighted_sums([]) == []


def test_sums_alike_are_one_launch(kernels, monkeypatch):
    sizes: list[int] = []
    run = batch.run
    monkeypatch.setattr(batch, "run", lambda some: sizes.append(len(some)) or run(some))
    weighted_sums(jobs())
    assert sizes == [3, 3, 2, 2]


def test_loads_are_wide_where_every_tensor_begins_and_ends_at_16_bytes(kernels, monkeypatch):
    hints: list[bool] = []

    class Recorder:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *_, ALIGNED, **__: hints.append(ALIGNED)

    monkeypatch.setattr(batch, "weighted_sums_kernel", Recorder())
    whole = tensor(4, 64)
    weighted_sums([Job(None, [tensor(4, 64)], [1.0], torch.float32) for _ in range(2)])
    weighted_sums([Job(None, [z], [1.0], torch.float32) for z in (whole, whole.view(-1)[1:193])])
    weighted_sums([Job(None, [z], [1.0], torch.float32) for z in (whole, tensor(63))])
    assert hints == [True, False, False]


def test_many_sums_of_aligned_tensors_and_weights_on_the_device(path):
    its = [
        Job(tensor(4, 64), [tensor(4, 64)], torch.tensor([w], device=DEVICE), torch.float32)
        for w in (0.5, 2.0)
    ]
    for job, total in zip(its, weighted_sums(its), strict=True):
        assert_near("sum", total, terms(job.base, list(job.anchors), job.weights.tolist()), path)
