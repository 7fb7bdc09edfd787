"""Two processes that share the tokens of one denoiser draw what one draws, on gloo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dcache
from dcache import methods
from tests.engine.ranks import TIMEOUT, draw, launched, result, together
from tests.pipelines import SHAPES

# Thresholds between which these models' changes lie.
DYNAMIC = {"flux": "fbcache:threshold=0.3", "wan": "fbcache:threshold=0.1"}
OTHERS = ("teacache", "easycache", "sublayers", "model")


def compare(folder: Path, shape: str, names: tuple[str, ...]) -> None:
    parts = together(folder, "draw", shape, *names)
    for name in names:
        one = draw(shape, name, split=False)
        assert one["predicted"] > 0
        assert one["computed"] > (2 if shape == "wan" else 1)
        for part in parts:
            both = part[name]
            # Places, counts and reasons: ranks decide alike, and as one process does.
            assert {k: both[k] for k in ("trace", "computed", "predicted", "reasons", "method")} == {
                k: one[k] for k in ("trace", "computed", "predicted", "reasons", "method")
            }
            torch.testing.assert_close(both["latents"], one["latents"], rtol=1e-5, atol=2e-6)
        assert torch.equal(parts[0][name]["latents"], parts[1][name]["latents"])


def test_a_dynamic_rule_decides_alike_where_the_first_block_splits_the_tokens(tmp_path: Path) -> None:
    compare(tmp_path, "wan", (DYNAMIC["wan"],))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("shape", ["flux", "wan"])
def test_two_processes_draw_what_one_draws(shape: str, tmp_path: Path) -> None:
    pipe = dcache.enable(SHAPES[shape].build(), methods.newton(interval=3, order=1, warmup=2))
    SHAPES[shape].run(pipe)
    schedule = str(dcache.trace(pipe).save(tmp_path / "places.schedule.json"))
    compare(tmp_path, shape, ("interval", "newton", DYNAMIC[shape], schedule))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("shape", ["flux", "wan"])
def test_other_probes_and_sites_agree_too(shape: str, tmp_path: Path) -> None:
    compare(tmp_path, shape, OTHERS)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["flux", "wan"])
def test_parallelism_that_comes_later_is_noticed_and_nothing_is_left(shape: str, tmp_path: Path) -> None:
    for part in together(tmp_path, "late", shape):
        torch.testing.assert_close(part["both"], part["one"], rtol=1e-5, atol=2e-6)
        assert part["left"] == []
        assert part["hooks"]
        ranks = part["stats"].ranks
        assert len(ranks) == 2
        assert part["stats"].predicted == ranks[0].predicted == ranks[1].predicted > 0
        assert part["stats"].bytes_held == ranks[0].bytes_held + ranks[1].bytes_held > 0


@pytest.mark.slow
def test_what_was_observed_by_all_is_planned_alike(tmp_path: Path) -> None:
    parts = together(tmp_path, "tuned", "wan")
    assert parts[0]["trace"] == parts[1]["trace"]
    assert parts[0]["predicted"] > 0
    for first, second in zip(parts[0]["runs"], parts[1]["runs"], strict=True):
        assert torch.equal(first, second)


@pytest.mark.slow
def test_what_has_no_room_in_one_process_is_given_up_in_all(tmp_path: Path) -> None:
    wide, narrow = together(tmp_path, "limited", "newton")
    assert {k: wide[k] for k in ("trace", "method", "predicted")} == {
        k: narrow[k] for k in ("trace", "method", "predicted")
    }
    for first, second in zip(wide["latents"], narrow["latents"], strict=True):
        assert torch.equal(first, second)
    assert narrow["share"] <= 0.7
    assert wide["predicted"] > 0


@pytest.mark.slow
def test_a_process_that_dies_is_an_error_in_the_others(tmp_path: Path) -> None:
    waiting, dying = launched(tmp_path, "dies")
    try:
        dying.join(timeout=200)
        assert dying.exitcode == 3
        # Twice: one collective may have been half-way when the process died.
        waiting.join(timeout=2 * TIMEOUT)
        assert waiting.exitcode == 0
    finally:
        waiting.kill()
        dying.kill()
    assert result(tmp_path, 0)["error"]


@pytest.mark.slow
def test_the_plan_of_ring_attention_is_followed_too(tmp_path: Path) -> None:
    for part in together(tmp_path, "ring"):
        for runs in part.values():
            (one, *counts), (both, *others) = runs["one"], runs["split"]
            assert counts == others
            assert min(counts) > 1
            torch.testing.assert_close(both, one, rtol=1e-5, atol=2e-6)
