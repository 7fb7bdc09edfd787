"""What a pipeline and its reference in full precision must share, for corrections of both errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dcache.errors import DcacheError
from dcache.identity.denoisers import denoiser_named, is_pipeline

# What only the config of a quantised model has.
_QUANTISED = "quantization_config"


def refuse_other(pipe: Any, reference: Any, component: str | None) -> None:
    """Refuse a reference that is another pipeline than the quantised one.

    Args:
        pipe: the pipeline.
        reference: the one in full precision.
        component: the denoiser's name in both; None is the only one.

    Raises:
        DcacheError: the reference is no pipeline, or another one: in the class or config of its denoiser or
            sampler. The message lists the differences.
    """
    if not is_pipeline(reference):
        raise DcacheError(
            "reference must be the same pipeline in full precision, got "
            f"{type(reference).__name__}: load it once more, without quantisation"
        )
    name, module = denoiser_named(pipe, component)
    _, other = denoiser_named(reference, name)
    parts: dict[str, tuple[Any, Any]] = {name or "denoiser": (module, other)}
    parts["sampler"] = (getattr(pipe, "scheduler", None), getattr(reference, "scheduler", None))
    differences = [text for part, pair in parts.items() for text in _differences(part, *pair)]
    if differences:
        raise DcacheError(
            f"reference must be the same pipeline in full precision, and {'; '.join(differences)}: load the "
            "pipeline once more, without quantisation"
        )


def _differences(part: str, own: Any, other: Any) -> Iterator[str]:
    if type(own) is not type(other):
        yield f"its {part} is a {type(other).__name__} where the pipeline's is a {type(own).__name__}"
        return
    ours, theirs = _config(own), _config(other)
    for key in sorted({*ours, *theirs}):
        # Arrays among them cannot be compared by `!=`.
        if repr(ours.get(key)) != repr(theirs.get(key)):
            yield f"its {part} has {key}={theirs.get(key)!r} where the pipeline's has {ours.get(key)!r}"


def _config(part: Any) -> Mapping[str, Any]:
    config: Any = getattr(part, "config", None)
    if not isinstance(config, Mapping):
        return {}
    return {k: v for k, v in config.items() if not k.startswith("_") and k != _QUANTISED}
