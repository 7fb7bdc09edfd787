"""Interception of module calls and of methods: put on, taken off, copied, pickled."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn

from dcache.intercept.method import MethodTap
from dcache.intercept.module_call import Intercept, compiled_call, intercept_of


class Double(Intercept):
    def __call__(self, *args, **kwargs):
        return 2 * self.inner(*args, **kwargs)


class Counter:
    """Something with a method to tap."""

    def __init__(self):
        self.total = 0

    def add(self, amount: int, twice: bool = False) -> int:
        """Add to the total."""
        self.total += amount * (2 if twice else 1)
        return self.total


class Watcher:
    """Counts the calls of everything that tells it."""

    def __init__(self, follows=True):
        self.follows = follows
        self.owners = []

    def around(self, original, owner, args, kwargs):
        self.owners.append(owner)
        return original(*args, **kwargs)

    def follows_copies(self, memo):
        return self.follows

    def __deepcopy__(self, memo):
        return self


def tapped(counter, watcher=None):
    tap = MethodTap(counter, "add", (watcher or Watcher()).around)
    tap.install()
    return tap


def test_an_intercept_stands_in_for_the_call_and_leaves_nothing_behind():
    module, x = nn.Linear(2, 2), torch.randn(2)
    before, plain = dict(vars(module)), module(x)
    intercept = Double(module)
    intercept.install()
    assert torch.equal(module(x), 2 * plain)
    assert intercept_of(module) is intercept
    assert compiled_call(module) is None
    intercept.remove()
    intercept.remove()
    assert vars(module) == before
    assert intercept_of(module) is None
    assert torch.equal(module(x), plain)


def test_a_forward_replaced_later_is_inside():
    module = nn.Identity()
    Double(module).install()
    module.forward = lambda x: x + 1
    assert module(1.0) == 4.0


def test_a_compiled_call_stays_inside_and_comes_back():
    module = nn.Identity()

    def compiled(x):
        return x + 10

    module._compiled_call_impl = compiled
    intercept = Double(module)
    intercept.install()
    assert module(1.0) == 22.0
    intercept.remove()
    assert compiled_call(module) is compiled
    assert module(1.0) == 11.0


def test_a_compiled_call_set_in_the_meantime_is_noticed_and_stays():
    module = nn.Identity()
    intercept = Double(module)
    intercept.install()
    assert not intercept.displaced
    module._compiled_call_impl = lambda x: x + 10
    assert intercept.displaced
    assert intercept_of(module) is None
    intercept.remove()
    assert module(1.0) == 11.0


def test_two_intercepts_on_one_module_are_refused():
    module = nn.Identity()
    Double(module).install()
    with pytest.raises(RuntimeError, match="Identity is already intercepted"):
        Double(module).install()
    assert module(1.0) == 2.0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_an_intercepted_module_is_plain(copied):
    module = nn.Linear(2, 2)
    Double(module).install()
    twin = copied(module)
    assert intercept_of(twin) is None
    twin.weight.data.zero_()
    twin.bias.data.fill_(3)
    assert torch.equal(twin(torch.randn(2)), torch.full((2,), 3.0))


def test_a_method_tap_keeps_the_signature_and_the_documentation():
    counter = Counter()
    signature, doc = inspect.signature(counter.add), counter.add.__doc__
    watcher = Watcher()
    tapped(counter, watcher)
    assert inspect.signature(counter.add) == signature
    assert counter.add.__name__ == "add"
    assert counter.add.__doc__ == doc
    assert counter.add(3, twice=True) == 6
    assert watcher.owners == [counter]


def test_removing_a_method_tap_restores_the_object():
    counter = Counter()
    before = dict(vars(counter))
    tap = tapped(counter)
    tap.remove()
    tap.remove()
    assert vars(counter) == before


def test_a_method_patched_on_the_object_before_is_used_and_comes_back():
    counter = Counter()

    def patched(amount):
        return -amount

    counter.add = patched
    tap = tapped(counter)
    assert counter.add(3) == -3
    tap.remove()
    assert counter.add is patched


def test_a_method_replaced_in_the_meantime_stays():
    counter = Counter()
    tap = tapped(counter)

    def replacement(amount):
        return -amount

    counter.add = replacement
    tap.remove()
    assert counter.add is replacement


@pytest.mark.parametrize("follows", [True, False])
def test_a_deep_copy_works_on_its_own_state_and_tells_whoever_follows(follows):
    counter, watcher = Counter(), Watcher(follows)
    counter.add(1)
    tapped(counter, watcher)
    twin = copy.deepcopy(counter)
    assert twin.add(10) == 11
    assert (counter.total, twin.total) == (1, 11)
    assert copy.deepcopy(twin).add(5) == 16
    assert len(watcher.owners) == 2 * follows
    assert counter not in watcher.owners
    assert inspect.signature(twin.add) == inspect.signature(Counter().add)


def test_a_pickled_object_has_its_own_plain_method():
    counter, watcher = Counter(), Watcher()
    tapped(counter, watcher)
    twin = pickle.loads(pickle.dumps(counter))
    assert twin.add(10) == 10
    assert counter.total == 0
    assert watcher.owners == []
