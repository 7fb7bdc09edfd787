"""One layer of the cache: what transformers asks of a cache layer, and attention over what is stored."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.budgets.trigger import due
from dcache.lm_kv.layers.selection import asked_parts, read_one
from dcache.lm_kv.layers.shared import Shared
from dcache.lm_kv.layers.shifted import shifted
from dcache.lm_kv.model import adapter
from dcache.lm_kv.model.attention import Attended, Logits, attend, attend_some
from dcache.lm_kv.model.calls import Call
from dcache.lm_kv.scoring.observers import Observed, State
from dcache.lm_kv.storage.parts import DensePart, Part
from dcache.lm_kv.storage.store import LayerStore
from dcache.util.bytes import bytes_of


class LayerCache(adapter.BaseLayer):
    """A layer with full attention.

    Args:
        index: the layer's index in the model.
        shared: what all layers of the cache share.

    Attributes:
        store: keys and values; None before the first call.
        state: what the observer gathered.
        logits: how the layer makes logits; known after the first call.
        since: columns since the last eviction.
        evictions: how often tokens were evicted.
        read: float `[rows]`, tokens that a KV head read at the last step; None where all are read.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = True
    store: LayerStore | None
    state: State
    logits: Logits
    since: int
    evictions: int
    read: torch.Tensor | None

    def __init__(self, index: int, shared: Shared) -> None:
        super().__init__()
        self.index, self.shared = index, shared
        self.record_past, self.bytes_held = False, 0
        self._clear()

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Storage is made by the first attention."""
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """This call's keys and values; the keys name this layer to attention, which stores them.

        Raises:
            DcacheError: no forward of this cache's model runs.
        """
        if not self.shared.live:
            raise DcacheError(
                "this KVCache belongs to another model: it works only inside the forward of the model that "
                "it was made for. Make one with lm_kv.KVCache(this_model, ...)."
            )
        return adapter.tag(key_states, self), value_states

    def get_seq_length(self) -> int:
        """Columns so far, evicted ones and pads included: what masks and positions count."""
        return 0 if self.store is None else self.store.columns

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Masks have a column for everything seen."""
        return self.get_seq_length() + query_length, 0

    @property
    def batch_size(self) -> int:
        """Rows; -1 before the first call."""
        return -1 if self.store is None else self.store.seen.shape[0]

    def activate_past_recording(self) -> None:
        """Calls may be taken back by `crop` from now on."""
        self.record_past = True

    def reset(self) -> None:
        """Forget everything."""
        self._clear()
        self._account()

    def check_crop(self, tokens_to_remove: int) -> None:
        """Refuse what cannot be taken back.

        Raises:
            DcacheError: `tokens_to_remove` is positive, or some of the columns left the tail.
        """
        if tokens_to_remove > 0:
            raise DcacheError(
                "crop takes minus the number of columns, as transformers' caches do, got "
                f"{tokens_to_remove}: crop({-tokens_to_remove}) takes the newest {tokens_to_remove} back"
            )
        if self.store is not None:
            self.store.check_crop(-tokens_to_remove)

    def crop(self, tokens_to_remove: int) -> None:
        """Take the newest `-tokens_to_remove` columns back.

        Raises:
            DcacheError: as `check_crop`; nothing was changed then.
        """
        self.check_crop(tokens_to_remove)
        count = -tokens_to_remove
        if count == 0 or self.store is None:
            return
        self.store.crop(count)
        self.since = max(0, self.since - count)
        self.state = self.shared.policy.observer.crop(self.state, self.store.seen)
        if self.record_past and not self.shared.holding:
            self.flush()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        if self.store is not None:
            self.batch_select_indices(torch.arange(self.batch_size, device="cpu").repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        if self.store is None:
            return
        rows = indices.to(self.store.seen.device)
        rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        self.store.select_rows(rows)
        self.state = {name: tensor[rows] for name, tensor in self.state.items()}
        self.read = None if self.read is None else self.read[rows]
        self._account()

    def attend(self, asked: adapter.AttentionCall) -> torch.Tensor:
        """Attention of this call's queries on everything stored and on its own tokens, which are then stored.

        Returns:
            `[B, S, H, d_v]`.

        Raises:
            DcacheError: keys are another layer's, or the batch is another one.
        """
        query, key, value = asked.query, asked.key, asked.value
        store = self._started(asked.module, key, value)
        call = self.shared.call(asked.mask, key, store.columns)
        given = self.shared.input_of(self.index, key.shape)
        self.logits = asked.logits
        reader, policy = self.shared.reader, self.shared.policy
        if policy.follows_positions and reader is None:
            store.offset = call.offset(store.seen, store.offset)
        statistic = "max" if reader is not None else policy.observer.statistic
        if query.shape[2] == 1 and reader is None and policy.positions == "original":
            # One new token sees all there is, so it is stored first and is no part by itself.
            positions = self._store(store, call, given, key, value)
            asker = self.shared, self.index, query, self.logits, self.state
            attended, self.read = read_one(store, *asker, call.fresh.valid)
            self._observe(store, query, call, positions, attended.columns, given)
            return attended.output
        fresh = call.part(key, value)
        parts = [*self._parts(store, query, call, fresh), DensePart(key, value)]
        if statistic is None:
            attended = Attended(attend_some(query, parts, self.logits, call.fresh))
        else:
            attended = attend(query, parts, self.logits, call.fresh, statistic)
        if reader is None:
            positions = self._store(store, call, given, key, value)
            self._observe(store, query, call, positions, attended.columns, given)
        elif attended.columns is not None:
            reader(self.index, attended.columns[..., : -key.shape[2]])
        return attended.output

    def is_due(self, new: int) -> bool:
        """Whether tokens are evicted at the end of a call with so many columns."""
        return due(new, self.since, self.shared.policy.every, self.record_past)

    def flush(self) -> None:
        """Encode tokens that leave the tail, where the codec does so before an eviction."""
        flushes = self.index in self.shared.places and self.shared.policy.selector is None
        bound = partial(self.shared.codec, self.index, self.state)
        if flushes and self.store and self.store.flush(self.shared.policy.codec, bound):
            self._account()

    def packed(self) -> None:
        """Tokens were evicted from the store, or encoded with those of other layers."""
        self.evictions += 1
        self._account()

    def storages(self) -> list[torch.Tensor]:
        """Every tensor that is held, for counting bytes."""
        return [*([] if self.store is None else self.store.storages()), *self.state.values()]

    def fork(self, shared: Shared) -> LayerCache:
        """A copy for another cache, which shares what is never written to."""
        other = copy.copy(self)
        other.shared = shared
        other.store = None if self.store is None else self.store.fork()
        other.bytes_held = 0
        other._account()
        return other

    def restore(
        self,
        store: LayerStore,
        state: State,
        logits: Logits,
        since: int,
        evictions: int,
    ) -> None:
        """Take over what was saved."""
        self.store, self.state, self.logits = store, state, logits
        self.since, self.evictions = since, evictions
        self.is_initialized = True
        self._account()

    def _clear(self) -> None:
        self.store, self.state = None, {}
        self.since = self.evictions = 0
        self.read, self.is_initialized = None, False

    def _started(self, module: torch.nn.Module, key: torch.Tensor, value: torch.Tensor) -> LayerStore:
        """The store, made on the first call; refuse what does not fit it."""
        if getattr(module, "layer_idx", self.index) != self.index:
            raise DcacheError(
                f"{type(module).__name__} shares keys between layers, which lm_kv does not support"
            )
        if self.store is None:
            beside = self.shared.policy.observer.beside
            self.store = LayerStore(key, value, beside, self.shared.width(self.index))
            self.is_initialized = True
        elif key.shape[0] != self.batch_size:
            raise DcacheError(
                f"this cache holds {self.batch_size} rows, the call has {key.shape[0]}: use a new cache for "
                "another batch"
            )
        return self.store

    def _parts(self, store: LayerStore, query: torch.Tensor, call: Call, fresh: DensePart) -> list[Part]:
        """What a call reads of what was stored before it, shifted where the policy says so."""
        if self.shared.policy.positions == "original" or not store.segments:
            return asked_parts(store, self.shared, self.index, query, call, self.logits, fresh)
        return [shifted(store, lambda keys, by: self.shared.turn(self.index, keys, by, "shift"))]

    def _store(
        self, store: LayerStore, call: Call, given: torch.Tensor | None, *new: torch.Tensor
    ) -> torch.Tensor:
        """Store this call's keys and values; their positions int64 `[B, S]`."""
        key, value = new
        positions, seen = call.placed(store.seen)
        if store.append(key, value, positions, call.fresh.valid, seen, given):
            self._account()
        self.since += key.shape[2]
        return positions

    def _observe(
        self,
        store: LayerStore,
        query: torch.Tensor,
        call: Call,
        positions: torch.Tensor,
        columns: torch.Tensor | None,
        given: torch.Tensor | None,
    ) -> None:
        """Show a call whose tokens are stored to the observer; evict where it is time."""
        policy, shared = self.shared.policy, self.shared
        grows = columns is not None and store.add_scores(columns)
        unrotate = partial(shared.turn, self.index, query, call.rope, "back")
        text = shared.marked, shared.ids, self.index, given
        seen = Observed(query, call.valid, positions, unrotate, *text, store.columns)
        before, self.state = self.state, policy.observer.observe(self.state, seen)
        if grows or self.state is not before:
            self._account()
        if shared.holding or self.record_past:
            return
        if not self.is_due(query.shape[2]):
            self.flush()
        elif not policy.after_forward:
            shared.evict([self])

    def _account(self) -> None:
        total = bytes_of(self.storages())
        self.shared.count_bytes(total - self.bytes_held)
        self.bytes_held = total
