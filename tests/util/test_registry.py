"""Things by name."""

import json.decoder
import sys

import pytest

from dcache.errors import DcacheError
from dcache.util.registry import Registry, modules


def test_the_packages_own_are_made_when_they_are_first_used() -> None:
    made: list[int] = []
    registry: Registry[int] = Registry("number", {"one": lambda: made.append(1) or 1})
    registry.register("two", 2)
    assert (list(registry), len(registry), "one" in registry, made) == (["one", "two"], 2, True, [])
    assert (registry.get("one"), registry.get("two"), made) == (1, 2, [1])
    with pytest.raises(DcacheError, match="number 'three' is unknown: expected one of one, two"):
        registry.get("three")


def test_a_name_that_is_taken_is_refused_and_keeps_what_it_had() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("one", 1)
    with pytest.raises(DcacheError, match="a number named 'one' is registered already: choose another name"):
        registry.register("one", 1)
    assert registry.get("one") == 1


def test_modules_by_name_are_imported_when_they_are_asked_for() -> None:
    registry = Registry("part", modules("json", "decoder", "missing"))
    assert registry.get("decoder") is json.decoder
    with pytest.raises(ModuleNotFoundError, match=r"json\.missing"):
        registry.get("missing")
    assert "json.missing" not in sys.modules
