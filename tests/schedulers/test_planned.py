"""Rules of methods that plan: all of the observed run, then the plan, and all behind its end."""

from dcache.method import Method
from dcache.schedulers.planned import Observing, Planned
from tests.rules import computed_steps


def test_an_observed_run_is_computed_in_full():
    assert computed_steps(Method(rule=Observing()), 4) == [0, 1, 2, 3]


def test_a_plan_is_followed_and_what_is_behind_it_computed():
    method = Method(rule=Planned((True, False, True, False)))
    assert computed_steps(method, 4) == [0, 2]
    assert computed_steps(method, 7) == [0, 2, 4, 5, 6]
    assert method.predicts
    assert not Method(rule=Planned((True, True))).predicts
