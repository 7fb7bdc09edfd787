"""Changes of a history between computed calls: rows that are dropped, and the last entry as a forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dcache.cache.codec import Codec
from dcache.cache.history import History, Leaves
from dcache.kernels.packed import Packed, Stored
from dcache.kernels.weighted_sum import weighted_sum
from dcache.predictors import Predictor


@dataclass(frozen=True)
class OutputForm:
    """How a module's output is put together from what is remembered of it.

    Attributes:
        recipe: as `flatten` gave it.
        constants: place -> leaf that is no tensor.
        count: number of leaves.
        place: of a module that may be called several times, what tells this call of it from the others.
    """

    recipe: Any
    constants: Mapping[int, Any]
    count: int
    place: Any = None


def fit_rows(history: History, half: tuple[int, slice] | None, codec: Codec, mean: bool) -> None:
    """Fit the anchors to the rows of the batch that are run.

    If a part of the rows is run, the others are dropped from the anchors. If all rows are run again, the
    history is cleared.

    Args:
        history: changed in place.
        half: (number of rows of the whole batch, the rows that are run), None if all are run.
        codec: the site's codec.
        mean: keep the mean of both halves of a guided batch instead of the half that is run.
    """
    if half is None:
        history.clear()
    elif not history.half:
        history.leaves = [_fewer(leaves, *half, codec, mean) for leaves in history.leaves]
        if history.forecast is not None:
            history.forecast = _fewer(history.forecast, *half, codec, mean)
        history.half = True


def latest_entry(history: History, predictor: Predictor, codec: Codec) -> Leaves:
    """The last entry before a new anchor: the newest anchor, or the last prediction, computed again.

    Args:
        history: the site's history.
        predictor: the site's predictor.
        codec: the site's codec.
    """
    if not history.run_length or len(history.taus) == 1:
        return history.leaves[-1]
    weights = predictor.weights(history.taus, history.steps, history.predicted_at)
    anchors = [*history.leaves, history.forecast] if history.forecast is not None else history.leaves
    entry: list[Stored | None] = []
    for i, newest in enumerate(history.leaves[-1]):
        if newest is None:
            entry.append(None)
            continue
        predicted = weighted_sum(None, [a[i] for a in anchors], weights, newest.dtype)  # type: ignore[misc]
        entry.append(codec.close(None, predicted) if isinstance(newest, Packed) else predicted)
    return tuple(entry)


def _fewer(leaves: Leaves, rows: int, part: slice, codec: Codec, mean: bool) -> Leaves:
    fewer: list[Stored | None] = []
    for leaf in leaves:
        # Dimension 0 may be rows times frames (or places); `each` is the number of entries per row.
        each = 0 if leaf is None or leaf.shape[0] % rows else leaf.shape[0] // rows
        if leaf is None or not each:
            fewer.append(leaf)
        elif mean:
            a, b = (half.to(half.dtype) for half in leaf.chunk(2))
            fewer.append(codec.close(None, (a + b) / 2) if isinstance(leaf, Packed) else (a + b) / 2)
        else:
            fewer.append(leaf[part.start * each : part.stop * each].clone())
    return tuple(fewer)
