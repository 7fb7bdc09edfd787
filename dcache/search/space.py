"""The space that is searched: genomes, and the schedules they stand for.

A genome is a tuple of whole numbers: one bit for each unit and each evaluation but the first (which has
nothing to predict from), unit by unit, then the number of a recipe, which says how predictions are made.
Sites of a unit decide together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.schedulers.planners import scheduled
from dcache.search.closed_loop import Share, along

Genome = tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """How predictions are made: the fields of `dcache.schedule.Plan` that a genome chooses together.

    Attributes:
        name: in logs and tables.
        codec, predictor, parameters, clock: as in `Plan`. The predictor `fitted` has its weights computed
            for each genome: from the profile, or
        share: how far they follow the line through the last two anchors, on the clock of evaluations.
    """

    name: str
    predictor: str = "reuse"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    clock: str | None = None
    codec: str | None = None
    share: Share | None = None


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("reuse"),
        Recipe("value", codec="value"),
        Recipe("newton", "newton", {"order": 1}),
        Recipe("halfway", "linear", {"weight": 0.5}),
        Recipe("fitted", "fitted", clock="step"),
        Recipe("line", "fitted", clock="step", share=Share(1.0)),
        # Guidance magnifies the difference of its halves, and what a line does to it.
        Recipe("apart", "fitted", clock="step", share=Share(1.0, 0.0)),
        Recipe("leaning", "fitted", clock="step", share=Share(1.0, 0.2)),
    )
}


@dataclass(frozen=True)
class Space:
    """All schedules of some units of one observed model.

    Attributes:
        profile: of the model.
        units: sites that decide together.
        recipes: what a genome chooses from.
        paired: whether guidance makes one batch of both branches, whose halves can be carried apart; None: as
            far as the profile's guidance tells (models that are told it as a number have one branch).
    """

    profile: Profile
    units: tuple[tuple[str, ...], ...]
    recipes: tuple[Recipe, ...] = (RECIPES["reuse"], RECIPES["newton"])
    paired: bool | None = None

    def __post_init__(self) -> None:
        """Check that there is something to choose.

        Raises:
            DcacheError: there are no units, recipes or evaluations to predict.
        """
        if not self.units or not all(self.units) or not self.recipes:
            raise DcacheError("a search needs units of one or more sites, and a recipe")
        if self.profile.steps < 2:
            raise DcacheError(f"a run of {self.profile.steps} evaluation has nothing to predict")

    @property
    def width(self) -> int:
        """Bits of a unit."""
        return self.profile.steps - 1

    @property
    def bits(self) -> int:
        """Bits of a genome; the number of a recipe follows them."""
        return len(self.units) * self.width

    @property
    def halves(self) -> bool:
        """Whether there are halves to carry apart, or may be."""
        guided = self.profile.guidance is None or self.profile.guidance > 1
        return guided if self.paired is None else self.paired

    def schedule(self, genome: Genome) -> Schedule:
        """What a genome stands for."""
        rows = dict(zip(self.units, self.rows(genome), strict=True))
        computed = {
            site: [t for t, one in enumerate(row) if one] for unit, row in rows.items() for site in unit
        }
        recipe = self.recipes[genome[self.bits]]
        if all(genome[: self.bits]) or (recipe.codec is None and not any(map(_weighs, rows.values()))):
            # Of nothing, or of one anchor, every recipe makes the same.
            recipe = RECIPES["reuse"]
        parameters = recipe.parameters
        if recipe.share is not None:
            # Without halves those that differ in them alone are one function.
            share = recipe.share if self.halves else Share(recipe.share.mean)
            own = {site: row for unit, row in rows.items() for site in unit}
            parameters = along(own, share)
        elif recipe.predictor == "fitted":
            parameters = fitted_weights(self.profile, computed)
        return scheduled(
            self.profile,
            "searched",
            computed,
            codec=recipe.codec,
            predictor=recipe.predictor,
            parameters=parameters,
            clock=recipe.clock,
        )

    def rows(self, genome: Genome) -> list[tuple[bool, ...]]:
        """One row for each unit."""
        parts = (genome[i * self.width : (i + 1) * self.width] for i in range(len(self.units)))
        return [(True, *map(bool, part)) for part in parts]

    def genome(self, rows: Sequence[Sequence[bool]], recipe: int = 0) -> Genome:
        """The genome of these rows, one for each unit.

        Raises:
            DcacheError: a row is missing or not of a run's length.
        """
        if len(rows) != len(self.units) or any(len(row) != self.profile.steps for row in rows):
            raise DcacheError(
                f"expected {len(self.units)} rows of {self.profile.steps} evaluations, got "
                f"{[len(row) for row in rows]}"
            )
        return (*(int(bit) for row in rows for bit in row[1:]), recipe)

    def nearest(self, schedule: Schedule, recipe: int = 0) -> Genome:
        """The nearest genome: a unit computes where any of its sites does, or what stands for all of them."""
        (plan,) = schedule.components.values()
        every = list(plan.rows.values())
        rows = []
        for unit in self.units:
            own = [r for sites in every for site, r in sites.items() if site in unit or len(plan.sites) == 1]
            own = own or [r for sites in every for r in sites.values()]
            rows.append([any(r[t] for r in own) for t in range(schedule.steps)])
        return self.genome(rows, recipe)


def units_of(profile: Profile, what: str) -> tuple[tuple[str, ...], ...]:
    """Units by name: `whole` (the trunk or what stands for it), `kinds`, `blocks`, `sublayers`, `sections:N`.

    `sections:N` are N runs of blocks of about the same length.

    Raises:
        DcacheError: the name is unknown, or the profile has no such sites.
    """
    name, _, count = what.partition(":")
    kinds = ("attn", "cross_attn", "mlp", "fused")
    if name == "whole":
        return ((profile.whole_site,),)
    if name == "kinds":
        found = tuple(profile.of_kind(kind) for kind in kinds)
        return _some(tuple(sites for sites in found if sites), what, profile)
    if name == "blocks":
        return _some(tuple((site,) for site in profile.of_kind("block")), what, profile)
    if name == "sublayers":
        return _some(tuple((site,) for site in profile.of_kind(*kinds)), what, profile)
    if name == "sections" and count.isdigit() and int(count) > 0:
        blocks, parts = profile.of_kind("block"), int(count)
        if parts > len(blocks):
            raise DcacheError(f"{what}: the profile has {len(blocks)} blocks")
        edges = [round(i * len(blocks) / parts) for i in range(parts + 1)]
        return tuple(blocks[a:b] for a, b in pairwise(edges))
    raise DcacheError(
        f"units {what!r} are unknown: expected whole, kinds, blocks, sublayers or sections:N, as sections:3"
    )


def fitted_weights(profile: Profile, computed: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Weights over the last two anchors for the predictor `fitted`, from the profile's Gram matrices."""
    from dcache.predictors.fitted import Fitted
    from dcache.schedulers.planners.gram import table

    found = {site: table(profile.tables(site).gram, sorted(own)) for site, own in computed.items()}
    return Fitted({site: rows for site, rows in found.items() if rows}).parameters()


def _weighs(row: Sequence[bool]) -> bool:
    """Whether any prediction of this row has more than one anchor before it."""
    last = max((t for t, one in enumerate(row) if not one), default=0)
    return sum(row[:last]) > 1


def _some(units: tuple[tuple[str, ...], ...], what: str, profile: Profile) -> tuple[tuple[str, ...], ...]:
    if not units:
        raise DcacheError(f"there are no {what} in this profile: it has {', '.join(profile.sites)}")
    return units
