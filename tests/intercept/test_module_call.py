"""Interception of module calls: put on, taken off, copied, pickled."""

import copy
import pickle

import pytest
import torch
from torch import nn

from dcache.intercept.module_call import Intercept, compiled_call, compiled_inside, intercept_of


class Double(Intercept):
    def __call__(self, *args, **kwargs):
        return 2 * self.inner(*args, **kwargs)


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


def test_a_compiled_call_is_found_behind_an_intercept():
    module = nn.Identity()
    assert compiled_inside(module) is None

    def compiled(x):
        return x + 10

    module._compiled_call_impl = compiled
    assert compiled_inside(module) is compiled_call(module) is compiled
    intercept = Double(module)
    assert intercept.previous is None
    intercept.install()
    assert compiled_inside(module) is intercept.previous is compiled
    # In front of it is ours, so that nobody else's is called first.
    assert compiled_call(module) is None


def test_an_intercept_that_says_nothing_hands_the_call_through():
    module, x = nn.Linear(2, 2), torch.randn(3, 2)
    plain = module(x)
    Intercept(module).install()
    assert torch.equal(module(x), plain)
    assert torch.equal(module(input=x), plain)
