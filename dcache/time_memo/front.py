"""The memo's front door: on a pipeline's denoisers, or on one."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from torch import nn

from dcache.errors import DcacheError
from dcache.identity.denoisers import denoisers
from dcache.identity.timestep import takes_time
from dcache.stats import Stats
from dcache.time_memo.checkpoint import Checkpoint
from dcache.time_memo.memo import TimeMemo, memo_of
from dcache.time_memo.observe import ALONE
from dcache.time_memo.report import MemoReport, merged

Target = TypeVar("Target")
_OFFLOADS = ("keep", "cpu", "drop")


def memo(target: Target, offload: str = "keep", text: bool | str = False) -> Target:
    """Keep what depends on the timestep alone instead of computing it again; bit-identical (ours).

    Modules are found in the first call, which is observed. Each output is computed twice and compared before
    it is relied upon. Goes with every method of `dcache.enable`; `dcache.disable` takes both off.

    >>> import dcache
    >>> from dcache.demo.pipeline import call_options, load_pipeline
    >>> pipe = dcache.memo(load_pipeline())
    >>> for _ in range(3):
    ...     image = pipe("a red circle", **call_options()).images[0]
    >>> dcache.memo_report(pipe).share > 0.01
    True

    Args:
        target: a diffusers pipeline or a torch denoiser.
        offload: "keep"; "cpu": the weights of timed modules leave the device while tables answer; "drop":
            they are freed, and read again from the checkpoint's files where they are needed.
        text: also keep what depends on the text's embeddings (a policy's observation), for as long as these
            live; "alone" leaves out what depends on the timestep as well.

    Returns:
        The same object.

    Raises:
        DcacheError: there is no denoiser that takes a timestep, an option is out of range, or "drop" has no
            files to read weights from.
    """
    found = check(target, offload, text)
    forget(target)
    for module in found.values():
        TimeMemo(module, _sampler_of(target), offload, text)
    return target


def check(target: Any, offload: str, text: bool | str = False) -> dict[str, nn.Module]:
    """The denoisers that a memo can be made of, by name.

    Raises:
        DcacheError: as `memo`.
    """
    found = denoisers(target)
    if not found:
        name = type(target).__name__
        raise DcacheError(f"no denoiser of {name} takes a timestep, so there is nothing to keep")
    for module in found.values():
        _check_denoiser(module, offload, text)
        if offload == "drop":
            Checkpoint.of(module)
    return found


def forget(target: Any) -> None:
    """Take the memos off an object's denoisers; without effect where there is none."""
    for module in _denoisers(target).values():
        known = memo_of(module)
        if known is not None:
            known.remove()


def memo_report(target: Any) -> MemoReport:
    """What the memos of an object's denoisers hold and save.

    Args:
        target: a pipeline or denoiser with a memo.

    Raises:
        DcacheError: it has none.
    """
    parts = {name: known for name, part in _denoisers(target).items() if (known := memo_of(part)) is not None}
    if not parts:
        raise DcacheError(f"this {type(target).__name__} has no memo: call dcache.memo first")
    return merged({name: known.report() for name, known in parts.items()})


def with_memo(target: Any, stats: Stats | None) -> Stats | None:
    """Stats with the memo's bytes; of a memo alone where nothing is enabled, None where there is neither."""
    known = [known for part in _denoisers(target).values() if (known := memo_of(part)) is not None]
    if not known:
        return stats
    reports = [part.report() for part in known]
    return replace(
        stats or Stats(method="memo"),
        memo_bytes=sum(report.table_bytes for report in reports),
        bytes_away=sum(report.bytes_away for report in reports),
    )


def _denoisers(target: Any) -> dict[str, nn.Module]:
    try:
        return denoisers(target)
    except DcacheError:
        # Compiled since, or no pipeline at all.
        known = (
            {"": target} if isinstance(target, nn.Module) else dict(getattr(target, "components", None) or {})
        )
        parts = {name: getattr(part, "_orig_mod", part) for name, part in known.items()}
        return {n: part for n, part in parts.items() if isinstance(part, nn.Module) and memo_of(part)}


def _sampler_of(target: Any) -> Callable[[], Any]:
    """A function that returns the sampler of a pipeline, which it does not keep alive."""
    if isinstance(target, nn.Module):
        return lambda: None
    pipe = weakref.ref(target)
    return lambda: getattr(pipe(), "scheduler", None)


def _check_denoiser(module: nn.Module, offload: str, text: object) -> None:
    """Refuse what a memo cannot be made of.

    Raises:
        DcacheError: no timestep among the arguments, or an option out of range.
    """
    if offload not in _OFFLOADS:
        known = ", ".join(map(repr, _OFFLOADS))
        raise DcacheError(f"offload= (memo= of enable) must be one of {known}, got {offload!r}")
    if not isinstance(text, bool) and text != ALONE:
        raise DcacheError(f"text must be True, False or {ALONE!r}, got {text!r}")
    if not takes_time(module):
        raise DcacheError(
            f"{type(module).__name__} takes no timestep, so nothing of it can be kept by timestep. Give the "
            "denoiser, or the pipeline that has it."
        )
