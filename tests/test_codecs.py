"""Codecs: what is stored, in which dtype, in whose memory."""

import pytest
import torch

from dcache.codecs import parse
from dcache.errors import DcacheError
from dcache.kernels.weighted_sum import weighted_sum

NAMES = [f + s for f in ("value", "delta") for s in ("", ":float32", ":bfloat16", ":float16")]


def remember(codec, x, y):
    return codec.close(codec.open(x), y)


@pytest.mark.parametrize("name", NAMES)
def test_names_round_trip(name):
    assert parse(name).name == name
    assert parse(parse(name)).name == name


@pytest.mark.parametrize("name", ["", "values", "value:int8", "delta:bfloat16:x", ":float16", None, 3])
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
