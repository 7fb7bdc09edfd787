import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.codecs.before_rotation import places_of
from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.lm_kv.codecs.pages import unlike_pages
from dcache.lm_kv.codecs.shadow import ShadowCodec
from dcache.lm_kv.model.rotary import find_rotary
from tests.lm_kv.codecs.common import encode_keys
from tests.lm_kv.language_models import (
    batch,
    check_a_padded_row_is_as_alone,
    check_they_go_on_alike,
    copies,
    llama,
    prefilled,
)

LENGTHS = torch.tensor([[64, 64], [0, 48]])
SHADOW = lm_kv.shadowkv(page=4, rank=6, window=4, every=4)


@pytest.fixture(scope="module")
def turn():
    rotary = find_rotary(llama(1), [0])
    return lambda states, positions, mode: rotary.turn(0, states, positions, mode)


def rotated(turn, lengths=LENGTHS, size=16, directions=3):
    """Keys of few directions in each run, turned by their places."""
    torch.manual_seed(0)
    runs = [torch.randn(n, directions) @ torch.randn(directions, size) for n in lengths.flatten().tolist()]
    places = torch.cat([torch.arange(len(run)) for run in runs])
    return turn(torch.cat(runs)[None, None], places[None], "forward")[0, 0]


def test_keys_of_few_directions_before_rotation_come_back(turn):
    keys = rotated(turn)
    bound = ShadowCodec(3, 4, 0).bound(LayerFacts(turn))
    encoded = encode_keys(bound, keys, LENGTHS)
    torch.testing.assert_close(bound.decode(encoded), keys, atol=0.02, rtol=0)
    assert encoded.rest.left.shape == (176, 3)
    assert encoded.rest.right.shape == (3, 3, 16)
    assert not encoded.whole.any()
    # After rotation they have many more directions.
    unturned = ShadowCodec(3, 4, 0)
    assert (unturned.decode(encode_keys(unturned, keys, LENGTHS)) - keys).abs().max() > 1


def test_keys_far_apart_come_back_too(turn):
    torch.manual_seed(1)
    positions = torch.cat([torch.randperm(900)[:n].sort().values for n in LENGTHS.flatten().tolist()])
    flat = turn(rotated(turn)[None, None], places_of(LENGTHS.flatten())[1][None], "back")
    keys = turn(flat, positions[None], "forward")[0, 0]
    bound = ShadowCodec(3, 4, 0).bound(LayerFacts(turn))
    decoded = bound.decode(bound.encode_keys(keys, LENGTHS, positions))
    torch.testing.assert_close(decoded, keys, atol=0.02, rtol=0)


def test_pages_unlike_their_mean_and_short_runs_stay_as_they_came(turn):
    torch.manual_seed(0)
    keys = torch.randn(176, 16)
    bound = ShadowCodec(3, 4, 48).bound(LayerFacts(turn, whole=48))
    encoded = encode_keys(bound, keys, LENGTHS)
    pages = unlike_pages(keys[:128].view(2, 64, 16), torch.ones(2, 64, dtype=torch.bool), 4, 48)
    # One of 16 pages in each of the longer runs.
    assert pages.sum(1).tolist() == [1, 1]
    expected = torch.cat([pages.repeat_interleave(4, 1).flatten(), torch.ones(48, dtype=torch.bool)])
    assert torch.equal(encoded.whole, expected)
    assert torch.equal(bound.decode(encoded)[expected], keys[expected])
    assert not torch.isclose(bound.decode(encoded)[~expected], keys[~expected]).all()


def test_a_rank_that_saves_nothing_is_exact(turn):
    keys = torch.randn(176, 16)
    bound = ShadowCodec(16, 4, 0).bound(LayerFacts(turn))
    assert torch.equal(bound.decode(encode_keys(bound, keys, LENGTHS)), keys)


def test_taken_and_joined_keys_are_the_same(turn):
    torch.manual_seed(0)
    keys = torch.randn(176, 16)
    bound = ShadowCodec(3, 4, 48).bound(LayerFacts(turn))
    encoded = encode_keys(bound, keys, LENGTHS)
    decoded = bound.decode(encoded)
    rows = torch.tensor([175, 3, 3, 100, 64, 0])
    taken = bound.take(encoded, rows, torch.tensor([1, 5]))
    torch.testing.assert_close(bound.decode(taken), decoded[rows], atol=1e-5, rtol=0)
    order = torch.randperm(182)
    both = bound.join([encoded, taken], order, torch.tensor([182]))
    torch.testing.assert_close(
        bound.decode(both), torch.cat([decoded, decoded[rows]])[order], atol=1e-5, rtol=0
    )


def test_values_are_copies_in_host_memory():
    codec, values = ShadowCodec(3, 4, 0), torch.randn(6, 4)
    encoded = codec.encode_values(values[:, :2], torch.tensor([6]))
    assert encoded.states.device.type == "cpu"
    assert torch.equal(codec.decode(encoded), values[:, :2])
    assert encoded.states.untyped_storage().nbytes() == 6 * 2 * 4
    taken = codec.take(encoded, torch.tensor([5, 5, 0]), torch.tensor([3]))
    assert torch.equal(codec.decode(taken), values[[5, 5, 0], :2])
    joined = codec.join([taken, taken], torch.tensor([0, 3, 1, 4, 2, 5]), torch.tensor([6]))
    assert torch.equal(codec.decode(joined), values[[5, 5, 5, 5, 0, 0], :2])


def test_a_padded_row_equals_its_single_run_under_an_eviction():
    model, inputs = llama().double(), batch(length=60)
    policy = lm_kv.keydiff(every=4)
    _, caches = check_a_padded_row_is_as_alone(model, inputs, policy, codec=SHADOW, budget=0.5)
    assert isinstance(caches[0].layers[0].store.segments[0].codec, ShadowCodec)


def test_a_segment_holds_nothing_of_what_was_observed():
    cache = prefilled(llama(1), lm_kv.snapkv(window=4), batch(), budget=0.5, codec=SHADOW)
    (segment,) = cache.layers[0].store.segments
    assert segment.codec.facts.turn is not None
    assert segment.codec.facts.state is None


@torch.no_grad()
def test_a_forked_a_loaded_and_a_reordered_cache_go_on_alike(tmp_path):
    model, inputs = llama(), batch()
    for policy, more in ((SHADOW, {}), (lm_kv.keydiff(every=4), {"codec": SHADOW})):
        cache = prefilled(model, policy, inputs, budget=0.5, **more)
        others = copies(cache, model, tmp_path / "cache")
        assert others[1].policy.codec == cache.policy.codec
        check_they_go_on_alike(model, [cache, *others], steps=6, atol=1e-5)


@pytest.mark.parametrize("options", [{"rank": 0}, {"page": 0}, {"exact": -1}], ids=str)
def test_what_is_outside_its_range_is_refused(options):
    (name,) = options
    with pytest.raises(DcacheError, match=f"{name} must be a whole number of at least"):
        lm_kv.shadowkv(**options)
