"""What a bench compares: a sampler, a method, and where a chunk begins.

>>> setting = parse("ddim:10 interval:interval=2,sites=model; ddpm:100 warm=5")[0]
>>> setting.sampler, setting.method
(Sampler(kind='ddim', steps=10), 'interval:interval=2,sites=model')
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dcache.demo.policies.sampling import Sampler
from dcache.errors import DcacheError
from dcache.methods.resolve import preset_called, read_options, resolve
from dcache.profile import Profile
from dcache.schedulers.planners import make

PLANNED = ("knapsack", "pairs")
# Presets that plan from a profile where they get no table.
PROFILED = ("bac",)
REFERENCE = "ddpm:100"
PLAIN = "ddim:50; ddim:20; ddim:15; ddim:10; ddim:7; ddim:5"
CACHED = (
    "ddpm:100 policy_default; ddim:50 policy_default; ddim:20 policy_default; ddim:10 policy_default; "
    "ddpm:100 interval:interval=4,sites=model; ddpm:100 interval:interval=10,sites=model; "
    "ddpm:100 interval:interval=4,sites=trunk; ddpm:100 interval:interval=4,sites=block; "
    "ddpm:100 newton:interval=4; ddpm:100 taylorseer:interval=4; "
    "ddpm:100 bac:computes=25; ddpm:100 bac:computes=25,union=3; ddpm:100 knapsack:speedup=1.7; "
    "ddpm:100 pairs:computes=25; "
    "ddim:50 newton:interval=4; ddim:20 interval:interval=2; ddim:20 newton:interval=2; "
    "ddim:20 newton:interval=3; ddim:10 newton:interval=2"
)
WARM = "ddim:10 warm=5; ddim:10 warm=2"
DEFAULT = "; ".join((REFERENCE, PLAIN, CACHED, WARM))


@dataclass(frozen=True)
class Setting:
    """One contestant.

    Attributes:
        spec: the text it came from; names its results.
        sampler: kind and number of steps.
        method: as in `dcache.enable`, a planner with its options, or None for no caching.
        warm: evaluations of a chunk that begins with what the previous one left; None for noise.
    """

    spec: str
    sampler: Sampler
    method: str | None = None
    warm: int | None = None

    def resolved(self, profile: Callable[[int], Profile]) -> Any:
        """The method for `dcache.enable`, None without caching.

        Args:
            profile: gives the profile of runs with so many evaluations.

        Raises:
            DcacheError: the method or an option is unknown, or there is no profile for it.
        """
        if self.method is None:
            return None
        name, _, rest = self.method.partition(":")
        options = read_options(rest, self.method)
        if name in PLANNED:
            return make(name, profile(self.sampler.steps), **options)
        preset = preset_called(name)
        if preset in PROFILED and not {"profile", "table"} & set(options):
            return resolve(preset, {**options, "profile": profile(self.sampler.steps)})
        return resolve(self.method, {})


def parse(text: str) -> list[Setting]:
    """Settings separated by `;`: a sampler with its steps, then a method and `warm=N`, each if wanted.

    Raises:
        DcacheError: a sampler or word is not valid, or there is no setting.
    """
    specs = list(dict.fromkeys(" ".join(part.split()) for part in text.split(";") if part.strip()))
    if not specs:
        raise DcacheError(f"expected settings such as '{REFERENCE}; ddim:10', got {text!r}")
    return [_setting(spec) for spec in specs]


def _setting(spec: str) -> Setting:
    first, *words = spec.split()
    kind, _, steps = first.partition(":")
    if not steps.isdecimal():
        raise DcacheError(f"a setting begins with a sampler and its steps, as in 'ddim:10', got {spec!r}")
    sampler, method, warm = Sampler(kind, int(steps)), None, None
    for word in words:
        if word.startswith("warm="):
            warm = _evaluations(word.removeprefix("warm="), sampler, spec)
        elif method is None:
            method = word
        else:
            raise DcacheError(f"a setting has one method, got {method!r} and {word!r} in {spec!r}")
    return Setting(spec, sampler, method, warm)


def _evaluations(text: str, sampler: Sampler, spec: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= sampler.steps:
        raise DcacheError(f"warm= takes 1 to {sampler.steps} evaluations, got {text!r} in {spec!r}")
    return int(text)
