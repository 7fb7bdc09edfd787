"""A method: one choice of the five parts. A published method is a function that returns one of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import Any

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


@dataclass(frozen=True)
class Method:
    """What to remember, where, how it is carried to now, and when to compute.

    Attributes:
        name: the preset's name, which `@preset` fills in, or the schedule's.
        rule: says why a site must be computed now, or None.
        predictor: weights over the last anchors.
        sites: specifications as in `dcache.sites`; `auto` is the trunk, else the UNet's outermost bracket,
            else the model.
        codec: one codec for all sites, or None for `delta` on runs of blocks and `value` elsewhere.
        clock: one of "step", "timestep", "sigma", "logsnr", or None for the best that is known.
        branches: who decides: every guidance branch for itself, or the first one of an evaluation for all.
        probe: what a dynamic rule looks at, or None for a rule that looks at nothing.
        fixed: whether the rule knows sites by name or kind, so that it makes no sense on the whole model.
        sibling: at the site `guidance`, how the branch without the prompt follows from the one with it, as in
            `dcache.engine.lowering.guidance`; "" elsewhere.
        steps: number of evaluations the rule is made for, or None.
        runs: lengths of the runs of one pipeline call, as in `dcache.schedule.plan.Plan`; () for one run.
        corrections: of what is predicted, by channel, or None.
        sigmas: noise levels that the sampler is given in place of its own, one for each evaluation and the
            end's; () leaves them.
        made_for: class and config digest of the denoiser that its numbers are of, "" where it has none
            of its own; another denoiser warns.
        parameters: what the preset was called with, for reports; methods that differ in them alone are equal.
        defaults: the preset's own values of these; `describe` leaves out what equals them.
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
    sibling: str = ""
    steps: int | None = None
    runs: tuple[RunLength, ...] = ()
    corrections: Corrections | None = None
    sigmas: tuple[float, ...] = ()
    made_for: tuple[str, str] = ("", "")
    parameters: Mapping[str, Any] = field(default_factory=dict, compare=False)
    defaults: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        check_terms(self.codec, self.clock, self.branches, self.sibling)
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
        """Whether the site `guidance` has to see what the sampler is given."""
        return bool(self.sibling)

    @cached_property
    def probes_attention(self) -> bool:
        """Whether the rule looks at what the first block gives its attention."""
        return self.probe is not None and self.probe.where == "modulated"

    def codec_for(self, site: Site) -> Codec:
        """The codec of one site."""
        return parse(self.codec or default_codec(site.kind))

    def for_whole_model(self) -> Method:
        """The method with a codec for the whole model, whose output may have another shape than its input."""
        return self if self.codec is None else replace(self, codec=self.codec.replace("delta", "value"))

    def describe(self) -> str:
        """Name, first parameter and every other one that is not the preset's default, on one line.

        A long value is cut and ends with a hash, so that methods which differ are described differently.
        """
        return self._description

    def with_parameters(self, **changed: Any) -> Method:
        """The same method, described with these values even where they equal the preset's defaults."""
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
        """The same method elsewhere."""
        return replace(self, sites=sites)


def site_list(sites: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Accept one specification or several."""
    if not isinstance(sites, str | list | tuple):
        raise DcacheError(f"sites must be a site name or a list of them, got {sites!r}")
    return (sites,) if isinstance(sites, str) else tuple(sites)
