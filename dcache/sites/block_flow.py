"""`BlockFlow`: follows the streams through one call of a block, to see what its sublayers are there for.

While it is on, every function of torch that the block calls is noted: its results are computed from the same
arguments of the block as its operands (`roots`), and they carry the same sublayers' outputs (`carried`). For
each output that is carried it is known what was added to it on the way: a gate's shift, or a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import permutations
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from dcache.intercept.pytree import flatten
from dcache.sites.evidence import Use, Verdict, Ways, fewest, judged
from dcache.sites.streams import named_tensors
from dcache.sites.sublayers import Part, keys, queries

# A sublayer, and those that its output went through since.
Carrier = tuple[str, frozenset[str]]
NOTHING: Ways = frozenset()
_ADDING = {
    "add",
    "add_",
    "__add__",
    "__radd__",
    "__iadd__",
    "addcmul",
    "addcmul_",
    "sub",
    "sub_",
    "__sub__",
    "__rsub__",
    "__isub__",
    "rsub",
    "lerp",
}
_MULTIPLYING = {"mul", "mul_", "__mul__", "__rmul__", "__imul__"}
# What leaves a tensor the stream that it was.
_CONTINUING = {
    *_ADDING, *_MULTIPLYING, "__getitem__", "chunk", "clone", "contiguous", "div", "__truediv__", "div_",
    "dropout", "expand", "flatten", "float", "group_norm", "layer_norm", "permute", "reshape", "rms_norm",
    "split", "squeeze", "to", "transpose", "type", "type_as", "unflatten", "unsqueeze", "view",
}  # fmt: skip


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
        self.streams: frozenset[str] = frozenset()
        self.outputs = 0
        self.inside = 0
        self.projected: dict[str, list[torch.Tensor]] = {}
        self.through: dict[Carrier, Ways] = {}
        self.read: dict[str, Ways] = dict.fromkeys(paths, NOTHING)
        self.met: dict[Carrier, Ways] = {}
        # Weak: the activations of a block are freed as ever.
        self.roots: Any = WeakIdKeyDictionary()
        self.carried: Any = WeakIdKeyDictionary()
        # What is an argument still, under norms, gates and additions -> names of these arguments.
        self.streaming: Any = WeakIdKeyDictionary()
        self.scaled: dict[str, frozenset[str]] = dict.fromkeys(paths, frozenset())
        # Of the sublayer under way, what is its input still -> whether something was added to it.
        self.within: Any = WeakIdKeyDictionary()

    def verdicts(self) -> list[Verdict]:
        """What the call showed of each sublayer that is not declared."""
        return judged([part for part in self.parts if not part.declared], self.uses, self.outputs)

    def run(self, call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the block, and note what happens.

        Args:
            call: the block's call.
            args: its positional arguments.
            kwargs: its keyword arguments.
        """
        named = {name: tensor for name, (_, tensor) in named_tensors(self.block, args, kwargs).items()}
        for name, tensor in named.items():
            self.roots[tensor] = frozenset([(name, frozenset[str]())])
            self.streaming[tensor] = frozenset([name])
        with self._watching_modules(), self:
            output = call(*args, **kwargs)
        leaves = [leaf for leaf in flatten(output)[0] if isinstance(leaf, torch.Tensor)]
        self._finish(named, leaves)
        return output

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call one function of torch; its results come from where its operands come from."""
        result = func(*args, **(kwargs or {}))
        if torch.compiler.is_compiling():
            # Flex attention compiles itself: what it does inside is no call of the block's.
            return result
        results = list(_tensors(result))
        name = getattr(func, "__name__", "")
        operands = list(_tensors((args, kwargs)))
        if name == "__setitem__":
            results = operands[:1]
        if not results or not operands:
            return result
        if self.inside:
            self._follow_within(results, operands, name)
        else:
            self._follow(results, operands, name)
        return result

    def _follow(self, results: list[torch.Tensor], operands: list[torch.Tensor], name: str) -> None:
        roots = fewest(way for x in operands for way in self.roots.get(x, NOTHING))
        if name in _MULTIPLYING:
            self._note_scales(operands)
        carried: dict[Carrier, Ways] = {}
        for x in operands:
            for carrier, met in self.carried.get(x, {}).items():
                carried[carrier] = carried.get(carrier, NOTHING) | met
        if name in _ADDING:
            for carrier, met in carried.items():
                beside = [x for x in operands if all(c[0] != carrier[0] for c in self.carried.get(x, {}))]
                carried[carrier] = fewest(
                    [*met, *(way for x in beside for way in self.roots.get(x, NOTHING))]
                )
                self.met[carrier] = self.met.get(carrier, NOTHING) | carried[carrier]
        same = [self.streaming[x] for x in operands if x in self.streaming and name in _CONTINUING]
        for x in results:
            self.roots[x] = roots
            self.carried[x] = carried
            if same:
                self.streaming[x] = frozenset[str]().union(*same)

    def _note_scales(self, operands: list[torch.Tensor]) -> None:
        """Of a product, note the sublayers whose output multiplies arguments of the block, and which ones."""
        for x, other in permutations(operands, 2):
            if x is other or x in self.streaming:
                continue
            names = self.streaming.get(other, frozenset())
            if x.numel() < other.numel():
                names = names | {name for name, _ in self.roots.get(other, NOTHING)}
            beside = {path for path, _ in self.carried.get(other, {})}
            for path in {path for path, _ in self.carried.get(x, {})} - beside:
                self.scaled[path] |= names

    def _follow_within(self, results: list[torch.Tensor], operands: list[torch.Tensor], name: str) -> None:
        """Follow what a sublayer does to its input itself."""
        size = max(x.numel() for x in results)
        given = [self.within[x] for x in operands if x in self.within and x.numel() >= size]
        if name in _CONTINUING and given:
            for x in results:
                self.within[x] = any(given) or (name in _ADDING and len(operands) > 1)

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
        def see(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.inside += 1
            if self.inside > 1:
                return
            self.projected = {}
            if isinstance(module, nn.MultiheadAttention):
                named = dict(zip(("query", "key"), args, strict=False)) | kwargs
                self.projected = {name: [named[name]] for name in ("query", "key")}
            given = list(_tensors((args, kwargs)))
            self.within = WeakIdKeyDictionary()
            if given and any(self.roots.get(x) for x in given[:1]):
                self.within[given[0]] = False
            self.read[path] = fewest(
                [*self.read[path], *(w for x in given for w in self.roots.get(x, NOTHING))]
            )
            self.through = {}
            for x in given:
                for carrier, met in self.carried.get(x, {}).items():
                    self.through[carrier] = self.through.get(carrier, NOTHING) | met
            for source in {path for path, _ in self.through}:
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
            residual=use.residual or any(self.within.get(x, False) for x in _tensors(output)),
        )
        self.within = WeakIdKeyDictionary()
        carried = {(source, via | {path}): met for (source, via), met in self.through.items()}
        for x in _tensors(output):
            self.roots[x] = frozenset((name, passed | {path}) for name, passed in self.read[path])
            self.carried[x] = {**carried, (path, frozenset[str]()): NOTHING}
            self.streaming.pop(x, None)

    def _together(self, module: nn.Module) -> bool | None:
        """Whether keys are projected from what queries are, perhaps among others; None without a call."""
        own = isinstance(module, nn.MultiheadAttention)
        asked = [x for name in (["query"] if own else queries(module)) for x in self.projected.get(name, ())]
        given = [x for name in (["key"] if own else keys(module)) for x in self.projected.get(name, ())]
        if not asked or not given:
            return None
        return any(_holds(k, q) for q in asked for k in given)

    def _finish(self, named: Mapping[str, torch.Tensor], outputs: Sequence[torch.Tensor]) -> None:
        shapes = [x.shape for x in outputs if x.is_floating_point() and x.ndim > 1]
        self.streams = frozenset(name for name, x in named.items() if x.shape in shapes)
        self.outputs = sum(any(x.shape == shape for x in named.values()) for shape in shapes)
        for path, use in self.uses.items():
            ends = [self.carried.get(x, {}) for x in outputs]
            out = [(via, met) for end in ends for (name, via), met in end.items() if name == path]
            # What is lost sight of behind its addition, in memory that is shared, was added too.
            lost = [(via, met) for (name, via), met in self.met.items() if name == path and not use.read_by]
            self.uses[path] = replace(
                use,
                reads_stream=any(name in self.streams for name, _ in self.read[path]),
                multiplies=bool(self.scaled[path] & self.streams),
                outputs=tuple((via, self._of_streams(met)) for via, met in out),
                added=tuple((via, self._of_streams(met)) for via, met in [*out, *lost]),
            )
        self.roots.clear()
        self.carried.clear()
        self.streaming.clear()

    def _of_streams(self, ways: Ways) -> frozenset[frozenset[str]]:
        return frozenset(passed for name, passed in ways if name in self.streams)


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
