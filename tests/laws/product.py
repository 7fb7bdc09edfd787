"""What the laws are tested over: shapes x samplers x guidance x presets, and a cover of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, wraps
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from dcache import Method
from dcache.methods import (
    adaptive,
    bac,
    cachequant,
    dbcache,
    deepcache,
    delta_dit,
    easycache,
    ertacache,
    fastercache,
    fbcache,
    fitted,
    foca,
    hicache,
    interval,
    magcache,
    newton,
    pab,
    policy_default,
    profilingdit,
    seacache,
    sencache,
    smoothcache,
    spectrum,
    taylorseer,
    teacache,
    tgate,
    yume,
)
from dcache.profile import FeatureTables, Profile
from dcache.sites.names import default_codec, kinds_of
from tests.families import FAMILIES
from tests.pipelines import SHAPES, STEPS, Shape

EVERY = {**SHAPES, **FAMILIES}
# DDIM and PNDM tell no noise level as a sigma; log-SNR is known everywhere.
WITHOUT_SIGMA = ("ddim", "pndm")
SECOND_ORDER = ("pndm", "heun")
NEVER = {"threshold": 0.0}
ONES = {"attn": [1] * STEPS, "mlp": [1] * STEPS}


def seen(steps: int, site: str = "model") -> Profile:
    """Of a model whose output runs along a line: what is fitted to it goes on along the line."""
    x = 1.0 + 0.1 * np.arange(steps)
    tables = FeatureTables(np.outer(x, x), np.abs(x[:, None] - x[None]), x)
    return Profile(steps, {site: {"0": {"value": tables, "delta": tables}}})


@dataclass(frozen=True)
class Preset:
    """A preset with options that predict something within a short run, and its all-compute twin.

    Attributes:
        unet: whether it is for UNets (True), for block lists (False) or for both (None).
        kinds: sublayer kinds without which it makes no sense.
        twin: options of the all-compute twin.
        sized: whether it is made for exactly `STEPS` evaluations.
    """

    make: Callable[..., Method]
    options: dict[str, Any]
    unet: bool | None = None
    kinds: tuple[str, ...] = ()
    twin: dict[str, Any] = field(default_factory=lambda: {"interval": 1})
    sized: bool = False

    def method(self, **over: Any) -> Method:
        """The method."""
        return self.make(**{**self.options, **over})

    def all_compute(self) -> Method:
        """The same, computing everything."""
        return self.method(**self.twin)

    def fits(self, shape: Shape, sampler: str) -> bool:
        """Whether this pair makes sense."""
        if self.options.get("clock") == "sigma" and sampler in WITHOUT_SIGMA:
            return False
        if self.sized and sampler in SECOND_ORDER:
            return False
        if any(kind not in shape.sublayers for kind in self.kinds):
            return False
        return self.unet is None or self.unet == (shape.depth == 0)


PRESETS = {
    "interval": Preset(interval, {"interval": 2}),
    "interval-sublayers": Preset(interval, {"interval": 3, "sites": ["attn", "mlp"]}, kinds=("attn", "mlp")),
    "interval-model": Preset(interval, {"interval": 2, "sites": "model"}),
    "interval-blocks": Preset(interval, {"interval": 2, "sites": "block"}, unet=False),
    "interval-run": Preset(interval, {"interval": 2, "sites": "run:1-2"}, unet=False),
    "taylorseer": Preset(taylorseer, {"interval": 3, "warmup": 2}, kinds=("attn", "mlp")),
    "taylorseer-lite": Preset(taylorseer, {"interval": 2, "warmup": 2, "lite": True}, unet=False),
    "newton-1-step": Preset(newton, {"interval": 2, "clock": "step"}),
    "newton-1-logsnr": Preset(newton, {"interval": 3, "clock": "logsnr", "branches": "together"}),
    "newton-1-bf16": Preset(newton, {"interval": 2, "codec": "value:bfloat16"}),
    "newton-2-sigma": Preset(newton, {"interval": 2, "order": 2, "clock": "sigma", "sites": "model"}),
    "newton-2-timestep": Preset(newton, {"interval": 2, "order": 2, "clock": "timestep"}),
    "fbcache": Preset(fbcache, {"threshold": 0.3, "max_run": 2}, unet=False, twin=NEVER),
    "adaptive": Preset(adaptive, {"threshold": 0.3, "max_run": 2}, unet=False, twin=NEVER),
    "adaptive-share": Preset(adaptive, {"share": 0.6}, unet=False, twin={"share": 1.0}),
    "dbcache": Preset(
        dbcache,
        {"front": 1, "back": 1, "threshold": 0.3, "warmup": 2, "max_run": 2, "order": 1},
        unet=False,
        twin=NEVER,
    ),
    "delta_dit": Preset(delta_dit, {"interval": 2, "boundary": 3}, unet=False),
    "hicache": Preset(hicache, {"interval": 3, "order": 2, "warmup": 2}, kinds=("attn", "mlp")),
    "foca": Preset(foca, {"interval": 3, "warmup": 2}, kinds=("attn", "mlp")),
    "foca-trunk": Preset(foca, {"interval": 3, "sites": "trunk", "codec": "delta"}, unet=False),
    "spectrum": Preset(
        spectrum, {"warmup": 2, "growth": 0.5, "anchors": 3}, twin={"window": 1, "growth": 0.0}
    ),
    "teacache": Preset(
        teacache, {"threshold": 0.4, "coefficients": (1.0, 0.0)}, unet=False, kinds=("attn",), twin=NEVER
    ),
    "magcache": Preset(
        magcache, {"ratios": [1.0, 0.9] * 3 + [1.0], "max_run": 2}, unet=False, twin={"retention": 1.0}
    ),
    "easycache": Preset(
        easycache, {"threshold": 5.0, "warmup": 1, "last": False, "codec": "value"}, twin=NEVER
    ),
    "seacache": Preset(seacache, {"threshold": 5.0, "last": False}, twin=NEVER),
    "sencache": Preset(
        sencache,
        {"threshold": 1e3, "sensitivities": (0.5, 1.0, 1.0), "early": 2, "max_run": 2},
        unet=False,
        twin={"threshold": 0.0, "early": 0},
    ),
    "pab": Preset(
        pab,
        {"attn": 2, "cross_attn": 3, "mlp": 2, "window": (0.0, 1001.0)},
        kinds=("attn", "mlp"),
        twin={"attn": 1, "cross_attn": 1, "mlp": 1},
    ),
    "policy_default": Preset(policy_default, {"interval": 2}),
    "tgate": Preset(
        tgate, {"gate": 3, "attn_interval": 2}, twin={"gate": None, "attn_interval": 1}, kinds=("attn",)
    ),
    "fastercache": Preset(
        fastercache,
        {"attn_below": 1001.0, "guidance_below": 1001.0, "guidance_interval": 3},
        kinds=("attn",),
        twin={"attn_interval": 1, "guidance_interval": 1},
    ),
    "smoothcache": Preset(
        smoothcache,
        {"table": {"attn": [1, 0, 1, 0, 0, 1, 1], "mlp": [1, 1, 0, 0, 1, 0, 1]}},
        kinds=("attn", "mlp"),
        twin={"table": ONES},
        sized=True,
    ),
    "fitted": Preset(
        fitted,
        {"profile": seen(STEPS), "interval": 2},
        sized=True,
    ),
    "bac": Preset(
        bac,
        {"table": {"attn:0": [0, 2, 5], "mlp:0": [0, 1, 4]}, "steps": STEPS},
        kinds=("attn", "mlp"),
        twin={"table": {"attn:0": list(range(STEPS)), "mlp:0": list(range(STEPS))}},
        sized=True,
    ),
    "profilingdit": Preset(
        profilingdit,
        {"background": [1, 2], "t_max": 3, "t_min": 2},
        unet=False,
        twin={"t_max": 1, "t_min": 1},
    ),
    "yume": Preset(yume, {"blocks": [1, 2], "interval": 3}, unet=False),
    "cachequant": Preset(
        cachequant,
        {"profile": seen(STEPS, "trunk"), "interval": 2},
        unet=False,
        sized=True,
    ),
    "ertacache": Preset(
        ertacache,
        {
            "profile": seen(STEPS),
            "threshold": 0.3,
            "timesteps": False,
            "codec": "value",
        },
        twin=NEVER,
        sized=True,
    ),
    "deepcache": Preset(deepcache, {"interval": 2}, unet=True),
    "deepcache-2": Preset(deepcache, {"interval": 3, "branch_id": 2}, unet=True),
}
# These decide by what they see, so their number of computed evaluations is not known beforehand.
DYNAMIC = ("fbcache", "dbcache", "teacache", "easycache", "seacache", "sencache")


@dataclass(frozen=True)
class Case:
    """One point of the product."""

    shape: Shape
    sampler: str
    guidance: str
    preset: str

    @property
    def method(self) -> Method:
        """The preset's method."""
        return PRESETS[self.preset].method()

    @property
    def deep(self) -> bool:
        """Whether it is one of the four shapes, of which more is tested than of the further families."""
        return self.shape.name in SHAPES

    def values(self, law: int) -> tuple[tuple[str, object], ...]:
        """Coordinates; for the replay a guidance mode of two shapes is two values."""
        return (
            ("shape", self.shape.name),
            ("sampler", self.sampler),
            ("guidance", f"{self.shape.name} {self.guidance}" if law else self.guidance),
            ("mechanism", mechanism(self)),
        )

    def build(self) -> Any:
        """A pipeline of its own."""
        return self.shape.build(self.sampler)

    def run(self, pipe: Any, **over: Any) -> torch.Tensor:
        """The latents of one call."""
        return self.shape.run(pipe, self.guidance, **over)

    def __str__(self) -> str:
        return "-".join((self.shape.name, self.sampler, self.guidance, self.preset))


