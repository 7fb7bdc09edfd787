"""The site `guidance`: the branch without the prompt, predicted from the branch with it.

Classifier-free guidance gives the sampler m = u + s (c - u), where u is the denoiser's output without the
prompt and c that with it: two halves of one batch, or two calls. Which is which is learned there: once both
outputs and m are seen, u is the one from which m lies further away. On a predicted evaluation only the rows
with the prompt are run: a batch of half the size, or one call instead of two; the outputs have
the shapes of all rows.

What is remembered is a change between siblings rather than in time:

| sibling | z                        | prediction of u             | source      |
|---------|--------------------------|-----------------------------|-------------|
| `drop`  | nothing                  | c, so guidance has no effect | T-GATE      |
| `bands` | low and high part of u-c | c + a low + b high          | FasterCache |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, final

import torch

from dcache.cache.history import History
from dcache.engine.call import Call
from dcache.engine.lowering.guidance_math import Pair, SeenCall, pair_of, rows_of, split
from dcache.engine.protocols import Engine
from dcache.engine.region import Region, without_history
from dcache.engine.tolerance import TOLERANCE
from dcache.intercept.effects import once_more
from dcache.intercept.pytree import batch_of, copy_containers, flatten, rebuild, same, samples
from dcache.predictors.guided_pair import halves_equal
from dcache.sites.site import Site

# FasterCache as in diffusers: which band is raised, by how much, strictly between which timesteps.
_RAISE = 1.1
_LOW_WINDOW, _HIGH_WINDOW = (99.0, 901.0), (-1.0, 301.0)


@dataclass
class Seen:
    """One evaluation's outputs: of each call its branch, the batch it was given and its first output."""

    index: int = -1
    calls: list[SeenCall] = field(default_factory=list)


