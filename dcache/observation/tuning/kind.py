"""The kind of a run: everything that a plan made from one run of it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from dcache.engine.protocols import Tuned
from dcache.identity.digest import model_digest
from dcache.identity.run import Run
from dcache.intercept.pytree import first_tensor
from dcache.util.modules import modules_of


class Kind(NamedTuple):
    """The kind of a run of one denoiser.

    Attributes:
        model: class name of the denoiser.
        weights: digest of its config and weights.
        sites: the method's sites.
        sampler: class name of the sampler, "" for a hand-written loop.
        steps: evaluations.
        table: digest of the sampler's timesteps and noise levels.
        guidance: guidance scale, None if it is not known.
        size: shape of the denoiser's first tensor, without the batch.
    """

    model: str
    weights: str
    sites: tuple[str, ...]
    sampler: str
    steps: int
    table: str
    guidance: float | None
    size: tuple[int, ...]

    def text(self) -> str:
        """Steps, sampler, guidance and size, for people."""
        guidance = "" if self.guidance is None else f"guidance {self.guidance:g}"
        size = "size " + " x ".join(map(str, self.size)) if self.size else ""
        return ", ".join(filter(None, (f"{self.steps} evaluations", self.sampler, guidance, size)))

    def digest(self) -> str:
        """A name for files."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()[:24]


def kind_of(
    session: Tuned, run: Run, weights: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Kind | None:
    """The kind of a run that opens; None where its length is not known.

    Args:
        session: the denoiser's session.
        run: the run.
        weights: the denoiser's digest.
        args: positional arguments of the run's first call.
        kwargs: its keyword arguments.
    """
    steps = run.expected if run.count is None else run.count
    if steps is None:
        return None
    table = json.dumps([run.start, list(run.timesteps), list(run.sigmas)])
    sample = first_tensor(args, kwargs)
    guidance = session.guidance
    return Kind(
        type(session.module).__name__,
        weights,
        session.method.sites,
        run.sampler,
        steps,
        hashlib.sha256(table.encode()).hexdigest()[:12],
        None if guidance is None else float(guidance),
        () if sample is None else tuple(sample.shape[1:]),
    )


class Weights:
    """The digest of a denoiser's weights, computed again only where these may have changed."""

    def __init__(self) -> None:
        self._mark: tuple[Any, ...] | None = None
        self._digest = ""

    def digest(self, module: nn.Module) -> str:
        """Twelve hexadecimal digits."""
        # Writing into a weight raises its version; replacing one changes its address.
        mark = tuple(
            (p.data_ptr(), 0 if p.is_inference() else p._version)
            for part in modules_of(module)
            for p in part._parameters.values()
            if p is not None
        )
        if mark != self._mark:
            self._mark = mark
            self._digest = model_digest(type(module).__name__, {"": module})
        return self._digest
