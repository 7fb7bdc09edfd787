"""The cache: hand it to `model.generate` as `past_key_values`."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.budgets.budget import Budget
from dcache.lm_kv.budgets.trigger import due_at_crop
from dcache.lm_kv.cache_stats import CacheReport, CacheStats
from dcache.lm_kv.codecs.cachegen import CacheGen
from dcache.lm_kv.codecs.codec import Codec
from dcache.lm_kv.layers import files
from dcache.lm_kv.layers.cropping import crop_layers
from dcache.lm_kv.layers.eviction import evict
from dcache.lm_kv.layers.figures import figures, kept_by_head, tensors_of
from dcache.lm_kv.layers.layer import LayerCache
from dcache.lm_kv.layers.places import places_of
from dcache.lm_kv.layers.probe import received_attention
from dcache.lm_kv.layers.rows import RowCache
from dcache.lm_kv.layers.shared import Shared
from dcache.lm_kv.model import adapter
from dcache.lm_kv.model.calls import mask_of, read_call
from dcache.lm_kv.model.families import decoder_of, layers_for
from dcache.lm_kv.model.guards import check_call, inputs_of
from dcache.lm_kv.model.text import Text
from dcache.lm_kv.options import Allocation, PolicyName
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import make
from dcache.lm_kv.storage.store import share_seen
from dcache.util.bytes import bytes_of
from dcache.util.files import as_path


class KVCache(RowCache):
    """A KV cache that evicts for real, ragged over rows, heads and layers, in padded batches.

    It replaces the layers with full attention; sliding, chunked, linear and convolutional layers keep the
    library's. Memory is freed when tokens are evicted. The peak at the prompt is one layer's full keys and
    values, or all layers' where tokens are evicted after the forward (allocation "global", kvzip).

    Args:
        model: a causal language model of transformers, or what wraps one (a vision model, peft).
        policy: what is kept, or the name of a preset.
        budget: a float in (0, 1], the share of each row's true tokens, or an int, tokens per KV head.
        codec: how kept tokens are stored, such as `lm_kv.kivi(bits=4)`; None for the policy's.
        allocation: "uniform", "heads", "layers" or "global"; None for the policy's.
        floor: the least share of the mean budget that a head or layer keeps; 0.2 leaves the policy's.
        dense_layers: indices of layers that keep everything, beside the budget; () leaves the policy's.
        every: decoded tokens between evictions; 0 leaves the policy's.

    Raises:
        DcacheError: no budget is given anywhere, an option is outside its range, or the family is not
            supported.

    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from dcache import lm_kv
    >>> config = LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...     num_key_value_heads=2, intermediate_size=32, eos_token_id=None)
    >>> model = LlamaForCausalLM(config).eval()
    >>> cache = lm_kv.KVCache(model, lm_kv.snapkv(window=4, sinks=0), budget=0.25)
    >>> ids = torch.arange(40)[None] + 5
    >>> out = model.generate(ids, past_key_values=cache, max_new_tokens=3, do_sample=False)
    >>> cache.report().kept[0]
    (12.0, 12.0)
    """

    def __init__(
        self,
        model: Any,
        policy: Policy | PolicyName | str,
        *,
        budget: float | None = None,
        codec: Codec | Policy | None = None,
        allocation: Allocation | None = None,
        floor: float = 0.2,
        dense_layers: tuple[int, ...] = (),
        every: int = 0,
    ) -> None:
        layers = tuple(dense_layers) if isinstance(dense_layers, Iterable) else dense_layers
        given = {
            "budget": budget,
            "codec": codec,
            "allocation": allocation,
            "floor": None if floor == 0.2 else floor,
            "dense_layers": None if layers == () else layers,
            "every": every or None,
        }
        chosen = make(policy) if isinstance(policy, str) else policy
        if not isinstance(chosen, Policy):
            raise DcacheError(f"policy must be an lm_kv.Policy or the name of one, got {chosen!r}")
        changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self._build(model, replace(chosen, **changed))

    def _build(self, model: Any, policy: Policy) -> None:
        if policy.budget is None:
            raise DcacheError(
                f"no budget was given: pass budget= to KVCache or to {policy.name}, a share such as 0.25 or "
                "a number of tokens per KV head such as 512"
            )
        self.policy = policy
        self.decoder = decoder_of(model)
        shared = Shared(policy, Budget(policy.budget), evict)
        layers, self.compressed_layers = layers_for(self.decoder, lambda i: LayerCache(i, shared))
        super().__init__(layers=layers)
        self._shared = shared
        shared.layers = len(layers)
        shared.places = places_of(policy, self.compressed_layers, len(layers))
        self._attachment = adapter.attach(self.decoder)
        shared.prepare(self.decoder, self.compressed_layers)
        self.reads_inputs = shared.reads_inputs
        self._text = Text()
        self._new = 0

    def begin(self, decoder: torch.nn.Module, call: Mapping[str, Any]) -> None:
        """The decoder's forward begins.

        Raises:
            DcacheError: the cache is another model's, the batch is empty, gradients are recorded, or an
                earlier forward was broken off in the middle.
        """
        check_call(self.decoder, decoder, call)
        self.check_complete()
        if self._shared.reader is None:
            # Until it ends: an interrupt ends it without a word.
            self._note(call)
            self._failed = True
        rope = call.get("position_ids")
        self._shared.begin(rope if isinstance(rope, torch.Tensor) else None)
        share_seen([layer.store for layer in self._compressed()])

    def end(self, completed: bool) -> None:
        """It ended; tokens are evicted now where all layers must have run.

        Raises:
            DcacheError: the model did not use the cache, or its disk is full.
        """
        self._shared.end()
        if self._shared.reader is not None:
            return
        self._failed = not completed
        if completed and not any(layer.is_initialized for layer in self._compressed()):
            raise DcacheError(f"{type(self.decoder).__name__} ran without its cache, though it was given one")
        late = completed and self.policy.after_forward and not self._shared.holding
        if late and self._lead().is_due(self._new):
            self._evict_all(None)
        elif completed:
            self._shared.raise_problem()

    # What users call.

    @contextlib.contextmanager
    def hold(self) -> Iterator[KVCache]:
        """Nothing is evicted inside; `compress()` still does when it is called."""
        self._shared.holding += 1
        try:
            yield self
        finally:
            self._shared.holding -= 1

    def mark(self, images: torch.Tensor) -> None:
        """Mark the images' tokens of the next call or calls (chunks of a prompt), for `look_m` and `rekv`.

        Args:
            images: bool `[B, columns]`, as `input_ids == config.image_token_id`.

        Raises:
            DcacheError: it has another shape or dtype, or the policy reads no marks.
        """
        self._shared.mark(images)

    @torch.no_grad()
    def compress(self, context: torch.Tensor | None = None) -> None:
        """Evict tokens now.

        Args:
            context: int64 `[B, T]`, what kvzip reads again to find out what matters; None for the text that
                the cache has seen. Other policies do not read it.

        Raises:
            DcacheError: nothing is stored, the policy reads queries and none came since the cache was filled,
                or the batch of `context` is another one.
        """
        self.check_ready()
        self._evict_all(context)

    def report(self) -> CacheReport:
        """Kept tokens by layer and head, and the figures of `stats()`."""
        return CacheReport(self.stats(), kept_by_head(self._compressed()))

    def stats(self) -> CacheStats:
        """Tokens seen and kept, and bytes."""
        return figures(self._shared, self._compressed(), self._library(), tensors_of(self._text))

    @property
    def nbytes(self) -> int:
        """Bytes of all storages held: layers, statistics, the library's own layers, remembered text."""
        return self._shared.bytes_held + bytes_of([*self._library(), *tensors_of(self._text)])

    def save(self, path: str | Path, *, codec: CacheGen | None = None) -> Path:
        """Write the cache to a safetensors file; `codec=lm_kv.cachegen()` rounds and codes it.

        Raises:
            DcacheError: nothing is stored, the cache is incomplete, the policy is no registered preset or has
                a codec beside the file's, or the model has layers of the library's.
        """
        self.check_complete()
        place = as_path(path, "cache")
        return files.save(place, self.policy, self.decoder, self._compressed(), self._text, codec)

    @classmethod
    def load(cls, path: str | Path, model: Any) -> KVCache:
        """Read a cache that `save` wrote, for the same model.

        Raises:
            DcacheError: the file is none of these, or of another model.
        """
        saved = files.load(as_path(path, "cache"))
        cache = cls(model, saved.policy)
        saved.fill(cache.decoder, cache._compressed(), cache._text)
        return cache

    def fork(self) -> KVCache:
        """A second cache that goes on from here; what was compressed is shared, the tail is copied."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        other._shared = shared = self._shared.fork()
        compressed = set(self.compressed_layers)
        other.layers = [
            layer.fork(shared) if i in compressed else copy.deepcopy(layer)
            for i, layer in enumerate(self.layers)
        ]
        other._text = self._text.fork()
        return other

    # What transformers asks of a cache beside its layers.

    def crop(self, tokens_to_remove: int) -> None:
        """Take the newest columns back; tokens are evicted afterwards where the library verifies drafts.

        Args:
            tokens_to_remove: minus the number of columns, or 0.

        Raises:
            DcacheError: some of them are compressed already, or the cache is incomplete; nothing was taken
                back then.
        """
        self.check_complete()
        first = self._lead()
        crop_layers(self._compressed(), self._others(), tokens_to_remove)
        self._text.crop(-tokens_to_remove)
        verifies = first.record_past and first.store is not None and not self._shared.holding
        if verifies and due_at_crop(first.evictions, first.since, self.policy.every):
            self._evict_all(None)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._shared.end()
        self._text, self._failed, self._shared.marks = Text(), False, None

    def _lead(self) -> LayerCache:
        """The first layer that has a budget, which says when tokens are evicted."""
        return self.layers[next(iter(self._shared.places))]

    def _note(self, call: Mapping[str, Any]) -> None:
        """Remember what this call brings."""
        inputs = inputs_of(call)
        if inputs is None:
            return
        rows, self._new = inputs.shape[:2]
        self._shared.take_inputs(inputs)
        if self.policy.scorer.probes:
            start = self.get_seq_length(self.compressed_layers[0])
            read = read_call(mask_of(call), None, rows, self._new, start, inputs.device)
            self._text.append(inputs if inputs.ndim == 2 else None, read.valid)

    def _evict_all(self, context: torch.Tensor | None) -> None:
        """Evict from all layers, after a probe where the scorer reads one."""
        received = None
        if self.policy.scorer.probes:
            text, valid, history = self._text.to_read(context, self.policy.name)
            if self.policy.reader is not None and context is None:
                text, valid = self.policy.reader(text, valid)
            received = received_attention(self.decoder, self, self._shared, text, valid, history)
        with self._shared.carry.opened():
            evict(self._compressed(), received)
        self._shared.raise_problem()

    def _library(self) -> list[torch.Tensor]:
        """The tensors of the library's own layers."""
        return [tensor for layer in self._others() for tensor in tensors_of(layer)]
