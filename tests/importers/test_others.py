"""SmoothCache, BAC, MagCache, TeaCache; telling formats apart; options; files that cannot be read."""

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

import dcache
from dcache.errors import DcacheError
from dcache.importers import FORMATS, Imported, detect, read
from dcache.importers.magcache import nearest
from dcache.methods import magcache, teacache
from tests.importers.published import bac, ecad, smoothcache

FLUX_TEACACHE = [498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861]


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(content: Any, name: str = "a.json") -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def rows_of(found: Imported) -> dict[str, str]:
    assert found.schedule is not None
    rows = found.schedule.components[""].rows["*"]
    return {site: "".join("01"[computed] for computed in row) for site, row in rows.items()}


def test_smoothcache_rows_of_kinds_are_every_blocks(file: Any) -> None:
    path = file({"attn1": [1, 0, 0, 1], "attn2": [1, 1, 0, 0], "ff": [0, 0, 1, 0]})
    found = read(path, blocks=2)
    assert found.format == "smoothcache"
    assert rows_of(found) == {
        "attn:0": "1001", "attn:1": "1001", "cross_attn:0": "1100", "cross_attn:1": "1100",
        "mlp:0": "1010", "mlp:1": "1010",
    }  # fmt: skip
    assert "2 of 6 sites are not computed in the file's first evaluation" in found.notes[0]
    with pytest.raises(DcacheError, match="give --blocks"):
        read(path)


def test_smoothcache_rows_of_blocks_are_theirs(file: Any) -> None:
    path = file({"attn-0": [1, 0, 1], "mlp-0": [1, 1, 1], "attn-11": [1, 1, 0]})
    assert rows_of(read(path)) == {"attn:0": "101", "mlp:0": "111", "attn:11": "110"}
    with pytest.raises(DcacheError, match="leave --blocks out"):
        read(path, blocks=12)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"attn1": [1, 0], "ff": [1]}, "equally long"),
        ({"attn1": [], "ff": []}, "equally long"),
        ({"attn1": "10", "ff": "10"}, "equally long"),
        ({"attn1": [1, 2]}, "list of 0 and 1"),
        ({"attn1": [1, None]}, "list of 0 and 1"),
        ({"attn1": [1, 0], "attn": [1, 0]}, "two rows are for attn:0"),
        ({"attn1": [1, 0], "mlp-3": [1, 0]}, "for one block and some for all"),
        ({"proj": [1, 0]}, "not SmoothCache's format"),
        ({}, "not SmoothCache's format"),
        ([1, 0], "not SmoothCache's format"),
    ],
)
def test_smoothcache_that_makes_no_sense_is_refused(content: Any, says: str, file: Any) -> None:
    with pytest.raises(DcacheError, match=says):
        read(file(content), "smoothcache", blocks=2)


def test_bac_lists_are_rows(file: Any) -> None:
    lists = {
        "decoder.layers.0.dropout1": [0, 3],
        "decoder.layers.0.dropout2": [2],
        "decoder.layers.0.dropout3": [4, 0],
        "decoder.layers.3_ff_block": [0],
        "decoder.layers.0.linear1": [0, 1],
    }
    found = read(file(lists), steps=5)
    assert found.format == "bac"
    assert rows_of(found) == {"attn:0": "10010", "cross_attn:0": "10100", "mlp:0": "10001", "mlp:3": "10000"}
    assert found.notes[0] == "not cached by BAC, so left out: decoder.layers.0.linear1"
    rdt = {"blocks.2.attn": [0, 1], "blocks.2.cross_attn": [0, 2], "blocks.2.ffn": [0]}
    assert rows_of(read(file(rdt), steps=3)) == {"attn:2": "110", "cross_attn:2": "101", "mlp:2": "100"}
    with pytest.raises(DcacheError, match="give --steps"):
        read(file(rdt))


def test_bac_reads_a_folder_of_lists(tmp_path: Path) -> None:
    for site, text, ending in (
        ("decoder.layers.0.dropout1", "[0, 2]", "json"),
        ("decoder.layers.1.dropout3", "0 1\n3", "txt"),
    ):
        folder = tmp_path / "cosine" / site
        folder.mkdir(parents=True)
        (folder / f"optimal_steps_{site}_2_cosine.{ending}").write_text(text)
    assert rows_of(read(tmp_path, steps=4)) == {"attn:0": "1010", "mlp:1": "1101"}
    (folder / "optimal_steps_decoder.layers.1.dropout3_8_cosine.json").write_text("[0]")
    with pytest.raises(DcacheError, match=r"several schedules .2 steps by cosine, 8 steps by cosine"):
        read(tmp_path, steps=4)


