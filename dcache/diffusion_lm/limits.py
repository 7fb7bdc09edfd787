"""What of a model and a call is refused before anything runs."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from dcache.diffusion_lm.decoders.base import Decoder
from dcache.diffusion_lm.method import RowMethod
from dcache.diffusion_lm.tokens import tokens_of
from dcache.errors import DcacheError
from dcache.intercept.module_call import compiled_inside
from dcache.util.checks import is_whole

# Names of the number of positions in configs; LLaDA's is the second, GPT-2's the third.
_POSITIONS = ("max_position_embeddings", "max_sequence_length", "n_positions")


def check_model(model: nn.Module) -> None:
    """Refuse models whose rows cannot be computed by themselves.

    Raises:
        DcacheError: the model corrupts uniformly, is compiled as a whole, trains, or takes no `input_ids`.
    """
    name = type(getattr(model, "_orig_mod", model)).__name__
    config: Any = getattr(model, "config", None)
    if hasattr(model, "_orig_mod") or compiled_inside(model) is not None:
        raise DcacheError(
            f"{name} is compiled as a whole, and the number of rows changes from step to step: give the "
            "model as it was before torch.compile"
        )
    takes = inspect.signature(model.forward).parameters
    # DiffusionGemma's canvas goes by another name than the context's ids.
    canvas = "decoder_input_ids" in takes
    if canvas and not is_whole(getattr(config, "mask_token_id", None)):
        raise DcacheError(
            f"{name} corrupts tokens uniformly: it has no mask token, and every step re-noises all tokens "
            "that are not committed, so no row stays as it was. Row policies need masked diffusion: run it "
            "uncached."
        )
    if "input_ids" not in takes and all(p.kind is not p.VAR_KEYWORD for p in takes.values()):
        raise DcacheError(
            f"{name} takes {', '.join(takes) or 'nothing'}: a masked-diffusion language model takes input_ids"
        )
    check_mode(model)


def check_mode(model: nn.Module) -> None:
    """Refuse a model that trains.

    Raises:
        DcacheError: it does.
    """
    if model.training:
        raise DcacheError(
            f"{type(model).__name__} is in training mode, where rows may differ by dropout: call model.eval()"
        )


def mask_of(model: nn.Module, given: int | None, pipe: Any = None) -> int:
    """The id of the mask token: as given, of the pipeline's tokenizer, or of the model's config.

    Raises:
        DcacheError: there is none, or the model has no token of this id.
    """
    config: Any = getattr(model, "config", None)
    if given is not None and not is_whole(given):
        raise DcacheError(f"mask_id must be the id of the mask token, a whole number, got {given!r}")
    for value in (given, getattr(pipe, "mask_token_id", None), getattr(config, "mask_token_id", None)):
        if is_whole(value):
            tokens = tokens_of(model)
            if not 0 <= value < tokens:
                raise DcacheError(
                    f"{type(model).__name__} has tokens 0 to {tokens - 1:.0f}, and the mask id is {value}: "
                    "give the id that the model was trained with"
                )
            return int(value)
    raise DcacheError(
        f"no mask id was found for {type(model).__name__}: expected config.mask_token_id or a tokenizer with "
        "a mask token. Give it: dcache.enable(model, 'dkv', mask_id=126336), or generate(..., "
        "mask_id=126336)."
    )


def shifted(model: nn.Module, given: bool | None) -> bool:
    """Whether row i predicts token i + 1, as in Dream."""
    if given is not None:
        return given
    config: Any = getattr(model, "config", None)
    return "dream" in str(getattr(config, "model_type", "")).lower()


def check_order(method: RowMethod, decoder: Decoder) -> None:
    """Refuse a decoder that picks after the forward, where the policy needs its picks before.

    Raises:
        DcacheError: they do not go together.
    """
    if method.policy.upcoming and not decoder.ahead:
        raise DcacheError(
            f"{method.describe()} needs the positions to be decoded before each forward, and {decoder.name} "
            "knows them behind it: use decoder='random' or 'left', or dkv(variant='decode')"
        )


def check_pads(model: nn.Module, mask_id: int, real: torch.Tensor) -> None:
    """Refuse a pad id that is the mask id where there are pads.

    Raises:
        DcacheError: it is.
    """
    config: Any = getattr(model, "config", None)
    if getattr(config, "pad_token_id", None) == mask_id and not bool(real.all()):
        raise DcacheError(
            f"pad_token_id and the mask id are both {mask_id}, and the batch is padded: pads would be "
            "decoded. Pad with another id."
        )


def check_tokens(model: nn.Module, ids: torch.Tensor, mask_id: int, eos_id: int | None) -> None:
    """Refuse ids that the model does not have, and an EOS that is no such id or the mask.

    Raises:
        DcacheError: there are some.
    """
    tokens, name = tokens_of(model), type(model).__name__
    least, most = (int(bound) for bound in ids.aminmax())
    if least < 0 or most >= tokens:
        raise DcacheError(
            f"input_ids have ids from {least} to {most}, and {name} has tokens 0 to {tokens - 1:.0f}: they "
            "must come from the model's own tokenizer"
        )
    if eos_id is not None and (not is_whole(eos_id) or not 0 <= eos_id < tokens or eos_id == mask_id):
        raise DcacheError(
            f"eos_id must be one of the tokens 0 to {tokens - 1:.0f} of {name}, and not the mask's id "
            f"{mask_id}, got {eos_id!r}"
        )


def check_width(model: nn.Module, width: int) -> None:
    """Refuse sequences longer than the model's positions.

    Raises:
        DcacheError: they are.
    """
    config = getattr(model, "config", None)
    known = [getattr(config, name, None) for name in _POSITIONS]
    most = next((size for size in known if is_whole(size)), width)
    if width > most:
        raise DcacheError(
            f"prompt and answer have {width} tokens, and {type(model).__name__} has positions for {most}: "
            "shorten the prompt or max_new_tokens"
        )


def check_guide(guide: nn.Module, model: nn.Module, ids: torch.Tensor, mask_id: int, width: int) -> None:
    """Refuse a guide that lacks the model's tokens or positions, or trains.

    Vocabularies are often padded to different sizes: a guide needs the prompt's tokens, and those below the
    mask token, which comes behind a tokenizer's own where it was added.

    Raises:
        DcacheError: it does.
    """
    check_mode(guide)
    tokens, least = tokens_of(guide), max(int(ids.max()) + 1, mask_id)
    if tokens < least:
        raise DcacheError(
            f"the guide {type(guide).__name__} has {tokens:.0f} tokens, and {type(model).__name__} has "
            f"{tokens_of(model):.0f}, of which at least {least} are in use: give one of the same tokenizer"
        )
    check_width(guide, width)
