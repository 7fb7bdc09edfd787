"""The state of one run: made when a run opens, read by `stats` and `trace` until the next one opens."""

from __future__ import annotations

from dataclasses import dataclass, field

from dcache.cache.history import Branch
from dcache.engine.record import Record
from dcache.identity.branch import BranchNames
from dcache.identity.run import Run
from dcache.method import Method
from dcache.stats import Stats
from dcache.util.bytes import bytes_of


@dataclass(eq=False)
class RunState:
    """Everything that a session knows of one run.

    Attributes:
        run: where it stands; None before the first run and once it is over.
        sampler: class name of its sampler, "" for a hand-written loop.
        guidance: guidance scale of the pipeline's call, None where that is not known.
        record: events, reasons and seconds; they stay when the run is over.
        branches: name -> guidance branch with its histories; empty once they were freed.
        names: names the branches of calls.
        shared: site -> (evaluation, reason) of the branch that decides for all, where branches decide so.
        last_index: the evaluation of the newest call.
        overhead_seconds: time in dcache's own code around computed regions.
        said: whether the user was warned that nothing was predicted in it.
        earlier: the runs before it in the same call of a pipeline, in order.
        whole: whether the run is over and came to its end, as far as that is known.
        entries: evaluations that the sampler's table listed, None for a hand-written loop; set at the end.
        limit: evaluations that the method's table has for this run, None without a table.
        untraced: why its trace would not give the same bits, "" where it does.
        method: the method that a tuner chose for it, None without a tuner.
        plan: as in `dcache.stats.Stats`.
        began: time at which the tuner was asked.
        counters: whole numbers among the denoiser's arguments that count, by position or name.
        offset: where they begin in the table's rows.
        doubted: the run before it and what was counted of that, where the two may be one; else None.
        full: whether the run is computed completely, as was asked for.
        full_next: whether the next one is.
        failed: whether an exception ended it, or its newest call: it has no length that could be learned.
    """

    run: Run | None = None
    sampler: str = ""
    guidance: float | None = None
    record: Record = field(default_factory=Record)
    branches: dict[str, Branch] = field(default_factory=dict)
    names: BranchNames = field(default_factory=BranchNames)
    shared: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    last_index: int = 0
    overhead_seconds: float = 0.0
    said: bool = False
    earlier: tuple[RunState, ...] = ()
    whole: bool = False
    entries: int | None = None
    limit: int | None = None
    offset: int = 0
    untraced: str = ""
    counters: set[int | str] = field(default_factory=set)
    method: Method | None = None
    plan: str = ""
    began: float = 0.0
    doubted: tuple[RunState, Run] | None = None
    full: bool = False
    full_next: bool = False
    failed: bool = False

    @property
    def steps(self) -> int:
        """Evaluations so far, or of the whole run once it is over."""
        if self.run is None:
            return self.record.steps
        # A call behind the sampler's last step is no evaluation.
        return self.run.index + (1 if self.run.calls and not self.run.over else 0)

    def bytes_now(self) -> int:
        """Bytes of the storages that the histories and change indicators hold."""
        return bytes_of(t for branch in self.branches.values() for t in branch.tensors())

    def note_peak(self) -> None:
        """Some histories are about to shrink: keep the most bytes that were held."""
        self.record.peak(self.bytes_now())

    def precede(self, earlier: RunState, counts_steps: bool) -> None:
        """The run is another one that went on: put its first evaluations before this one's.

        Args:
            earlier: the state of that run, which is over.
            counts_steps: whether clock values are numbers of evaluations.
        """
        evaluations = earlier.steps
        self.record.precede(earlier.record, evaluations)
        self.overhead_seconds += earlier.overhead_seconds
        self.last_index += evaluations
        self.shared = {}
        for branch in self.branches.values():
            branch.began += evaluations
            for history in branch.histories.values():
                history.steps = [step + evaluations for step in history.steps]
                if counts_steps:
                    history.taus = [tau + evaluations for tau in history.taus]

    def take_back(self, branch: Branch, index: int, tau: float) -> None:
        """A call failed: nothing that it decided is left.

        Args:
            branch: its branch; emptied if sites before the failure have anchors of it.
            index: its evaluation.
            tau: its clock value.
        """
        self.failed = True
        self.names.take_back()
        histories = branch.histories.values()
        if any(history.steps and history.steps[-1] == index for history in histories):
            self.note_peak()
            self.branches.pop(branch.name, None)
            self.untraced = f"a call of evaluation {index} failed after it had remembered something"
        for history in histories:
            history.run_length -= history.predicted_at == tau and history.run_length > 0

    def close(self, whole: bool) -> None:
        """The run is over, and its histories were freed: keep what was counted.

        Args:
            whole: whether it came to its end.
        """
        self.record.steps, self.whole = self.steps, whole
        self.entries = None if self.run is None else self.run.entries
        self.run = None
        self.shared = {}

    def stats(self, method: str) -> Stats:
        """The counts as the public object.

        Args:
            method: the method's description.
        """
        stats = self.record.stats(
            self.steps, self.bytes_now(), self.run is not None, self.overhead_seconds, method
        )
        stats.plan = self.plan
        return stats
