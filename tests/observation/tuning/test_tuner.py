"""The first call is the uncached one to the bit, later ones follow a plan; another kind begins anew."""

import copy
import threading
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning
from tests.families import FAMILIES
from tests.pipelines import SHAPES, Shape

PIXART, FLUX = SHAPES["pixart"], SHAPES["flux"]
pytestmark = pytest.mark.filterwarnings("ignore:.* computes this call of:dcache.DcacheWarning")


@pytest.fixture(autouse=True)
def folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder for each test."""
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path))


def called(shape: Shape, pipe: Any, **over: Any) -> tuple[torch.Tensor, list[str]]:
    """The latents of a call, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DcacheWarning)
        latents = shape.run(pipe, **over)
    return latents, [str(w.message) for w in caught if issubclass(w.category, DcacheWarning)]


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_first_call_is_uncached_and_the_second_planned(name: str) -> None:
    shape = SHAPES[name]
    plain = shape.run(shape.build())
    pipe = dcache.enable(shape.build(), speedup=2.0)
    first, said = called(shape, pipe)
    assert torch.equal(first, plain)
    assert any("observes it; calls like it" in text for text in said)
    assert all("nothing was predicted" not in text for text in said)
    stats = dcache.stats(pipe)
    assert stats.predicted == 0
    assert set(stats.reasons) == {"observing"}
    assert stats.plan.startswith("observing (")
    second, said = called(shape, pipe)
    assert not said
    stats = dcache.stats(pipe)
    assert stats.predicted > 0
    assert stats.plan.startswith("planned from one observed call: ")
    assert "x by FLOPs" in stats.plan
    assert "plan  " in str(stats)
    assert 0 < float((second - plain).norm() / plain.norm()) < 0.5
    # The trace replays to the same bits (L3).
    schedule = dcache.trace(pipe)
    replayed = dcache.enable(shape.build(), schedule)
    assert torch.equal(shape.run(replayed), second)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_is_planned_from_its_first_call(name: str) -> None:
    shape = FAMILIES[name]
    plain = shape.run(shape.build())
    pipe = dcache.enable(shape.build(), speedup=1.6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DcacheWarning)
        assert torch.equal(shape.run(pipe), plain)
        shape.run(pipe)
    stats = dcache.stats(pipe)
    assert stats.predicted > 0
    assert stats.plan.startswith("planned")


def test_the_halves_of_a_guided_batch_have_lines_of_their_own() -> None:
    pipe = dcache.enable(PIXART.build(), speedup=1.6)
    for _ in range(2):
        PIXART.run(pipe)
    plan = dcache.trace(pipe).components["transformer"]
    assert (plan.predictor, plan.parameters, plan.clock) == ("guided_line", {"difference": 0.25}, "step")
    assert plan.rows["*"]["trunk"][:2] == (True, True)


def test_other_steps_guidance_and_sizes_are_observed_anew_and_known_afterwards() -> None:
    pipe = dcache.enable(PIXART.build(), speedup=2.0)
    PIXART.run(pipe)
    for other in ({"num_inference_steps": 9}, {"guidance_scale": 5.0}, {"height": 16, "width": 16}):
        plain = PIXART.run(PIXART.build(), **other)
        first, said = called(PIXART, pipe, **other)
        assert torch.equal(first, plain), other
        assert any("computes this call" in text for text in said), other
        PIXART.run(pipe, **other)
        assert dcache.stats(pipe).predicted > 0, other
    PIXART.run(pipe)
    assert dcache.stats(pipe).predicted > 0


def test_changed_weights_are_observed_anew_and_said() -> None:
    pipe = dcache.enable(PIXART.build(), speedup=2.0)
    PIXART.run(pipe)
    with torch.no_grad():
        for parameter in pipe.transformer.parameters():
            parameter.mul_(1.1)
    _, said = called(PIXART, pipe)
    assert any("weights of PixArtTransformer2DModel changed" in text for text in said)
    assert dcache.stats(pipe).predicted == 0
    PIXART.run(pipe)
    assert dcache.stats(pipe).predicted > 0


def test_another_process_finds_the_plan_in_the_folder_and_off_keeps_none(monkeypatch: Any) -> None:
    PIXART.run(dcache.enable(PIXART.build(), speedup=2.0))
    # Another model object with the same weights, as in another process; another speedup of the same run.
    other = dcache.enable(PIXART.build(), speedup=3.0)
    PIXART.run(other)
    assert dcache.stats(other).plan.startswith("planned")
    monkeypatch.setenv("DCACHE_HOME", "off")
    third = dcache.enable(PIXART.build(), speedup=2.0)
    PIXART.run(third)
    assert dcache.stats(third).plan.startswith("observing")


def test_a_model_remembers_without_a_folder_when_caching_was_taken_off(monkeypatch: Any) -> None:
    monkeypatch.setenv("DCACHE_HOME", "off")
    pipe = PIXART.build()
    for expected in (0, 8):
        with dcache.enabled(pipe, "tuned", speedup=2.0):
            PIXART.run(pipe)
            assert (dcache.stats(pipe).predicted > 0) == bool(expected)


def test_a_damaged_file_is_observed_anew(tmp_path: Any) -> None:
    PIXART.run(dcache.enable(PIXART.build(), speedup=2.0))
    (path,) = (tmp_path / "tuned").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    pipe = dcache.enable(PIXART.build(), speedup=2.0)
    PIXART.run(pipe)
    assert dcache.stats(pipe).plan.startswith("observing")


