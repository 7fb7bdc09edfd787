"""Keys of few calibrated directions: what they are, from a cache that has them as they came."""

from pathlib import Path
from typing import Any

import torch

from dcache import lm_kv
from dcache.lm_kv.model.rotary import find_rotary
from dcache.lm_kv.scoring import calibration
from tests.lm_kv.language_models import batch

PADS = 13


def random_basis(model: Any, folder: Path) -> tuple[Path, torch.Tensor]:
    """A calibration of a model of one layer and two KV heads of 16 channels, and its directions."""
    torch.manual_seed(0)
    basis = torch.stack([torch.linalg.qr(torch.randn(16, 16)).Q for _ in range(2)]).half()
    about = {"model": "tiny", "facts": calibration.facts_of(model.model, [0])}
    channels = torch.arange(16, dtype=torch.int16).expand(2, 16).clone()
    path = calibration.save(folder / "tiny.safetensors", about, {"basis.0": basis, "channels.0": channels})
    return path, basis


@torch.no_grad()
def read(model: Any, cache: Any, steps: int, counted: bool) -> None:
    """Read the padded batch and so many tokens behind it.

    Args:
        model: of the cache.
        cache: an empty one.
        steps: calls of one token.
        counted: whether positions count true tokens; else columns, as a model does without being told.
    """
    inputs = batch(PADS)
    ids = torch.cat([inputs["input_ids"], torch.arange(2 * steps).view(2, steps) % 90 + 2], 1)
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, steps).long()], 1)
    places = (mask.cumsum(1) - 1).clamp_min(0)
    start, length = 0, inputs["input_ids"].shape[1]
    for end in range(length, length + steps + 1):
        positions = {"position_ids": places[:, start:end]} if counted else {}
        model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, **positions)
        start = end


def check_keys_are_cut_before_rotation(
    model: Any, policy: Any, basis: torch.Tensor, rank: int, steps: int, counted: bool
) -> None:
    """Packed keys are the text's, turned back by its positions, cut to `rank` directions and turned again.

    Args:
        model: of one layer, whose keys depend on their token and its position alone.
        policy: stores keys on `basis` `[h, d, d]`.
        basis: as a calibration has it.
        rank: directions that the policy stores.
        steps: as in `read`.
        counted: as in `read`.
    """
    cache, plain = lm_kv.KVCache(model, policy), lm_kv.KVCache(model, "keydiff", budget=1.0)
    for some in (cache, plain):
        read(model, some, steps, counted)
    rotary, tail = find_rotary(model.model, [0]), plain.layers[0].store.tail
    for row, first in enumerate((0 if counted else PADS, 0)):
        keys = tail.keys[row : row + 1, :, tail.valid[row]].double()
        positions = first + torch.arange(keys.shape[2])[None]
        few = rotary.turn(0, keys, positions, "back")
        directions = basis[:, :rank].double()
        few = few @ directions.mT @ directions
        expected = rotary.turn(0, few, positions, "forward")[0]
        for segment in cache.layers[0].store.segments:
            decoded, places = segment.pad(segment.decoded()[0]), segment.pad(segment.places()).long()
            # Some codecs keep keys as they came where few are encoded together.
            exact = segment.pad(getattr(segment.keys, "whole", torch.zeros(len(segment.places())).bool()))
            for head, there in enumerate(segment.valid[row]):
                place, whole = places[row, head, there], exact[row, head, there, None]
                near = torch.where(whole, keys[0, head, place], expected[head, place])
                torch.testing.assert_close(decoded[row, head, there].double(), near, atol=0.02, rtol=0)
                assert (~whole).sum() > 8
