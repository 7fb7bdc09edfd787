"""What the demo asks for before it begins."""

import importlib.util

import pytest

from dcache.demo.settings import require_packages
from dcache.errors import DcacheError


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """As if packages were not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in missing else found(name))


def test_the_clips_need_accelerate_and_the_pictures_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "accelerate")
    require_packages()
    with pytest.raises(DcacheError, match="the demo needs accelerate: pip install"):
        require_packages(video=True)


def test_open_clip_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "open_clip", "matplotlib")
    for video in (False, True):
        with pytest.raises(DcacheError, match="the demo needs matplotlib: pip install"):
            require_packages(video)
