"""Predictors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dcache.errors import DcacheError
from dcache.predictors.base import Predictor
from dcache.predictors.chebyshev import Chebyshev
from dcache.predictors.fitted import Fitted
from dcache.predictors.foca import Foca
from dcache.predictors.guided_line import GuidedLine
from dcache.predictors.polynomial import Linear, Newton, Reuse
from dcache.predictors.taylor import Hermite, Taylor

_MAKERS: dict[str, Callable[..., Predictor]] = {
    "reuse": Reuse,
    "newton": Newton,
    "taylor": Taylor,
    "linear": Linear,
    "hermite": Hermite,
    "foca": Foca,
    "chebyshev": Chebyshev,
    "guided_line": GuidedLine,
    "fitted": Fitted.from_parameters,
}


def register(name: str, maker: Callable[..., Predictor]) -> None:
    """Register a predictor by name, so that schedules which use it can be loaded and replayed.

    Args:
        name: the predictor's `name`, as written into schedules.
        maker: called with the predictor's `parameters()` as keyword arguments; usually its class.

    Raises:
        DcacheError: another predictor is registered under this name.
    """
    if _MAKERS.get(name, maker) is not maker:
        raise DcacheError(f"a predictor named {name!r} is registered already: choose another name")
    _MAKERS[name] = maker


def make(name: str, parameters: Mapping[str, Any]) -> Predictor:
    """Build a predictor from its name and parameters, as written in a schedule file.

    Raises:
        DcacheError: the name or a parameter is unknown.
    """
    maker = _MAKERS.get(name)
    if maker is None:
        raise DcacheError(f"predictor {name!r} is unknown: expected one of {', '.join(_MAKERS)}")
    try:
        return maker(**parameters)
    except TypeError as error:
        raise DcacheError(f"predictor {name!r} does not take {dict(parameters)}: {error}") from None
