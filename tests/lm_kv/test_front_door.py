"""The public names of lm_kv, pinned."""

import inspect
import subprocess
import sys

import pytest

from dcache import lm_kv

POLICIES = {
    "a2ats",
    "actqkv",
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
    "leoam",
    "look_m",
    "loopserve",
    "matryoshka",
    "mikv",
    "minicache",
    "mpcache",
    "prefixkv",
    "quest",
    "random",
    "razor_attention",
    "rekv",
    "retrieval_attention",
    "rotatekv",
    "scissorhands",
    "sentencekv",
    "shadowkv",
    "snapkv",
    "speckv",
    "streaming_llm",
    "think",
    "tidal_decode",
    "tova",
    "vidkv",
    "windowkv",
    "xkv",
    "xquant",
    "xquant_cl",
    "zipcache",
    "zipvl",
}
REUSE = {"cache_craft", "cacheblend", "kvcomm", "pie"}
SHARING = {"ape", "hogwild", "hydragen", "prepacking", "triforce"}
TRAINED = {"trained_scorer"}
OTHERS = {
    "CacheReport", "CacheStats", "Chunk", "Joined", "KVCache", "Policy", "Reuse", "available", "cachegen",
    "edit", "encode", "episodes", "head_pattern", "join", "make", "preset",
}  # fmt: skip
KINDS = {"policy": POLICIES, "reuse": REUSE, "sharing": SHARING, "trained": TRAINED}
NAMES = set().union(*KINDS.values())


def test_the_names_are_these():
    assert set(lm_kv.__all__) == NAMES | OTHERS
    assert {kind: set(lm_kv.available(kind)) for kind in KINDS} == KINDS
    assert set(lm_kv.available()) == NAMES
    assert set(lm_kv.__all__) <= set(dir(lm_kv))


@pytest.mark.parametrize("name", sorted(NAMES | OTHERS))
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
