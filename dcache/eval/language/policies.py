"""Parsing of `--policies`: policies of `lm_kv` with their options, and codecs.

>>> [entry.label for entry in parse("kvzip:allocation=global;snapkv:window=16,pool=1")]
['kvzip allocation=global', 'snapkv window=16 pool=1']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dcache import lm_kv
from dcache.errors import DcacheError
from dcache.eval.policy_list import Labelled, named_twice, read_policies
from dcache.methods.resolve import read_options

# Without compression, to compare with.
FULL = "full"


@dataclass(frozen=True)
class PolicyEntry(Labelled):
    """A policy to measure.

    Attributes:
        policy: the policy; its budget, where it has one, is the only one measured.
        named: whether it was named; False for one of "all".
    """

    policy: lm_kv.Policy
    named: bool = True

    def at(self, budget: float) -> lm_kv.Policy:
        """The policy with a budget; with its own where it has one."""
        return self.policy if self.policy.budget is not None else replace(self.policy, budget=budget)

    def over(self, budgets: Sequence[float]) -> list[tuple[float, lm_kv.Policy]]:
        """Each budget that is measured, and the policy with it."""
        own = self.policy.budget
        return [(budget, self.at(budget)) for budget in (budgets if own is None else [own])]


def parse(text: str) -> list[PolicyEntry]:
    """Read policies separated by `;`, each a name with options, as in "snapkv:window=16,pool=1".

    "all" is every policy there is, and its options are given to each: "all:dense_layers=0".

    Raises:
        DcacheError: an unknown policy or option, one named twice, or none.
    """
    specs = [spec.strip() for spec in text.split(";") if spec.strip()]
    named = [(one, spec == one) for spec in specs for one in _meant(spec)]
    joined = ";".join(spec for spec, _ in named)
    entries = read_policies(joined, _entry, lm_kv.available("policy"), "kvzip;snapkv:window=16")
    return [replace(entry, named=own) for entry, (_, own) in zip(entries, named, strict=True)]


def fitting(
    model: Any, entries: Sequence[PolicyEntry], budgets: Sequence[float]
) -> tuple[list[PolicyEntry], dict[str, str]]:
    """The policies that a model can have, found out before any of them is measured.

    Args:
        model: a causal language model of transformers.
        entries: the policies.
        budgets: for policies without a budget of their own.

    Returns:
        Those that it can have, and label -> reason of each other one of "all".

    Raises:
        DcacheError: it cannot have one that was named.
    """
    possible, left_out = [], {}
    for entry in entries:
        try:
            for _, policy in entry.over(budgets):
                lm_kv.KVCache(model, policy)
        except DcacheError as error:
            if entry.named:
                raise DcacheError(f"{entry.label}: {error}") from error
            left_out[entry.label] = str(error)
        else:
            possible.append(entry)
    return possible, left_out


def _meant(spec: str) -> list[str]:
    """What a word of `--policies` stands for: itself, or every policy with the options of "all"."""
    if spec.partition(":")[0] != "all":
        return [spec]
    return [name + spec.removeprefix("all") for name in lm_kv.available("policy")]


def budgets_of(text: str) -> list[float]:
    """Read budgets separated by commas: shares in (0, 1], or whole numbers of tokens per KV head.

    Raises:
        DcacheError: one is no number or named twice, or there is none.

    >>> budgets_of("0.5, 0.25, 512")
    [0.5, 0.25, 512]
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise DcacheError("--budgets names none: give shares or numbers of tokens, as in 0.5,0.25")
    budgets = [_number(word) for word in words]
    # 1 is one token and 1.0 is all of them.
    twice = named_twice([(repr(budget), repr(budget)) for budget in budgets])
    if twice:
        raise DcacheError(f"--budgets names {', '.join(twice)} more than once: name each budget once")
    return budgets


def budget_text(budget: float) -> str:
    """A budget in words.

    >>> budget_text(0.125), budget_text(512)
    ('12.5 %', '512 tokens')
    """
    return f"{budget} tokens" if isinstance(budget, int) else f"{100 * budget:g} %"


def _number(word: str) -> float:
    try:
        value = float(word) if "." in word or "e" in word.lower() else int(word)
    except ValueError:
        value = float("nan")
    whole = isinstance(value, int)
    if not (value >= 1 if whole else 0 < value <= 1):
        raise DcacheError(
            f"--budgets has {word!r}: expected a share in (0, 1] such as 0.25, or a whole number of tokens"
        )
    return value


def _entry(spec: str) -> PolicyEntry:
    name, _, rest = spec.partition(":")
    options: dict[str, Any] = read_options(rest, spec)
    layers = options.get("dense_layers")
    if layers is not None:
        # A layer, or several as in 0+1.
        several = layers if isinstance(layers, list) else [layers]
        options["dense_layers"] = tuple(int(n) if str(n).isdecimal() else n for n in several)
    shown = dict(options)
    if "codec" in options:
        options["codec"] = _codec(str(options["codec"]))
    policy = lm_kv.make(name, **options)
    words = [policy.name, *(f"{key}={_word(value)}" for key, value in shown.items())]
    return PolicyEntry(" ".join(words), policy)


def _codec(text: str) -> lm_kv.Policy:
    """A policy that stores in few bits, such as "kivi", or with its bits behind the name: "kivi2"."""
    name = text.rstrip("0123456789")
    bits = text.removeprefix(name)
    return lm_kv.make(name, bits=int(bits)) if bits else lm_kv.make(name)


def _word(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
