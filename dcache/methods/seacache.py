"""SeaCache: the change of the latents is measured after a Wiener filter that removes noise."""

from __future__ import annotations

import math

import torch

from dcache.method import Method
from dcache.methods.preset import preset
from dcache.predictors import Newton, Predictor, Reuse
from dcache.probes import Probe, SinceStep
from dcache.schedulers import Accumulated, guarded


class WienerFiltered(SinceStep):
    """Relative L1 change of the latents after a Wiener filter for a signal of power 1 / f^3 in noise."""

    def update(self, x: torch.Tensor, logsnr: float | None) -> None:
        """Filter the latents, (B, C, ...) along their spatial dimensions, (B, N, D) along the tokens."""
        dims = (1,) if x.ndim == 3 else tuple(range(2, x.ndim))
        noise = math.exp(-min(max(logsnr or 0.0, -27.0), 27.0))
        gain = torch.ones((), device=x.device)
        for dim in dims:
            f = torch.fft.fftfreq(x.shape[dim], device=x.device).abs()
            share = 1.0 / (1.0 + noise * (f**3 + 1e-16))
            gain = gain * share.view([-1 if d == dim else 1 for d in range(x.ndim)])
        filtered = torch.fft.ifftn(torch.fft.fftn(x.float(), dim=dims) * (gain / gain.mean()), dim=dims)
        self.now = filtered.real.contiguous()


@preset("SeaCache 2026, arXiv 2602.18993", sites="trunk or bracket")
def seacache(
    threshold: float = 0.25,
    order: int = 1,
    warmup: int = 1,
    max_run: int | None = 2,
    last: bool = True,
    branches: str = "separate",
) -> Method:
    """SeaCache (2026): the trunk is computed when the changes of the filtered latents add up to a threshold.

    Args:
        threshold: predicted while the sum is below it.
        order: 0 reuses, 1 extrapolates through the last two anchors; the published "residual order".
        warmup: evaluations computed from the start.
        max_run: longest run of predictions, or None for no limit.
        last: compute the last evaluation if the number of evaluations is known.
        branches: "separate" or "together", as in `Method`.
    """
    predictor: Predictor = Newton(order) if order else Reuse()
    return Method(
        rule=guarded(Accumulated(threshold), warmup=warmup, last=last, max_run=max_run),
        predictor=predictor,
        clock="step" if order else None,
        branches=branches,
        probe=Probe("input", indicator=WienerFiltered),
    )