@final
class GuidanceRegion:
    """The rows without the prompt, or the call without it.

    It is no `Region`: what it remembers is split by frequency rather than encoded by a codec, and it stands
    around the denoiser's call rather than inside the model.

    Attributes:
        pair: where the two siblings are, once that was learned.
        learned: whether it was learned in this run.
        useless: why the site is never predicted, "" while it may be.
        seen: the outputs of the evaluation under way, until the sampler's step.
        cond: (evaluation, output) of the call with the prompt, where the siblings are calls.
        checked: signatures whose first evaluation of this run was computed in full; `verified` ones are those
            of which half a batch was seen to give what the whole batch does.
    """

    def __init__(self, engine: Engine, site: Site) -> None:
        self.engine = engine
        self.site = site
        self.key = site.name
        self.predicting = False
        self.decided_in: Call | None = None
        self.history: History | None = None
        self.pair: Pair | None = None
        self.learned = False
        self.useless = ""
        self.seen = Seen()
        self.cond: tuple[int, torch.Tensor] | None = None
        self.names: list[str] = []
        self.checked: set[Any] = set()
        self.verified: set[Any] = set()
        self.shape: tuple[Sequence[Any], Any] = ((), None)
        self.halved = False

    @property
    def has_history(self) -> bool:
        """Whether there is anything to predict from."""
        return self.history is not None and bool(self.history.taus)

    def parts(self) -> Iterator[Region]:
        """Nothing: no codec has a part in what it remembers."""
        yield from ()

    def decide(self, call: Call) -> bool:
        """Decide once per call whether the rows without the prompt are predicted."""
        if self.decided_in is not call:
            self.decided_in = call
            self.history = call.branch.history(self.key)
            self.predicting = self.engine.predicts(self, call)
        return self.predicting

    def release(self) -> None:
        """The run is over: drop its tensors."""
        self.history = None
        self.decided_in = None
        self.seen, self.cond = Seen(), None
        self.halved = False
        # Every run learns again, at the same evaluations, so that runs are alike.
        self.learned, self.checked = False, set()

    def watched(self) -> list[torch.Tensor]:
        """The tensors of the evaluation under way, held until the sampler's step."""
        tensors = [t for _, entry, output in self.seen.calls for t in (entry, output) if t is not None]
        return tensors if self.cond is None else [*tensors, self.cond[1]]

    def run(
        self, call: Call, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, float]:
        """The denoiser's call: whole, by half, or not at all; returns the output and the model's seconds."""
        if self.pair is None or not self.learned or self.useless:
            return self._watched(call, inner, args, kwargs)
        if self.pair.rows:
            return self._rows(self.pair, call, inner, args, kwargs)
        return self._calls(self.pair, call, inner, args, kwargs)

    def learn(self, mixed: torch.Tensor) -> None:
        """The sampler is given `mixed`: find out which of the outputs before it were its parts."""
        calls, self.seen, self.cond = self.seen.calls, Seen(), None
        if self.learned or self.useless or not calls:
            return
        pair = pair_of(calls, mixed)
        if isinstance(pair, str):
            self._give_up(pair)
        elif pair is not None:
            self.pair, self.learned = pair, True
            self.names = [name for name, _, _ in calls]

    def withdraw(self, call: Call) -> None:
        """Forget the call that just ended: it writes into its arguments, so its like are computed always."""
        if self.seen.index == call.index:
            self.seen.calls = [seen for seen in self.seen.calls if seen[0] != call.branch.name]
        self.cond = None
        self.history = None

    def _watched(
        self, call: Call, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, float]:
        run = self.engine.state.run
        if run is not None and not run.sampler and not self.useless:
            self._give_up("in a hand-written loop the tensor that the sampler is given cannot be seen")
        if not self.useless and len(samples(args, kwargs)) > 1:
            self._give_up("its rows come as a list of tensors, not as one batch")
        entry = batch_of(args, kwargs)
        # Copies: pipelines write the next latents, and some the output, into the same memory.
        copied = None if self.useless or entry is None else entry.clone()
        output, spent = _timed(inner, args, kwargs)
        first = next(iter(flatten(output)[0]), None)
        if not self.useless and isinstance(first, torch.Tensor):
            if self.seen.index != call.index:
                self.seen = Seen(call.index)
            self.seen.calls.append((call.branch.name, copied, first.clone()))
        return output, spent

    def _rows(
        self, pair: Pair, call: Call, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, float]:
        entry = batch_of(args, kwargs)
        rows = 0 if entry is None else entry.shape[0]
        mark = call.branch.signature
        # What a run begins with is looked at in every run: two pictures without guidance are halves too.
        known = mark in self.checked and bool(call.branch.history(self.key).taus)
        if rows % 2 or not rows or (not known and not halves_equal(entry)):
            return _timed(inner, args, kwargs)
        half = rows // 2
        cond = slice(0, half) if pair.cond_first else slice(half, rows)
        fewer = rows_of((args, kwargs), rows, cond)
        if mark in self.checked and self.decide(call):
            self._turn(halved=True)
            # Sites inside the model keep the half of their anchors that belongs to these rows (`fit_rows`).
            call.half = (rows, cond)
            output, spent = _timed(inner, *fewer)
            call.half = None
            leaves, recipe = flatten(output)
            other = self.decode(leaves[0])
            whole = [self._whole(pair, leaf, other if i == 0 else leaf) for i, leaf in enumerate(leaves)]
            return rebuild(whole, recipe), spent
        self._turn(halved=False)
        arguments = None if mark in self.checked else copy_containers((args, kwargs))
        output, spent = _timed(inner, args, kwargs)
        if call.effects is not None and call.effects.written():
            # Neither a replay nor half of the rows would write what this call did.
            return output, spent
        first: torch.Tensor | None = flatten(output)[0][0]
        if arguments is not None:
            if call.predicted:
                # Only what is computed in full can be compared.
                first = self._replay(inner, arguments)
            if first is None or (mark not in self.verified and self._differs(first, cond, inner, fewer)):
                self._give_up("the rows with the prompt give another output without the others beside them")
                return output, spent
            self.checked.add(mark)
            self.verified.add(mark)
            self.decide(call)
        if first is not None:
            self.store(call, first[cond], first[half:] if pair.cond_first else first[:half])
        return output, spent

    def _differs(self, first: torch.Tensor, cond: slice, inner: Callable[..., Any], fewer: Any) -> bool:
        """Whether the rows with the prompt alone give another output than among all."""
        again = self._replay(inner, fewer)
        return again is None or same(first[cond], again)[0] > TOLERANCE.get(first.dtype, 1e-3)

    def _replay(self, inner: Callable[..., Any], arguments: Any) -> torch.Tensor | None:
        """The first output of one more call; None where it fails, or writes into its arguments."""
        with self.engine.resting(), once_more(arguments) as (args, kwargs, written):
            try:
                output = inner(*args, **kwargs)
            except Exception:
                # Objects in the arguments may be made for the whole batch: keys and values of all rows.
                return None
            return None if written() else flatten(output)[0][0]

    def _turn(self, halved: bool) -> None:
        """The other histories are about to shrink to half their rows, or to be emptied: note their peak."""
        if halved != self.halved:
            self.engine.state.note_peak()
        self.halved = halved

    def _calls(
        self, pair: Pair, call: Call, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, float]:
        if call.branch.name == self.names[0]:
            output, spent = _timed(inner, args, kwargs)
            # The call without the prompt follows in the same evaluation and is predicted from this output.
            self.cond = (call.index, flatten(output)[0][0].clone())
            return output, spent
        sibling = self.cond[1] if self.cond is not None and self.cond[0] == call.index else None
        if call.branch.name != self.names[1] or sibling is None:
            return _timed(inner, args, kwargs)
        if self.decide(call):
            # As with rows: what this branch's parts remember would be out of date when it is called again.
            self._turn(halved=True)
            for history in call.branch.histories.values():
                if history is not self.history:
                    history.clear()
            rest, recipe = self.shape
            return rebuild([self.decode(sibling), *rest], recipe), 0.0
        self._turn(halved=False)
        output, spent = _timed(inner, args, kwargs)
        (first, *rest), recipe = flatten(output)
        self.store(call, sibling, first)
        self.shape = (rest, recipe)
        return output, spent

    def store(self, call: Call, cond: torch.Tensor, uncond: torch.Tensor) -> None:
        """Store what the rows without the prompt are predicted from."""
        if self.history is None or self.decided_in is not call:
            self.history = call.branch.history(self.key)
        # Only the newest difference is read: the branches are compared within an evaluation, not in time.
        self.history.limit = 1
        self.history.make_room(call.tau)
        bands = split(uncond.float() - cond.float()) if self.engine.method.uncond_from == "bands" else ()
        stored = tuple(band.to(cond.dtype) for band in bands)
        memory = self.engine.memory
        if memory is None or memory.admits(call, self.history, [None] * len(stored), stored, None):
            self.history.push(call.index, call.tau, stored)

    def decode(self, cond: torch.Tensor) -> torch.Tensor:
        """The predicted rows without the prompt, from the computed ones with it."""
        history, run = self.history, self.engine.state.run
        if history is None:
            raise without_history(self.site)
        history.run_length += 1
        stored = history.leaves[-1]
        if not stored:
            # `drop`: both branches are alike, and guidance has no effect.
            return cond.clone()
        time = run.time() if run is not None else None
        raised = [
            _RAISE if time is not None and low < time < high else 1.0
            for low, high in (_LOW_WINDOW, _HIGH_WINDOW)
        ]
        bands = zip(raised, stored, strict=True)
        return cond + sum(w * band for w, band in bands if isinstance(band, torch.Tensor))

    @staticmethod
    def _whole(pair: Pair, cond: Any, uncond: Any) -> Any:
        if not isinstance(cond, torch.Tensor):
            return cond
        return torch.cat([cond, uncond] if pair.cond_first else [uncond, cond])

    def _give_up(self, why: str) -> None:
        self.useless = why
        self.engine.warn(f"{type(self.engine.module).__name__}: site 'guidance' is never predicted: {why}")


def _timed(inner: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, float]:
    before = perf_counter()
    output = inner(*args, **kwargs)
    return output, perf_counter() - before
