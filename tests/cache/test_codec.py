"""Codecs: what is stored, in which dtype, in whose memory."""

import pytest
import torch

from dcache.cache.codec import parse
from dcache.errors import DcacheError
from dcache.kernels.packed import Packed
from dcache.kernels.weighted_sum import weighted_sum

FRAMES = ("value", "delta")
NAMES = [f + s for f in FRAMES for s in ("", ":float32", ":bfloat16", ":float16")]
# What a row's largest element is rounded by, at most: half a step of 127, and half of the last of three bits.
PACKED = {f + s: error for f in FRAMES for s, error in ((":int8", 0.51 / 127), (":fp8", 1.01 / 16))}


def remember(codec, x, y):
    return codec.close(codec.open(x), y)


@pytest.mark.parametrize("name", [*NAMES, *PACKED])
def test_names_round_trip(name):
    assert parse(name).name == name
    assert parse(parse(name)).name == name


@pytest.mark.parametrize("name", ["", "values", "value:int4", "delta:bfloat16:x", ":float16", None, 3])
def test_unknown_names_are_refused(name):
    with pytest.raises(DcacheError, match="value, delta"):
        parse(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_stored_tensor_is_the_difference_in_its_dtype_and_in_our_memory(name, dtype):
    codec = parse(name)
    x, y = torch.randn(2, 3, dtype=dtype), torch.randn(2, 3, dtype=dtype)
    kept = x.clone(), y.clone()
    z = remember(codec, x, y)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    assert z.dtype == (codec.store or dtype)
    assert torch.equal(z, (y - x if codec.is_delta else y).to(z.dtype))
    mine = z.clone()
    x.fill_(7)
    y.fill_(9)
    assert torch.equal(z, mine)
    assert z.untyped_storage().data_ptr() not in (
        x.untyped_storage().data_ptr(),
        y.untyped_storage().data_ptr(),
    )


def test_a_view_is_stored_without_the_rest_of_its_storage():
    whole = torch.randn(10, 4)
    for name in ("value", "delta"):
        z = remember(parse(name), whole[:2], whole[2:4])
        assert z.untyped_storage().nbytes() == 2 * 4 * 4
    assert (
        remember(parse("value"), None, torch.zeros(1, 4).expand(5, 4)).untyped_storage().nbytes() == 5 * 4 * 4
    )


def test_delta_survives_a_block_that_writes_over_its_input():
    codec, x = parse("delta"), torch.ones(3)
    opened = codec.open(x)
    x += 4
    assert torch.equal(codec.close(opened, x), torch.full((3,), 4.0))


def test_delta_of_a_leaf_without_an_entry_is_its_value():
    z = remember(parse("delta"), None, torch.full((2,), 3.0))
    assert torch.equal(z, torch.full((2,), 3.0))


@pytest.mark.parametrize("frame", ["value", "delta"])
def test_prediction_from_one_anchor_gives_the_output_back(frame):
    codec, x, y = parse(frame), torch.tensor([1.0, 2.0]), torch.tensor([4.0, 8.0])
    z = remember(codec, x, y)
    assert torch.equal(weighted_sum(x if codec.is_delta else None, [z], [1.0], torch.float32), y)


def test_fp8_has_its_full_name_too():
    assert parse("delta:float8_e4m3fn") == parse("delta:fp8")


@pytest.mark.parametrize(("name", "error"), PACKED.items())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_anchor_is_the_difference_up_to_its_step(name, error, dtype):
    codec, draw = parse(name), torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 96, generator=draw).to(dtype)
    y = (
        torch.randn(2, 5, 96, generator=draw)
        .mul(torch.tensor([1e-3, 1.0, 1e3, 30.0, 0.0])[:, None])
        .to(dtype)
    )
    z = remember(codec, x, y)
    assert isinstance(z, Packed)
    true = y.float() - (x.float() if codec.is_delta else 0.0)
    largest = true.abs().amax(-1, keepdim=True)
    assert bool(((z.float32() - true).abs() <= error * largest).all())
    assert z.dtype == dtype


@pytest.mark.parametrize("name", [*NAMES, *PACKED])
def test_an_anchor_is_written_into_the_memory_of_an_older_one_that_fits(name):
    codec = parse(name)
    x, y = torch.randn(2, 3, 64), torch.randn(2, 3, 64)
    slot = remember(codec, torch.randn_like(x), torch.randn_like(y))
    held = [t.data_ptr() for t in _tensors(slot)]
    fresh = remember(codec, x, y)
    again = codec.close(codec.open(x, slot), y, slot)
    assert again is slot
    assert [t.data_ptr() for t in _tensors(again)] == held
    assert all(torch.equal(a, b) for a, b in zip(_tensors(again), _tensors(fresh), strict=True))


@pytest.mark.parametrize("name", ["value", "delta", "value:int8", "delta:bfloat16", "delta:fp8"])
def test_memory_that_does_not_fit_is_left_alone(name):
    codec = parse(name)
    x, y = torch.randn(2, 3, 64), torch.randn(2, 3, 64)
    others = [
        remember(codec, torch.ones(2, 3, 32), torch.ones(2, 3, 32)),
        remember(codec, torch.ones(2, 3, 64).double(), torch.ones(2, 3, 64).double()),
        remember(parse("value:float16"), None, torch.ones(2, 3, 64)),
        torch.ones(2, 64, 3).transpose(1, 2),
    ]
    with torch.inference_mode():
        others.append(remember(codec, torch.ones(2, 3, 64), torch.ones(2, 3, 64)))
    for other in others:
        before = [t.clone() for t in _tensors(other)]
        z = codec.close(codec.open(x, other), y, other)
        if codec.store not in (None, torch.float32) and other is others[1]:
            # A cast store is of one dtype whatever is cast.
            assert isinstance(other, torch.Tensor) == (z is other)
            continue
        assert z is not other
        assert all(torch.equal(a, b) for a, b in zip(_tensors(other), before, strict=True))
        assert all(
            torch.equal(a, b) for a, b in zip(_tensors(z), _tensors(remember(codec, x, y)), strict=True)
        )


def test_what_is_no_floating_point_tensor_is_kept_as_it_is():
    for name in ("value:int8", "value:fp8", "value:bfloat16"):
        z = remember(parse(name), None, torch.tensor([1, 2**20 + 1]))
        assert torch.equal(z, torch.tensor([1, 2**20 + 1]))


def test_nothing_remembered_keeps_the_graph_of_its_gradients():
    x, y = torch.ones(3, requires_grad=True) * 2, torch.ones(3, requires_grad=True) * 5
    for name in ("value", "delta", "delta:int8"):
        assert not any(t.requires_grad for t in _tensors(remember(parse(name), x, y)))


def _tensors(z):
    return z.tensors() if isinstance(z, Packed) else (z,)
