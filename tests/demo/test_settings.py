"""What the demo asks for before it begins."""

import importlib.util

import pytest

from dcache.demo.settings import require_packages
from dcache.errors import DcacheError


def without(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """As if a package were not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else found(name))


def test_the_clips_need_accelerate_and_the_pictures_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "accelerate")
    require_packages()
    with pytest.raises(DcacheError, match="the demo needs accelerate: pip install"):
        require_packages(video=True)


@pytest.mark.parametrize("video", [False, True])
def test_neither_needs_open_clip(monkeypatch: pytest.MonkeyPatch, video: bool) -> None:
    without(monkeypatch, "open_clip")
    require_packages(video)
