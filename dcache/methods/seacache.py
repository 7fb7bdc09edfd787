"""SeaCache: changes are measured where the signal is, not where the noise is."""

from __future__ import annotations

import math

import torch

from dcache.method import Method
from dcache.methods.preset import preset
from dcache.predictors import Newton, Predictor, Reuse
from dcache.probes import Probe, SinceStep
from dcache.schedulers import Accumulated, guarded


class WienerFiltered(SinceStep):
    """Relative L1 change of the latents behind a Wiener filter for a signal of power 1 / f^3 in noise."""

    def update(self, x: torch.Tensor, logsnr: float | None) -> None:
        """Filter; tokens along their sequence."""
        dims = (1,) if x.ndim == 3 else tuple(range(2, x.ndim))
        noise = math.exp(-min(max(logsnr or 0.0, -27.0), 27.0))
        gain = torch.ones((), device=x.device)
        for dim in dims:
            f = torch.fft.fftfreq(x.shape[dim], device=x.device).abs()
            share = 1.0 / (1.0 + noise * (f**3 + 1e-16))
            gain = gain * share.view([-1 if d == dim else 1 for d in range(x.ndim)])
        seen = torch.fft.ifftn(torch.fft.fftn(x.float(), dim=dims) * (gain / gain.mean()), dim=dims)
        self.now = seen.real.contiguous()


@preset("SeaCache 2026, arXiv 2602.18993", sites="trunk or bracket")
def seacache(
    threshold: float = 0.25,
    order: int = 1,
    warmup: int = 1,
    max_run: int | None = 2,
    last: bool = True,
    branches: str = "separate",
) -> Method:
    """SeaCache (2026): the sum of the filtered latents' changes decides when the trunk is computed.

    Args:
        threshold: predicted while the sum is below it.
        order: 0 reuses, 1 extrapolates through the last two anchors, as the published "residual order".
        warmup: evaluations computed from the start.
        max_run: longest run of predictions, or None for no limit.
        last: compute the last evaluation where the number of evaluations is known.
        branches: whether guidance branches decide "separate"ly or "together".
    """
    predictor: Predictor = Newton(order) if order else Reuse()
    return Method(
        rule=guarded(Accumulated(threshold), warmup=warmup, last=last, max_run=max_run),
        predictor=predictor,
        clock="step" if order else None,
        branches=branches,
        probe=Probe("input", indicator=WienerFiltered),
    )
