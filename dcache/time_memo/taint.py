"""Which tensors a tensor is made of: the results of every operation inherit the names of its operands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dcache.time_memo.arguments import tensors_in

NOTHING: frozenset[str] = frozenset()


class Taint(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside `with taint:` the results of operations inherit the names that their operands were marked with.

    Names are kept for each storage, so that views share them and a write through one is seen in all. What
    leaves torch (`.item()`, numpy) loses its names: whoever relies on them compares results. An operator that
    takes functions (flex attention) is one operation, and what its functions enclose are operands of it.

    >>> import torch
    >>> taint, x, y = Taint(), torch.ones(2), torch.zeros(2)
    >>> taint.mark(x, "x"), taint.mark(y, "y")
    (None, None)
    >>> with taint:
    ...     z, w = x + y, x[:1] * 2
    >>> sorted(taint.names(z)), sorted(taint.names(w))
    (['x', 'y'], ['x'])
    """

    # Otherwise torch raises where such an operator is called under this mode.
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # A weak reference keeps the address of a freed storage from being given to another one.
        self._names: dict[StorageWeakRef, frozenset[str]] = {}

    def mark(self, tensor: torch.Tensor, name: str) -> None:
        """Give a tensor a name."""
        self._add(tensor, frozenset((name,)))

    def names(self, tensor: torch.Tensor) -> frozenset[str]:
        """The names of all that a tensor was made of."""
        storage = _storage(tensor)
        return NOTHING if storage is None else self._names.get(storage, NOTHING)

    def names_in(self, value: Any) -> frozenset[str]:
        """The names of all tensors in a nested container."""
        return NOTHING.union(*map(self.names, tensors_in(value)))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation; its results, and the operands that it writes into, inherit all names."""
        given = kwargs or {}
        result = func(*args, **given)
        names = self.names_in((args, given))
        higher_order = isinstance(func, HigherOrderOperator)
        if higher_order:
            names = names.union(*map(self.names_in, _enclosed((args, given))))
        if names:
            # A higher-order operator has no schema, and writes into no operand.
            written = [] if higher_order else _written(func, args, given)
            for tensor in tensors_in((result, written)):
                self._add(tensor, names)
        return result

    def _add(self, tensor: torch.Tensor, names: frozenset[str]) -> None:
        storage = _storage(tensor)
        if storage is not None:
            self._names[storage] = self._names.get(storage, NOTHING) | names


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The operands that an operator writes into."""
    return [
        args[i] if i < len(args) else kwargs.get(spec.name)
        for i, spec in enumerate(func._schema.arguments)
        if spec.alias_info is not None and spec.alias_info.is_write
    ]


def _enclosed(value: Any) -> Iterator[Any]:
    """What the functions among some operands, and those within them, enclose."""
    waiting = [leaf for leaf in tree_leaves(value) if isinstance(leaf, FunctionType)]
    seen = set[FunctionType]()
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        for cell in function.__closure__ or ():
            # A cell is empty until the enclosing function has set the variable.
            content = getattr(cell, "cell_contents", None)
            yield content
            waiting += [leaf for leaf in tree_leaves(content) if isinstance(leaf, FunctionType)]


def _storage(tensor: torch.Tensor) -> StorageWeakRef | None:
    try:
        return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
    except (NotImplementedError, RuntimeError):
        # Sparse tensors and some subclasses (quantised weights) have none.
        return None
