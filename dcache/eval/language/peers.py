"""Other libraries' caches in `dcache lm bench`: transformers' QuantizedCache, and kvpress.

kvpress 0.5.5 is not made for present releases of transformers: attention modules no longer get the
`cache_position` that its hooks read, so they are given it here. Its import needs two packages that are of no
use to it here; where they are missing, empty modules stand in for them meanwhile. It also wraps transformers'
attention functions for good, in every cache's turns alike.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

from dcache.eval.language.policies import PolicyEntry, budget_text
from dcache.lm_kv import Policy
from dcache.lm_kv.codecs.codec import Plain
from dcache.util.bytes import bytes_of

# Backend of QuantizedCache -> package and options. hqq groups along the axis that is named, quanto along the
# others.
QUANTIZED: dict[str, tuple[str | None, dict[str, int]]] = {
    "quanto": ("optimum.quanto", {"nbits": 4}),
    "hqq": ("hqq", {"nbits": 4, "axis_key": 1, "axis_value": 1}),
    "fp8": (None, {}),
}
# A policy's name -> kvpress's class, with its options from the policy.
PRESSES: dict[str, Callable[[Any, float, Any], Any]] = {
    "expected_attention": lambda kvpress, ratio, p: kvpress.ExpectedAttentionPress(ratio, n_sink=p.sinks),
    "keydiff": lambda kvpress, ratio, _: kvpress.KeyDiffPress(ratio),
    "random": lambda kvpress, ratio, _: kvpress.RandomPress(ratio),
    "snapkv": lambda kvpress, ratio, p: kvpress.SnapKVPress(ratio, p.observer.size, p.scorer.pool),
    "streaming_llm": lambda kvpress, ratio, p: kvpress.StreamingLLMPress(ratio, p.sinks),
    "tova": lambda kvpress, ratio, _: kvpress.TOVAPress(ratio),
}


@dataclass(frozen=True)
class Peer:
    """Another library's cache.

    Attributes:
        make: an empty cache.
        prompt: a context manager for the prompt's forward.
    """

    make: Callable[[], Any]
    prompt: Callable[[], Any] = nullcontext


@dataclass
class Peers:
    """Those that can take part, and why others cannot.

    Attributes:
        caches: name in the table -> cache.
        left_out: name -> reason.
    """

    caches: dict[str, Peer] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def find_peers(model: Any, entries: Sequence[PolicyEntry], budgets: Sequence[float]) -> Peers:
    """QuantizedCache of each backend, and kvpress's method for each policy that it has too.

    Args:
        model: a causal language model of transformers.
        entries: dcache's policies in the bench.
        budgets: for policies without a budget of their own.
    """
    from transformers import DynamicCache, QuantizedCache

    peers = Peers()
    for backend, (package, options) in QUANTIZED.items():
        bits = f"{options['nbits']} bits" if options else "8 bits"
        name = f"QuantizedCache {backend}, {bits}"
        if package is not None and not _installed(package):
            peers.left_out[name] = f"{package} is not installed"
            continue
        peers.caches[name] = Peer(partial(QuantizedCache, backend, model.config, **options))
    wanted = [
        (entry, budget)
        for entry in entries
        for budget, _ in entry.over(budgets)
        if _is_kvpress(entry.policy) and isinstance(budget, float)
    ]
    kvpress, reason = _kvpress() if wanted else (None, "no policy of the bench is kvpress's too")
    if kvpress is None:
        peers.left_out["kvpress"] = reason
        return peers
    for entry, budget in wanted:
        press = PRESSES[entry.policy.name](kvpress, 1 - budget, entry.policy)
        # The entry's options too: two entries of one policy are two methods.
        words = " ".join([type(press).__name__, *entry.label.split()[1:]])
        peers.caches[f"kvpress {words}, {budget_text(budget)}"] = Peer(
            partial(DynamicCache, config=model.config), partial(_pressed, model, press)
        )
    return peers


def _is_kvpress(policy: Policy) -> bool:
    """Whether kvpress's method does the same: it keeps as many tokens in every head, as they came."""
    equal = policy.allocation == "uniform" and not policy.dense_layers
    return policy.name in PRESSES and equal and isinstance(policy.codec, Plain)


def held_by(cache: Any) -> int:
    """Bytes of all storages of a cache's layers, quantised ones included."""
    return bytes_of(_tensors(list(cache.layers)))


@contextmanager
def peak_of(model: Any, cache: Any) -> Iterator[list[int]]:
    """The most bytes that a cache held, looked at behind each attention module; one number, 0 at first."""
    peak = [0]

    def look(*_: Any) -> None:
        peak[0] = max(peak[0], held_by(cache))

    with ExitStack() as hooks:
        for module in _attentions(model):
            hooks.callback(module.register_forward_hook(look).remove)
        yield peak


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _kvpress() -> tuple[Any, str]:
    """The module, or None and the reason."""
    if not _installed("kvpress"):
        return None, "kvpress is not installed (pip install --no-deps kvpress==0.5.5 cachetools)"
    try:
        with _stand_ins("datasets", "fire"):
            kvpress = importlib.import_module("kvpress")
    except Exception as error:
        return None, f"importing kvpress failed: {error}"
    return kvpress, ""


@contextmanager
def _stand_ins(*names: str) -> Iterator[None]:
    """Empty modules in place of those that are not installed, of which any public name can be imported."""
    missing = [name for name in names if not _installed(name)]
    for name in missing:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__getattr__ = _anything  # type: ignore[method-assign]
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in missing:
            sys.modules.pop(name, None)


def _anything(wanted: str) -> type:
    if wanted.startswith("__"):
        raise AttributeError(wanted)
    return object


@contextmanager
def _pressed(model: Any, press: Any) -> Iterator[None]:
    """Kvpress's context, in which attention modules are given the positions that it reads."""

    def add(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        states = kwargs["hidden_states"]
        return args, {**kwargs, "cache_position": torch.arange(states.shape[1], device=states.device)}

    with ExitStack() as hooks:
        for module in _attentions(model):
            hooks.callback(module.register_forward_pre_hook(add, with_kwargs=True).remove)
        hooks.enter_context(press(model))
        yield


def _attentions(model: Any) -> list[torch.nn.Module]:
    """Attention modules with a place in the cache."""
    modules = model.modules()
    return [module for module in modules if hasattr(module, "layer_idx") and hasattr(module, "q_proj")]


def _tensors(part: Any) -> list[torch.Tensor]:
    """Plain tensors in other libraries' layers, lists and dictionaries, or that make up a tensor."""
    if isinstance(part, torch.Tensor):
        if not hasattr(part, "__tensor_flatten__"):
            return [part]
        return [t for name in part.__tensor_flatten__()[0] for t in _tensors(getattr(part, name))]
    if isinstance(part, dict):
        return [tensor for value in part.values() for tensor in _tensors(value)]
    if isinstance(part, list | tuple):
        return [tensor for value in part for tensor in _tensors(value)]
    if type(part).__module__.startswith("transformers.cache_utils"):
        return _tensors(vars(part))
    return []
