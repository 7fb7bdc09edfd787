"""Interception of module calls: put on, taken off, copied, pickled."""

import copy
import pickle

import pytest
import torch
from torch import nn

from dcache.intercept.module_call import ModuleIntercept, compiled_call, compiled_inside, intercepts_of


class Double(ModuleIntercept):
    def __call__(self, *args, **kwargs):
        return 2 * self.inner(*args, **kwargs)


def test_an_intercept_stands_in_for_the_call_and_leaves_nothing_behind():
    module, x = nn.Linear(2, 2), torch.randn(2)
    before, plain = dict(vars(module)), module(x)
    intercept = Double(module)
    intercept.install()
    assert torch.equal(module(x), 2 * plain)
    assert intercepts_of(module) == [intercept]
    assert compiled_call(module) is None
    intercept.remove()
    intercept.remove()
    assert vars(module) == before
    assert intercepts_of(module) == []
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
    assert intercepts_of(module) == []
    intercept.remove()
    assert module(1.0) == 11.0


class Add(ModuleIntercept):
    name = "add"

    def __call__(self, x):
        return self.inner(x) + 1


def test_intercepts_on_one_module_form_a_chain_the_last_one_in_front():
    module = nn.Identity()
    double, add = Double(module), Add(module)
    double.install()
    add.install()
    assert intercepts_of(module) == [add, double]
    assert [link.name for link in intercepts_of(module)] == ["add", "plain"]
    # 2 x + 1, not 2 (x + 1).
    assert module(3.0) == 7.0
    assert not double.displaced
    assert compiled_inside(module) is None


@pytest.mark.parametrize(("first", "left"), [(0, 4.0), (1, 6.0)])
def test_each_intercept_of_a_chain_can_be_removed_first(first, left):
    module = nn.Identity()
    before, links = dict(vars(module)), [Double(module), Add(module)]
    for link in links:
        link.install()
    links[first].remove()
    assert module(3.0) == left
    links[first].remove()
    assert module(3.0) == left
    links[1 - first].remove()
    assert module(3.0) == 3.0
    assert vars(module) == before


def test_a_compiled_call_stays_behind_the_whole_chain():
    module = nn.Identity()
    module._compiled_call_impl = compiled = lambda x: x + 10
    links = [Double(module), Add(module)]
    for link in links:
        link.install()
    assert module(1.0) == 23.0
    assert compiled_inside(module) is compiled
    assert compiled_call(module) is None
    # A compile takes the slot from both; they go back in their order.
    module._compiled_call_impl = lambda x: x + 100
    assert [link.displaced for link in links] == [True, True]
    for link in links:
        link.install()
    assert module(1.0) == 203.0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_an_intercepted_module_is_plain(copied):
    module = nn.Linear(2, 2)
    Double(module).install()
    twin = copied(module)
    assert intercepts_of(twin) == []
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
    ModuleIntercept(module).install()
    assert torch.equal(module(x), plain)
    assert torch.equal(module(input=x), plain)


class AddOne(ModuleIntercept):
    def __call__(self, *args, **kwargs):
        return self.inner(*args, **kwargs) + 1


def test_one_that_is_installed_behind_is_called_last():
    module, x = nn.Identity(), torch.ones(1)
    front, behind = Double(module), AddOne(module)
    front.install()
    behind.install_behind()
    assert intercepts_of(module) == [front, behind]
    assert module(x) == 2 * (1 + 1)
    front.remove()
    assert module(x) == 1 + 1
    behind.remove()
    assert module(x) == 1
    behind.install_behind()
    assert module(x) == 1 + 1


def test_behind_all_is_in_front_of_a_compiled_call():
    module = nn.Identity()
    module._compiled_call_impl = lambda x: x * 10
    front, behind = Double(module), AddOne(module)
    front.install()
    behind.install_behind()
    assert module(1.0) == 2 * (10 + 1)
    behind.remove()
    assert module(1.0) == 20
