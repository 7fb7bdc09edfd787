import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dcache.kernels.lowbit import LowBit
from dcache.lm_kv.codecs.low_bit import LowBitCodec
from dcache.lm_kv.codecs.rotated import RotatedCodec
from dcache.lm_kv.model.attention import Fresh, Logits, attend, attend_one
from dcache.lm_kv.storage.encoded import EncodedPart
from dcache.lm_kv.storage.parts import DensePart, RaggedPart
from dcache.lm_kv.storage.segment import Segment
from tests.lm_kv.codecs.common import encode_keys

ROWS, HEADS, SIZE = 2, 2, 32
CODECS = {"kivi": LowBitCodec(4, 8, 0), "rotatekv": RotatedCodec(2, 16, 0)}


def segment(codec, lengths, bias=False) -> Segment:
    sizes = torch.tensor(lengths)
    count = int(sizes.sum())
    keys, values = torch.randn(count, SIZE), torch.randn(count, SIZE)
    return Segment(
        encode_keys(codec, keys, sizes.flatten()),
        codec.encode_values(values, sizes.flatten()),
        torch.zeros(count, dtype=torch.int32),
        sizes,
        torch.randn(count) if bias else None,
        codec=codec,
    )


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize("lengths", [[[20, 0], [7, 33]], [[9, 9], [9, 9]]])
@pytest.mark.parametrize("bias", [False, True])
def test_queries_meet_codes_as_they_would_decoded_keys(name, lengths, bias):
    packed = segment(CODECS[name], lengths, bias)
    part = packed.part()
    assert isinstance(part, EncodedPart)
    keys, values = packed.decoded()
    padded = packed.pad(packed.bias) if bias else None
    plain = RaggedPart(keys, values, packed.lengths, packed.sizes, padded)
    newest = DensePart(torch.randn(ROWS, HEADS, 3, SIZE), torch.randn(ROWS, HEADS, 3, SIZE))
    query, logits = torch.randn(ROWS, 2 * HEADS, 1, SIZE), Logits(SIZE**-0.5)
    expected = attend(query, [plain, newest], logits, Fresh(), "sum")
    merged = attend_one(query, [part, newest], logits, None)
    torch.testing.assert_close(merged.output, expected.output, atol=2e-6, rtol=1e-5)
    together = attend_one(query, [part, newest], logits, "sum")
    torch.testing.assert_close(together.output, expected.output, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(together.columns, expected.columns, atol=2e-6, rtol=1e-5)


class Largest(TorchDispatchMode):
    """The bytes of the largest new tensor; views of what is there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in known:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("name", sorted(CODECS))
def test_only_pieces_are_decoded_for_a_new_token(name):
    packed = segment(CODECS[name], [[5000, 5000], [5000, 5000]])
    part, query = packed.part(), torch.randn(ROWS, 2 * HEADS, 1, SIZE)
    newest = DensePart(torch.randn(ROWS, HEADS, 3, SIZE), torch.randn(ROWS, HEADS, 3, SIZE))
    with Largest() as made:
        attend_one(query, [part, newest], Logits(0.1), None)
    assert made.bytes <= 1024 * SIZE * 4 < 20000 * SIZE * 4 / 10


def test_codes_alone_are_kept():
    packed = segment(CODECS["kivi"], [[20, 0], [7, 33]])
    part = packed.part()
    assert packed.part() is part
    assert isinstance(part.keys, LowBit)
    assert part.keys is packed.keys
