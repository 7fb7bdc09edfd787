"""What the demo asks for before it begins."""

import importlib.util

import pytest

from dcache.demo.settings import require_packages
from dcache.errors import DcacheError


def test_the_clips_do_not_ask_for_the_judges_of_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "open_clip" else found(name))
    require_packages(video=True)
    with pytest.raises(DcacheError, match="the demo needs open-clip-torch: pip install"):
        require_packages()
