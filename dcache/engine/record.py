"""What happened in one run: events, reasons, seconds. Becomes `Stats` and, as a table, a `Schedule`."""

from __future__ import annotations

from dataclasses import dataclass, field

from dcache.stats import Stats


@dataclass
class Record:
    """The log of one run of one denoiser.

    Attributes:
        events: branch -> site -> evaluation -> whether it was computed.
        reasons: counts of why.
        steps: evaluations, once the run is over.
    """

    events: dict[str, dict[str, dict[int, bool]]] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    computed: int = 0
    predicted: int = 0
    seconds_compute: float = 0.0
    seconds_predict: float = 0.0
    most_bytes: int = 0
    steps: int = 0

    def event(self, branch: str, site: str, index: int, reason: str | None) -> None:
        """One site was computed for a reason, or predicted (None)."""
        self.events.setdefault(branch, {}).setdefault(site, {})[index] = reason is not None
        if reason is None:
            self.predicted += 1
        else:
            self.computed += 1
            self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def counts(self) -> tuple[int, int, dict[str, int]]:
        """The counts so far, for `recount`."""
        return self.computed, self.predicted, dict(self.reasons)

    def recount(self, counts: tuple[int, int, dict[str, int]]) -> None:
        """Go back to these counts: what came since is done again."""
        self.computed, self.predicted, self.reasons = counts[0], counts[1], dict(counts[2])

    def withdraw(self, branch: str, index: int, counts: tuple[int, int, dict[str, int]] | None) -> None:
        """Take out what was noted of one call.

        Args:
            branch: the call's branch.
            index: its evaluation.
            counts: of `counts` before it; None where nothing was counted since.
        """
        if counts is not None:
            self.recount(counts)
        sites = self.events.get(branch, {})
        for site, indices in list(sites.items()):
            indices.pop(index, None)
            if not indices:
                del sites[site]
        if not sites:
            self.events.pop(branch, None)

    def precede(self, earlier: Record, evaluations: int) -> None:
        """Put what happened in the first evaluations of the run before what was noted of it.

        Args:
            earlier: the log of these.
            evaluations: how many they are.
        """
        events = {
            branch: {site: dict(indices) for site, indices in sites.items()}
            for branch, sites in earlier.events.items()
        }
        for branch, sites in self.events.items():
            for site, indices in sites.items():
                shifted = {i + evaluations: computed for i, computed in indices.items()}
                events.setdefault(branch, {}).setdefault(site, {}).update(shifted)
        reasons = dict(earlier.reasons)
        for reason, count in self.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
        self.events, self.reasons = events, reasons
        self.computed += earlier.computed
        self.predicted += earlier.predicted
        self.seconds_compute += earlier.seconds_compute
        self.seconds_predict += earlier.seconds_predict
        self.peak(earlier.most_bytes)

    def call(self, seconds: float, predicted: bool) -> None:
        """One denoiser call took so long."""
        if predicted:
            self.seconds_predict += seconds
        else:
            self.seconds_compute += seconds

    def evaluations(self) -> set[int]:
        """The evaluations in which anything was computed or predicted."""
        return {i for sites in self.events.values() for indices in sites.values() for i in indices}

    def peak(self, now: int) -> None:
        """Keep the most bytes seen."""
        self.most_bytes = max(self.most_bytes, now)

    def stats(self, steps: int, now: int, open_run: bool, inside: float, method: str) -> Stats:
        """As the public object."""
        return Stats(
            steps=steps,
            computed=self.computed,
            predicted=self.predicted,
            reasons=dict(self.reasons),
            bytes_held=now if open_run else self.most_bytes,
            bytes_now=now,
            seconds_compute=self.seconds_compute,
            seconds_predict=self.seconds_predict,
            seconds_inside=inside,
            method=method,
        )

    def rows(self, steps: int) -> dict[str, dict[str, list[bool]]]:
        """Branch -> site -> one bool per evaluation; what was not seen of a site counts as computed."""
        every = dict.fromkeys(site for sites in self.events.values() for site in sites)
        return {
            branch: {site: [sites.get(site, {}).get(i, True) for i in range(steps)] for site in every}
            for branch, sites in self.events.items()
        }
