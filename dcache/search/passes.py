"""Which sites are observed in the same runs: those that do not overlap."""

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
        sites: bound ones.
        model: whether the denoiser as a whole is looked at; it needs no site.
    """

    sites: list[Site] = field(default_factory=list)
    model: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the bound sites."""
        return [site.name for site in self.sites]

    def without_runs(self) -> tuple[list[str], Pass]:
        """Names of sites that span blocks, or of all if there are none; and the pass without them."""
        rest = [site for site in self.sites if not site.is_run and site.kind != "bracket"]
        if len(rest) == len(self.sites):
            rest = []
        return [name for name in self.names if name not in {s.name for s in rest}], Pass(rest, self.model)

    def takes(self, site: Site) -> bool:
        """Whether the site can be bound together with the others; takes it then."""
        runs = [one for one in self.sites if one.is_run]
        overlaps = site.is_run and any(a.first <= site.last and site.first <= a.last for a in runs)
        nests = site.kind == "bracket" and any(one.kind == "bracket" for one in self.sites)
        if not overlaps and not nests:
            self.sites.append(site)
        return not overlaps and not nests


def sites_of(structure: Structure, specs: Iterable[str] | None) -> list[Site]:
    """The sites that are meant; None is `auto`, the model, and every block and sublayer that there are.

    Raises:
        DcacheError: a specification is unknown or names what the model lacks, or there is none.
    """
    found: dict[str, Site] = {}
    for spec in EVERYTHING if specs is None else specs:
        try:
            found |= {site.name: site for site in structure.select([spec])}
        except DcacheError:
            # What is meant by default need not exist: a UNet has no blocks.
            if specs is not None:
                raise
    if not found:
        raise DcacheError(
            f"no sites: expected some of those of {type(structure.model).__name__}: "
            f"{structure.available_specs()}"
        )
    return list(found.values())


def passes_of(sites: Iterable[Site]) -> list[Pass]:
    """A few passes in which all sites are seen: each goes to the first that takes it."""
    passes = [Pass()]
    for site in sites:
        if site.name == MODEL:
            passes[0].model = True
        elif not any(one.takes(site) for one in passes):
            passes.append(Pass([site]))
    return passes
