"""What the front door does with masked-diffusion language models and their pipelines."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from dcache.errors import DcacheError
from dcache.identity import token_models
from dcache.methods.resolve import is_row_method, read_options

if TYPE_CHECKING:
    from dcache.diffusion_lm import RowMethod, RowStats

LINE = "dcache.enable(model, dcache.methods.dkv(refresh=8))"


def model_of(target: Any) -> nn.Module | None:
    """The language model of a text-diffusion pipeline, or a language model itself; None for others."""
    if isinstance(target, nn.Module):
        return target if token_models.is_language_model(target) else None
    model = getattr(target, "model", None)
    sampled = hasattr(target, "scheduler") and token_models.is_language_model(model)
    return model if sampled and isinstance(model, nn.Module) else None


def takes(target: Any, method: Any) -> bool:
    """Whether a row method is meant: a text-diffusion pipeline, a row method, or a masked-diffusion model.

    Args:
        target: what `enable` is given.
        method: its method.
    """
    model = model_of(target)
    if model is None:
        return False
    if not isinstance(target, nn.Module) or _is_row_method(method):
        return True
    return has_mask_token(model) and (method is None or _is_for_features(method) or _is_unknown(method))


def has_mask_token(model: nn.Module) -> bool:
    """Whether the model's config says that it is a masked-diffusion model."""
    config: Any = getattr(model, "config", None)
    bidirectional = getattr(config, "is_causal", None) is False
    return bidirectional or isinstance(getattr(config, "mask_token_id", None), int)


def enable(target: Any, method: Any, options: Mapping[str, Any], engine: Mapping[str, bool]) -> None:
    """Enable a row method on a model or the model of a pipeline, in place of what was enabled before.

    Args:
        target: the model or the pipeline.
        method: a `RowMethod`, its name or function, or None for the default.
        options: the preset's, where it is named.
        engine: options that go with feature methods alone -> whether they were given.

    Raises:
        DcacheError: the method, an option or the model does not fit; the message has the line to type.
    """
    model = model_of(target)
    if model is None:
        raise DcacheError(f"expected a masked-diffusion language model, got {type(target).__name__}")
    given = ", ".join(name for name, is_given in engine.items() if is_given)
    if given:
        raise DcacheError(
            f"options ({given}) go with methods that cache features, and {type(target).__name__} generates "
            f"tokens: write {LINE}"
        )
    pipe = None if target is model else target
    _refuse_features(target, method)
    from dcache.diffusion_lm import enabled, make

    if method is None:
        name = "dual" if pipe is not None else "dkv"
        enabled.enable(model, make(name, **options), pipe, automatic=pipe is not None)
    else:
        enabled.enable(model, _resolved(method, options), pipe)


def disable(target: Any) -> bool:
    """Take a row method off; returns False where none is enabled."""
    enabled, model = _backend(), model_of(target)
    if enabled is None or model is None or enabled.find(model) is None:
        return False
    enabled.disable(model)
    return True


def restorer(target: Any) -> Callable[[], None] | None:
    """A function that enables what is enabled now once more, after `disable`; None where nothing is."""
    enabled, model = _backend(), model_of(target)
    if enabled is None or model is None or enabled.find(model) is None:
        return None
    restore: Callable[[], None] = enabled.restorer(model)
    return restore


def stats(target: Any) -> RowStats | None:
    """Figures of the last run, also after `disable`; None where no row method was ever enabled."""
    enabled, model = _backend(), model_of(target)
    figures: RowStats | None = None if enabled is None or model is None else enabled.stats(model)
    return figures


def refuse_stats(model: nn.Module) -> None:
    """Refuse statistics of a masked-diffusion model on which nothing was ever enabled.

    Raises:
        DcacheError: it is one; the message has the line to type.
    """
    if has_mask_token(model):
        raise DcacheError(f"caching is not enabled on this {type(model).__name__}: write {LINE}")


def _is_row_method(method: Any) -> bool:
    if isinstance(method, str):
        from dcache.diffusion_lm import find

        return find(method.partition(":")[0]) is not None
    return is_row_method(method)


def _is_unknown(method: Any) -> bool:
    """Whether a causal model's cache has no such policy either, by its name, its function or itself."""
    from dcache.lm_kv import Policy, available

    name = method.partition(":")[0] if isinstance(method, str) else getattr(method, "__name__", "")
    return not isinstance(method, Policy) and _letters(name) not in map(_letters, available())


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_for_features(method: Any) -> bool:
    from dcache.methods.language_models import is_for_denoisers

    return is_for_denoisers(method)


def _refuse_features(target: Any, method: Any) -> None:
    if method is None or _is_row_method(method):
        return
    name = method if isinstance(method, str) else getattr(method, "name", getattr(method, "__name__", method))
    unknown = not _is_for_features(method)
    reason = (
        f"{name!r} is no row policy's name or method"
        if unknown
        else f"{name} caches features between noise levels, and tokens change from step to step"
    )
    raise DcacheError(
        f"{type(target).__name__} generates tokens: {reason}. Write dcache.enable(pipe) for the default, or "
        "name a row policy, as in dcache.enable(pipe, dcache.methods.dual()), or one of your own, "
        "made with @dcache.diffusion_lm.preset: dcache.methods.available('rows') lists them."
    )


def _resolved(method: Any, options: Mapping[str, Any]) -> RowMethod:
    """The method that a name, a function or a method stands for."""
    from dcache.diffusion_lm import RowMethod, make

    if isinstance(method, RowMethod):
        if options:
            raise DcacheError(
                f"options ({', '.join(options)}) go with a row policy's name: write dcache.enable(model, "
                f"'{method.name}', ...), or give them to the method itself"
            )
        return method
    if not isinstance(method, str):
        return make(method.__name__, **options)
    name, _, rest = method.partition(":")
    return make(name, **{**read_options(rest, method), **options})


def _backend() -> Any:
    """`diffusion_lm.enabled`; None where it is not loaded, so nothing is enabled."""
    return sys.modules.get("dcache.diffusion_lm.enabled")
