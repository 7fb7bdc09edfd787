"""A file's keys and values by a codec for files: packed segments and the tail, of each layer by itself."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.cachegen import CacheGen
from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.policy import Policy

# The names of tensors that are coded.
CODED = re.compile(r"(tail|\d+)\.(keys|values)")


def check_plain(policy: Policy, codec: object) -> CacheGen:
    """The codec, where it can code what caches of a policy hold.

    Raises:
        DcacheError: it is none for files, or the policy stores tokens by a codec of its own.
    """
    if not isinstance(codec, CacheGen):
        given = codec.name if isinstance(codec, Policy) else repr(codec)
        raise DcacheError(f"save's codec must be one for files, such as lm_kv.cachegen(), got {given}")
    own = policy.codec if policy.reducer.lower is None else policy.reducer.lower
    if not isinstance(own, Plain):
        raise DcacheError(
            f"cachegen codes keys and values in the model's dtype, and this cache stores them by {own!r}: "
            "save it without a codec, which writes codes as they are held"
        )
    return codec


def coded(
    tensors: Mapping[str, torch.Tensor], codec: CacheGen, layer: int, layers: int
) -> dict[str, torch.Tensor]:
    """A layer's tensors as `layer_tensors` gives them, with keys and values coded."""
    out = dict(tensors)
    for name in filter(CODED.fullmatch, tensors):
        place, _, part = name.partition(".")
        most = codec.most(part, layer, layers)
        flat, lengths = tensors[name], tensors.get(f"{place}.lengths")
        if lengths is None:
            valid = tensors["tail.valid"][:, None].expand(flat.shape[:3])
            flat, lengths = flat[valid], valid.sum(2)
        del out[name]
        out |= {f"{name}.{n}": tensor for n, tensor in codec.encode(flat, lengths, most).items()}
    return out


def decoded(
    tensors: Mapping[str, torch.Tensor], codec: CacheGen, layer: int, layers: int
) -> dict[str, torch.Tensor]:
    """The inverse of `coded`: numbers within half a step, and zeros for the tail's pads."""
    names = {name.removesuffix(".like") for name in tensors if name.endswith(".like")}
    out = {n: t for n, t in tensors.items() if not any(n.startswith(f"{name}.") for name in names)}
    for name in names:
        place, _, part = name.partition(".")
        inner = {n.removeprefix(f"{name}."): t for n, t in tensors.items() if n.startswith(f"{name}.")}
        lengths = tensors.get(f"{place}.lengths")
        if lengths is not None:
            out[name] = codec.decode(inner, lengths, codec.most(part, layer, layers))
            continue
        heads = len(inner["high.tables"]) // inner["like"].shape[1]
        valid = tensors["tail.valid"][:, None].expand(-1, heads, -1)
        out[name] = inner["like"].new_zeros(*valid.shape, inner["like"].shape[1])
        out[name][valid] = codec.decode(inner, valid.sum(2), codec.most(part, layer, layers))
    return out


def checksum(tensors: Mapping[str, torch.Tensor]) -> int:
    """Of all tensors' bytes: a damaged string of bits decodes to noise and not to an error."""
    check = 0
    for name in sorted(tensors):
        flat = tensors[name].detach().cpu().clone(memory_format=torch.contiguous_format).flatten()
        check = zlib.crc32(flat.view(torch.uint8).numpy().tobytes(), zlib.crc32(name.encode(), check))
    return check
