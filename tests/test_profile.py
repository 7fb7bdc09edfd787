"""`Profile`: what its tables say, files that come back as they were, and what is refused."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.profile import Latencies, Profile, Tables
from dcache.profile.file import FORMAT

STEPS = 4


def tables(seed: int, steps: int = STEPS) -> tuple[Tables, np.ndarray]:
    """Tables of random features, by their definition, and the features."""
    z = np.random.default_rng(seed).normal(size=(steps, 30))
    distance = np.array([[np.abs(a - b).mean() for b in z] for a in z])
    return Tables(z @ z.T / 30, distance, np.abs(z).mean(axis=1)), z


def profile(**more: Any) -> Profile:
    """One with everything in it."""
    sites = {
        "trunk": {q: {"value": tables(i)[0], "delta": tables(i + 5)[0]} for i, q in enumerate(("0", "1"))},
        "attn:0": {"0": {"value": tables(20)[0]}},
        "mlp.context:3": {"0": {"value": tables(21)[0]}},
    }
    known = {
        "latencies": Latencies(
            1.5, {"trunk": 0.25}, {"trunk": 0.01}, {"trunk": 1e9}, {"trunk": 0.02}, 2, 0.03
        ),
        "prompts": 3,
        "sketch": 0.1,
        "ratios": np.array([1.0, 0.9, 0.8, 0.7]),
        "changes": np.array([[0.1, 0.2], [0.3, 0.4]]),
        "importance": np.array([[np.nan, 0.1, 0.2, 0.3]]),
        "important": ("trunk",),
        "attention": {"block:0": 0.5},
        "model": "Toy",
        "config": "abc",
        "component": "transformer",
        "sampler": "Euler",
        "resolution": (64, 32),
        "guidance": 3.0,
        "sigmas": (1.0, 0.7, 0.4, 0.2, 0.0),
        "made": {"by": "hand", "machine": {"cores": 2}},
    }
    return Profile(STEPS, sites, **(known | more))


def flat(one: Profile) -> dict[str, Any]:
    """Everything in it, comparable."""
    found = {k: v for k, v in vars(one).items() if k not in ("sites", "ratios", "changes", "importance")}
    arrays = {
        f"{s}/{q}/{f}": vars(t) for s, qs in one.sites.items() for q, fs in qs.items() for f, t in fs.items()
    }
    found |= {f"{k}.{n}": a.tolist() for k, t in arrays.items() for n, a in t.items()}
    loose = {"ratios": one.ratios, "changes": one.changes, "importance": one.importance}
    return found | {k: None if v is None else np.nan_to_num(v, nan=-1).tolist() for k, v in loose.items()}


def test_what_the_tables_say_is_what_the_features_do() -> None:
    made, z = tables(0)
    for a in range(STEPS):
        for t in range(STEPS):
            assert made.squared[a, t] == pytest.approx(((z[a] - z[t]) ** 2).mean(), abs=1e-12)
            assert made.relative[a, t] == pytest.approx(np.abs(z[a] - z[t]).mean() / np.abs(z[t]).mean())
            cosine = z[a] @ z[t] / np.linalg.norm(z[a]) / np.linalg.norm(z[t])
            assert made.cosine[a, t] == pytest.approx(cosine)
    nothing = Tables(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros(2))
    assert np.isfinite(nothing.relative).all()
    assert np.isfinite(nothing.cosine).all()


def test_a_site_is_the_mean_of_its_branches_in_its_usual_frame() -> None:
    one = profile()
    expected = (tables(5)[0].gram + tables(6)[0].gram) / 2
    np.testing.assert_allclose(one.tables("trunk").gram, expected)
    np.testing.assert_allclose(one.tables("trunk", "value").size, (tables(0)[0].size + tables(1)[0].size) / 2)
    np.testing.assert_array_equal(one.tables("attn:0").gram, tables(20)[0].gram)
    assert (one.whole, one.of_kind("attn", "mlp")) == ("trunk", ("attn:0", "mlp.context:3"))
    with pytest.raises(DcacheError, match=r"no site 'block:1': it has trunk, .* --sites block:1"):
        one.tables("block:1")
    with pytest.raises(DcacheError, match="no 'delta' of site 'attn:0'"):
        one.tables("attn:0", "delta")
    with pytest.raises(DcacheError, match="neither trunk, bracket:0 nor model"):
        replace(one, sites={"attn:0": one.sites["attn:0"]}, importance=None, important=()).whole  # noqa: B018


@pytest.mark.parametrize("less", [{}, {"latencies": None, "ratios": None, "changes": None}])
def test_a_file_comes_back_as_it_was(tmp_path: Path, less: dict[str, Any]) -> None:
    one = profile(**less)
    path = one.save(tmp_path / "p.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["p.safetensors"]
    assert flat(Profile.load(path)) == flat(one)


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
    assert (both.prompts, len(both.changes)) == (4, 4)
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
            r"tables of value of 'trunk' .* are \(\(3, 3\)",
        ),
        ({"sites": spoiled(float("nan"))}, "'trunk' on branch '0' hold NaN or infinity"),
        ({"sites": spoiled(float("inf"))}, "'trunk' on branch '0' hold NaN or infinity"),
        ({"ratios": np.ones(3)}, r"\(3,\) ratios, expected \(4,\)"),
        ({"ratios": np.array([1, np.nan, 1, 1])}, "ratios are not all finite"),
        ({"changes": np.ones((3, 3))}, r"expected \(N, 2\)"),
        ({"importance": np.ones((2, 4))}, r"importance is \(2, 4\), expected \(1, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DcacheError, match=message):
        replace(profile(), **wrong)


def test_files_that_are_no_profiles_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(DcacheError, match="cannot read the profile"):
        Profile.load(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("{}")
    with pytest.raises(DcacheError, match="cannot read the profile"):
        Profile.load(tmp_path / "text")
    save_file({"a": np.ones(2)}, tmp_path / "weights")
    with pytest.raises(DcacheError, match="this is no profile"):
        Profile.load(tmp_path / "weights")
    for header, message in (
        (json.dumps({"version": 99}), "version 99"),
        ("[]", "damaged"),
        ("{", "cannot read"),
    ):
        save_file({"a": np.ones(2)}, tmp_path / "odd", {FORMAT: header})
        with pytest.raises(DcacheError, match=message):
            Profile.load(tmp_path / "odd")
    with pytest.raises(DcacheError, match="cannot write"):
        profile().save(tmp_path / "no" / "folder")


def test_a_damaged_file_is_read_as_it_says_or_refused(tmp_path: Path) -> None:
    whole = profile().save(tmp_path / "whole").read_bytes()
    rng, refused = random.Random(0), 0
    for i in range(400):
        content = bytearray(whole)
        if i % 4 == 0:
            content = content[: rng.randrange(len(content))]
        else:
            # Most of the flips in the header, where the meaning is.
            for _ in range(rng.randrange(1, 6)):
                content[rng.randrange(len(content) if i % 2 else 3000)] = rng.randrange(256)
        path = tmp_path / "damaged"
        path.write_bytes(content)
        try:
            found = Profile.load(path)
        except DcacheError:
            refused += 1
        else:
            # A flip in a text or a digit may go unseen; what comes back is usable.
            assert found.whole in found.sites
            assert np.isfinite(found.tables(found.whole, "value").relative).all()
    assert refused > 200
