"""A method: one choice of the five parts. A published method is a function that returns one of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from dcache.cache.codec import Codec, parse
from dcache.errors import DcacheError
from dcache.predictors import Predictor, Reuse
from dcache.predictors.corrections import Corrections
from dcache.probes import Probe
from dcache.schedule.noise_levels import check_grid
from dcache.schedule.plan import RunLength, check_clock_fits, check_terms
from dcache.schedulers import Rule, may_predict
from dcache.sites.names import default_codec
from dcache.sites.site import Site
from dcache.util.text import short

# Default sites of presets that cache sublayers: where a model has none, the next larger sites that it has.
SUBLAYERS_FIRST = "sublayers|block|trunk|model"


# Options of presets that fix the number of evaluations.
_TABLES = ("table", "profile", "steps", "sigmas")


class Aim(NamedTuple):
    """What the plans of a method that plans by itself are to reach.

    Attributes:
        speedup: operations of the uncached call over those of a planned one, None if `quality` is given.
        quality: estimated PSNR in dB of a planned call to the uncached one, None if `speedup` is given.
    """

    speedup: float | None
    quality: float | None


@dataclass(frozen=True)
class Method:
    """A caching method: sites, codec, predictor, rule, and the details of their use.

    Attributes:
        name: the preset's name, which `@preset` fills in, or "schedule".
        rule: returns the reason to compute a site in this evaluation, or None to predict it.
        predictor: weights over the last anchors.
        sites: specifications as in `dcache.sites`; `auto` is the trunk, else the UNet's outermost bracket,
            else the model.
        codec: the codec of all sites, or None for `delta` on runs of blocks and `value` elsewhere.
        clock: one of "step", "timestep", "sigma", "logsnr", or None for log-SNR where it is known.
        branches: "separate": every guidance branch decides for itself; "together": the first branch of an
            evaluation decides for all.
        probe: the tensor that a dynamic rule reads, or None for a static rule.
        fixed: True if the rule names sites or kinds, so that the method cannot fall back to the whole model.
        uncond_from: at the site `guidance`, how the unconditional branch is predicted from the conditional
            one: "drop" or "bands" (`dcache.engine.lowering.guidance`); "" without that site.
        steps: number of evaluations the rule is made for, or None for any.
        runs: lengths of the runs of one pipeline call, as in `dcache.schedule.plan.Plan`; () for one run.
        corrections: scale and shift of the predictions, by channel, or None.
        sigmas: noise levels that replace the sampler's: one for each evaluation, and the final one; () keeps
            the sampler's.
        made_for: class name and config digest of the denoiser that the method was fitted on, "" if it was
            not fitted. On another denoiser the method warns.
        aim: what is aimed at by a method that observes a run and plans those that follow
            (`dcache.observation.tuning`); None for all others.
        shares: True if what the site `frames` stores of finished frames serves later runs that begin so.
        parameters: arguments of the preset, for reports; they do not take part in comparisons.
        defaults: the preset's default arguments, which `describe` leaves out.
    """

    name: str = "method"
    _: KW_ONLY
    rule: Rule
    predictor: Predictor = field(default_factory=Reuse)
    sites: tuple[str, ...] = ("auto",)
    codec: str | None = None
    clock: str | None = None
    branches: str = "separate"
    probe: Probe | None = None
    fixed: bool = False
    uncond_from: str = ""
    steps: int | None = None
    runs: tuple[RunLength, ...] = ()
    corrections: Corrections | None = None
    sigmas: tuple[float, ...] = ()
    made_for: tuple[str, str] = ("", "")
    aim: Aim | None = None
    shares: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict, compare=False)
    defaults: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check what can be checked without a model.

        Raises:
            DcacheError: a term is unknown, does not go with another, or no site is named.
        """
        check_terms(self.codec, self.clock, self.branches, self.uncond_from)
        check_clock_fits(self.predictor, self.clock)
        if self.sigmas:
            check_grid(self.sigmas, self.steps)
        if not self.sites or not all(isinstance(s, str) for s in self.sites):
            raise DcacheError(f"sites must be a site name or a list of them, got {self.sites!r}")

    @cached_property
    def predicts(self) -> bool:
        """False where the method computes everything by request (interval 1, threshold 0)."""
        return may_predict(self.rule, self.steps)

    @property
    def needs_model_output(self) -> bool:
        """True if the site `guidance` needs the output that is passed to the sampler."""
        return bool(self.uncond_from)

    @cached_property
    def probes_attention(self) -> bool:
        """True if the rule's probe is the input of the first block's attention."""
        return self.probe is not None and self.probe.where == "modulated"

    def codec_for(self, site: Site) -> Codec:
        """The codec of one site."""
        return parse(self.codec or default_codec(site.kind))

    def for_whole_model(self) -> Method:
        """The method with `value` for `delta`, since a model's output may differ from its input in shape."""
        return self if self.codec is None else replace(self, codec=self.codec.replace("delta", "value"))

    def describe(self) -> str:
        """Name, first parameter and all parameters that differ from the preset's defaults, on one line.

        A long value is cut and ends with a hash, so that different methods have different descriptions.
        """
        return self._description

    def with_parameters(self, **changed: Any) -> Method:
        """The same method with these parameters, which `describe` shows even if they equal the defaults."""
        defaults = {name: value for name, value in self.defaults.items() if name not in changed}
        return replace(self, parameters={**self.parameters, **changed}, defaults=defaults)

    @cached_property
    def _description(self) -> str:
        texts = {name: short(value) for name, value in self.parameters.items()}
        usual = {name: short(value) for name, value in self.defaults.items()}
        first = next(iter(texts), None)
        shown = (f"{n}={text}" for n, text in texts.items() if n == first or text != usual.get(n))
        return f"{self.name}({', '.join(shown)})"

    def with_sites(self, sites: tuple[str, ...]) -> Method:
        """The same method at other sites."""
        return replace(self, sites=sites)


def site_list(sites: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """A site specification or a list of them, as a tuple.

    Raises:
        DcacheError: it is neither, or has the whole model and a part of it.
    """
    if not isinstance(sites, str | list | tuple):
        raise DcacheError(f"sites must be a site name or a list of them, got {sites!r}")
    listed = (sites,) if isinstance(sites, str) else tuple(sites)
    if "model" in listed and set(listed) != {"model"}:
        raise DcacheError(f"site 'model' is the whole model, with all other sites in it: got {listed!r}")
    return listed


def wrong_count(expected: int, count: int, method: Method | None = None) -> DcacheError:
    """The error for a run of another length than the method's table; without a method, a schedule's."""
    preset = None if method is None or method.name == "schedule" else method
    options = [name for name in _TABLES if preset is not None and preset.parameters.get(name)]
    if preset is not None and options:
        return DcacheError(
            f"{options[0]} of {preset.name} is for {expected} evaluations and the run has {count} or more. "
            f"Run {expected} evaluations, or give {options[0]}= for {count}; second-order samplers "
            "evaluate more than once per step."
        )
    return DcacheError(
        f"this schedule is for {expected} evaluations and the run has {count} or more. Use the schedule's "
        "own number of steps, or Schedule.load(path).stretch(steps); second-order samplers evaluate more "
        "than once per step."
    )