def test_bac_pickles_are_refused_with_a_way_out(tmp_path: Path) -> None:
    pickled = tmp_path / "optimal_steps_decoder.layers.0.dropout1_5_cosine.pkl"
    pickled.write_bytes(pickle.dumps([0, 3]))
    with pytest.raises(DcacheError, match=r"json\.dump"):
        read(pickled, steps=5)
    with pytest.raises(DcacheError, match=r"only pickles.* json\.dump"):
        read(tmp_path, steps=5)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"decoder.layers.0.dropout1": [0, 5]}, "from 0 to 4"),
        ({"decoder.layers.0.dropout1": [-1]}, "from 0 to 4"),
        ({"decoder.layers.0.dropout1": []}, "from 0 to 4"),
        ({"decoder.layers.0.dropout1": [True]}, "from 0 to 4"),
        ({"decoder.layers.0.dropout1": "0"}, "from 0 to 4"),
        ({"decoder.layers.0.dropout1": [0], "decoder.layers.0_sa_block": [0]}, "two lists are for attn:0"),
        ({"decoder.layers.99999.dropout1": [0]}, "numbered up to"),
        ({"dropout1": [0]}, "not BAC's format"),
    ],
)
def test_bac_that_makes_no_sense_is_refused(content: Any, says: str, file: Any) -> None:
    with pytest.raises(DcacheError, match=says):
        read(file(content), "bac", steps=5)


@pytest.mark.parametrize(
    ("given", "options", "expected"),
    [
        ([1.0, 0.9, 1.1], {}, [1.0, 0.9, 1.1]),
        ([0.9, 1.1], {}, [1.0, 0.9, 1.1]),
        ([1.0, 1.0, 0.8, 1.0, 1.2, 1.0], {"interleaved": True}, [1.0, 0.9, 1.1]),
        ([0.8, 1.0, 1.2, 1.0], {"interleaved": True}, [1.0, 0.9, 1.1]),
        # The mean of the first pair is 1, and yet it is of the second evaluation.
        ([0.75, 1.25, 1.5, 0.5], {"interleaved": True}, [1.0, 1.0, 1.0]),
        ([1.0, 1.0, 0.8], {"interleaved": False}, [1.0, 1.0, 0.8]),
        ([1.0, 0.9, 1.1], {"steps": 5}, [1.0, 1.0, 0.9, 1.1, 1.1]),
        ([1.0, 0.9, 1.1, 0.7], {"steps": 2}, [1.0, 0.7]),
    ],
)
def test_magcache_ratios(given: Any, options: Any, expected: Any, file: Any) -> None:
    for content, source in ((given, "magcache"), ({"mag_ratios": given}, None)):
        found = read(file(content), source, **options)
        assert found.format == "magcache"
        assert found.schedule is None
        assert found.coefficients["magcache"]["ratios"] == pytest.approx(expected)


def test_nearest_keeps_the_ends() -> None:
    assert nearest([1.0, 2.0, 3.0], 3) == [1.0, 2.0, 3.0]
    assert nearest([1.0, 2.0, 3.0, 4.0], 7) == [1.0, 1.0, 2.0, 3.0, 3.0, 3.0, 4.0]
    assert nearest([1.0, 2.0], 1) == [2.0]


def test_coefficients_are_what_the_presets_read(file: Any) -> None:
    found = read(file(FLUX_TEACACHE), "teacache")
    assert found.format == "teacache"
    numbers = file({"format": "dcache.coefficients", **found.coefficients}, "out.json")
    assert teacache(coefficients=numbers) == teacache(coefficients="flux")
    ratios = read(file([1.0, 0.9, 1.1, 0.8]), "magcache").coefficients
    assert magcache(ratios=file(ratios, "m.json")).rule == magcache(ratios=[1.0, 0.9, 1.1, 0.8]).rule


