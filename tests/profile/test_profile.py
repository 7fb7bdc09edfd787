"""`Profile`: what its tables say, means over runs, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.profile import Profile
from tests.hub_server import serving, use
from tests.profile.full_profile import flat, profile, tables


def test_a_site_is_the_mean_of_its_branches_in_its_usual_frame() -> None:
    one = profile()
    expected = (tables(5)[0].gram + tables(6)[0].gram) / 2
    np.testing.assert_allclose(one.tables("trunk").gram, expected)
    np.testing.assert_allclose(one.tables("trunk", "value").size, (tables(0)[0].size + tables(1)[0].size) / 2)
    np.testing.assert_array_equal(one.tables("attn:0").gram, tables(20)[0].gram)
    assert (one.whole_site, one.of_kind("attn", "mlp")) == ("trunk", ("attn:0", "mlp.context:3"))
    with pytest.raises(DcacheError, match=r"no site 'block:1': it has trunk, .* --sites block:1"):
        one.tables("block:1")
    with pytest.raises(DcacheError, match="no 'delta' of site 'attn:0'"):
        one.tables("attn:0", "delta")
    with pytest.raises(DcacheError, match="neither trunk, bracket:0 nor model"):
        replace(one, sites={"attn:0": one.sites["attn:0"]}, importance=None, important=()).whole_site  # noqa: B018


def test_profiles_of_several_runs_are_means_by_pictures() -> None:
    one, other = profile(), profile(prompts=1, sketch=0.2, ratios=np.array([1.0, 0.5, 0.4, 0.3]))
    changed = {q: {f: tables(40)[0] for f in fs} for q, fs in other.sites["trunk"].items()}
    other = replace(other, sites={**other.sites, "trunk": changed})
    both = one.merged([other])
    np.testing.assert_allclose(
        both.sites["trunk"]["1"]["delta"].distance,
        0.75 * tables(6)[0].distance + 0.25 * tables(40)[0].distance,
    )
    np.testing.assert_allclose(both.ratios, [1.0, 0.8, 0.7, 0.6])
    assert (both.prompts, len(both.input_output_changes)) == (4, 4)
    # sqrt((3/4 * 0.1)^2 + (1/4 * 0.2)^2)
    assert both.sketch == pytest.approx(0.0901388)
    assert flat(one.merged([])) == flat(one)
    for name, value in (("model", "Other"), ("guidance", 1.0), ("resolution", (8, 8)), ("sampler", "Heun")):
        with pytest.raises(DcacheError, match=f"different {name} cannot be merged"):
            one.merged([replace(other, **{name: value})])
    fewer = replace(other, sites={"attn:0": other.sites["attn:0"]})
    with pytest.raises(DcacheError, match="different sites or branches cannot be merged"):
        one.merged([fewer])


def spoiled(gram: float) -> dict[str, Any]:
    made = tables(0)[0]
    bad = made.gram.copy()
    bad[1, 2] = gram
    return {"trunk": {"0": {"value": replace(made, gram=bad)}}}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "at least 1 evaluations, got 0"),
        ({"sites": {}}, "at least one site"),
        ({"sites": {"nonsense": {"0": {"value": tables(0)[0]}}}}, "'nonsense' is no site's name"),
        ({"sites": {"trunk": {}}}, "has no branch"),
        ({"sites": {"trunk": {"0": {"other": tables(0)[0]}}}}, "expected one of value, delta"),
        (
            {"sites": {"trunk": {"0": {"value": tables(0, 3)[0]}}}},
            r"tables of value of 'trunk' .* have the shapes \(\(3, 3\)",
        ),
        ({"sites": spoiled(float("nan"))}, "'trunk' on branch '0' hold NaN or infinity"),
        ({"sites": spoiled(float("inf"))}, "'trunk' on branch '0' hold NaN or infinity"),
        ({"ratios": np.ones(3)}, r"\(3,\) ratios, expected \(4,\)"),
        ({"ratios": np.array([1, np.nan, 1, 1])}, "ratios are not all finite"),
        ({"input_output_changes": np.ones((3, 3))}, r"expected \(N, 2\)"),
        ({"importance": np.ones((2, 4))}, r"importance is \(2, 4\), expected \(1, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DcacheError, match=message):
        replace(profile(), **wrong)


def test_a_profile_goes_to_the_hub_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = profile()
    with serving() as hub:
        use(hub, tmp_path, monkeypatch)
        assert whole.push_to_hub("me/profile", token="t") == f"{hub.url}/me/profile"
        card = hub.files["me/profile"]["README.md"].decode()
        assert f"| evaluations | {whole.steps} |" in card
        assert len(card) < 1000
        assert flat(Profile.from_hub("me/profile@main")) == flat(whole)
        hub.files["me/other"] = {"a": b""}
        with pytest.raises(DcacheError, match="no profile of dcache"):
            Profile.from_hub("me/other")
