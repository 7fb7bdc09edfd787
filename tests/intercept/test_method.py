"""Interception of methods: put on, taken off, copied, pickled."""

import copy
import inspect
import pickle

import pytest

from dcache.intercept.method import MethodIntercept


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
    tap = MethodIntercept(counter, "add", (watcher or Watcher()).around)
    tap.install()
    return tap


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
