"""The same conditions for every command: one thread; a model whose loading is a failure where none is due."""

from typing import Any

import pytest


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where the shipped model is loaded: what is asked for is wrong, and is told before."""

    def untouched(*_: Any, **__: Any) -> Any:
        pytest.fail("the model was loaded although the arguments are wrong")

    monkeypatch.setattr("dcache.demo.pipeline.load_pipeline", untouched)
