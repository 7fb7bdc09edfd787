"""The public names, pinned: adding or removing one is a decision, not an accident."""

import ast
import importlib
import inspect
import re
import typing
from pathlib import Path

import pytest

import dcache
from dcache import methods

FRONT_DOOR = {
    "DcacheError",
    "DcacheWarning",
    "Method",
    "Schedule",
    "Stats",
    "disable",
    "enable",
    "enabled",
    "memory_estimate",
    "methods",
    "reset",
    "stats",
    "step",
    "trace",
}
PRESETS = {
    "adaptive", "bac", "cachequant", "causal", "dbcache", "deepcache", "default", "delta_dit", "easycache",
    "ertacache", "fastercache", "fbcache", "fitted", "foca", "hicache", "interval", "magcache", "newton",
    "pab", "policy_default", "profilingdit", "seacache", "sencache", "smoothcache", "spectrum", "taylorseer",
    "teacache", "tgate", "tuned", "yume",
}  # fmt: skip
ROW_POLICIES = {
    "d2cache", "dkv", "dllm_cache", "dual", "elastic", "freecache", "frozen", "none", "prefix", "window",
}  # fmt: skip


def test_the_row_policies_are_these_names():
    assert set(methods.available("rows")) == ROW_POLICIES
    assert set(methods.ROW_POLICIES) == ROW_POLICIES
    assert methods.dkv(refresh=4).describe() == "dkv(variant='decode', refresh=4, window=4)"
    with pytest.raises(dcache.DcacheError, match="kind must be 'features' or 'rows', got 'row'"):
        methods.available("row")


def test_the_front_door_is_these_names():
    assert set(dcache.__all__) == FRONT_DOOR
    assert len(dcache.__all__) == len(FRONT_DOOR)
    assert dcache.__all__ == sorted(dcache.__all__)


def test_the_presets_are_these_names():
    assert set(methods.available()) == PRESETS
    assert set(methods.__all__) == PRESETS | {"About", "available", "find", "make", "preset", "register"}
    assert len(set(methods.__all__)) == len(methods.__all__)
    assert set(methods.__all__) <= set(dir(methods))


def test_type_checkers_see_the_presets_that_the_registry_lists():
    source = ast.parse(Path(methods.__file__).read_text(encoding="utf-8"))
    (typed,) = [node for node in source.body if isinstance(node, ast.If)]
    assert {(node.module, node.names[0].name, node.names[0].asname) for node in typed.body} == {
        *((f"dcache.methods.{name}", name, name) for name in PRESETS),
        *((f"dcache.diffusion_lm.policies.{name}", name, name) for name in ROW_POLICIES),
    }


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_the_function_even_after_its_module_was_imported(name):
    module = importlib.import_module(f"dcache.methods.{name}")
    assert getattr(methods, name) is vars(module)[name]


def test_what_is_no_preset_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'tailorseer'"):
        _ = methods.tailorseer


@pytest.mark.parametrize("name", sorted(FRONT_DOOR))
def test_every_public_name_exists_and_is_documented(name):
    assert inspect.getdoc(getattr(dcache, name))


@pytest.mark.parametrize("name", sorted(FRONT_DOOR))
def test_every_public_argument_is_annotated(name):
    thing = getattr(dcache, name)
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        assert all(p.annotation is not p.empty for p in signature.parameters.values())
        assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_exported_documented_and_in_its_own_file(name):
    preset = getattr(methods, name)
    assert preset.__name__ == name
    assert preset.__module__ == f"dcache.methods.{name}"
    assert str(methods.available()[name]) == inspect.getdoc(preset).partition("\n")[0]
    assert str(methods.available()[name]).endswith(".")
    assert typing.get_type_hints(preset)["return"] is dcache.Method


def test_one_exception_family():
    assert issubclass(dcache.DcacheError, Exception)
    assert issubclass(dcache.DcacheWarning, UserWarning)
    assert not issubclass(dcache.DcacheError, dcache.DcacheWarning)


def test_the_version_is_a_plain_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", dcache.__version__)
