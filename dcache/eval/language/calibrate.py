"""Calibration of a language model: what policies read from a file instead of measuring it in every text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.eval.language.settings import LanguageSettings
from dcache.eval.language.subject import LanguageSubject
from dcache.eval.language.task import Context
from dcache.eval.machine import machine, versions
from dcache.eval.results_folder import model_facts
from dcache.lm_kv.cache import KVCache
from dcache.lm_kv.calibrating.key_statistics import basis_of, key_statistics
from dcache.lm_kv.calibrating.repeated_text import head_pattern
from dcache.lm_kv.calibrating.sensitivity import layer_sensitivity
from dcache.lm_kv.model.facts import facts_of
from dcache.lm_kv.scoring import calibration
from dcache.lm_kv.scoring.calibration import Calibration

Progress = Callable[[str, int, int], None]
Tensors = dict[str, torch.Tensor]
# What is kept beside the file until all texts are read.
PART = ".part"


def calibrate(
    subject: LanguageSubject,
    settings: LanguageSettings,
    out: Path,
    progress: Progress = lambda _what, _done, _total: None,
) -> Calibration:
    """Measure a model on random text and on contexts, each followed by its questions and answers.

    What is done is kept beside `out` until the file is written; the same call goes on from there.

    Args:
        subject: the model and its contexts.
        settings: which contexts.
        out: the file.
        progress: called with what is at work, the number done and all.

    Raises:
        DcacheError: the model is not supported, or there is a file of another model or of other settings.
    """
    cache = KVCache(subject.model, "keydiff", budget=1.0)
    full, facts = cache.compressed_layers, facts_of(cache.decoder, cache.compressed_layers)
    about = {**model_facts(subject.name, subject.model), "facts": facts, "settings": vars(settings)}
    part = out.with_name(out.name + PART)
    if out.exists():
        measured = _same(calibration.load(out), about)
        # One that ended between the two files left it.
        part.unlink(missing_ok=True)
        return measured
    before = _same(calibration.load(part), about) if part.exists() else None
    tensors, left_out = ({}, "") if before is None else (dict(before.tensors), before.about["left_out"])
    contexts = subject.contexts(settings.contexts, settings.questions, settings.tokens, settings.seed)
    total = 1 + len(contexts) * len(full)
    if before is None:
        progress("head pattern", 0, total)
        pattern = head_pattern(subject.model, seed=settings.seed)
        tensors = {f"pattern.{layer}": torch.tensor(pattern[layer]) for layer in full}
        tensors["sensitivities"] = torch.zeros(0, len(full))
        calibration.save(part, {**about, "left_out": left_out}, tensors)
    for index in range(len(tensors["sensitivities"]), len(contexts)):
        steps = _steps(progress, f"text {index + 1}", 1 + index * len(full), total)
        tensors, left_out = _with_text(subject.model, contexts[index], tensors, steps)
        calibration.save(part, {**about, "left_out": left_out}, tensors)
    more = {"left_out": left_out, "machine": machine(), "versions": versions()}
    calibration.save(out, {**about, **more}, _final(tensors))
    part.unlink(missing_ok=True)
    progress("done", total, total)
    return calibration.load(out)


def _steps(progress: Progress, what: str, first: int, total: int) -> Callable[[], None]:
    """A function that reports a count that grows from `first` with every call."""
    steps = count(first)
    return lambda: progress(what, next(steps), total)


def _with_text(
    model: Any, context: Context, tensors: Tensors, step: Callable[[], None]
) -> tuple[Tensors, str]:
    """Sums with those of one more text, and what is left out of them, "" for nothing."""
    device = next(model.parameters()).device
    text = torch.tensor([context.ids], device=device)
    asked = [token for question in context.questions for token in (*question.ids, *question.answer)]
    statistics = key_statistics(model, text)
    moved = layer_sensitivity(model, text, torch.tensor([asked], device=device), step)
    new = {f"moments.{layer}": tensor for layer, tensor in statistics.moments.items()}
    new |= {f"importance.{layer}": tensor for layer, tensor in statistics.importance.items()}
    sums = {name: tensor.cpu() + tensors.get(name, 0.0) for name, tensor in new.items()}
    rows = torch.cat([tensors["sensitivities"], torch.tensor([moved])])
    return {**tensors, **sums, "sensitivities": rows}, statistics.left_out


def _final(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors of a calibration, of sums over texts."""
    final: Tensors = {"sensitivity": tensors["sensitivities"].mean(0)}
    texts = len(tensors["sensitivities"])
    for name, tensor in tensors.items():
        kind, _, layer = name.partition(".")
        if kind == "pattern":
            final[name] = tensor
        elif kind == "moments":
            directions, variance = basis_of(tensor / texts)
            final[f"basis.{layer}"], final[f"variance.{layer}"] = directions.half(), variance.float()
        elif kind == "importance":
            order = tensor.argsort(dim=-1, descending=True, stable=True)
            final[f"channels.{layer}"] = order.to(torch.int16)
    return final


def _same(there: Calibration, about: Mapping[str, Any]) -> Calibration:
    """A file of this model and these settings; others are refused."""
    differ = [name for name in about if there.about.get(name) != about[name]]
    if differ:
        raise DcacheError(
            f"{there.path} is another calibration ({', '.join(differ)} differ): choose another --out, or "
            "remove that file"
        )
    return there


def table(measured: Calibration) -> str:
    """A line for each layer: sensitivity, directions of nine tenths of the keys, how far heads look back."""
    lines = [f"{'layer':>5}  {'sensitivity':>11}  {'90 %':>4}  reach by head"]
    pattern = measured.pattern
    for layer, sensitivity in measured.sensitivity:
        reach = " ".join(f"{value:.2f}" for value in pattern[layer])
        lines.append(f"{layer:>5}  {sensitivity:>11.4f}  {_directions(measured, layer):>4}  {reach}")
    return "\n".join(lines)


def _directions(measured: Calibration, layer: int) -> str:
    """How many directions have nine tenths of the keys' mean square, the mean over heads."""
    variance = measured.tensors.get(f"variance.{layer}")
    if variance is None:
        return "-"
    share = variance.cumsum(-1) / variance.sum(-1, keepdim=True).clamp_min(1e-30)
    return f"{float((share < 0.9).sum(-1).add(1).float().mean()):.0f}"


def plain(measured: Calibration) -> dict[str, Any]:
    """The figures of `table` and what they were measured on, as JSON values."""
    pattern = measured.pattern
    rows = [
        {"layer": layer, "sensitivity": moved, "reach": list(pattern[layer])}
        for layer, moved in measured.sensitivity
    ]
    return {"file": str(measured.path), **measured.about, "layers": rows}
