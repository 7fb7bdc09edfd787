"""One call of a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dcache.cache.history import Branch
from dcache.identity.run import Run
from dcache.intercept.effects import Effects, once_more

if TYPE_CHECKING:
    from dcache.intercept.own_state import OwnState
    from dcache.intercept.snapshot import Snapshot


@dataclass(slots=True, eq=False)
class Call:
    """One call of the denoiser.

    Attributes:
        branch: the guidance branch, with its histories.
        index: the evaluation, from 0.
        tau: the clock's value in this evaluation.
        observing: the first call of its signature; it computes, and blocks note their contracts.
        checking: a replay by the self-check; every site is predicted from what was just stored.
        predicted, computed: sites that were predicted and computed so far.
        entered: runs of blocks that were entered and not left (0 at the end, or a block was dropped).
        probe_attention: runs the first block up to its attention, where that input is the rule's probe.
        probing_attention: True while that runs.
        block_input: shape of the first block's first tensor, where its attention's input is the rule's probe.
        half: (rows of the whole batch, those that are run), where only a part of them is.
        counts: what was recorded before it, where it may have to be done again.
        run: the run, None in tests of single parts.
        effects: in the first call of a signature, the arguments as they were before it.
        own_state: in such a call, what the denoiser itself held before it.
        snapshot: in such a call, what else it held and drew from, for calls that are made once more.
        withdraw: forgets such a call, where it turns out that it must not have been admitted; called with the
            call and whether the model returned a sample, it returns whether the call stays an evaluation.
        attention_calls: whether the last call of the probe's attention was for it alone, and its number.
        sample: its first tensor, where that is the rule's probe and the part of it that the output continues
            is not known before it returns.
        makes: what it returns beside its sample that cannot be predicted or returned again, "" if nothing.
        problem: what a site met in it that cannot be predicted, "" if nothing; the session falls back then.
    """

    branch: Branch
    index: int
    tau: float
    observing: bool = False
    checking: bool = False
    predicted: int = 0
    computed: int = 0
    entered: int = 0
    probe_attention: Callable[[], Any] | None = None
    probing_attention: bool = False
    block_input: torch.Size | None = None
    half: tuple[int, slice] | None = None
    counts: tuple[int, int, dict[str, int]] | None = None
    run: Run | None = None
    effects: Effects | None = None
    own_state: OwnState | None = None
    snapshot: Snapshot | None = None
    withdraw: Callable[[Call, bool], bool] | None = None
    sample: torch.Tensor | None = None
    attention_calls: tuple[bool | None, int] = (None, -1)
    makes: str = ""
    problem: str = ""

    @contextmanager
    def again(self, arguments: Any) -> Iterator[tuple[Any, Any, Callable[[], bool]]]:
        """Inside this block the denoiser finds what the call found; behind it, it is as it is now.

        Args:
            arguments: (args, kwargs) as they were before the call.

        Yields:
            As `dcache.intercept.effects.once_more`.
        """
        state = nullcontext() if self.snapshot is None else self.snapshot.again()
        with state, once_more(arguments) as repeated:
            yield repeated
