"""Models without data: operations of tensors on torch's meta device together with tensors that have data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from dcache.time_memo.arguments import tensors_in

_META = torch.device("meta")
_INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}
_READING = {torch.ops.aten._local_scalar_dense.default}


class Hollow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside `with Hollow():` an operation gives data where all of its operands have data, else a shape.

    A model reads lengths and places from masks and ids, which is impossible on the meta device. With this
    mode masks and ids are tensors of the CPU while weights and latents have no data. Where a model reads what
    has none (the choice of experts), it gets zeros.

    >>> import torch
    >>> weights, mask = torch.empty(3, 4, device="meta"), torch.tensor([True, False, True])
    >>> with Hollow():
    ...     rows = weights[mask]
    >>> rows.shape, rows.device.type
    (torch.Size([2, 4]), 'meta')
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation; tensors that are made or moved to the meta device keep their data."""
        given = dict(kwargs or {})
        if not any(tensor.device == _META for tensor in tensors_in((args, given))):
            if given.get("device") == _META:
                given["device"] = torch.device("cpu")
            return func(*args, **given)
        if func in _INDEXING:
            args = (args[0], _places(args[1]), *args[2:])
        result = _run(func, args, given)
        written = func._schema.arguments and func._schema.arguments[0].alias_info
        # What is written in place is returned as it came; its data are those from before.
        return args[0] if written and written.is_write and isinstance(result, torch.Tensor) else result


def _places(indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Indices with masks replaced by the places that they select."""
    places: list[torch.Tensor | None] = []
    for index in indices:
        mask = index is not None and index.dtype == torch.bool and index.device != _META
        places.extend(index.nonzero(as_tuple=True) if mask and index is not None else [index])
    return places


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation without data; on zeros where its result depends on data."""
    if func in _READING or kwargs.get("device") not in (None, _META):
        # Read as a number, or copied to a device that has data.
        return func(*tree_map_only(torch.Tensor, _zeros, tuple(args)), **kwargs)
    hollow = tree_map_only(torch.Tensor, _without_data, (tuple(args), kwargs))
    try:
        return func(*hollow[0], **hollow[1])
    except NotImplementedError:
        zeros = tree_map_only(torch.Tensor, _zeros, (tuple(args), kwargs))
        return func(*zeros[0], **zeros[1])


def _zeros(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.device == _META else tensor


def _without_data(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.device == _META:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=_META)
