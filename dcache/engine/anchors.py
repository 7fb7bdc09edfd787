"""What happens to anchors between two computed calls: rows that are dropped, forecasts that are kept."""

from __future__ import annotations

from dcache.cache.codec import Codec
from dcache.cache.history import History, Leaves
from dcache.kernels.packed import Packed, Stored
from dcache.kernels.weighted_sum import weighted_sum
from dcache.predictors import Predictor


def fit_rows(history: History, half: tuple[int, slice] | None, codec: Codec, mean: bool) -> None:
    """Keep of the anchors the rows that are run; where all are run again nothing is left of them.

    Args:
        history: changed in place.
        half: (rows of the whole batch, those that are run), None where all are.
        codec: of the site.
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
    """The last entry before a new anchor: the newest anchor, or what was predicted since, once more."""
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
    kept: list[Stored | None] = []
    for leaf in leaves:
        # Frames or places may lie inside the batch dimension, behind the rows.
        each = 0 if leaf is None or leaf.shape[0] % rows else leaf.shape[0] // rows
        if leaf is None or not each:
            kept.append(leaf)
        elif mean:
            a, b = (half.to(half.dtype) for half in leaf.chunk(2))
            kept.append(codec.close(None, (a + b) / 2) if isinstance(leaf, Packed) else (a + b) / 2)
        else:
            kept.append(leaf[part.start * each : part.stop * each].clone())
    return tuple(kept)
