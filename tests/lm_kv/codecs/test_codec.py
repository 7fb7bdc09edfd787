import torch

from dcache.lm_kv.codecs.codec import Plain
from tests.lm_kv.codecs.common import encode_keys


def test_a_view_of_a_fused_projection_gets_a_storage_of_its_size():
    fused = torch.arange(24.0).view(4, 6)
    values = fused[:, 2:4]
    encoded = Plain().encode_values(values, torch.tensor([[4]]))
    assert torch.equal(Plain().decode(encoded), values)
    assert [s.untyped_storage().nbytes() for s in Plain().tensors(encoded).values()] == [4 * 2 * 4]
    encoded.zero_()
    assert fused[3, 3] == 21


def test_tokens_are_taken_by_index():
    keys = encode_keys(Plain(), torch.arange(6.0).view(3, 2), torch.tensor([[3]]))
    assert Plain().take(keys, torch.tensor([2, 0]), torch.tensor([2])).tolist() == [[4.0, 5.0], [0.0, 1.0]]
