"""Encoding the tokens of several layers together, where a policy's codec does so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.jointly import Joint
from dcache.lm_kv.layers.layer import LayerCache
from dcache.lm_kv.storage.segment import Segment


def encode_together(layers: Sequence[LayerCache]) -> None:
    """Encode what all these layers have in their tails, but for each row's newest tokens.

    Args:
        layers: layers of one cache that have a budget, in order, whose tokens have been stored; groups that
            lack one are left alone.

    Raises:
        DcacheError: layers of a group have other sizes.
    """
    shared = layers[0].shared
    joint = shared.policy.joint
    if joint is None:
        return
    placed = {shared.places[layer.index]: layer for layer in layers}
    for group in joint.groups(len(shared.places)):
        if all(place in placed for place in group):
            _encode_group([placed[place] for place in group], joint)


def _encode_group(layers: Sequence[LayerCache], joint: Joint) -> None:
    stores = [layer.store for layer in layers if layer.store is not None]
    tails = [store.tail for store in stores]
    oldest = tails[0].oldest(joint.residual, 1)
    if oldest is None:
        return
    sizes = {(tail.keys.shape[1], tail.keys.shape[3], tail.values.shape[3]) for tail in tails}
    if len(sizes) > 1:
        names = ", ".join(str(layer.index) for layer in layers)
        raise DcacheError(
            f"the layers {names} have keys of other sizes and cannot be encoded together: name those that "
            "differ in dense_layers"
        )
    heads = tails[0].keys.shape[1]
    lengths = oldest.sum(1)[:, None].expand(-1, heads).contiguous()
    tokens = oldest[:, None].expand(-1, heads, -1)
    keys, values = (_Picked([getattr(t, kind) for t in tails], tokens) for kind in ("keys", "values"))
    inputs = _Picked([tail.inputs for tail in tails if tail.inputs is not None], oldest)
    codecs = [layer.shared.codec(layer.index) for layer in layers]
    start = tails[0].positions.gather(1, oldest.int().argmax(1, keepdim=True)).long()
    encoded = joint.encode_group(codecs, keys, values, lengths, start[:, 0] + stores[0].offset, inputs)
    for number, (layer, store) in enumerate(zip(layers, stores, strict=True)):
        # The first layer of a group counts what all of them share.
        lent = joint.shared if number else frozenset()
        first = start.repeat(1, heads)
        segment = Segment(
            *encoded[number], None, lengths.clone(), codec=codecs[number], first=first, lent=lent
        )
        store.segments = (*store.segments, segment)
        store.tail.drop(oldest)
        layer.packed()


def link_together(layers: Sequence[LayerCache]) -> None:
    """Let restored segments know those of the layer below, where they are read with them.

    Args:
        layers: all layers of one cache that have a budget, in order; they were restored.
    """
    joint = layers[0].shared.policy.joint
    if joint is None:
        return
    stores = [layer.store for layer in layers if layer.store is not None]
    for below, store in pairwise(stores):
        # Of codecs by pairs a layer may be left without one.
        pairs = zip(store.segments, below.segments, strict=False)
        linked = [
            replace(segment, **joint.above(segment.keys, segment.values, lower.keys))
            for segment, lower in pairs
        ]
        store.segments = (*linked, *store.segments[len(linked) :])


class _Picked(Sequence[torch.Tensor]):
    """Of each layer's slab the tokens that leave, copied when they are asked for and not held."""

    def __init__(self, slabs: Sequence[torch.Tensor], tokens: torch.Tensor) -> None:
        self.slabs, self.tokens = slabs, tokens

    def __len__(self) -> int:
        return len(self.slabs)

    def __getitem__(self, place: Any) -> Any:
        return self.slabs[place][self.tokens]
