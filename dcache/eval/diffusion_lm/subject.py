"""Masked-diffusion language models under test, with their prompts: shipped, from a folder or the hub."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.eval.language.needles import needles
from dcache.eval.limits import check_device
from dcache.eval.model_folder import check_folder
from dcache.util.options import did_you_mean
from dcache.util.text import first_sentence

# Shipped model -> its module, which has `load_model`, `prompts`, `scores`, ANSWER, QUALITY and POLICIES.
SHIPPED = {"mirror": "dcache.demo.texts.mirror", "acrostic": "dcache.demo.texts.acrostic"}
EXPECTED = (
    "Expected mirror, acrostic, a folder with a masked-diffusion model and its tokenizer, or the id of one "
    "on the hub; --trust-remote-code runs code that comes with the model."
)
POLICIES = "dkv;prefix;dual;window;elastic"
QUALITY = "share of questions to a text that are answered in every token"
# Tokens decoded after a question; the answer comes first.
NEW, BLOCK = 32, 32


@dataclass(frozen=True)
class Batch:
    """Prompts of one length.

    Attributes:
        ids: int64 `[B, P]`.
        scores: of decoded ids `[B, T]`, the quality of each row, 0 to 1.
    """

    ids: torch.Tensor
    scores: Callable[[torch.Tensor], list[float]]


@dataclass(frozen=True)
class RowSubject:
    """A masked-diffusion language model and its prompts.

    Attributes:
        name: name in reports.
        model: the model, in evaluation mode.
        batches: of (number of prompts, tokens of each).
        new: tokens to decode.
        block: tokens of a block.
        temperature: of sampling.
        quality: what a score is.
        policies: those that are compared where none are named.
        mask_id: the tokenizer's id of the mask token, where the config has none.
        fixed: whether scores are of texts of `new` tokens alone.
    """

    name: str
    model: Any
    batches: Callable[[int, int], list[Batch]]
    new: int
    block: int
    temperature: float
    quality: str
    policies: str
    mask_id: int | None = None
    fixed: bool = False


def load(name: str, device: str = "cpu", dtype: str = "float32", remote_code: bool = False) -> RowSubject:
    """Load a model.

    Args:
        name: `mirror` or `acrostic` (shipped), a folder, or a hub id.
        device: such as "cpu" or "cuda".
        dtype: of the weights: "float32", "bfloat16" or "float16".
        remote_code: whether code that comes with the model may run.

    Raises:
        DcacheError: it cannot be loaded; the message says what to do.
    """
    check_device(device)
    if name in SHIPPED:
        return _shipped(name, device, getattr(torch, dtype))
    model, tokenizer = _loaded(name, getattr(torch, dtype), remote_code)
    model = model.eval().to(device)
    return RowSubject(
        name,
        model,
        lambda count, length: _questions(tokenizer, count, length, model.device),
        NEW,
        BLOCK,
        0.0,
        QUALITY,
        POLICIES,
        getattr(tokenizer, "mask_token_id", None),
    )


def _shipped(name: str, device: str, dtype: torch.dtype) -> RowSubject:
    task = importlib.import_module(SHIPPED[name])
    return RowSubject(
        name,
        task.load_model().to(device, dtype),
        lambda count, _: [Batch(task.prompts(count).to(device), task.scores)],
        task.ANSWER,
        task.ANSWER,
        1.0,
        task.QUALITY,
        task.POLICIES,
        fixed=True,
    )


def _questions(tokenizer: Any, count: int, length: int, device: Any) -> list[Batch]:
    """One question to each text; texts differ in length, and some models ignore masks of pads."""
    batches = []
    for context in needles(tokenizer, count, 1, length, 0):
        (question,) = context.questions
        ids = torch.tensor([[*context.ids, *question.ids]], device=device)
        batches.append(Batch(ids, _answered(ids.shape[1], question.answer)))
    return batches


def _answered(start: int, answer: tuple[int, ...]) -> Callable[[torch.Tensor], list[float]]:
    def scores(ids: torch.Tensor) -> list[float]:
        return [float(row == list(answer)) for row in ids[:, start : start + len(answer)].tolist()]

    return scores


def _loaded(name: str, dtype: torch.dtype, remote_code: bool) -> tuple[Any, Any]:
    import transformers

    check_folder(name)
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=remote_code)
        auto = getattr(transformers, _auto_class(config))
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=remote_code)
        return auto.from_pretrained(name, dtype=dtype, trust_remote_code=remote_code), tokenizer
    except Exception as error:  # Damaged folders and missing hubs raise a dozen kinds of errors.
        raise DcacheError(
            f"cannot load the language model {name!r} ({first_sentence(error)}). {EXPECTED}"
            + did_you_mean(name, SHIPPED)
        ) from error


def _auto_class(config: Any) -> str:
    """The class of transformers that loads a model with its head."""
    remote = getattr(config, "auto_map", None) or {}
    names = ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel")
    for auto in names:
        if auto in remote:
            return auto
    masked = any("MaskedLM" in name for name in getattr(config, "architectures", None) or ())
    return names[0] if masked else names[1]
