"""The public names of lm_kv, pinned."""

import inspect
import subprocess
import sys

import pytest

from dcache import lm_kv

POLICIES = {
    "cake",
    "compresskv",
    "cskv",
    "d2o",
    "double_sparsity",
    "duo_attention",
    "elastic_vlm",
    "ems",
    "expected_attention",
    "gear",
    "h2o",
    "keydiff",
    "keyformer",
    "kivi",
    "kvcrush",
    "kvmerger",
    "kvzip",
    "lacache",
    "lazy_eviction",
    "look_m",
    "loopserve",
    "mikv",
    "mpcache",
    "prefixkv",
    "quest",
    "random",
    "razor_attention",
    "rotatekv",
    "scissorhands",
    "shadowkv",
    "snapkv",
    "speckv",
    "streaming_llm",
    "think",
    "tova",
    "windowkv",
    "zipcache",
}
REUSE = {"cache_craft", "cacheblend", "kvcomm", "pie"}
OTHERS = {
    "CacheReport", "CacheStats", "Chunk", "Joined", "KVCache", "Policy", "Reuse", "available", "edit",
    "encode", "head_pattern", "join", "make", "preset",
}  # fmt: skip


def test_the_names_are_these():
    assert set(lm_kv.__all__) == POLICIES | REUSE | OTHERS
    assert set(lm_kv.available("policy")) == POLICIES
    assert set(lm_kv.available("reuse")) == REUSE
    assert set(lm_kv.available()) >= POLICIES | REUSE
    assert set(lm_kv.__all__) <= set(dir(lm_kv))


@pytest.mark.parametrize("name", sorted(POLICIES | REUSE | OTHERS))
def test_every_name_exists_and_is_documented(name):
    thing = getattr(lm_kv, name)
    assert inspect.getdoc(thing)
    if inspect.isfunction(thing):
        parameters = inspect.signature(thing).parameters.values()
        assert all(parameter.annotation is not parameter.empty for parameter in parameters)


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'snapvk'"):
        _ = lm_kv.snapvk


def test_the_options_of_the_cache_are_these():
    options = inspect.signature(lm_kv.KVCache).parameters
    defaults = {name: parameter.default for name, parameter in options.items()}
    assert {name: value for name, value in defaults.items() if name not in ("model", "policy")} == {
        "budget": None, "codec": None, "allocation": None, "floor": 0.2, "dense_layers": (), "every": 0,
    }  # fmt: skip


def test_policies_are_there_without_transformers():
    script = "import sys; from dcache import lm_kv; lm_kv.snapkv(); assert 'transformers' not in sys.modules"
    assert subprocess.run([sys.executable, "-P", "-c", script], check=False).returncode == 0
