"""SenCache: how sensitive the output is to the latents and to the noise level decides."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dcache.errors import DcacheError
from dcache.method import Method
from dcache.methods.coefficients import numbers
from dcache.methods.expected_change import Sensitivities
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.probes import Probe
from dcache.schedulers import ChangeAbove, Switch, guarded
from dcache.util.checks import check_number, check_whole


@preset(
    "SenCache, Haghighi and Alahi 2026, arXiv 2602.24208", sites="trunk", families=("transformer",),
    needs="sensitivities: measured",
)  # fmt: skip
def sencache(
    threshold: float = 0.34,
    sensitivities: str | os.PathLike[str] | Sequence[float] | None = None,
    early_threshold: float = 0.025,
    early: int = 10,
    max_run: int | None = 10,
    warmup: int = 1,
    last: bool = True,
    branches: str = "together",
) -> Method:
    """SenCache (Haghighi and Alahi 2026): the trunk's delta is reused while the expected change is small.

    Args:
        threshold: root mean square change of the output from which on everything is computed.
        sensitivities: noise level, J_x, J_s of one level after the other; or a file.
        early_threshold: the threshold in the first `early` evaluations.
        early: a fifth of the run as published.
        max_run: longest run of predictions, or None for no limit.
        warmup: evaluations computed from the start.
        last: compute the last evaluation where the number of evaluations is known.
        branches: "together" as published, or "separate".

    Raises:
        DcacheError: there are no sensitivities; the message says how to get them.
    """
    table = numbers("sencache", "sensitivities", sensitivities, least=3)
    if len(table) % 3:
        raise DcacheError(f"sensitivities of sencache must be three numbers a level, got {len(table)}")
    check_number("early_threshold", early_threshold, 0.0)
    check_whole("early", early, 0)
    rule = Switch(early, ChangeAbove(early_threshold), ChangeAbove(threshold))
    return Method(
        rule=guarded(rule, warmup=warmup, last=last, max_run=max_run),
        predictor=Reuse(),
        sites=("trunk",),
        codec="delta",
        branches=branches,
        probe=Probe("input", indicator=Sensitivities(table)),
    )