def product() -> list[Case]:
    """Every point that makes sense."""
    return [
        Case(shape, sampler, guidance, name)
        for shape in EVERY.values()
        for sampler in shape.samplers
        for guidance in shape.guidance
        for name, preset in PRESETS.items()
        if preset.fits(shape, sampler)
        if guidance not in shape.alone or "guidance" not in preset.method().sites
    ]


def cover(cases: Iterable[Case], law: int) -> set[Case]:
    """A few cases with every pair of values that occurs, and every preset; greedy and always the same."""
    left = list(cases)
    pairs: dict[Case, set[object]] = {
        case: {*combinations(case.values(law), 2), case.preset} for case in left
    }
    missing = set[object]().union(*pairs.values())
    chosen: set[Case] = set()
    while missing:
        best = max(left, key=lambda case: len(missing & pairs[case]))
        missing -= pairs[best]
        chosen.add(best)
        left.remove(best)
    return chosen


LAWS = 2
# Variants of a preset that differ from it in the predictor or codec alone, or in how far a bracket reaches:
# the four shapes have them in the fast lane, the further families in the slow one.
VARIANTS = {
    "deepcache-2",
    "foca-trunk",
    "interval-run",
    "newton-1-bf16",
    "newton-2-sigma",
    "newton-2-timestep",
    "taylorseer-lite",
}


