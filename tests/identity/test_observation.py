"""What a run is conditioned on, told apart by content."""

from typing import Any

import torch
from torch import nn

from dcache.identity.content import Observation
from dcache.identity.timestep import TimeArgument


class Net(nn.Module):
    def forward(self, sample: Any, timestep: Any, cond: Any = None, extra: Any = None) -> Any:
        """Never called."""


TIME = TimeArgument(Net())
X = torch.zeros(1, 4, 2)


def observation(value: float) -> torch.Tensor:
    return torch.full((1, 3), value)


def seen(*values: float) -> tuple[list[bool], list[str]]:
    """For each evaluation of a run whether it is conditioned on something else; a run opens where it is."""
    said: list[str] = []
    known, answers = Observation(said.append), []
    for i, value in enumerate(values):
        call: Any = ((X + i, torch.tensor([[i]]), observation(value)), {}, TIME)
        answers.append(bool(i) and known.differs(*call))
        if not i or answers[-1]:
            known.begin(*call)
    return answers, said


def test_another_observation_differs_however_it_is_passed() -> None:
    known = Observation(lambda _: None)
    one, other = observation(1), observation(2)
    for args, kwargs, others in [
        ((X, 1.0, one), {}, ((X, 1.0, other), {})),
        ((X, 1.0), {"cond": one}, ((X, 1.0), {"cond": other})),
        ((X, 1.0), {"cond": {"state": one}}, ((X, 1.0), {"cond": {"state": other}})),
    ]:
        known.begin(args, kwargs, TIME)
        assert not known.differs(args, kwargs, TIME)
        assert known.differs(*others, TIME)


def test_the_same_numbers_in_new_memory_are_the_same_and_a_buffer_that_is_written_is_another() -> None:
    known, buffer = Observation(lambda _: None), observation(1)
    known.begin((X, 1.0, buffer), {}, TIME)
    assert not known.differs((X, 1.0, observation(1)), {}, TIME)
    buffer.fill_(2)
    assert known.differs((X, 1.0, buffer), {}, TIME)


def test_sample_timestep_numbers_of_rows_and_other_sizes_say_nothing() -> None:
    known = Observation(lambda _: None)
    known.begin((X, torch.ones(1, 1), observation(1), torch.ones(1)), {}, TIME)
    later = (X + 1, torch.zeros(1, 1), observation(1).repeat(2, 1), torch.zeros(1))
    assert not known.differs(later, {}, TIME)


def test_every_change_opens_a_run_once_the_argument_was_steady() -> None:
    assert seen(1, 1, 2, 2, 3, 4, 5, 6, 7) == (
        [False, False, True, False, True, True, True, True, True],
        [],
    )


def test_what_was_never_steady_is_said_at_the_fourth_change_and_tells_nothing_from_then_on() -> None:
    assert seen(1, 2, 3, 4, 5, 6, 7) == ([False, True, True, True, False, False, False], ["2"])


def test_one_number_among_many_differs() -> None:
    known, large = Observation(lambda _: None), torch.zeros(1, 1000, 1000)
    known.begin((X, 1.0, large), {}, TIME)
    large[0, 999, 999] = 1
    assert known.differs((X, 1.0, large), {}, TIME)
    # Of longer ones an evenly spread part is compared.
    long = torch.zeros(1, 3, 1 << 20)
    known.begin((X, 1.0, long), {}, TIME)
    assert known.differs((X, 1.0, long + 1), {}, TIME)
