import errno
import os

import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import (
    batch,
    check_a_padded_row_is_as_alone,
    check_they_go_on_alike,
    copies,
    generate,
    llama,
    prefilled,
)
from tests.lm_kv.policies.common import check_a_part_is_read


def test_all_tokens_are_kept_and_a_part_is_read(tmp_path):
    check_a_part_is_read(lm_kv.leoam(page=1, sizes=3, window=4))
    check_a_part_is_read(lm_kv.leoam(folder=tmp_path, page=1, sizes=3, window=4))


def test_tiers_change_nothing_but_where_bytes_are(tmp_path):
    model, inputs = llama(), batch()
    policies = [
        lm_kv.leoam(page=2, window=4, every=4),
        lm_kv.leoam(folder=tmp_path, host=0.25, page=2, window=4, every=4),
    ]
    host, tiers = (prefilled(model, policy, inputs, budget=0.4) for policy in policies)
    # 23 and 36 tokens left the tail, in two heads of three layers, keys and values of 16 channels and four
    # bytes; three quarters of them, rounded down, are on disk. A byte for each token says where it is.
    token, heads = 2 * 16 * 4, 3 * 2
    assert (host.stats().bytes_host, host.stats().bytes_disk) == ((23 + 36) * heads * token, 0)
    assert tiers.stats().bytes_disk == (17 + 27) * heads * token
    assert tiers.stats().bytes_host == (6 + 9) * heads * token + (23 + 36) * heads * 2
    assert tiers.nbytes == tiers.stats().bytes_held == host.nbytes + (23 + 36) * heads * 2
    assert "of that, disk" in str(tiers.stats())
    _, expected = generate(model, inputs, lm_kv.KVCache(model, policies[0], budget=0.4))
    _, own = generate(model, inputs, lm_kv.KVCache(model, policies[1], budget=0.4))
    assert torch.equal(own, expected)
    assert list(tmp_path.iterdir()) == []


def test_a_padded_row_and_copies_go_on_alike(tmp_path):
    model, inputs = llama().double(), batch()
    policy = lm_kv.leoam(folder=tmp_path / "tier", page=2, window=4, every=4)
    check_a_padded_row_is_as_alone(model, inputs, policy, budget=0.4)
    cache = prefilled(model, policy, inputs, budget=0.4)
    others = copies(cache, model, tmp_path / "cache.safetensors")
    assert others[1].stats().bytes_disk == others[0].stats().bytes_disk == cache.stats().bytes_disk > 0
    with torch.no_grad():
        check_they_go_on_alike(model, [cache, *others], 6, 1e-9)


@torch.no_grad()
def test_a_full_disk_is_one_error_and_loses_nothing(tmp_path, monkeypatch):
    model, inputs = llama(), batch(pads=0)
    policy = lm_kv.leoam(folder=tmp_path, page=2, window=4, every=1)
    fits, cache = (lm_kv.KVCache(model, policy, budget=0.4) for _ in range(2))
    model(**inputs, past_key_values=fits)

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        # Of three layers, with keys and values each, one is told of.
        with pytest.raises(DcacheError, match=r"No space left on device\. Nothing is lost") as raised:
            model(**inputs, past_key_values=cache)
        assert str(raised.value).count("cannot write") == 1
    assert cache.stats().seen == (40, 40)
    assert cache.stats().bytes_disk == 0
    assert cache.stats().bytes_host == fits.stats().bytes_host + fits.stats().bytes_disk
    # With room again the cache goes on as one that never lacked any, on disk from the next step.
    check_they_go_on_alike(model, [fits, cache], 3, 0.0)
    assert cache.stats().bytes_disk == fits.stats().bytes_disk > 0
    assert list(tmp_path.iterdir()) == []


def test_options_outside_their_range_are_refused(tmp_path):
    for option in ("page", "sizes"):
        with pytest.raises(DcacheError, match=f"{option} must be a whole number"):
            lm_kv.leoam(**{option: 0})
    for value in (-0.1, 1.5, "x", float("nan")):
        with pytest.raises(DcacheError, match="host must be a number from 0 to 1"):
            lm_kv.leoam(host=value)
    (tmp_path / "file").write_text("")
    with pytest.raises(DcacheError, match="is a file"):
        lm_kv.leoam(folder=tmp_path / "file")
