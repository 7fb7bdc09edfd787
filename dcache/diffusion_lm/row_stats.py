"""`RowStats`: what a run of a diffusion language model computed; prints as a small table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from dcache.util.bytes import format_bytes


@dataclass
class RowStats:
    """One run.

    Attributes:
        method: description of the method.
        binding: how the model's attention is reached.
        forwards: calls of the model.
        rows: rows computed, as a mean over attention calls.
        possible: rows that the same forwards would have computed without caching.
        refreshes: reason -> forwards that computed all rows, or began to in a layer: start, block, interval,
            width (the sequence grew), arguments (others than before, with the same ids), drift (a sequence
            failed its drift test), every.
        recorded: calls that recorded gradients, and were passed on to the model as they are.
        answered: calls that were answered from stored logits, because nothing had changed.
        tokens: tokens decoded, edited ones included.
        bytes_held: most bytes of keys, values, masks and stored logits at once.
        seconds: seconds in the model's forwards.
        note: what was chosen on the user's behalf, such as `frozen` for a block-causal model.
    """

    method: str = ""
    binding: str = ""
    forwards: int = 0
    rows: float = 0
    possible: int = 0
    refreshes: dict[str, int] = field(default_factory=dict)
    recorded: int = 0
    answered: int = 0
    tokens: int = 0
    bytes_held: int = 0
    seconds: float = 0.0
    note: str = ""

    @property
    def share(self) -> float:
        """Rows computed of those possible, 0 to 1; 1 before the first run."""
        return self.rows / self.possible if self.possible else 1.0

    @property
    def tokens_per_forward(self) -> float:
        """Tokens decoded by one forward, over the whole batch."""
        return self.tokens / self.forwards if self.forwards else 0.0

    def refreshed(self, reason: str) -> None:
        """Count one forward that computed all rows."""
        self.refreshes[reason] = self.refreshes.get(reason, 0) + 1

    def to_dict(self) -> dict[str, Any]:
        """All fields, `share` and `tokens_per_forward` as JSON values."""
        return {**asdict(self), "share": self.share, "tokens_per_forward": self.tokens_per_forward}

    def __str__(self) -> str:
        """A small table."""
        reasons = ", ".join(f"{name} {count}" for name, count in sorted(self.refreshes.items()))
        rows = [
            ("method", self.method or "-"),
            ("binding", self.binding or "-"),
            ("forwards", str(self.forwards)),
            ("rows", f"{self.rows:.0f} of {self.possible}, {self.share:.1%}"),
            ("all rows because", reasons or "-"),
            ("tokens", f"{self.tokens}, {self.tokens_per_forward:.2f} a forward"),
            ("held", format_bytes(self.bytes_held)),
            ("seconds", f"{self.seconds:.3f} in the model"),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        if self.note:
            lines.append(self.note)
        if self.recorded:
            lines.append(
                f"{self.recorded} calls recorded gradients and computed all rows: use torch.no_grad()"
            )
        elif not self.forwards:
            lines.append("nothing ran yet: call the model first")
        return "\n".join(lines)
