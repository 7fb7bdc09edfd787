import pytest
import torch

from dcache import DcacheError, lm_kv

LENGTHS = torch.tensor([[23, 0], [31, 10]])


def tokens(dtype=torch.float32, channels=12):
    generator = torch.Generator().manual_seed(0)
    # Channels have means far apart, which differences take away.
    means = 5 * torch.randn(channels, generator=generator, dtype=torch.float64)
    return (means + torch.randn(64, channels, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_every_number_is_within_half_a_step(dtype):
    pytest.importorskip("constriction")
    codec, x = lm_kv.cachegen(), tokens(dtype)
    encoded = codec.encode(x, LENGTHS, 7)
    decoded = codec.decode(encoded, LENGTHS, 7)
    assert decoded.dtype == dtype
    # Anchors are every tenth of 23, 31 and 10 tokens.
    starts = (0, 23, 54)
    anchors = [s + i for s, n in zip(starts, (23, 31, 10), strict=True) for i in range(0, n, 10)]
    steps = torch.zeros(64, dtype=torch.float64)
    steps[anchors] = encoded["scale"].double()
    steps[[i for i in range(64) if i not in anchors]] = encoded["step"].double()
    rounding = x.double().abs().max() * 2 * torch.finfo(dtype).eps
    error = (decoded.double() - x.double()).abs().amax(1)
    assert bool((error <= steps / 2 + rounding).all())
    # Steps are a seventh of the largest difference, and a 127th of an anchor's largest number.
    assert steps[0] == pytest.approx(float(x[0].double().abs().max()) / 127, rel=2e-3)


def test_without_anchors_numbers_have_the_levels_of_their_token():
    pytest.importorskip("constriction")
    codec, x = lm_kv.cachegen(group=0), tokens()
    encoded = codec.encode(x, LENGTHS, 7)
    step = x.abs().amax(1, keepdim=True) / 7
    torch.testing.assert_close(
        codec.decode(encoded, LENGTHS, 7), (x / step).round() * step, atol=2e-2, rtol=2e-3
    )
    assert len(encoded["scale"]) == len(encoded["low"]) == len(encoded["high.words"]) == 0


def test_what_is_coded_again_is_the_same():
    pytest.importorskip("constriction")
    codec = lm_kv.cachegen(group=4)
    once = codec.decode(codec.encode(tokens(), LENGTHS, 15), LENGTHS, 15)
    anchors = torch.zeros(64, dtype=torch.bool)
    for start, count in ((0, 23), (23, 31), (54, 10)):
        anchors[start : start + count : 4] = True
    twice = codec.decode(codec.encode(once, LENGTHS, 15), LENGTHS, 15)
    torch.testing.assert_close(twice[anchors], once[anchors], atol=2e-2, rtol=0)


def test_differences_take_fewer_bits_than_the_numbers():
    pytest.importorskip("constriction")
    near = torch.randn(400, 12, generator=torch.Generator().manual_seed(0)).cumsum(0)
    lengths = torch.tensor([[400]])
    sizes = {}
    for group in (10, 400):
        encoded = lm_kv.cachegen(group=group).encode(near, lengths, 15)
        sizes[group] = float((lm_kv.cachegen(group=group).decode(encoded, lengths, 15) - near).abs().mean())
    # With one anchor for 400 tokens of a random walk the differences, and so the steps, are larger.
    assert sizes[10] < 0.5 * sizes[400]


def test_thirds_of_the_layers_have_their_own_levels():
    codec = lm_kv.cachegen(bins=(64, 32, 16), value_bins=(16, 8, 4))
    assert [codec.most("keys", layer, 8) for layer in range(8)] == [31, 31, 31, 15, 15, 15, 7, 7]
    assert [codec.most("values", layer, 2) for layer in range(2)] == [7, 3]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"bins": 32}, "bins must be three even numbers"),
        ({"bins": (32, 16)}, "bins must be three even numbers"),
        ({"bins": (32, 16, 15)}, "bins must be three even numbers"),
        ({"value_bins": (2, 16, 16)}, "value_bins must be three even numbers"),
        ({"group": -1}, "group"),
    ],
    ids=["number", "two", "odd", "few", "group"],
)
def test_options_outside_their_range_are_refused(options, reason):
    with pytest.raises(DcacheError, match=reason):
        lm_kv.cachegen(**options)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e9])
def test_numbers_that_cannot_be_coded_are_refused(wrong):
    x = tokens()
    x[3, 2] = wrong
    with pytest.raises(DcacheError, match="cachegen cannot store them"):
        lm_kv.cachegen().encode(x, LENGTHS, 7)
