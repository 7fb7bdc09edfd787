"""The site `frames`: of a video that is denoised block by block only the frames that are due run.

A block that the loop finished runs once more, which writes its clean keys and values. A block that the loop
updates decides for itself whether it is computed or predicted. All others do not run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from time import perf_counter
from typing import Any, final

import torch

from dcache.cache.history import History
from dcache.engine.call import Call
from dcache.engine.frames import Due, FrameGrid, FrameStore
from dcache.engine.lowering.frame_rows import BlockOfFrames, FrameCall, FrameParts, FrameRows
from dcache.engine.protocols import Engine
from dcache.engine.region import Region
from dcache.engine.tolerance import TOLERANCE
from dcache.errors import DcacheError
from dcache.identity.callers import call_argument
from dcache.intercept.content_mark import arguments_mark, module_mark
from dcache.intercept.pytree import flatten, named_arguments, rebuild, same
from dcache.sites.site import Site
from dcache.stats import Stats
from dcache.util.bytes import bytes_of

# Names in the loop of diffusers' asynchronous pipelines.
_UPDATES, _EVALUATION, _FIRST_FRAME = "step_update_mask", "i", "valid_interval_start"


@final
class FrameRegion:
    """Runs the denoiser on the frames that are due, around its call.

    It is no `Region`: what it stores are keys and values, and no codec has a part in them.

    Attributes:
        rows: calls the denoiser on some blocks.
        stores: branch -> what is stored in this run.
        shared: branch -> finished frames that were stored in the run before, where prefixes are shared.
        kept: the same of this run: of its first window of frames.
        most_held: most bytes in this run, or the last one, with the prefixes that were kept beside it.
        verified: signatures of which a call was compared with the call of all frames.
    """

    def __init__(self, engine: Engine, site: Site, parts: FrameParts) -> None:
        self.engine = engine
        self.site = site
        self.key = site.name
        self.history: History | None = None
        self.rows = FrameRows(parts)
        self.stores: dict[str, FrameStore] = {}
        self.shared: dict[str, FrameStore] = {}
        self.kept: dict[str, FrameStore] = {}
        self.most_held = 0
        self.verified: set[Any] = set()
        self.recipes: dict[str, Any] = {}
        self._due: tuple[Any, list[Due]] = (None, [])
        self._blocks: dict[int, BlockOfFrames] = {}

    @property
    def has_history(self) -> bool:
        """Whether anything is stored."""
        return bool(self.stores)

    def parts(self) -> Iterator[Region]:
        """Nothing: no codec has a part in what is stored."""
        yield from ()

    def decide(self, call: Call) -> bool:
        """False: its blocks decide."""
        return False

    def release(self) -> None:
        """The run is over: drop its tensors, but for a prefix that later runs may share."""
        self.history = None
        self._leave_window()
        if self.kept:
            self.shared, self.kept = self.kept, {}
        self._due = (None, [])

    def held_between_runs(self) -> list[torch.Tensor]:
        """The tensors of prefixes that later runs may share, without those of the run under way."""
        active = {id(t) for store in self.stores.values() for t in store.tensors()}
        kept = [*self.shared.values(), *self.kept.values()]
        return [t for store in kept for t in store.tensors() if id(t) not in active]

    def add_shared(self, stats: Stats) -> None:
        """Add the prefixes that calls share, which lie beside the run's histories and stay behind it."""
        stats.bytes_now += bytes_of(self.held_between_runs())
        stats.bytes_held = max(stats.bytes_held, self.most_held, stats.bytes_now)

    def _leave_window(self) -> None:
        """The loop goes on with other frames, or is over."""
        # Later windows of a call begin with frames of its own, which no other call has.
        if self.engine.method.shares and not self.engine.state.earlier:
            for name, store in self.stores.items():
                self.kept.setdefault(name, store.fork(store.clean))
        self.stores, self.recipes, self._blocks = {}, {}, {}

    def run(
        self, call: Call, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, float]:
        """The denoiser's call on the frames that are due; returns the output and the model's seconds."""
        given = self._given(args, kwargs)
        grid = self._grid(given.latents)
        due = self._due_blocks(grid)
        store, fresh = self._store(call, grid, given, due)
        write = [b for b in range(due.finished) if b >= store.clean]
        predicted = self._predicted(call, store, due.live, given.latents)
        blocks = write + [b for b in due.live if b not in predicted]
        output = torch.zeros_like(given.latents)
        spent = 0.0
        if blocks:
            before = perf_counter()
            leaves, self.recipes[call.branch.name] = flatten(self.rows.compute(store, blocks, given, inner))
            spent = perf_counter() - before
            frames = grid.frames_of(blocks)
            output[:, :, frames] = leaves[0].to(output.dtype)
            store.note(blocks, given.latents, given.timesteps)
            if store.outputs is not None:
                store.outputs[:, :, frames] = output[:, :, frames]
            self._remember(call, store, fresh)
        store.clean = due.finished
        if predicted and store.outputs is not None:
            frames = grid.frames_of(sorted(predicted))
            output[:, :, frames] = store.outputs[:, :, frames]
        elif blocks and (store.clean or len(blocks) > 1):
            self._verify(call, grid, due.live, given, output, inner)
        return rebuild([output], self.recipes[call.branch.name]), spent

    def _given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FrameCall:
        module = self.engine.module
        named = named_arguments(module, args, kwargs)
        latents, timesteps = named.get("hidden_states"), named.get("timestep")
        text = named.get("encoder_hidden_states")
        if not isinstance(latents, torch.Tensor) or not isinstance(timesteps, torch.Tensor):
            raise DcacheError(
                f"site 'frames' needs latents and timesteps in the call of {type(module).__name__}, by the "
                "names hidden_states and timestep"
            )
        if timesteps.ndim != 2 or timesteps.shape[1] != latents.shape[2]:
            raise self._refused(
                f"its timestep is one for all frames, of shape {tuple(timesteps.shape)}, so that all frames "
                "run in step and none is finished before the others"
            )
        return FrameCall(named, latents, timesteps, text if isinstance(text, torch.Tensor) else None)

    def _grid(self, latents: torch.Tensor) -> FrameGrid:
        config: Any = self.engine.module.config
        per_block, patch = config.num_frame_per_block, self.rows.parts.patch
        if per_block < 2:
            raise self._refused(
                "its attention reads all frames, those behind included (causal_block_size is not set), so "
                "that keys and values of a finished frame change in every evaluation"
            )
        height, width = latents.shape[-2:]
        return FrameGrid(latents.shape[2], per_block, (height // patch[0]) * (width // patch[1]))

    def _due_blocks(self, grid: FrameGrid) -> Due:
        pipes = [pipe for owner in self.engine.owners if (pipe := owner.pipe()) is not None]
        read = ((call_argument(pipe, _UPDATES), pipe) for pipe in pipes)
        updates, pipe = next(((mask, p) for mask, p in read if mask is not None), (None, None))
        index = None if pipe is None else call_argument(pipe, _EVALUATION)
        if updates is None or index is None:
            raise self._refused(
                f"the loop that calls it does not say which frames it updates ({_UPDATES} of diffusers' "
                "SkyReels-V2 diffusion forcing pipelines)"
            )
        if self._due[0] is not updates:
            # A long video is made window by window, each with frames and positions of its own.
            self._leave_window()
            begin = int(call_argument(pipe, _FIRST_FRAME) or 0)
            table = updates[:, begin : begin + grid.frames].tolist()
            if all(map(all, table)):
                raise self._refused(
                    "all frames are updated in every evaluation (ar_step=0), so that no frame is finished "
                    "before the others"
                )
            self._due = (updates, grid.due(table))
        return self._due[1][index]

    def _store(self, call: Call, grid: FrameGrid, given: FrameCall, due: Due) -> tuple[FrameStore, bool]:
        """The branch's store, and whether it is new; a block that was clean has to be what it was."""
        name = call.branch.name
        store = self.stores.get(name)
        if store is not None and call.branch.history(self.key).leaves:
            clean = store.clean
            if clean and store.same_prefix(clean, given.latents, given.timesteps) < clean:
                raise self._refused(
                    "frames that were finished came again with other latents or timesteps "
                    "(addnoise_condition adds new noise to them in every evaluation), so that their keys and "
                    "values are not constant"
                )
            return store, False
        if not self.stores and not self.engine.state.earlier:
            self.most_held = 0
        mark = self._mark(given)
        shared = None if self.engine.state.earlier else self.shared.get(name)
        if shared is not None and shared.grid == grid and shared.fits(given.latents, given.text, mark):
            blocks = min(shared.clean, due.finished)
            equal = shared.same_prefix(blocks, given.latents, given.timesteps) if blocks else 0
            store = self.stores[name] = shared.fork(equal)
            return store, True
        text = given.text.clone() if self.engine.method.shares and given.text is not None else None
        latents, timesteps = torch.zeros_like(given.latents), torch.zeros_like(given.timesteps)
        store = FrameStore(grid, latents, timesteps, text, mark=mark)
        if self.engine.method.predicts:
            store.outputs = torch.zeros_like(given.latents)
        self.stores[name] = store
        return store, True

    def _mark(self, given: FrameCall) -> Hashable:
        """Of what a prefix depends on besides latents and text; None where prefixes are not shared."""
        if not self.engine.method.shares:
            return None
        compared = ("hidden_states", "timestep", "encoder_hidden_states")
        rest = {name: value for name, value in given.named.items() if name not in compared}
        return module_mark(self.engine.module), arguments_mark(rest)

    def _predicted(
        self, call: Call, store: FrameStore, live: Sequence[int], latents: torch.Tensor
    ) -> set[int]:
        """Ask each live block whether it is predicted."""
        indicator = call.branch.indicator
        changes = [0.0] * len(live) if indicator is None else store.changes(live, latents)
        predicted = set()
        for b, change in zip(live, changes, strict=True):
            block = self._blocks.setdefault(b, BlockOfFrames(self.engine, b))
            block.has_history = b in store.stored
            if indicator is not None:
                self.engine.show(call, torch.tensor(change), own=True)
            if block.decide(call):
                predicted.add(b)
            if indicator is not None:
                indicator.now = None
        return predicted

    def _remember(self, call: Call, store: FrameStore, fresh: bool) -> None:
        """Show the store's tensors to whatever counts bytes, as the anchor of one history."""
        self.history = history = call.branch.history(self.key)
        history.limit = 1
        tensors = tuple(store.tensors())
        memory = self.engine.memory
        if (
            fresh
            and memory is not None
            and not memory.admits(call, history, [None] * len(tensors), tensors, None)
        ):
            return
        history.push(call.index, call.tau, tensors)
        if self.engine.method.shares:
            active = [t for stored in self.stores.values() for t in stored.tensors()]
            self.most_held = max(self.most_held, bytes_of([*active, *self.held_between_runs()]))

    def _verify(
        self,
        call: Call,
        grid: FrameGrid,
        live: Sequence[int],
        given: FrameCall,
        output: torch.Tensor,
        inner: Callable[..., Any],
    ) -> None:
        """Once for each signature: the call of all frames gives the same."""
        mark = call.branch.signature
        if mark in self.verified or not live:
            return
        with self.engine.resting():
            full = flatten(inner(**given.named))[0][0]
        frames = grid.frames_of(live)
        distance, _ = same(full[:, :, frames], output[:, :, frames])
        if not distance <= TOLERANCE.get(output.dtype, 1e-3):
            raise self._refused(
                f"the frames alone give another output than among all (relative distance {distance:.1e}), so "
                "that its attention is not what it seems"
            )
        # A call that was refused is compared again when it comes again.
        self.verified.add(mark)

    def _refused(self, why: str) -> DcacheError:
        return DcacheError(
            f"{self.engine.method.describe()} does not fit this call of {type(self.engine.module).__name__}: "
            f"{why}. Generate asynchronously (ar_step=5, causal_block_size=5), or use another method."
        )
