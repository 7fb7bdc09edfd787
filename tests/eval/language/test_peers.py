"""Other libraries' caches in the bench: who takes part, who does not and why, and what they hold."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from transformers import DynamicCache, QuantizedCache

from dcache.eval.language.bench import PLAIN, costs
from dcache.eval.language.peers import Peer, Peers, find_peers, held_by, peak_of
from dcache.eval.language.policies import parse
from dcache.eval.language.subject import load, random_model

# Two layers of 2 heads with 32 channels, keys and values.
NUMBERS = 2 * 2 * 32 * 2


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the other libraries is installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name in {"kvpress", "hqq", "optimum.quanto"} else find(name, *more),
    )


@pytest.mark.usefixtures("alone")
def test_who_is_not_installed_is_left_out_with_the_reason() -> None:
    peers = find_peers(load("recall").model, parse("keydiff;kvzip"), [0.5])
    assert list(peers.caches) == ["QuantizedCache fp8, 8 bits"]
    assert peers.left_out == {
        "QuantizedCache quanto, 4 bits": "optimum.quanto is not installed",
        "QuantizedCache hqq, 4 bits": "hqq is not installed",
        "kvpress": "kvpress is not installed (pip install --no-deps kvpress==0.5.5 cachetools)",
    }
    none = find_peers(load("recall").model, parse("kvzip"), [0.5])
    assert none.left_out["kvpress"] == "no policy of the bench is kvpress's too"


def test_each_entry_has_a_method_of_kvpress_where_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    kvpress = ModuleType("kvpress")
    kvpress.__spec__ = ModuleSpec("kvpress", None)
    presses = ("SnapKVPress", "KeyDiffPress")
    made = {name: type(name, (), {"__init__": lambda self, *given: None}) for name in presses}
    vars(kvpress).update(made)
    monkeypatch.setitem(sys.modules, "kvpress", kvpress)
    several = (
        "snapkv:window=16;snapkv:window=8;snapkv:allocation=heads;keydiff:dense_layers=0;keydiff:codec=kivi"
    )
    peers = find_peers(load("recall").model, parse(several), [0.5])
    names = [name for name in peers.caches if name.startswith("kvpress")]
    assert names == ["kvpress SnapKVPress window=16, 50 %", "kvpress SnapKVPress window=8, 50 %"]


def test_bytes_are_those_of_what_the_layers_hold() -> None:
    model, ids = load("recall").model, torch.arange(40)[None]
    plain, quantised = DynamicCache(config=model.config), QuantizedCache("fp8", model.config)
    with torch.no_grad():
        with peak_of(model, plain) as peak:
            model(ids, past_key_values=plain)
        model(ids, past_key_values=quantised)
    assert held_by(plain) == peak[0] == 40 * NUMBERS * 4
    # A byte for each number, a scale for each tensor.
    assert 40 * NUMBERS < held_by(quantised) <= 40 * NUMBERS + 100
    # The hooks are gone.
    assert not any(module._forward_hooks for module in model.modules())


def test_a_peer_that_fails_is_left_out_and_the_others_go_on() -> None:
    model = random_model(80)

    def fail() -> None:
        raise ValueError("too new")

    working = Peer(lambda: DynamicCache(config=model.config))
    peers = Peers({"broken": Peer(fail), "working": working})
    rows = costs(model, parse("random"), [0.5], [64], 1, 1, peers=peers)
    assert [row.name for row in rows] == [PLAIN, "random, 50 %", "working"]
    assert peers.left_out == {"broken": "ValueError: too new"}
    assert rows[2].held == rows[2].peak == rows[0].held