@pytest.mark.parametrize(
    ("content", "source", "says"),
    [
        ([1.0, 2.0], "teacache", "expected 5 coefficients"),
        ([1.0, 2.0, 3.0, 4.0, "5"], "teacache", "not TeaCache's format"),
        ([1.0, True], "magcache", "not MagCache's format"),
        ("[1.0, NaN, 1.0]", "magcache", "not MagCache's format"),
        ("[1.0, 1e999, 1.0]", "magcache", "not MagCache's format"),
        ([1.0, 10**400], "magcache", "not MagCache's format"),
        ([1.0, -0.5], "magcache", "above 0"),
        ([1.0], "magcache", "at least two"),
        ([1.0, 1.0, 0.9], "magcache", "--interleaved"),
        ({"ratios": [1.0, 0.9], "mag_ratios": [1.0, 0.9]}, "magcache", "not MagCache's format"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    content: Any, source: str | None, says: str, file: Any
) -> None:
    with pytest.raises(DcacheError, match=says):
        read(file(content), source)


def test_an_odd_number_of_ratios_does_not_alternate(file: Any) -> None:
    with pytest.raises(DcacheError, match="needs an even number of ratios"):
        read(file([1.0, 0.9, 1.1]), "magcache", interleaved=True)


def test_each_format_is_told_from_its_content() -> None:
    draw = random.Random(0)
    examples = {
        "ecad": ecad(draw, 3, 2),
        "smoothcache": smoothcache(draw, 4),
        "bac": bac(draw, 9, 2),
        "teacache": {"coefficients": FLUX_TEACACHE},
        "magcache": {"ratios": [0.9] * 27},
        "cache-dit": {"cache_config": {"steps_computation_mask": [1, 0]}},
        "diffusers": {"_class_name": "MagCacheConfig", "mag_ratios": [3.0, 1.0], "num_inference_steps": 2},
        "sglang": {"schema": "sglang-dpcache-schedule-v2"},
    }
    assert {detect(content) for content in examples.values()} == set(examples)
    assert all(detect(content) == name for name, content in examples.items())
    assert {*examples, "l2c", "harmonica"} == set(FORMATS)
    # A list without a name is not guessed at, however much its numbers look like MagCache's ratios.
    for numbers in ([0.9] * 27, FLUX_TEACACHE, [3, 1, 2], [0.1, 0.05, 0.01], [999.0, 750.5, 500.0]):
        with pytest.raises(DcacheError, match=r"without a name: .* --from magcache .* --from teacache"):
            detect(numbers)
    for other in ({"steps": 3}, {"mag_ratios": [0.0]}, {"coefficients": [1.0]}, ["a"], []):
        with pytest.raises(DcacheError, match=r"none of the formats bac, ecad.* say so with --from"):
            detect(other)
    assert detect({"mag_ratios": [3, 1, 2]}) == "magcache"
    assert detect({"coefficients": [5, 4, 3, 2, 1]}) == "teacache"


def test_dcaches_own_files_are_recognised(tmp_path: Path) -> None:
    path = dcache.Schedule.of_steps([0], 3).save(tmp_path / "a.json")
    with pytest.raises(DcacheError, match=r"a dcache\.schedule file of dcache"):
        read(path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"blocks": 3}, "teacache has no use for blocks: it takes no options"),
        ({"stepps": 3}, "got stepps"),
        ({"steps": 0}, "teacache has no use for steps"),
    ],
)
def test_options_of_no_use_are_refused(options: Any, says: str, file: Any) -> None:
    with pytest.raises(DcacheError, match=says):
        read(file(FLUX_TEACACHE), "teacache", **options)


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 10**9}, {"steps": True}, {"steps": 2.0}])
def test_options_out_of_range_are_refused(options: Any, file: Any) -> None:
    with pytest.raises(DcacheError, match="steps must be a whole number"):
        read(file({"blocks.0.attn": [0]}), **options)


@pytest.mark.parametrize("name", ["nowhere.json", "a\0b.json", "nowhere.pt", "."])
def test_what_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DcacheError, match=r"cannot|has no file"):
        read(f"{tmp_path}/{name}")
    with pytest.raises(DcacheError, match="format 'gif' is unknown"):
        read(tmp_path, "gif")


def test_a_key_twice_is_refused(file: Any) -> None:
    with pytest.raises(DcacheError, match="the same key twice"):
        read(file('{"attn1": [1, 0], "attn1": [1, 1]}'), blocks=2)
