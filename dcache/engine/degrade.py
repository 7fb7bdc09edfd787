"""Giving something up in mid-run: fewer anchors, narrower ones, coarser sites; `budget` says when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from dcache.cache.codec import Codec
from dcache.cache.history import History, Leaves
from dcache.engine.region import GroupRegion, Region
from dcache.kernels.packed import Stored
from dcache.predictors import Predictor, Reuse
from dcache.predictors.fitted import Fitted

if TYPE_CHECKING:
    from dcache.engine.session import Session


@dataclass(frozen=True)
class Rung:
    """How far several sessions go down together.

    Attributes:
        precision: how many dtypes narrower anchors are kept.
        order: how much lower the order is.
    """

    precision: int = 0
    order: int = 0

    def of(self, session: Session) -> tuple[int, torch.dtype | None]:
        """Anchors of each site, forecasts included, and what they are kept in."""
        predictor = lowered(session.predictor, self._order(session))
        return predictor.order + 1 + predictor.forecasts, self._store(session)

    def _order(self, session: Session) -> int:
        return max(0, session.predictor.order - self.order)

    def _store(self, session: Session) -> torch.dtype | None:
        stores = precisions(session)
        return stores[min(self.precision, len(stores) - 1)]


def rungs(sessions: Sequence[Session]) -> Iterator[Rung]:
    """From nothing given up to everything but the sites: order first, then precision."""
    last = largest_rung(sessions)
    for precision in range(last.precision + 1):
        for order in range(last.order + 1):
            yield Rung(precision, order)


def largest_rung(sessions: Sequence[Session]) -> Rung:
    """Everything but the sites given up."""
    return Rung(
        max((len(precisions(s)) - 1 for s in sessions), default=0),
        max((s.predictor.order for s in sessions), default=0),
    )


def precisions(session: Session) -> list[torch.dtype | None]:
    """What a session's anchors are kept in, and what narrower dtypes they could be."""
    codecs = {region.codec for region in _storing(session)}
    if len({codec.frame for codec in codecs}) != 1:
        # One name could not say both the frames and the dtype.
        return [None]
    now = next(iter(codecs)).store
    histories = [h for branch in session.branches.values() for h in branch.histories.values()]
    own = [like[1] for h in histories for like in h.like if like is not None and like[1].is_floating_point]
    widest = now.itemsize if now is not None else max((dtype.itemsize for dtype in own), default=1)
    found = [torch.bfloat16] if widest > torch.bfloat16.itemsize else []
    return [now, *found, torch.int8] if widest > 1 else [now]


def lowered(predictor: Predictor, order: int) -> Predictor:
    """The same predictor with fewer anchors."""
    if order >= predictor.order:
        return predictor
    if isinstance(predictor, Fitted) and order > 0:
        tables = [
            {s: {t: r for t, r in rows.items() if len(r) <= order + 1} for s, rows in table.items()}
            for table in (predictor.table, predictor.differences)
        ]
        return Fitted(*tables)
    known: list[Any] = [f for f in fields(predictor) if f.name == "order" and f.init]  # type: ignore[arg-type]
    return replace(predictor, order=order) if order > 0 and known else Reuse()  # type: ignore[type-var]


def shrink(session: Session, rung: Rung) -> bool:
    """Go down: the method changes, and with it what is remembered already; False where nothing does."""
    method, (_, store) = session.method, rung.of(session)
    predictor = lowered(method.predictor, rung._order(session))
    regions = list(_storing(session))
    codec = replace(regions[0].codec, store=store) if regions else None
    changed = codec is not None and any(region.codec.store != store for region in regions)
    if predictor is method.predictor and not changed:
        return False
    given_up: dict[str, Any] = {} if predictor is method.predictor else {"order": predictor.order}
    if changed and codec is not None:
        method = replace(method, codec=codec.name)
        given_up = {**given_up, "codec": codec.name}
    session.method = replace(method, predictor=predictor, parameters={**method.parameters, **given_up})
    session.predictor = predictor
    for region in regions:
        region.predictor = predictor.at(region.site.name)
        region.codec = replace(region.codec, store=store)
    guidance = session.binding.guidance
    for branch in session.branches.values():
        branch.limit = predictor.order + 1
        for key, history in branch.histories.items():
            if guidance is None or key != guidance.key:
                _shrink_history(history, predictor, Codec("value", store) if changed else None)
    return True


def coarser(session: Session) -> bool:
    """Remember less of the model, at the order and precision asked for; False where that cannot be."""
    method, binding = session.asked, session.binding
    named = method.fixed or method.corrections is not None or isinstance(method.predictor, Fitted)
    if named or method.probe is not None or method.sibling or binding.whole is not None:
        return False
    sites = ("model",)
    if len(binding.sites) > 1:
        auto = binding.structure.select(("auto",))
        sites = ("auto",) if auto != binding.sites and len(auto) == 1 else sites
    codec = method.codec
    if sites == ("model",) and codec is not None:
        # A model's output need not be of its input's shape.
        codec = codec.replace("delta", "value")
    session.method = replace(
        method, sites=sites, codec=codec, parameters={**method.parameters, "sites": sites[0]}
    )
    session.predictor = method.predictor
    # Rows of sites that are bound no more are no part of the run's trace.
    session.record.events.clear()
    session.rebind(sites)
    return True


def _storing(session: Session) -> Iterator[Region]:
    """Every region that remembers by a codec."""
    for region in session.binding.regions:
        if region is session.binding.guidance:
            continue
        for one in region.followers if isinstance(region, GroupRegion) else [region]:
            yield one
            yield from one.again


def _shrink_history(history: History, predictor: Predictor, codec: Codec | None) -> None:
    history.limit = predictor.order + 1
    history.spare = ()
    while len(history.taus) > history.limit:
        history.drop(0)
    if not predictor.forecasts:
        history.forecast = None
    if codec is not None:
        history.leaves = [_narrower(leaves, codec) for leaves in history.leaves]
        history.forecast = None if history.forecast is None else _narrower(history.forecast, codec)


def _narrower(leaves: Leaves, codec: Codec) -> Leaves:
    kept: list[Stored | None] = []
    for leaf in leaves:
        wide = leaf if leaf is None or isinstance(leaf, torch.Tensor) else leaf.to(leaf.dtype)
        kept.append(None if wide is None else codec.close(None, wide))
    return tuple(kept)
