"""HarmoniCa's router: what training moves, what it keeps, and what a kill loses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcache.errors import DcacheError
from dcache.search.rendering.results import Results
from dcache.search.routing.router import BETA, CLAMP, Router, Trainer, train
from tests.pipelines import SHAPES
from tests.search.tiny_subject import TinySubject

STEPS = 3


def trained(iterations: int, share: float = 0.5) -> tuple[Router, TinySubject]:
    subject = TinySubject(SHAPES["pixart"], STEPS)
    subject.pipe.transformer.requires_grad_(True)
    return train(subject, ["a"], share, iterations=iterations, batch_size=1), subject  # type: ignore[arg-type]


def test_training_moves_all_logits_but_the_first_rows_and_leaves_the_model_as_it_was() -> None:
    router, subject = trained(2)
    assert router.logits.shape == (STEPS, len(router.sites))
    assert router.iterations == 2
    assert 0 < router.loss < 10
    assert (router.logits[0] == CLAMP).all()
    assert (router.logits[1:] != 1.0).all()
    assert all(p.requires_grad for p in subject.pipe.transformer.parameters())
    assert all(p.grad is None for p in subject.pipe.transformer.parameters())


def test_the_largest_weights_are_computed_and_the_first_evaluation() -> None:
    logits = torch.tensor([[0.0, 0.0], [2.0, -1.0], [1.0, 3.0]])
    router = Router(logits, ("attn:0", "mlp:0"))
    assert router.computed(4 / 6).tolist() == [[True, True], [True, False], [False, True]]
    assert router.computed(1.0).all()
    assert router.computed(0.0).tolist() == [[True, True], [False, False], [False, False]]


def test_beta_is_steered_towards_the_share() -> None:
    router = Router(torch.full((2, 2), 3.0, requires_grad=True), ("attn:0", "mlp:0"))
    before = router.beta
    router.update(0.5)
    assert router.beta > before
    router.update(1.0)
    assert router.beta == pytest.approx(before)


def test_a_share_is_one_of_costs() -> None:
    logits = torch.tensor([[0.0, 0.0], [-1.0, 2.0], [3.0, 1.0]])
    router = Router(logits, ("attn:0", "mlp:0"), (3.0, 1.0))
    # The first row costs 4 of 12, then w is largest at (2, attn), (1, mlp), (2, mlp), (1, attn).
    expected = {4: [], 6.9: [], 7: [(2, 0)], 8: [(2, 0), (1, 1)], 11.9: [(2, 0), (1, 1), (2, 1)]}
    for cost, cells in expected.items():
        assert [tuple(cell) for cell in np.argwhere(router.computed(cost / 12))[2:]] == sorted(cells)
    assert router.computed(1.0).all()
    assert router.part(router.computed(8.5 / 12)) == 8 / 12
    # Of w above 0.5 are the first row, (1, mlp), (2, attn) and (2, mlp): 9 of 12.
    router.update(8.9 / 12)
    assert router.beta > BETA
    router = Router(logits, ("attn:0", "mlp:0"), (3.0, 1.0))
    router.update(9.1 / 12)
    assert router.beta < BETA


def test_a_step_is_adams() -> None:
    logits = torch.zeros(2, 2, requires_grad=True)
    router = Router(logits, ("attn:0", "mlp:0"))
    twin = torch.zeros(2, 2, requires_grad=True)
    adam = torch.optim.Adam([twin], lr=0.15)
    for scale in (1.0, -3.0):
        gradient = scale * torch.tensor([[1.0, -2.0], [0.5, 0.0]])
        router.logits.grad, twin.grad = gradient.clone(), gradient.clone()
        router.update(0.5)
        adam.step()
    assert torch.allclose(router.logits, twin, atol=1e-6)


def test_a_state_goes_on_as_if_it_had_never_stopped() -> None:
    known: dict[str, dict[str, np.ndarray]] = {}

    class Kept(Results):
        def has_arrays(self, name: str) -> bool:
            return name in known

        def arrays(self, name: str, make):  # type: ignore[no-untyped-def]
            if name not in known:
                known[name] = make()
            return known[name]

    subject = TinySubject(SHAPES["pixart"], STEPS)
    options = {"batch_size": 1, "results": Kept()}
    train(subject, ["a"], 0.5, iterations=1, **options)  # type: ignore[arg-type]
    resumed = train(subject, ["a"], 0.5, iterations=2, **options)  # type: ignore[arg-type]
    whole, _ = trained(2)
    assert torch.equal(resumed.logits, whole.logits)
    assert resumed.beta == whole.beta


def test_nothing_to_train_on_is_refused() -> None:
    subject = TinySubject(SHAPES["pixart"], STEPS)
    with pytest.raises(DcacheError, match="a share of at most 1"):
        train(subject, ["a"], 1.5)  # type: ignore[arg-type]
    with pytest.raises(DcacheError, match="iterations"):
        train(subject, ["a"], 0.5, iterations=0)  # type: ignore[arg-type]


def test_the_loss_is_relative_and_weighed_by_the_pictures_error() -> None:
    router = Router(torch.zeros(2, 1, requires_grad=True), ("attn:0",))
    trainer = Trainer(router, [0.0, 4.0])

    def compute(w: torch.Tensor | None) -> torch.Tensor:
        # The model is 2, its stored output 0.
        return torch.full((1,), 2.0) if w is None else 2.0 * w

    trainer(0, compute)
    assert trainer(1, compute).item() == 1.0
    # d/dw 4 (2 w - 2)^2 / 4 = 8 (w - 1) = -4; dw / dlogit = 1/4; beta adds its part.
    assert router.logits.grad is not None
    assert router.logits.grad[1].item() == pytest.approx((-4.0 + router.beta) / 4)
    assert trainer.losses == [0.25]


def test_a_router_of_whole_evaluations_has_a_logit_for_each() -> None:
    subject = TinySubject(SHAPES["pixart"], STEPS)
    router = train(subject, ["a"], 0.5, iterations=1, batch_size=1, whole=True)  # type: ignore[arg-type]
    assert router.sites == ("model",)
    assert router.logits.shape == (STEPS, 1)
    assert (router.logits[1:] != 1.0).all()