def mechanism(case: Case) -> tuple[object, ...]:
    """What of a method reaches the model; presets that agree in it differ in times and weights alone."""
    return _mechanism(case.preset, bool(case.shape.depth))


@cache
def _mechanism(preset: str, blocks: bool) -> tuple[object, ...]:
    method = PRESETS[preset].method()
    auto = "trunk" if blocks else "bracket:0"
    sites = tuple(auto if site == "auto" else site for site in method.sites)
    codec = method.codec or default_codec(kinds_of(sites[0])[-1])
    probe = method.probe.where if method.probe else ""
    return sites, codec, method.branches, probe, method.uncond_from, method.corrections is not None


def by_mechanism(cases: Iterable[Case]) -> list[list[Case]]:
    """The cases of each shape and mechanism."""
    groups: dict[tuple[object, ...], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.shape.name, *mechanism(case)), []).append(case)
    return list(groups.values())


def turns(cases: Iterable[Case], law: int) -> set[Case]:
    """Every mechanism with every family under one of the laws; presets, samplers and guidance by turns."""
    return {
        options[i // LAWS % len(options)] for i, options in enumerate(by_mechanism(cases)) if i % LAWS == law
    }


def alternating(cases: Iterable[Case], law: int) -> list[Any]:
    """Test parameters: every preset with every shape under one of the laws, its guidance modes by turns."""
    by_pair: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        by_pair.setdefault((case.shape.name, case.preset), []).append(case)
    fast = {
        options[(i // LAWS + law) % len(options)]
        for i, options in enumerate(by_pair.values())
        if i % LAWS == law
    }
    every = [case for options in by_pair.values() for case in options]
    return [pytest.param(c, id=str(c), marks=() if c in fast else (pytest.mark.slow,)) for c in every]


@cache
def fast_lane(law: int) -> frozenset[Case]:
    """What is run of one law in the fast lane."""
    cases = product()
    deep = [case for case in cases if case.deep]
    wide = [case for case in cases if not case.deep and case.preset not in VARIANTS]
    return frozenset(cover(deep, law) | turns(wide, law))


def lanes(law: int) -> list[Any]:
    """The product as test parameters: a cover of the pairs in the fast lane, the others in the slow one.

    Args:
        law: 0 or 1; every pair of a further family and a mechanism is in the fast lane of one of the two.
    """
    fast = fast_lane(law)
    return [pytest.param(c, id=str(c), marks=() if c in fast else (pytest.mark.slow,)) for c in product()]


@cache
def plain(shape: str, sampler: str, guidance: str, steps: int = STEPS) -> tuple[torch.Tensor, int]:
    """Latents of a run without dcache, and how often its sampler stepped."""
    pipe = EVERY[shape].build(sampler)
    watched = pipe.scheduler
    original, count = type(watched).step, 0

    @wraps(original)
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += self is watched
        return original(self, *args, **kwargs)

    # On the class: a sampler that is copied in mid-run (LTX2) must not take a counter of this one along.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(watched), "step", counted)
        return EVERY[shape].run(pipe, guidance, num_inference_steps=steps), count


def plain_of(case: Case) -> torch.Tensor:
    """Latents of a case's run without dcache."""
    return plain(case.shape.name, case.sampler, case.guidance)[0]


def evaluations_of(case: Case) -> int:
    """Sampler evaluations of a case's run."""
    return plain(case.shape.name, case.sampler, case.guidance)[1]
