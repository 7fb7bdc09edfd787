"""HarmoniCa (Huang et al. 2025): a learned router, trained on whole runs from noise.

In each evaluation the same latents go through the full denoiser and through the soft one, whose sublayers mix
computed and stored outputs by w = sigmoid(logit) (`dcache.search.routing.soft_sites`). The sampler goes on
with the soft output, so that training sees accumulated error; no pictures are needed.

    loss = sum_t lambda_t |soft - full|^2 / |full|^2 + beta sum(w)

lambda_t is how much the picture changes if evaluation t alone reuses all sublayers. beta is steered so that
the share of computed FLOPs becomes the wanted one. The schedule computes where w is largest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dcache.engine.observe import observe
from dcache.errors import DcacheError
from dcache.eval.progress import StageProgress
from dcache.eval.subject import Subject
from dcache.search.observe import denoiser_of
from dcache.search.observing.numbered import numbered
from dcache.search.rendering.results import Arrays, Results
from dcache.search.routing.soft_sites import SoftSites, Step
from dcache.sites.discovery import discover
from dcache.sites.site import Sublayer
from dcache.util.checks import check_number, check_whole

# Logits are clamped to +- this, as published; those of the first evaluation are fixed at it.
CLAMP = 5.0
RATE = 0.15
START = 1.0
BETA, STEERING = 1e-4, 1.06


@dataclass
class Router:
    """A router in training.

    Attributes:
        logits: (T, S), one for each evaluation and site; float32.
        sites: names of the sites.
        costs: what each site costs to compute in one evaluation, in any unit; () is the same for all.
        moments: Adam's first and second moment of the logits.
        beta: weight of the computed share.
        iterations: runs that it was trained on.
        loss: mean of the last run's losses.
    """

    logits: torch.Tensor
    sites: tuple[str, ...]
    costs: tuple[float, ...] = ()
    moments: tuple[torch.Tensor, torch.Tensor] = field(init=False)
    beta: float = BETA
    iterations: int = 0
    loss: float = float("nan")

    def __post_init__(self) -> None:
        self.costs = self.costs or (1.0,) * len(self.sites)
        self.moments = (torch.zeros_like(self.logits), torch.zeros_like(self.logits))

    @property
    def weights(self) -> torch.Tensor:
        """(T, S), w of each evaluation and site; 1 in the first evaluation."""
        w = torch.sigmoid(self.logits.detach())
        w[0] = 1.0
        return w

    def computed(self, share: float) -> NDArray[np.bool_]:
        """(T, S), where w is largest, as far as `share` of all costs goes; the first row is computed."""
        w = self.weights.numpy().astype(np.float64)
        costs = np.asarray(self.costs)
        # Of equal weights the earlier evaluation's comes first.
        order = np.argsort(-w[1:], axis=None, kind="stable")
        spent = np.cumsum(np.tile(costs, len(w) - 1)[order]) / costs.sum()
        table = np.zeros(w[1:].size, dtype=bool)
        table[order[spent <= share * len(w) - 1 + 1e-9]] = True
        return np.concatenate([np.ones((1, w.shape[1]), dtype=bool), table.reshape(w[1:].shape)])

    def part(self, computed: NDArray[np.bool_]) -> float:
        """The share of all costs that a table (T, S) computes."""
        return float((computed @ np.asarray(self.costs)).sum() / (len(computed) * sum(self.costs)))

    def update(self, share: float) -> None:
        """One step of Adam with the logits' gradient; then beta moves towards the wanted share."""
        gradient = torch.zeros_like(self.logits) if self.logits.grad is None else self.logits.grad
        self.iterations += 1
        first, second = self.moments
        first.mul_(0.9).add_(gradient, alpha=0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        corrected = second / (1 - 0.999**self.iterations)
        step = first / (1 - 0.9**self.iterations) / (corrected.sqrt() + 1e-8)
        with torch.no_grad():
            self.logits.sub_(RATE * step).clamp_(-CLAMP, CLAMP)
        self.logits.grad = None
        computed = self.part((self.weights > 0.5).numpy())
        self.beta *= STEERING if computed > share else 1 / STEERING


def train(  # noqa: PLR0913
    subject: Subject,
    prompts: Sequence[str],
    share: float,
    *,
    iterations: int = 30,
    batch_size: int = 2,
    seed: int = 0,
    importance: Sequence[float] | None = None,
    costs: Sequence[float] = (),
    whole: bool = False,
    results: Results | None = None,
    progress: StageProgress = lambda _stage: None,
) -> Router:
    """Train a router of all attentions, cross-attentions and MLPs, or of whole evaluations.

    Args:
        subject: the pipeline with its settings.
        prompts: run i takes the next `batch_size` of them, and begins anew at the end.
        share: wanted share of the costs that are computed.
        iterations: runs; published are 20 000 of 64 pictures.
        batch_size: pictures in a run.
        seed: seed of the first picture; those of later runs follow.
        importance: lambda_t of each evaluation, as `image_weights` gives it; None is 1 everywhere.
        costs: as in `Router`.
        whole: one logit for each evaluation, at the model's output (ours).
        results: what an earlier run trained; None keeps nothing.
        progress: called with a description of each run.

    Raises:
        DcacheError: no prompts, a number out of range, or a denoiser without sublayers.
    """
    check_whole("iterations", iterations, 1)
    if check_number("share", share, 0.0) > 1 or not prompts:
        raise DcacheError(f"expected prompts and a share of at most 1, got {len(prompts)} and {share!r}")
    results = results or Results()
    _, module = denoiser_of(subject)
    sublayers = [Sublayer("model", "model", 0, module)] if whole else sublayers_of(module)
    router = Router(torch.empty(0), tuple(s.name for s in sublayers), tuple(costs))
    trainer = Trainer(router, importance)
    with frozen(module), soft(subject, module, sublayers, trainer):
        for i in range(iterations):
            name = f"{'whole ' if whole else ''}router:{i}"
            progress(f"router: run {i + 1} of {iterations}")
            chosen = [prompts[(i * batch_size + j) % len(prompts)] for j in range(batch_size)]
            seeds = [seed + i * batch_size + j for j in range(batch_size)]
            # Also of a run that was made now: going on after a kill is no other way.
            trainer.resume(results.arrays(name, partial(trainer.run, subject, chosen, seeds, share)))
    return trainer.router


class Trainer(Step):
    """Trains a router in the runs of a pipeline.

    Args:
        router: its logits are made in the first run, which tells the number of evaluations.
        importance: lambda_t of each evaluation, or None.
    """

    def __init__(self, router: Router, importance: Sequence[float] | None) -> None:
        self.router, self.importance = router, importance
        self.rows: list[torch.Tensor] = []
        self.losses: list[float] = []

    def __call__(self, index: int, compute: Callable[[torch.Tensor | None], torch.Tensor]) -> torch.Tensor:
        """One evaluation: full and soft output, and the gradient of the loss."""
        sites = len(self.router.sites)
        if index == 0:
            return compute(torch.ones(sites))
        full = compute(None).detach()
        with torch.enable_grad():
            w = torch.sigmoid(self._row(index))
            soft = compute(w)
            lam = 1.0 if self.importance is None else float(self.importance[index])
            error = (soft - full).square().mean() / full.square().mean().clamp_min(1e-12)
            torch.autograd.backward(lam * error + self.router.beta * w.sum())
        self.losses.append(float(error.detach()))
        return soft.detach()

    def run(
        self, subject: Subject, prompts: Sequence[str], seeds: Sequence[int], share: float
    ) -> dict[str, NDArray[np.float64]]:
        """One run and one step; returns the router's state."""
        self.losses = []
        subject(list(prompts), list(seeds))
        if self.rows:
            self._settle()
        self.router.loss = float(np.mean(self.losses)) if self.losses else 0.0
        self.router.update(share)
        return self.state()

    def state(self) -> dict[str, NDArray[np.float64]]:
        """The router as arrays."""
        router = self.router
        first, second = router.moments
        numbers = np.array([router.beta, router.iterations, router.loss])
        arrays = {"logits": router.logits.detach(), "first": first, "second": second}
        return {**{n: t.numpy().astype(np.float64) for n, t in arrays.items()}, "numbers": numbers}

    def resume(self, state: Arrays) -> None:
        """Go on from a state."""
        tensors = {n: torch.from_numpy(a).float() for n, a in state.items() if n != "numbers"}
        self.router = Router(tensors["logits"].requires_grad_(), self.router.sites, self.router.costs)
        self.router.moments = (tensors["first"], tensors["second"])
        beta, iterations, self.router.loss = map(float, state["numbers"])
        self.router.beta, self.router.iterations = beta, int(iterations)

    def _row(self, index: int) -> torch.Tensor:
        """The logits of one evaluation; in the first run they are made."""
        if self.router.logits.numel():
            return self.router.logits[index]
        while len(self.rows) <= index:
            self.rows.append(torch.full((len(self.router.sites),), START, requires_grad=True))
        return self.rows[index]

    def _settle(self) -> None:
        """The first run is over: its rows are the table."""
        table = torch.stack([row.detach() for row in self.rows])
        table[0] = CLAMP
        gradient = torch.stack([torch.zeros_like(row) if row.grad is None else row.grad for row in self.rows])
        self.router = Router(table.requires_grad_(), self.router.sites, self.router.costs)
        self.router.logits.grad, self.rows = gradient, []


def sublayers_of(module: nn.Module) -> list[Sublayer]:
    """The attentions, cross-attentions and MLPs of a denoiser.

    Raises:
        DcacheError: it has none.
    """
    sublayers = [s for s in discover(module).sublayers if not s.method]
    if not sublayers:
        raise DcacheError(f"a router chooses among sublayers, and none are found in {type(module).__name__}")
    return sublayers


@contextmanager
def soft(subject: Subject, module: nn.Module, sublayers: Sequence[Sublayer], step: Step) -> Iterator[None]:
    """Inside this block the pipeline's runs go through `step`."""
    with numbered(subject.pipe):
        sites = SoftSites(module, sublayers, step)
        with observe(module, sites), sites.installed():
            yield


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside this block no parameter asks for a gradient."""
    asked = [p for p in module.parameters() if p.requires_grad]
    for p in asked:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in asked:
            p.requires_grad_(True)
