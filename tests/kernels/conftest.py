"""Every op by its torch reference and by its kernel: compiled on a GPU, by Triton's interpreter elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dcache.kernels import launch


@pytest.fixture(params=["off", "on"], ids=["reference", "kernel"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The torch reference and the kernel, in turn; memory that is allocated is full of NaN."""
    monkeypatch.setattr(launch, "mode", request.param)
    torch.use_deterministic_algorithms(True)
    yield request.param
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels wherever one can run."""
    monkeypatch.setattr(launch, "mode", "on")
