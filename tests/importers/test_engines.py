"""Schedules for other engines: the same places, lossless there and back where the format allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dcache
from dcache import DcacheError
from dcache.cli import main
from dcache.importers import cache_dit, diffusers_hooks, read, sglang
from dcache.schedule import Plan, Schedule
from tests.importers.published import request
from tests.pipelines import FLUX, STEPS, WAN, Shape

PLACES = (0, 1, 4)
ROW = tuple(t in PLACES for t in range(STEPS))


def trunk(codec: str | None = "delta", site: str = "trunk", **terms: Any) -> Schedule:
    return Schedule(STEPS, {"": Plan({"*": {site: ROW}}, codec=codec, **terms)}, method="planned")


LINE = {"predictor": "newton", "parameters": {"order": 1}, "clock": "step"}
REQUEST = request(STEPS)


def written(content: Any, folder: Path, name: str = "file.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# There and back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("taylor", [0, 2])
def test_cache_dits_file_comes_back_as_it_was(taylor: int, tmp_path: Path) -> None:
    terms: dict[str, Any] = (
        {"predictor": "taylor", "parameters": {"order": taylor}, "clock": "step"} if taylor else {}
    )
    schedule = trunk(site="run:2-4", **terms)
    exported = cache_dit.export(schedule, blocks=6)
    config = exported.content["cache_config"]
    assert (config["Fn_compute_blocks"], config["Bn_compute_blocks"]) == (2, 1)
    assert config["steps_computation_mask"] == [1, 1, 0, 0, 1, 0, 0]
    path = written(cache_dit.yaml_text(exported.content), tmp_path, "mask.yaml")
    again = read(path, blocks=6)
    assert again.schedule is not None
    assert again.schedule.digest() == schedule.digest()
    assert cache_dit.export(again.schedule, blocks=6).content == exported.content


def test_sglangs_artefact_comes_back_as_it_was(tmp_path: Path) -> None:
    schedule = trunk("value", **LINE)
    exported = sglang.export(schedule, REQUEST)
    assert exported.notes == ()
    again = read(written(exported.content, tmp_path)).schedule
    assert again is not None
    assert again.digest() == schedule.digest()
    assert (again.resolution, again.guidance) == ((32, 48), 3.0)
    # The request is kept, so that nothing else is needed for the way back.
    back = dict(sglang.export(again).content)
    for name in ("full_steps", "mandatory_full_steps", "request", "predictor", "force_last_full"):
        assert back[name] == exported.content[name]


def test_sglangs_rules_for_its_artefact_hold() -> None:
    content = sglang.export(
        trunk("value", **LINE), {"request": REQUEST, "schema": "another artefact"}
    ).content
    full, mandatory = content["full_steps"], content["mandatory_full_steps"]
    assert full == list(PLACES)
    assert mandatory == [0, 1] == full[: len(mandatory)]
    assert content["num_full_steps"] == len(full)
    assert content["force_last_full"] is False
    digest = content["calibration"]["manifest_sha256"]
    assert len(digest) == 64
    assert set(digest) <= set("0123456789abcdef")
    assert set(content["request"]) == set(sglang.REQUEST)


def test_diffusers_config_comes_back_as_it_was(tmp_path: Path) -> None:
    schedule = trunk()
    exported = diffusers_hooks.export(schedule)
    again = read(written(exported.content, tmp_path)).schedule
    assert again is not None
    assert again.digest() == schedule.digest()
    assert diffusers_hooks.export(again).content == exported.content


# What is dropped or refused -------------------------------------------------------------------------


def test_what_a_format_cannot_hold_is_said() -> None:
    assert cache_dit.export(trunk()).notes == (
        "dropped: block 0 is predicted here, and computed in every step by cache-dit",
    )
    line = trunk("value", "run:1-3", **LINE)
    assert cache_dit.export(line).notes == (
        "cache-dit's own TaylorSeer of order 1 predicts, instead of newton",
        "dropped: codec value; cache-dit stores what the blocks add",
    )
    notes = sglang.export(trunk(), REQUEST).notes
    assert [note.partition(";")[0] for note in notes] == [
        "dropped: predictor reuse of order 0 on the clock None",
        "dropped: codec delta",
    ]


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (trunk("value", **LINE), "predicts by 'newton'; its codec is 'value'"),
        (trunk(site="run:1-3"), "leaves blocks out of the run"),
        (Schedule(3, {"": Plan({"*": {"attn:0": (True,) * 3, "mlp:0": (True,) * 3}})}), "has 2 sites"),
        (Schedule(3, {"": Plan({"*": {"attn:0": (True,) * 3}})}), "this schedule's site is 'attn:0'"),
        (
            Schedule(2, {"": Plan({"0": {"trunk": (True, True)}, "1": {"trunk": (True, False)}})}),
            "guidance branches, and 0, 1 differ",
        ),
    ],
    ids=["line", "run", "sites", "sublayer", "branches"],
)
def test_diffusers_refuses_what_no_hook_does(schedule: Schedule, says: str) -> None:
    with pytest.raises(DcacheError, match=says):
        diffusers_hooks.export(schedule)


def test_engines_refuse_what_they_do_not_do() -> None:
    late = Schedule(3, {"": Plan({"*": {"trunk": (True, False, True)}})})
    with pytest.raises(DcacheError, match="computes the first two steps"):
        sglang.export(late, REQUEST)
    with pytest.raises(DcacheError, match=r"give --request FILE.*Missing: attention_backend"):
        sglang.export(trunk("value", **LINE))
    two = Schedule(1, {name: Plan({"*": {"trunk": (True,)}}) for name in ("high", "low")})
    with pytest.raises(DcacheError, match="takes one denoiser, this schedule has high, low"):
        cache_dit.export(two)
    with pytest.raises(DcacheError, match="ends with block 4, and the model has 3"):
        cache_dit.export(trunk(site="run:1-4"), blocks=3)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"steps_computation_mask": [1, 0]}, "not 'static'"),
        ({"Fn_compute_blocks": 1}, "use the preset dbcache"),
        ({"steps_computation_mask": [0, 1], "steps_computation_policy": "static"}, "nothing is cached yet"),
        ({"steps_computation_mask": [1, 2], "steps_computation_policy": "static"}, "a list of 1 and 0"),
    ],
    ids=["dynamic", "threshold", "first", "numbers"],
)
def test_a_mask_that_says_no_places_is_refused(config: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(DcacheError, match=says):
        read(written({"cache_config": config}, tmp_path), blocks=4)


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf")], ids=["large", "nan", "inf"])
@pytest.mark.parametrize("name", ["guidance_scale", "timesteps", "sigmas"])
def test_a_request_with_no_finite_number_is_refused(name: str, value: float, tmp_path: Path) -> None:
    given = REQUEST[name]
    damaged = {**REQUEST, name: [value, *given[1:]] if isinstance(given, list) else value}
    content = {**sglang.export(trunk("value", **LINE), REQUEST).content, "request": damaged}
    with pytest.raises(DcacheError, match=name):
        read(written(content, tmp_path))


def test_yaml_makes_plain_values_only(tmp_path: Path) -> None:
    evil = "cache_config: !!python/object/apply:os.system ['true']\n"
    with pytest.raises(DcacheError, match="cannot be read as YAML"):
        read(written(evil, tmp_path, "evil.yaml"))


def test_magcaches_rule_is_followed_for_any_ratios(tmp_path: Path) -> None:
    # Computed by hand: error .1 at step 2, .1 + .19 at step 3 (> .25), .1 at step 4, .29 at step 5.
    content = {
        "_class_name": "MagCacheConfig",
        "threshold": 0.25,
        "max_skip_steps": 3,
        "retention_ratio": 0.2,
        "num_inference_steps": 7,
        "mag_ratios": [1.0, 0.5, 0.9, 0.9, 0.9, 0.9, 1.0],
    }
    schedule = read(written(content, tmp_path)).schedule
    assert schedule is not None
    # Step 0 is kept (int(.2 * 7 + .5) = 1); step 1 has an error of .5.
    assert schedule.components[""].rows["*"]["trunk"] == (True, True, False, True, False, True, False)


def test_the_commands_write_and_say_what_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trunk().save(tmp_path / "a.schedule.json")
    assert main(["export", str(file), "--to", "cache-dit", "--out", str(tmp_path / "a.yaml")]) == 0
    assert "dropped: block 0" in capsys.readouterr().out
    assert main(["export", str(file), "--to", "diffusers", "--out", str(tmp_path / "d.json")]) == 0
    assert json.loads((tmp_path / "d.json").read_text())["_class_name"] == "MagCacheConfig"
    asked = written(REQUEST, tmp_path, "request.json")
    line = ["export", str(file), "--to", "sglang", "--out", str(tmp_path / "s.json")]
    assert main(line) == 2
    assert "give --request FILE" in capsys.readouterr().err
    assert main([*line, "--request", str(asked)]) == 0
    assert main([*line, "--blocks", "3"]) == 2
    assert "no use for --blocks" in capsys.readouterr().err
    back = tmp_path / "back.schedule.json"
    assert main(["import", str(tmp_path / "a.yaml"), "--blocks", "5", "--out", str(back)]) == 0
    assert Schedule.load(back).components[""].sites == ("run:1-4",)


# In the other library -------------------------------------------------------------------------------


def calls_by_step(shape: Shape, pipe: Any, block: int) -> tuple[list[int], torch.Tensor]:
    """How often that block ran in each evaluation, and the latents."""
    counts: list[int] = []
    step = pipe.scheduler.step
    ran = [0]

    def stepped(*args: Any, **kwargs: Any) -> Any:
        counts.append(ran[0])
        ran[0] = 0
        return step(*args, **kwargs)

    linears = [m for m in shape.blocks(pipe)[block].modules() if isinstance(m, torch.nn.Linear)]
    hook = linears[-1].register_forward_hook(lambda *_: ran.__setitem__(0, ran[0] + 1))
    pipe.scheduler.step = stepped
    try:
        latents = shape.run(pipe)
    finally:
        hook.remove()
        del pipe.scheduler.step
    return counts, latents


@pytest.mark.parametrize("shape", [FLUX, WAN], ids=str)
def test_diffusers_computes_the_same_places_and_draws_the_same(shape: Shape) -> None:
    from diffusers import MagCacheConfig
    from diffusers.hooks import apply_mag_cache

    schedule = trunk()
    ours = dcache.enable(shape.build(), schedule)
    expected = shape.run(ours)
    pipe = shape.build()
    config = MagCacheConfig(**diffusers_hooks.config_of(diffusers_hooks.export(schedule).content))
    apply_mag_cache(shape.denoiser(pipe), config)
    counts, latents = calls_by_step(shape, pipe, 1)
    assert [t for t, count in enumerate(counts) if count] == list(PLACES)
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("taylor", [False, True], ids=["reuse", "taylor"])
def test_cache_dit_computes_the_same_places(taylor: bool, tmp_path: Path) -> None:
    library = pytest.importorskip("cache_dit")
    terms: dict[str, Any] = (
        {"predictor": "taylor", "parameters": {"order": 1}, "clock": "step"} if taylor else {}
    )
    schedule = trunk(site="run:1-3", **terms)
    ours = dcache.enable(FLUX.build(), schedule)
    counts, expected = calls_by_step(FLUX, ours, 2)
    assert [t for t, count in enumerate(counts) if count] == list(PLACES)
    path = written(cache_dit.yaml_text(cache_dit.export(schedule, blocks=4).content), tmp_path, "a.yaml")
    pipe = FLUX.build()
    library.enable_cache(pipe, **library.load_configs(str(path)))
    counts, latents = calls_by_step(FLUX, pipe, 2)
    assert [t for t, count in enumerate(counts) if count] == list(PLACES)
    if not taylor:
        torch.testing.assert_close(latents, expected, rtol=1e-3, atol=1e-3)
