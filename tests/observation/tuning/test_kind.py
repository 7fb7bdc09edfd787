"""The kind of a run, and the digest of weights that is looked at only where they may have changed."""

import torch
from torch import nn

from dcache.observation.tuning.kind import Kind, Weights

KIND = Kind("Model", "abc", ("auto",), "DDIM", 4, "table", 3.0, (4, 8, 8))


def test_it_says_what_people_choose() -> None:
    assert KIND.text() == "4 evaluations, DDIM, guidance 3, size 4 x 8 x 8"
    assert KIND._replace(sampler="", guidance=None, size=()).text() == "4 evaluations"


def test_every_field_is_part_of_the_name() -> None:
    others = [
        KIND._replace(model="Other"),
        KIND._replace(weights="abd"),
        KIND._replace(sites=("model",)),
        KIND._replace(sampler="Euler"),
        KIND._replace(steps=5),
        KIND._replace(table="other"),
        KIND._replace(guidance=3.5),
        KIND._replace(size=(4, 8, 9)),
    ]
    assert len({kind.digest() for kind in (KIND, *others)}) == 1 + len(Kind._fields)


def test_weights_that_change_in_place_or_are_replaced_have_another_digest() -> None:
    model, weights = nn.Linear(3, 3), Weights()
    digests = [weights.digest(model)]
    assert weights.digest(model) == digests[0]
    with torch.no_grad():
        model.weight.add_(1.0)
    digests.append(weights.digest(model))
    model.bias = nn.Parameter(torch.full((3,), 7.0))
    digests.append(weights.digest(model))
    assert len(set(digests)) == 3