def test_both_denoisers_of_a_run_have_plans_of_their_own() -> None:
    shape = FAMILIES["wan22"]
    plain = shape.run(shape.build())
    pipe = dcache.enable(shape.build(), speedup=1.5)
    assert torch.equal(shape.run(pipe), plain)
    shape.run(pipe)
    stats = dcache.stats(pipe)
    assert set(stats.components) == {"transformer", "transformer_2"}
    for name, part in stats.components.items():
        assert part.plan.startswith("planned"), name
        assert part.predicted > 0, name


def test_quality_takes_more_computes_where_more_is_asked_and_is_refused_under_guidance() -> None:
    computed = []
    for quality in (20.0, 90.0):
        pipe = dcache.enable(PIXART.build(), quality=quality)
        for _ in range(2):
            PIXART.run(pipe, guidance_scale=1.0)
        computed.append(dcache.stats(pipe).computed)
    assert computed[0] < computed[1]
    pipe = dcache.enable(PIXART.build(), quality=40.0)
    _, said = called(PIXART, pipe)
    assert any("Give speedup= instead" in text for text in said)
    with pytest.raises(DcacheError, match=r"do not rank plans under guidance\. Give speedup= instead"):
        PIXART.run(pipe)


def test_what_does_not_go_with_plans_is_refused() -> None:
    pipe = PIXART.build()
    with pytest.raises(DcacheError, match="leave max_cache_bytes= and lowering= out"):
        dcache.enable(pipe, "tuned", max_cache_bytes="1MB")
    dcache.enable(pipe, "tuned", sites=["attn", "mlp"])
    with pytest.raises(DcacheError, match="plans one site, and several were chosen: use sites='auto'"):
        PIXART.run(pipe)


def test_a_speedup_out_of_reach_is_said() -> None:
    pipe = dcache.enable(PIXART.build(), speedup=100.0)
    _, said = called(PIXART, pipe)
    assert any("a speedup of 100 cannot be reached: " in text for text in said)
    PIXART.run(pipe)
    assert dcache.stats(pipe).computed == 1


def test_an_interrupted_run_is_no_plan() -> None:
    pipe = dcache.enable(PIXART.build(), speedup=2.0)

    def stop(i: int, *_: Any) -> None:
        if i == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PIXART.run(pipe, callback=stop, callback_steps=1)
    PIXART.run(pipe)
    assert dcache.stats(pipe).plan.startswith("observing (")
    PIXART.run(pipe)
    assert dcache.stats(pipe).predicted > 0


def test_a_hand_written_loop_that_says_its_length_is_planned() -> None:
    from tests.engine.tiny_models import flux_loop, flux_model

    model = flux_model()
    plain = flux_loop(model)
    dcache.enable(model, speedup=1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DcacheWarning)
        assert torch.equal(flux_loop(model), plain)
        for _ in range(3):
            flux_loop(model)
    assert dcache.stats(model).predicted > 0


def test_compiled_blocks_are_observed_and_planned_without_counting() -> None:
    plain = PIXART.run(PIXART.build())
    pipe = dcache.enable(PIXART.build(), speedup=2.0, compile={"backend": "eager"})
    assert torch.equal(PIXART.run(pipe), plain)
    PIXART.run(pipe)
    stats = dcache.stats(pipe)
    assert stats.predicted > 0
    assert "by FLOPs, which were not counted" in stats.plan


def test_model_offload_is_observed_and_planned() -> None:
    from tests.engine.test_offload import offload

    plain = FLUX.run(FLUX.build())
    pipe = FLUX.build()
    offload(pipe)
    pipe.maybe_free_model_hooks()
    dcache.enable(pipe, speedup=2.0)
    assert torch.equal(FLUX.run(pipe), plain)
    FLUX.run(pipe)
    assert dcache.stats(pipe).predicted > 0


def test_two_pipelines_with_one_denoiser_follow_their_own_plans_in_two_threads() -> None:
    first = PIXART.build()
    second = PIXART.build(model=first.transformer)
    for pipe in (first, second):
        dcache.enable(pipe, speedup=2.0)
    alone = {}
    for pipe, steps in ((first, 7), (second, 9)):
        PIXART.run(pipe, num_inference_steps=steps)
        alone[steps] = PIXART.run(pipe, num_inference_steps=steps)
    turns, latents = threading.Barrier(2, timeout=60), {}

    def run(pipe: Any, steps: int) -> None:
        def wait(i: int, *_: Any) -> None:
            if i < 6:
                turns.wait()

        given = {"num_inference_steps": steps, "callback": wait, "callback_steps": 1}
        latents[steps] = PIXART.run(pipe, **given)

    threads = [threading.Thread(target=run, args=pair) for pair in ((first, 7), (second, 9))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(latents[7], alone[7])
    assert torch.equal(latents[9], alone[9])


def test_nothing_stays_on_the_pipeline() -> None:
    pipe = PIXART.build()
    hooks = {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in parts(pipe)}
    dcache.enable(pipe, speedup=2.0)
    dcache.disable(pipe)
    assert {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in parts(pipe)} == hooks
    dcache.enable(pipe, speedup=2.0)
    PIXART.run(pipe)
    dcache.disable(pipe)
    assert {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in parts(pipe)} == hooks
    assert copy.deepcopy(pipe.transformer) is not None


def parts(pipe: Any) -> list[tuple[str, nn.Module]]:
    """Every module of a pipeline, by name."""
    components = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return [(f"{c}.{name}", m) for c, part in components.items() for name, m in part.named_modules()]
