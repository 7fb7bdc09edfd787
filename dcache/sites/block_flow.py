"""`BlockFlow`: follows the streams through one call of a block, to see what its sublayers are there for.

While it is on, every function of torch that the block calls is noted: its results are computed from the same
arguments of the block as its operands (`roots`), and they carry the same sublayers' outputs (`carried`). For
each output that is carried it is known what was added to it on the way: a gate's shift, or a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from dcache.sites.evidence import Use, Verdict, judge
from dcache.sites.streams import named_tensors
from dcache.sites.sublayers import Part, keys, queries

Roots = frozenset[str]
NOTHING: Roots = frozenset()
_ADDING = {"add", "add_", "__add__", "__radd__", "__iadd__", "addcmul", "addcmul_", "sub", "__sub__", "lerp"}


class BlockFlow(TorchFunctionMode):
    """Follows one call of a block; use `watching`, then `verdicts`.

    Args:
        block: the block.
        parts: its sublayers, as they were found.

    Attributes:
        uses: attribute path of every sublayer and feeder -> what was seen of it.
        streams: names of the arguments that outputs of the block continue.
        outputs: number of these outputs.
    """

    def __init__(self, block: nn.Module, parts: Sequence[Part]) -> None:
        super().__init__()
        self.block = block
        self.parts = parts
        paths = dict.fromkeys(path for part in parts for path in (part.path, *part.feeders))
        self.uses = {path: Use() for path in paths}
        self.streams: Roots = NOTHING
        self.outputs = 0
        self.inside = 0
        self.projected: dict[str, list[torch.Tensor]] = {}
        self.read: dict[str, Roots] = dict.fromkeys(paths, NOTHING)
        self.met: dict[str, Roots] = dict.fromkeys(paths, NOTHING)
        # Weak: the activations of a block are freed as ever.
        self.roots: Any = WeakIdKeyDictionary()
        self.carried: Any = WeakIdKeyDictionary()

    def verdicts(self) -> list[Verdict]:
        """What the call showed of each sublayer that is not declared."""
        return [judge(part, self.uses, self.outputs) for part in self.parts if not part.declared]

    def run(self, call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the block, and note what happens.

        Args:
            call: the block's call.
            args: its positional arguments.
            kwargs: its keyword arguments.
        """
        named = {name: tensor for name, (_, tensor) in named_tensors(self.block, args, kwargs).items()}
        for name, tensor in named.items():
            self.roots[tensor] = frozenset((name,))
        with self._watching_modules(), self:
            output = call(*args, **kwargs)
        self._finish(named, list(_tensors(output)))
        return output

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call one function of torch; its results come from where its operands come from."""
        result = func(*args, **(kwargs or {}))
        if self.inside:
            return result
        results = list(_tensors(result))
        name = getattr(func, "__name__", "")
        operands = list(_tensors((args, kwargs)))
        if name == "__setitem__":
            results = operands[:1]
        if results and operands:
            self._follow(results, operands, adds=name in _ADDING)
        return result

    def _follow(self, results: list[torch.Tensor], operands: list[torch.Tensor], adds: bool) -> None:
        roots = NOTHING.union(*(self.roots.get(x, NOTHING) for x in operands))
        carried: dict[str, Roots] = {}
        for x in operands:
            for path, met in self.carried.get(x, {}).items():
                carried[path] = carried.get(path, NOTHING) | met
        if adds:
            for path, met in carried.items():
                beside = [self.roots.get(x, NOTHING) for x in operands if path not in self.carried.get(x, {})]
                carried[path] = met.union(*beside)
                self.met[path] |= carried[path]
        for x in results:
            self.roots[x] = roots
            self.carried[x] = carried

    @contextmanager
    def _watching_modules(self) -> Iterator[None]:
        handles: list[Any] = []
        try:
            for path in self.uses:
                module = self.block.get_submodule(path)
                handles.append(module.register_forward_pre_hook(self._entering(path), with_kwargs=True))
                handles.append(module.register_forward_hook(self._leaving(path)))
                for name in dict.fromkeys((*queries(module), *keys(module))):
                    projection = module.get_submodule(name)
                    handles.append(projection.register_forward_pre_hook(self._projecting(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, path: str) -> Callable[..., None]:
        def see(_: nn.Module, args: Any, kwargs: Any) -> None:
            self.inside += 1
            if self.inside > 1:
                return
            self.projected = {}
            given = list(_tensors((args, kwargs)))
            self.read[path] = self.read[path].union(*(self.roots.get(x, NOTHING) for x in given))
            for source in {path for x in given for path in self.carried.get(x, {})}:
                use = self.uses[source]
                self.uses[source] = replace(use, read_by=use.read_by | {path})

        return see

    def _projecting(self, name: str) -> Callable[..., None]:
        def see(_: nn.Module, args: Any) -> None:
            self.projected.setdefault(name, []).extend(x for x in args if isinstance(x, torch.Tensor))

        return see

    def _leaving(self, path: str) -> Callable[..., None]:
        def see(module: nn.Module, _: Any, output: Any) -> None:
            if self.inside == 1:
                self._returned(path, module, output)
            self.inside -= 1

        return see

    def _returned(self, path: str, module: nn.Module, output: Any) -> None:
        use, together = self.uses[path], self._together(module)
        self.projected = {}
        leaves = output if isinstance(output, tuple | list) else (output,)
        self.uses[path] = replace(
            use,
            calls=use.calls + 1,
            keys_of_queries=use.keys_of_queries if together is None else together,
            plain=use.plain and all(leaf is None or isinstance(leaf, torch.Tensor) for leaf in leaves),
        )
        for x in _tensors(output):
            self.roots[x] = self.read[path]
            self.carried[x] = {path: NOTHING}

    def _together(self, module: nn.Module) -> bool | None:
        """Whether keys are projected from what queries are, perhaps among others; None without a call."""
        asked = [x for name in queries(module) for x in self.projected.get(name, ())]
        given = [x for name in keys(module) for x in self.projected.get(name, ())]
        if not asked or not given:
            return None
        return any(_holds(k, q) for q in asked for k in given)

    def _finish(self, named: Mapping[str, torch.Tensor], outputs: Sequence[torch.Tensor]) -> None:
        shapes = [x.shape for x in outputs if x.is_floating_point() and x.ndim > 1]
        self.streams = frozenset(name for name, x in named.items() if x.shape in shapes)
        self.outputs = sum(any(x.shape == shape for x in named.values()) for shape in shapes)
        for path, use in self.uses.items():
            alone = [self.carried.get(x, {}).get(path) for x in outputs]
            self.uses[path] = replace(
                use,
                reads_stream=bool(self.read[path] & self.streams),
                added=bool(self.met[path] & self.streams),
                leaves=any(met is not None and not met & self.streams for met in alone),
            )
        self.roots.clear()
        self.carried.clear()


def _holds(whole: torch.Tensor, part: torch.Tensor) -> bool:
    """Whether one tensor is the other, or the other at an end of its tokens (the last dimension but one)."""
    if whole is part:
        return True
    if whole.ndim != part.ndim or whole.ndim < 2:
        return False
    size, total = part.shape[-2], whole.shape[-2]
    if (*whole.shape[:-2], whole.shape[-1]) != (*part.shape[:-2], part.shape[-1]) or size > total:
        return False
    return any(torch.equal(whole.narrow(-2, start, size), part) for start in {0, total - size})


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    return (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor))
