"""What the front door does with a language model: it has policies of `lm_kv` in the place of methods."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dcache.errors import DcacheError
from dcache.method import Method
from dcache.methods.preset import about
from dcache.methods.resolve import preset_called, read_options
from dcache.schedule import Schedule

if TYPE_CHECKING:
    from dcache.lm_kv import CacheStats, Policy

LINE = "dcache.enable(model, 'snapkv', budget=0.25)"


def enable(model: Any, method: Any, options: Mapping[str, Any], engine: Mapping[str, bool]) -> None:
    """Enable a policy on a language model, in place of what was enabled before.

    Args:
        model: the model.
        method: a `Policy`, a policy's name or its function.
        options: the policy's, where it is named.
        engine: options that go with diffusion models alone -> whether they were given.

    Raises:
        DcacheError: the policy, an option or the model does not fit; the message has the line to type.
    """
    given = ", ".join(name for name, is_given in engine.items() if is_given)
    if given:
        raise DcacheError(
            f"options ({given}) go with diffusion models, but {type(model).__name__} is a language model: "
            f"write {LINE}"
        )
    policy = policy_of(model, method, options)
    try:
        from dcache.lm_kv import enabled
    except ImportError as error:
        from dcache.util.distribution import needs_transformers

        raise needs_transformers(error) from None
    enabled.enable(model, policy)


def disable(model: Any) -> None:
    """Take a policy off; without effect where none is enabled."""
    enabled = _backend()
    if enabled is not None:
        enabled.disable(model)


def restorer(model: Any) -> Callable[[], None]:
    """A function that enables what is enabled now once more, after `disable`."""
    enabled = _backend()
    return (lambda: None) if enabled is None else enabled.restorer(model)


def stats(model: Any) -> CacheStats:
    """Figures of the last text, also after `disable`.

    Raises:
        DcacheError: no policy was ever enabled on this model.
    """
    enabled = _backend()
    figures: CacheStats | None = None if enabled is None else enabled.stats(model)
    if figures is None:
        raise DcacheError(f"caching is not enabled on this {type(model).__name__}: write {LINE}")
    return figures


def policy_of(model: Any, method: Any, options: Mapping[str, Any]) -> Policy:
    """The policy that `method` stands for, with a budget.

    Raises:
        DcacheError: it is a diffusion model's method, it is unknown, an option is, or no budget is given.
    """
    from dcache.lm_kv import Policy, available

    if method is None or is_for_denoisers(method):
        name = type(model).__name__
        _refuse_unsupported(model)
        missing = "" if method is None else f", and {_name_of(method)} is a method for diffusion models"
        raise DcacheError(
            f"{name} takes token ids and no timestep: it is a language model{missing}. Name a policy for its "
            f"KV cache and a budget, as in {LINE}: there are {', '.join(available())}. A method for "
            "diffusion models goes with the pipeline, or with the module that takes the timestep."
        )
    if isinstance(method, Policy):
        if options:
            raise DcacheError(
                f"options ({', '.join(options)}) go with a policy's name: write dcache.enable(model, "
                f"'{method.name}', ...), or give them to the policy itself"
            )
        policy = method
    else:
        policy = _named(method, options)
    if policy.budget is None:
        raise DcacheError(
            f"no budget was given for {policy.name}: write dcache.enable(model, '{policy.name}', "
            "budget=0.25) for a quarter of each row's tokens, or budget=512 for 512 tokens per KV head"
        )
    return policy


def _refuse_unsupported(model: Any) -> None:
    """Refuse a model of transformers that no policy takes either, such as a pipeline's text encoder.

    Raises:
        DcacheError: this is one; the message has the line to type.
    """
    generates = getattr(model, "can_generate", None)
    if generates is None:
        return
    try:
        from dcache.lm_kv.model.families import decoder_of
    except ImportError:
        return
    try:
        decoder_of(model)
    except DcacheError as error:
        kind = "a language model that lm_kv does not support" if generates() else "an encoder"
        raise DcacheError(
            f"{type(model).__name__} takes token ids and no timestep: it is {kind}, and there is nothing to "
            f"cache in it ({error}). Enable caching on the diffusion pipeline that it belongs to: "
            "dcache.enable(pipe)."
        ) from None


def _named(method: Any, options: Mapping[str, Any]) -> Policy:
    """A policy by its name or by its function."""
    from dcache.lm_kv import make

    name = method if isinstance(method, str) else getattr(method, "__name__", None)
    if name is None:
        raise DcacheError(
            f"expected a policy, its name or its function, got {type(method).__name__}: write {LINE}"
        )
    head, _, rest = name.partition(":")
    return make(head, **{**read_options(rest, name), **options})


def is_for_denoisers(method: Any) -> bool:
    """Whether this is a preset of diffusion models, its name or result, a schedule or its place."""
    if isinstance(method, str):
        is_place = method.endswith(".json") or method.startswith("hub:")
        return is_place or preset_called(method.partition(":")[0]) is not None
    return isinstance(method, Method | Schedule | os.PathLike) or about(method) is not None


def _name_of(method: Any) -> str:
    if isinstance(method, str):
        return repr(method)
    return str(getattr(method, "name", "") or getattr(method, "__name__", "") or type(method).__name__)


def _backend() -> Any:
    """`lm_kv.enabled`, which imports transformers; None where it is not loaded, so nothing is enabled."""
    return sys.modules.get("dcache.lm_kv.enabled")
