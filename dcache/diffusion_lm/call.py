"""`RowIntercept`: a model's call in a caller's own loop, of which some rows are computed."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dcache.diffusion_lm import limits
from dcache.diffusion_lm.conversation import Conversation, real_of
from dcache.diffusion_lm.engine import Engine, with_logits
from dcache.diffusion_lm.method import RowMethod
from dcache.diffusion_lm.passes import current
from dcache.diffusion_lm.region import region_of
from dcache.diffusion_lm.row_stats import RowStats
from dcache.diffusion_lm.run import Block, Run
from dcache.errors import DcacheError
from dcache.intercept.module_call import ModuleIntercept

# Streams of one loop at most.
TURNS = 4
REFUSED = (
    "past_key_values",
    "use_cache",
    "inputs_embeds",
    "output_attentions",
    "output_hidden_states",
    "labels",
    "logits_to_keep",
    "num_logits_to_keep",
)


class _Lane(threading.local):
    """One thread's streams: several threads may decode with one model.

    Attributes:
        conversations: streams that take turns.
        stats: figures of the run they belong to.
    """

    def __init__(self) -> None:
        self.conversations: list[Conversation] = []
        self.stats = RowStats()


class RowIntercept(ModuleIntercept):
    """Stands in front of a model's call.

    Args:
        model: the model.
        method: which rows.
        mask_id: id of the mask token.
        automatic: `frozen` takes the method's place where attention is block-causal.
    """

    name = "rows"
    engine: Engine

    def __init__(self, model: nn.Module, method: RowMethod, mask_id: int, automatic: bool) -> None:
        super().__init__(model)
        self.method, self.mask_id, self.automatic = method, mask_id, automatic
        self.lane = _Lane()
        self.began: Callable[[RowStats], None] = lambda stats: None
        self.recorded: Callable[[], None] = lambda: None

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        """The call behind this intercept."""
        return self.inner(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer one call of the caller's loop."""
        if current() is not None:
            return self.inner(*args, **kwargs)
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.module.parameters()):
            self.recorded()
            return self.inner(*args, **kwargs)
        limits.check_mode(self.module)
        call = _named(self.module, args, kwargs)
        self._check(call)
        ids, mask = call.pop("input_ids"), call.pop("attention_mask", None)
        mask = mask if isinstance(mask, torch.Tensor) else None
        positions = call.pop("position_ids", None)
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        positions = positions.expand(ids.shape)
        conversation = self._conversation(ids, mask, positions, call)
        try:
            return self._answer(conversation, ids, {**call, "attention_mask": mask})
        except BaseException:
            # Part of the layers may have stored rows: what is left is not consistent.
            self.lane.conversations.remove(conversation)
            raise

    def _check(self, call: dict[str, Any]) -> None:
        """Refuse a call that rows cannot answer; takes off the arguments that say no to such things."""
        for name in REFUSED:
            value = call.pop(name, None)
            # Zero logits to keep are all of them.
            if value is not None and (isinstance(value, torch.Tensor) or not isinstance(value, int) or value):
                raise DcacheError(
                    f"{self.method.name} is enabled, and the call brings {name}: rows are computed from "
                    "input_ids and stored by dcache. Leave it out, or call dcache.disable first."
                )
        if self.method.policy.needs:
            raise DcacheError(
                f"{self.method.name} needs {self.method.policy.needs}, which a loop of one's own does not "
                "tell: use dcache.diffusion_lm.generate, or dcache.methods.dual() or dkv() here"
            )
        ids = call.get("input_ids")
        if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or not ids.numel():
            came = f", got {list(ids.shape)}" if isinstance(ids, torch.Tensor) else ""
            raise DcacheError(f"a row method needs input_ids [B, T] in the model's call{came}")

    def _conversation(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, more: dict[str, Any]
    ) -> Conversation:
        """The stream that a call continues, or a new one."""
        lane = self.lane
        conversation = self._continued(ids, mask, positions, more)
        if conversation is not None:
            conversation.more = more
            conversation.grow(ids, mask, positions, self.mask_id)
            return conversation
        # Guidance in calls of its own: streams that take turns from the first call on belong together.
        if any(conversation.run.index > 1 for conversation in lane.conversations) or not lane.conversations:
            lane.conversations = []
            lane.stats = RowStats(self.method.describe(), self.engine.binding.name)
            self.began(lane.stats)
        # Single calls, as of a score, are no streams that take turns: they are not kept without limit.
        del lane.conversations[: -TURNS + 1]
        conversation = Conversation(self._run(ids, mask, positions), mask, more)
        lane.conversations.append(conversation)
        return conversation

    def _continued(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, more: dict[str, Any]
    ) -> Conversation | None:
        """The stream that a call continues, one with the same other arguments before others."""
        fitting = [c for c in self.lane.conversations if c.continues(ids, mask, positions, self.mask_id)]
        same = next((conversation for conversation in fitting if conversation.takes(more)), None)
        if same is not None or not fitting:
            return same
        before = fitting[0]
        if torch.equal(ids, before.ids):
            if before.run.index == 1:
                # Guidance that an argument tells: a stream that takes turns with the first one.
                return None
            before.run.whole = "arguments"
        return before

    def _run(self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor) -> Run:
        real = real_of(ids, mask)
        limits.check_pads(self.module, self.mask_id, real)
        limits.check_width(self.module, ids.shape[1])
        turns = [other.ids for other in self.lane.conversations if other.ids.shape == ids.shape]
        region = region_of(ids, turns, self.mask_id)
        columns = region.any(0)
        start = int(columns.to(torch.int8).argmax()) if bool(columns.any()) else ids.shape[1]
        size = self.method.policy.block
        end = ids.shape[1] if size is None else min(start + size, ids.shape[1])
        return Run(
            self.engine,
            self.method,
            region,
            real,
            self.engine.stream(self.method.policy, positions),
            Block(start, end, start),
            limits.shifted(self.module, self.method.shift),
            self.lane.stats,
        )

    def _answer(self, conversation: Conversation, ids: torch.Tensor, more: Mapping[str, Any]) -> Any:
        run = conversation.run
        masked = (ids == self.mask_id) & run.region
        self._move(run, masked)
        if conversation.ids.shape == ids.shape:
            run.stats.tokens += int(((ids != conversation.ids) & run.region).sum())
        elif conversation.ids.shape[1]:
            W = conversation.ids.shape[1]
            run.stats.tokens += int(((ids[:, :W] != conversation.ids) & run.region[:, :W]).sum())
        active = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        rows, reason = run.rows(run.step_of(ids, masked), active)
        conversation.ids, conversation.mask = ids.clone(), more["attention_mask"]
        if not bool(rows.any()):
            run.stats.answered += 1
            return with_logits(conversation.output, _copy(conversation.logits))
        result = run.forward(ids, rows, reason, more)
        if result.selection.full or conversation.logits is None:
            conversation.logits = result.logits.clone()
        else:
            result.selection.put(conversation.logits, result.logits)
        # Not a view, which would hold all logits.
        conversation.output = with_logits(result.output, result.logits.new_zeros(0))
        total = sum(stream.bytes_held for stream in self.lane.conversations)
        run.stats.bytes_held = max(run.stats.bytes_held, total)
        self._choose(run)
        return with_logits(result.output, _copy(conversation.logits))

    def _move(self, run: Run, masked: torch.Tensor) -> None:
        """Go on to the next block of a loop of fixed width, where the current one has no mask left."""
        size, width = self.method.policy.block, masked.shape[1]
        while size and run.block.end < width and not bool(masked[:, run.block.start : run.block.end].any()):
            run.block.move(run.block.end, min(run.block.end + size, width))

    def _choose(self, run: Run) -> None:
        """After the default's first forward: `frozen` where the mask is block-causal."""
        if self.automatic and run.index == 1 and run.model_block:
            from dcache.diffusion_lm.policies.frozen import frozen

            run.method = replace(frozen(), delay=self.method.delay)
            run.stats.method = run.method.describe()
            run.stats.note = (
                f"frozen: the model's attention is block-causal, {run.model_block} tokens a block"
            )


def _named(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments by name."""
    if not args:
        return dict(kwargs)
    return {**dict(zip(inspect.signature(model.forward).parameters, args, strict=False)), **kwargs}


def _copy(logits: torch.Tensor | None) -> torch.Tensor:
    # Callers write into logits: mask tokens get -inf.
    return torch.zeros(0) if logits is None else logits.clone()
