"""The same conditions for every command: one thread; a model whose loading is a failure where none is due."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads that wait for one another on a busy machine take minutes for these small calls."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where the shipped model is loaded: what is asked for is wrong, and is told before."""

    def untouched(*_: Any, **__: Any) -> Any:
        pytest.fail("the model was loaded although the arguments are wrong")

    monkeypatch.setattr("dcache.demo.pipeline.load_pipeline", untouched)
