"""The search space: genomes, and the schedules they encode.

A genome is a tuple of integers. First come the bits, unit by unit: one for each evaluation except the first,
which is always computed; 1 is computed, 0 predicted. All sites of a unit share its bits. The last integer is
the number of a recipe, which sets how predictions are made.
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
from dcache.search.fitting.closed_loop import Share, along

Genome = tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """How predictions are made: values for fields of `dcache.schedule.Plan`.

    Attributes:
        name: name in logs and tables.
        codec, predictor, parameters, clock: as in `Plan`. The weights of the predictor `fitted` are computed
            for each genome, from the profile's Gram matrices or, if there is one, from `share`.
        share: how far predictions follow the line through the last two anchors, over evaluation numbers.
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
        # Guidance magnifies the difference of the halves, and with it the error of extrapolating that.
        Recipe("apart", "fitted", clock="step", share=Share(1.0, 0.0)),
        Recipe("leaning", "fitted", clock="step", share=Share(1.0, 0.2)),
    )
}


@dataclass(frozen=True)
class Space:
    """All schedules of some units of one observed model.

    Attributes:
        profile: profile of the model.
        units: groups of sites; the sites of a unit are computed at the same evaluations.
        recipes: recipes that a genome chooses from.
        paired: whether guidance makes one batch of both branches, so that mean and difference of the halves
            can have weights of their own. None: whether the profile's guidance is above 1, which is wrong
            for models that take guidance as an input and so have one branch.
    """

    profile: Profile
    units: tuple[tuple[str, ...], ...]
    recipes: tuple[Recipe, ...] = (RECIPES["reuse"], RECIPES["newton"])
    paired: bool | None = None

    def __post_init__(self) -> None:
        """Check that the space is not empty.

        Raises:
            DcacheError: there are no units, no recipes, or no evaluations to predict.
        """
        if not self.units or not all(self.units) or not self.recipes:
            raise DcacheError("a search needs units of one or more sites, and a recipe")
        if self.profile.steps < 2:
            raise DcacheError(f"a run of {self.profile.steps} evaluation has nothing to predict")

    @property
    def width(self) -> int:
        """Number of bits of a unit."""
        return self.profile.steps - 1

    @property
    def bits(self) -> int:
        """Number of bits of a genome, which is also the index of its recipe number."""
        return len(self.units) * self.width

    @property
    def halves(self) -> bool:
        """Whether mean and difference of guidance halves may have separate weights."""
        guided = self.profile.guidance is None or self.profile.guidance > 1
        return guided if self.paired is None else self.paired

    def schedule(self, genome: Genome) -> Schedule:
        """The schedule that a genome encodes."""
        rows = dict(zip(self.units, self.rows(genome), strict=True))
        computed = {
            site: [t for t, bit in enumerate(row) if bit] for unit, row in rows.items() for site in unit
        }
        recipe = self.recipes[genome[self.bits]]
        if all(genome[: self.bits]) or (recipe.codec is None and not any(map(_weighs, rows.values()))):
            # Without predictions, or from one anchor, all recipes predict the same.
            recipe = RECIPES["reuse"]
        parameters = recipe.parameters
        if recipe.share is not None:
            # Without halves, recipes that differ only in `apart` are the same function.
            share = recipe.share if self.halves else Share(recipe.share.mean)
            by_site = {site: row for unit, row in rows.items() for site in unit}
            parameters = along(by_site, share)
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
        """One row for each unit: whether each evaluation is computed; evaluation 0 always is."""
        parts = (genome[i * self.width : (i + 1) * self.width] for i in range(len(self.units)))
        return [(True, *map(bool, part)) for part in parts]

    def genome(self, rows: Sequence[Sequence[bool]], recipe: int = 0) -> Genome:
        """Inverse of `rows`: the genome of these rows, one for each unit.

        Raises:
            DcacheError: a row is missing, or its length is not the number of evaluations.
        """
        if len(rows) != len(self.units) or any(len(row) != self.profile.steps for row in rows):
            raise DcacheError(
                f"expected {len(self.units)} rows of {self.profile.steps} evaluations, got "
                f"{[len(row) for row in rows]}"
            )
        return (*(int(bit) for row in rows for bit in row[1:]), recipe)

    def nearest(self, schedule: Schedule, recipe: int = 0) -> Genome:
        """The nearest genome of a schedule: a unit computes wherever one of its sites is computed.

        A schedule of one site, and one that has none of the unit's sites, counts for all sites.
        """
        (plan,) = schedule.components.values()
        every = list(plan.rows.values())
        rows = []
        for unit in self.units:
            matching = [
                r for sites in every for site, r in sites.items() if site in unit or len(plan.sites) == 1
            ]
            matching = matching or [r for sites in every for r in sites.values()]
            rows.append([any(r[t] for r in matching) for t in range(schedule.steps)])
        return self.genome(rows, recipe)


def units_of(profile: Profile, name: str) -> tuple[tuple[str, ...], ...]:
    """The units of a name.

    `whole`: one unit, the trunk (or the site that replaces it). `kinds`: one unit for each kind of sublayer.
    `blocks`, `sublayers`: one unit for each of them. `sections:N`: N units, runs of blocks of similar length.

    Raises:
        DcacheError: the name is unknown, or the profile has no such sites.
    """
    word, _, count = name.partition(":")
    kinds = ("attn", "cross_attn", "mlp", "fused")
    if word == "whole":
        return ((profile.whole_site,),)
    if word == "kinds":
        by_kind = tuple(profile.of_kind(kind) for kind in kinds)
        return _some(tuple(sites for sites in by_kind if sites), name, profile)
    if word == "blocks":
        return _some(tuple((site,) for site in profile.of_kind("block")), name, profile)
    if word == "sublayers":
        return _some(tuple((site,) for site in profile.of_kind(*kinds)), name, profile)
    if word == "sections" and count.isdigit() and int(count) > 0:
        blocks, parts = profile.of_kind("block"), int(count)
        if parts > len(blocks):
            raise DcacheError(f"{name}: the profile has only {len(blocks)} blocks")
        edges = [round(i * len(blocks) / parts) for i in range(parts + 1)]
        return tuple(blocks[a:b] for a, b in pairwise(edges))
    raise DcacheError(
        f"units {name!r} are unknown: expected whole, kinds, blocks, sublayers or sections:N, as sections:3"
    )


def fitted_weights(profile: Profile, computed: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Parameters of the predictor `fitted`: weights of the last two anchors, from the Gram matrices."""
    from dcache.predictors.fitted import Fitted
    from dcache.schedulers.planners.gram import table

    weights = {site: table(profile.tables(site).gram, sorted(steps)) for site, steps in computed.items()}
    return Fitted({site: rows for site, rows in weights.items() if rows}).parameters()


def _weighs(row: Sequence[bool]) -> bool:
    """Whether a prediction of this row has more than one anchor before it."""
    last = max((t for t, computed in enumerate(row) if not computed), default=0)
    return sum(row[:last]) > 1


def _some(units: tuple[tuple[str, ...], ...], name: str, profile: Profile) -> tuple[tuple[str, ...], ...]:
    if not units:
        raise DcacheError(f"the profile has no {name}: its sites are {', '.join(profile.sites)}")
    return units
