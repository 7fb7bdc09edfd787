"""What must be known of a decoder to move chunks of text; found out once."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.model.families import layers_for
from dcache.lm_kv.model.partial import check_all_full, compute
from dcache.lm_kv.model.rotary import Rotary, find_rotary
from dcache.lm_kv.model.states import States


@dataclass(frozen=True)
class Known:
    """What is found out about a decoder once.

    Attributes:
        layers: indices of its layers.
        rotary: their rotations.
        logits: how they make logits.
    """

    layers: list[int]
    rotary: Rotary
    logits: dict[int, Logits]


_known: weakref.WeakKeyDictionary[torch.nn.Module, Known] = weakref.WeakKeyDictionary()


def known_of(decoder: torch.nn.Module) -> Known:
    """What must be known of a decoder to put chunks together for it.

    Raises:
        DcacheError: a layer's attention is not full, or keys cannot be turned.
    """
    if decoder not in _known:
        check_all_full(decoder)
        layers = layers_for(decoder, lambda _: object())[1]  # type: ignore[arg-type, return-value]
        try:
            rotary = find_rotary(decoder, layers)
        except DcacheError as error:
            raise DcacheError(
                f"chunks of {type(decoder).__name__} cannot stand at other places than where they were "
                f"computed: {str(error).partition('. ')[0]}. Run the whole text instead."
            ) from None
        token = torch.zeros(1, dtype=torch.long, device=next(decoder.parameters()).device)
        states = States()
        compute(decoder, states, token[None], token)
        _known[decoder] = Known(layers, rotary, states.logits)
    return _known[decoder]
