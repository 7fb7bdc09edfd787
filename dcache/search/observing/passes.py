"""Passes of an observation: sets of sites without overlaps, which are observed in the same runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dcache.errors import DcacheError
from dcache.sites.site import Site
from dcache.sites.structure import Structure

MODEL = "model"
EVERYTHING = ("auto", MODEL, "block", "sublayers")


@dataclass
class Pass:
    """Sites that are observed in the same runs.

    Attributes:
        sites: the sites to bind.
        model: whether the whole denoiser is observed too; that needs no site.
    """

    sites: list[Site] = field(default_factory=list)
    model: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the bound sites."""
        return [site.name for site in self.sites]

    def without_runs(self) -> tuple[list[str], Pass]:
        """Names of the sites that span blocks (of all sites if none does), and the pass without them."""
        rest = [site for site in self.sites if not site.is_run and site.kind != "bracket"]
        if len(rest) == len(self.sites):
            rest = []
        return [name for name in self.names if name not in {s.name for s in rest}], Pass(rest, self.model)

    def add(self, site: Site) -> bool:
        """Add a site if it can be bound together with the others; returns whether it was added."""
        runs = [bound for bound in self.sites if bound.is_run]
        overlaps = site.is_run and any(a.first <= site.last and site.first <= a.last for a in runs)
        nests = site.kind == "bracket" and any(bound.kind == "bracket" for bound in self.sites)
        if not overlaps and not nests:
            self.sites.append(site)
        return not overlaps and not nests


def sites_of(structure: Structure, specs: Iterable[str] | None) -> list[Site]:
    """The sites of some specifications; None is `auto`, the model, and every block and sublayer.

    Raises:
        DcacheError: a specification is unknown, the model has no such site, or no site is left.
    """
    sites: dict[str, Site] = {}
    for spec in EVERYTHING if specs is None else specs:
        try:
            sites |= {site.name: site for site in structure.select([spec])}
        except DcacheError:
            # Not every model has all the default sites: a UNet has no blocks.
            if specs is not None:
                raise
    if not sites:
        raise DcacheError(
            f"no sites: expected some of those of {type(structure.model).__name__}: "
            f"{structure.available_specs()}"
        )
    return list(sites.values())


def passes_of(sites: Iterable[Site]) -> list[Pass]:
    """Split sites into passes greedily: each site joins the first pass it fits."""
    passes = [Pass()]
    for site in sites:
        if site.name == MODEL:
            passes[0].model = True
        elif not any(candidate.add(site) for candidate in passes):
            passes.append(Pass([site]))
    return passes
