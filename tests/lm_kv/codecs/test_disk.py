import errno
import os

import pytest
import torch

from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.lm_kv.codecs.disk import DiskCodec, on_disk
from tests.lm_kv.codecs.common import encode_keys

LENGTHS = torch.tensor([[4, 3]])
# Of runs of 4 and 3 tokens the oldest 2 and 1 are on disk.
OLDER = [True, True, False, False, True, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_file_reads_as_the_tensor_and_has_no_name(tmp_path, dtype):
    states = torch.randn(7, 3).to(dtype)
    mapped = on_disk(states, tmp_path)
    assert torch.equal(mapped, states)
    assert mapped.dtype == dtype
    assert mapped.untyped_storage().nbytes() == states.nbytes
    assert list(tmp_path.iterdir()) == []


def test_older_tokens_of_every_run_are_on_disk(tmp_path):
    codec, keys = DiskCodec(str(tmp_path), 0.5), torch.randn(7, 3)
    encoded = encode_keys(codec, keys, LENGTHS)
    assert encoded.below.tolist() == OLDER
    assert torch.equal(encoded.disk, keys[torch.tensor(OLDER)])
    assert torch.equal(codec.decode(encoded), keys)
    taken = codec.take(encoded, torch.tensor([5, 0, 4]), torch.tensor([3]))
    assert torch.equal(codec.decode(taken), keys[[5, 0, 4]])
    joined = codec.join([encoded, taken], torch.arange(10), torch.tensor([[10]]))
    assert torch.equal(codec.decode(joined), torch.cat([keys, keys[[5, 0, 4]]]))
    assert joined.below.tolist() == [True] * 5 + [False] * 5
    for one in (encoded, taken):
        restored = codec.restore(codec.tensors(one), keys)
        assert torch.equal(codec.decode(restored), codec.decode(one))
        assert {n: t.tolist() for n, t in codec.tensors(restored).items()} == {
            n: t.tolist() for n, t in codec.tensors(one).items()
        }


@pytest.mark.parametrize(("host", "count"), [(1.0, 0), (0.0, 7)])
def test_all_or_nothing_may_be_on_disk(tmp_path, host, count):
    codec, keys = DiskCodec(str(tmp_path), host), torch.randn(7, 3)
    encoded = encode_keys(codec, keys, LENGTHS)
    assert int(encoded.below.sum()) == count
    assert torch.equal(codec.decode(encoded), keys)


def test_what_does_not_fit_the_disk_stays_in_host_memory_and_is_reported(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    said: list[str] = []
    codec, keys = DiskCodec(str(tmp_path), 0.5).bound(LayerFacts(report=said.append)), torch.randn(7, 3)
    monkeypatch.setattr(os, "fsync", full)
    encoded = encode_keys(codec, keys, LENGTHS)
    assert torch.equal(codec.decode(encoded), keys)
    assert encoded.tiers()["disk"][0].numel() == 0
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert str(tmp_path) in said[0]
    assert list(tmp_path.iterdir()) == []
