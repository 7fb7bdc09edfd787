"""A limit is reached through the intercepts of a module's call, wherever it stands among them."""

from torch import nn

from dcache.intercept.limits import Tables
from dcache.intercept.module_call import ModuleIntercept, limit_of


class Limit:
    """A limit that leaves room for everything."""

    def admit(self, tables: Tables) -> None:
        """Do nothing."""

    def spare(self, nbytes: int) -> bool:
        return True


def test_the_limit_of_any_intercept_is_that_of_the_module() -> None:
    module = nn.Linear(1, 1)
    assert limit_of(module) is None
    chain = [ModuleIntercept(module) for _ in range(3)]
    for link in chain:
        link.install()
    assert limit_of(module) is None
    chain[1].limit = limit = Limit()
    assert limit_of(module) is limit
    chain[1].remove()
    assert limit_of(module) is None
