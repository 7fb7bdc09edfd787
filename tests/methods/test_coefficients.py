"""Measured numbers: given, from a file, missing, or nonsense."""

import json
import math

import pytest

from dcache import methods
from dcache.errors import DcacheError
from dcache.methods.coefficients import HOW_TO_MEASURE, entry, numbers
from dcache.methods.teacache import PUBLISHED

RATIOS = [1.0, 0.9, 0.95]
TABLE = {"attn1": [1, 0, 1], "ff": [1, 1, 0]}


@pytest.fixture
def write(tmp_path):
    def make(content, name="numbers.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return make


def test_numbers_are_the_same_from_a_list_a_tuple_and_a_file(write):
    path = write({"magcache": {"ratios": RATIOS, "note": "x"}, "teacache": {"coefficients": [1, 0]}})
    made = [methods.magcache(ratios=given) for given in (RATIOS, tuple(RATIOS), path, str(path))]
    assert all(m == made[0] for m in made)
    assert methods.teacache(coefficients=path) == methods.teacache(coefficients=(1.0, 0.0))
    assert numbers("teacache", "coefficients", path, 1) == (1.0, 0.0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_coefficients_go_by_name(name):
    method = methods.teacache(coefficients=name)
    assert method == methods.teacache(coefficients=PUBLISHED[name])
    assert method.describe() == f"teacache(threshold=0.25, coefficients={name!r})"


@pytest.mark.parametrize(
    ("preset", "option"),
    [
        *(("teacache", "coefficients"), ("magcache", "ratios")),
        *(("smoothcache", "table"), ("sencache", "sensitivities")),
    ],
)
def test_without_numbers_the_error_says_how_to_get_them(preset, option):
    with pytest.raises(DcacheError) as caught:
        methods.make(preset)
    assert f"{preset} needs {option}=" in str(caught.value)
    assert HOW_TO_MEASURE in str(caught.value)
    assert "measure_coefficients.py" in HOW_TO_MEASURE
    assert methods.available()[preset].needs


@pytest.mark.parametrize(
    ("preset", "option"),
    [
        *(("teacache", "coefficients"), ("magcache", "ratios")),
        *(("smoothcache", "table"), ("sencache", "sensitivities")),
    ],
)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read the file"),
        ("{", "is no JSON"),
        ("", "is no JSON"),
        ({}, "has no"),
        ({"other": {"ratios": RATIOS}}, "it has: other"),
        ([1, 2], "it has: list"),
        ("7", "it has: int"),
    ],
)
def test_a_file_that_does_not_have_them_is_refused_by_name(write, tmp_path, preset, option, content, says):
    path = tmp_path / "missing.json" if content is None else write(content)
    with pytest.raises(DcacheError, match=says) as caught:
        methods.make(preset, **{option: path})
    assert str(path) in str(caught.value)
    assert option in str(caught.value) or says == "is no JSON"


def test_a_file_lacks_the_entry_although_it_has_the_preset(write):
    with pytest.raises(DcacheError, match=r"no magcache\.ratios"):
        methods.magcache(ratios=write({"magcache": {"rations": RATIOS}}))
    with pytest.raises(DcacheError, match=r"no magcache\.ratios"):
        methods.magcache(ratios=write({"magcache": RATIOS}))


def test_a_folder_and_bytes_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(DcacheError, match="cannot read the file"):
        entry("magcache", "ratios", tmp_path)
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DcacheError, match="is no JSON"):
        entry("magcache", "ratios", tmp_path / "b")


@pytest.mark.parametrize(
    "given",
    [3, {"a": 1.0}, [1.0, "2"], [1.0, None], [True, 1.0], [[1.0], [2.0]], [1.0, math.nan], [1.0, math.inf]],
)
def test_numbers_are_numbers(given):
    with pytest.raises(DcacheError, match=r"ratios of magcache must be a list of (finite )?numbers"):
        methods.magcache(ratios=given)


def test_too_few_numbers_are_refused():
    with pytest.raises(DcacheError, match="at least 2 numbers, got 1"):
        methods.magcache(ratios=[1.0])
    with pytest.raises(DcacheError, match="at least 1 number, got 0"):
        methods.teacache(coefficients=())


def test_smoothcaches_table_in_all_its_spellings(write):
    ours = {"attn": TABLE["attn1"], "mlp": TABLE["ff"]}
    paths = [write(TABLE, "a"), write({"smoothcache": {"table": TABLE}}, "b")]
    made = [methods.smoothcache(table=t) for t in (TABLE, ours, *paths, str(paths[0]))]
    assert all(m == made[0] for m in made)
    assert made[0].steps == 3
    assert made[0].sites == ("attn", "mlp")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({}, "needs rows"),
        ({"attn3": [1, 0]}, "needs rows for some of attn1, attn2, ff"),
        ([1, 0], "needs rows"),
        ({"attn1": [1, 0], "ff": [1]}, "equally long"),
        ({"attn1": []}, "equally long"),
        ({"attn1": [1, 2]}, "0 and 1"),
        ({"attn1": [1, "0"]}, "0 and 1"),
        ({"attn1": [1, [0]]}, "0 and 1"),
        ({"attn1": 1}, "0 and 1"),
        ({"attn1": "101"}, "0 and 1"),
    ],
)
def test_smoothcaches_table_must_make_sense(table, says):
    with pytest.raises(DcacheError, match=says):
        methods.smoothcache(table=table)


def test_one_kind_under_two_names_is_refused():
    with pytest.raises(DcacheError, match="attn1"):
        methods.smoothcache(table={"attn1": [1, 0], "attn": [1, 1]})


@pytest.mark.parametrize(
    ("preset", "option", "names"),
    [
        ("teacache", "coefficients", "'flux', 'hunyuan-video', a list"),
        ("magcache", "ratios", "a list"),
        ("smoothcache", "table", "a list"),
    ],
)
def test_the_name_of_a_model_is_answered_with_the_lines_to_type(preset, option, names, tmp_path, monkeypatch):
    with pytest.raises(DcacheError) as caught:
        methods.make(preset, **{option: "sdxl"})
    assert str(caught.value) == (
        f"{preset} has no {option} named 'sdxl': expected {names} of numbers or a file. Measure them with "
        "`python examples/measure_coefficients.py --out FILE.json PIPE`, then call "
        f"dcache.enable(pipe, '{preset}', {option}='FILE.json')."
    )
    # A file of that name is read, and a path without a file is no name.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sdxl").write_text("{}")
    with pytest.raises(DcacheError, match=f"has no {preset}"):
        methods.make(preset, **{option: "sdxl"})
    with pytest.raises(DcacheError, match="cannot read the file"):
        methods.make(preset, **{option: "models/sdxl"})
    with pytest.raises(DcacheError, match="cannot read the file"):
        methods.make(preset, **{option: "sdxl.json"})
