"""Denoisers of diffusion policies: blocks, sublayers and brackets are cached, by structure.

The oracles are the uncached policy, and counts of what really ran.
"""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from tests.policies import TRANSFORMERS, Decoder, Encoder, UNet1d, euler, made, noise, observation

COND = observation(1)
SUBLAYERS = [name for name, (_, sites) in TRANSFORMERS.items() if sites]


@pytest.mark.parametrize("sites", ["sublayers", "block", "trunk"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_all_computed_is_the_uncached_policy_bit_by_bit(name: str, sites: str) -> None:
    make, sublayers = TRANSFORMERS[name]
    if sites == "sublayers" and not sublayers:
        sites = "model"
    net = made(make)
    plain = euler(net, COND)
    dcache.enable(net, methods.interval(interval=1, sites=sites))
    assert torch.equal(euler(net, COND), plain)
    dcache.disable(net)
    assert torch.equal(euler(net, COND), plain)
    assert not any("_sa_block" in vars(m) or "_compiled_call_impl" in vars(m) for m in net.modules())


@pytest.mark.parametrize("name", SUBLAYERS)
def test_the_sublayers_have_their_true_names(name: str) -> None:
    make, sites = TRANSFORMERS[name]
    net = dcache.enable(made(make), "interval", interval=3, sites="sublayers")
    euler(net, COND)
    (plan,) = dcache.trace(net).components.values()
    assert sorted(plan.rows["*"]) == sorted(sites)
    # Evaluations 0, 3, 6 and 9 of ten are computed.
    assert (dcache.stats(net).computed, dcache.stats(net).predicted) == (4 * len(sites), 6 * len(sites))


def ran(model: nn.Module) -> Counter[str]:
    """Counts of the calls of the linear maps and attentions in the trunk."""
    counts: Counter[str] = Counter()
    for layer in model.decoder.layers:
        for name in ("self_attn", "multihead_attn", "linear1"):
            getattr(layer, name).register_forward_hook(lambda *_, name=name: counts.update([name]))
    return counts


@pytest.mark.parametrize(
    ("kind", "module"), [("attn", "self_attn"), ("cross_attn", "multihead_attn"), ("mlp", "linear1")]
)
def test_a_predicted_method_does_not_run_and_the_others_do(kind: str, module: str) -> None:
    net = dcache.enable(made(Decoder), "interval", interval=5, sites=kind)
    euler(net, COND)
    counts = ran(net)
    euler(net, COND)
    # Two of ten evaluations of three layers are computed.
    assert counts == {
        name: 6 if name == module else 30 for name in ("self_attn", "multihead_attn", "linear1")
    }


def test_a_method_is_predicted_by_what_it_gave_last() -> None:
    net, plain = made(Decoder), made(Decoder)
    dcache.enable(net, "interval", interval=2, sites="mlp")
    stored: dict[int, torch.Tensor] = {}
    originals = [layer._ff_block for layer in plain.decoder.layers]
    times = [0]
    for i, layer in enumerate(plain.decoder.layers):

        def again(x: torch.Tensor, i: int = i) -> torch.Tensor:
            times[0] += 1
            if (times[0] - 1) // 3 % 2 == 0:
                stored[i] = originals[i](x)
            return stored[i]

        layer._ff_block = again
    assert torch.allclose(euler(net, COND), euler(plain, COND), atol=1e-6)


def test_copies_and_pickles_of_a_decoder_are_plain() -> None:
    net = made(Decoder)
    plain = euler(net, COND)
    dcache.enable(net, "interval", interval=5, sites="sublayers")
    assert not torch.equal(euler(net, COND), plain)
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(euler(copied, COND), plain)
    dcache.disable(net)
    assert torch.equal(euler(net, COND), plain)


def test_methods_cannot_be_compiled_and_the_error_says_what_can() -> None:
    with pytest.raises(DcacheError, match=r"_sa_block of TransformerDecoderLayer.*leave compile= out"):
        dcache.enable(made(Decoder), "interval", sites="attn", compile={"backend": "eager"})


def test_an_encoder_that_runs_as_one_function_is_cached_by_blocks_and_that_is_said() -> None:
    net = made(Encoder)
    with pytest.warns(DcacheWarning, match="caches sublayers, and none are found in Encoder"):
        dcache.enable(net, "taylorseer")
    euler(net, COND)
    assert dcache.stats(net).predicted > 0


@pytest.mark.parametrize("level", [0, 1])
def test_a_one_dimensional_unet_has_a_bracket_for_every_skip_that_is_read(level: int) -> None:
    net = made(UNet1d)
    plain = euler(net, COND)
    counts: Counter[str] = Counter()
    for name, module in net.named_modules():
        if name.count(".") <= 2 and isinstance(module, nn.Module) and name.endswith(("0", "1")):
            module.register_forward_hook(lambda *_, name=name: counts.update([name]))
    dcache.enable(net, methods.interval(interval=1, sites=f"bracket:{level}"))
    assert torch.equal(euler(net, COND), plain)
    dcache.enable(net, methods.interval(interval=5, sites=f"bracket:{level}"))
    euler(net, COND)
    counts.clear()
    euler(net, COND)
    # Level 0 is the skip behind the second of three levels, level 1 the one behind the third.
    inside = {
        "mid_modules.0",
        "mid_modules.1",
        *(["down_modules.2.0", "up_modules.0.0"] if not level else []),
    }
    outside = {"down_modules.0.0", "down_modules.1.0", "up_modules.1.0"}
    assert {name: counts[name] for name in inside} == dict.fromkeys(inside, 2)
    assert {name: counts[name] for name in outside} == dict.fromkeys(outside, 10)


def test_by_default_a_one_dimensional_unet_is_cached_at_its_outermost_bracket() -> None:
    net = dcache.enable(made(UNet1d), "interval", interval=5)
    euler(net, COND)
    (plan,) = dcache.trace(net).components.values()
    assert list(plan.rows["*"]) == ["bracket:0"]
    with pytest.raises(DcacheError, match="has skips 0 to 1"):
        dcache.enable(net, methods.deepcache(branch_id=2))


def counted_rows(net: Any) -> str:
    (plan,) = dcache.trace(net).components.values()
    (row,) = plan.rows["*"].values()
    return "".join("01"[c] for c in row)


def test_a_batch_of_robots_is_cached_like_one() -> None:
    net = dcache.enable(made(Decoder), "interval", interval=5)
    euler(net, observation(2, 3))
    assert counted_rows(net) == "1000010000"


@torch.no_grad()
def heun(f: Any, x: torch.Tensor, times: list[float]) -> torch.Tensor:
    for t, after in pairwise(times):
        k = f(x, t)
        ahead = x + (after - t) / 100 * k
        x = x + (after - t) / 200 * (k + f(ahead, after)) if after else ahead
    return x


@torch.no_grad()
def rk4(f: Any, x: torch.Tensor, times: list[float]) -> torch.Tensor:
    for t, after in pairwise(times):
        h, middle = (after - t) / 100, (t + after) / 2
        a = f(x, t)
        b = f(x + h / 2 * a, middle)
        c = f(x + h / 2 * b, middle)
        x = x + h / 6 * (a + 2 * b + 2 * c + f(x + h * c, after))
    return x


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(("solve", "evaluations"), [(heun, 9), (rk4, 20)], ids=["heun", "rk4"])
def test_second_order_loops_by_hand_are_evaluations_in_their_order(
    solve: Any, evaluations: int, guided: bool
) -> None:
    net, times = made(Decoder), [100.0, 80.0, 60.0, 40.0, 20.0, 0.0]

    def f(x: torch.Tensor, t: float) -> torch.Tensor:
        out = net(x, torch.tensor([t]), COND)
        return out + 0.5 * (out - net(x, torch.tensor([t]), 0 * COND)) if guided else out

    plain = solve(f, noise(0), times)
    dcache.enable(net, methods.interval(interval=1))
    assert torch.equal(solve(f, noise(0), times), plain)
    dcache.enable(net, "interval", interval=3)
    cached = solve(f, noise(0), times)
    assert dcache.stats(net).steps == evaluations
    assert dcache.stats(net).computed == -(-evaluations // 3) * (1 + guided)
    assert torch.equal(solve(f, noise(0), times), cached)
    dcache.enable(net, "newton", interval=3)
    assert bool(solve(f, noise(0), times).isfinite().all())
