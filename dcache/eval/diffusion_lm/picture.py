"""The picture of a run: which rows were computed at which step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import dcache
from dcache.diffusion_lm import RowMethod
from dcache.eval.canvas import ACCENT, FAINT, GREY, INK, new_figure, save
from dcache.eval.diffusion_lm.entries import RowEntry
from dcache.eval.diffusion_lm.evaluation import NONE, Job, jobs_of
from dcache.eval.diffusion_lm.runs import generated, mask_of, scope
from dcache.eval.diffusion_lm.settings import RowSettings
from dcache.eval.diffusion_lm.subject import RowSubject

# States of a position at a step.
REUSED, MASKED, PARTLY, COMPUTED = range(4)
LABELS = {
    COMPUTED: "computed",
    PARTLY: "computed in some layers",
    REUSED: "reused",
    MASKED: "reused, still masked",
}
COLOURS = {COMPUTED: ACCENT, PARTLY: "#8fb8ea", REUSED: FAINT, MASKED: "#f6e7c8"}
COLUMNS = 4


@dataclass(frozen=True)
class Trace:
    """One sequence under one policy.

    Attributes:
        label: the policy.
        states: int8 `[steps, T]`.
        decoded: steps and positions of decoded tokens, int64 `[2, N]`.
        share: rows computed, of all.
    """

    label: str
    states: NDArray[np.int8]
    decoded: NDArray[np.int64]
    share: float


def picture_of(subject: RowSubject, entries: Sequence[RowEntry], settings: RowSettings, path: Path) -> Path:
    """Run the first prompt under every policy, and save the picture.

    Args:
        subject: the model.
        entries: the policies.
        settings: with the subject's choices in place of None.
        path: the PNG.
    """
    jobs = pictured(entries, settings.block or subject.block)
    return draw([trace(subject, job, settings) for job in jobs], path)


def pictured(entries: Sequence[RowEntry], block: int) -> list[Job]:
    """What is drawn: the policies, and one uncached loop, which computes every row in any order."""
    jobs = list(jobs_of(entries, block))
    return [job for index, job in enumerate(jobs) if job.label != NONE or index == 0]


def trace(subject: RowSubject, job: Job, settings: RowSettings) -> Trace:
    """Decode the first prompt and record its rows.

    Args:
        subject: the model.
        job: the policy in its decode order.
        settings: with the subject's choices in place of None.
    """
    (batch, *_) = subject.batches(1, settings.length)
    recorder = _Recorder(subject, job.method, batch.ids, settings.new or subject.new)
    with scope(subject, job.method):
        generated(subject, batch.ids[:1], job.order.block, settings, settings.seed, recorder)
    states = np.stack(recorder.states)
    return Trace(
        job.label,
        states,
        np.array([(step, place) for step, places in enumerate(recorder.places) for place in places]).T,
        recorder.rows / states.size,
    )


def draw(traces: Sequence[Trace], path: Path) -> Path:
    """Save the picture: a panel a policy, steps downwards, positions to the right, a dot a decoded token."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    lines = ceil(len(traces) / COLUMNS)
    figure = new_figure(12, 0.5 + 2.7 * lines)
    colours = ListedColormap([COLOURS[state] for state in sorted(COLOURS)])
    for index, one in enumerate(traces):
        axes = figure.add_subplot(lines, COLUMNS, index + 1)
        _panel(axes, one, colours)
    patches = [Patch(facecolor=COLOURS[state], edgecolor=GREY, label=text) for state, text in LABELS.items()]
    figure.legend(handles=patches, loc="lower center", ncols=len(patches), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.35 / (0.5 + 2.7 * lines), 1, 1))
    return save(figure, path)


def _panel(axes: Any, one: Trace, colours: Any) -> None:
    axes.imshow(
        one.states, cmap=colours, vmin=-0.5, vmax=3.5, aspect="auto", interpolation="nearest", origin="upper"
    )
    axes.plot(one.decoded[1], one.decoded[0], "o", color=INK, markersize=2)
    axes.set_title(f"{one.label}: {one.share:.0%}", fontsize=8)
    axes.set_xlabel("position", fontsize=7)
    axes.set_ylabel("step", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.locator_params(integer=True, nbins=6)


class _Recorder:
    """The callback of a run of one sequence."""

    def __init__(self, subject: RowSubject, method: RowMethod | None, prompt: torch.Tensor, new: int) -> None:
        self.model, self.method = subject.model, method
        mask_id = mask_of(subject)
        self.mask_id = subject.model.config.mask_token_id if mask_id is None else mask_id
        self.masked = np.zeros(prompt.shape[1] + new, bool)
        self.masked[prompt.shape[1] :] = True
        self.states: list[NDArray[np.int8]] = []
        self.places: list[list[int]] = []
        self.rows = 0.0

    def __call__(self, step: int, ids: torch.Tensor, rows: torch.Tensor) -> None:
        computed = rows[0].cpu().numpy()
        seen = float(computed.sum())
        before, self.rows = self.rows, self.rows + seen
        if self.method is not None:
            self.rows = float(dcache.stats(self.model).rows)
        # A drift test adds rows in the middle of a forward; dllm_cache leaves some out in each layer.
        more = self.rows - before - seen
        others = PARTLY if more > 0 else np.where(self.masked, MASKED, REUSED)
        states = np.where(computed, PARTLY if more < 0 else COMPUTED, others)
        self.states.append(states.astype(np.int8))
        left = (ids[0] == self.mask_id).cpu().numpy() & self.masked
        self.places.append((self.masked & ~left).nonzero()[0].tolist())
        self.masked = left
