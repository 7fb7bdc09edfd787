"""The memo of a pipeline: every family, beside every kind of method, on and off."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

import dcache
from dcache import methods
from tests.families import FAMILIES
from tests.laws.product import plain
from tests.pipelines import FLUX, SHAPES, STEPS, WAN

EVERY = {**SHAPES, **FAMILIES}
METHODS = {
    "trunk": methods.interval(interval=2),
    "sublayers": methods.taylorseer(sites=["attn", "mlp"], interval=2),
    "model": methods.newton(sites="model", interval=2),
    "probe": methods.fbcache(threshold=0.3),
    "guidance": methods.fastercache(),
}


@pytest.mark.parametrize("name", EVERY)
def test_runs_with_a_memo_are_the_plain_run(name: str) -> None:
    shape = EVERY[name]
    sampler, guidance = next(iter(shape.samplers)), next(iter(shape.guidance))
    pipe = dcache.memo(shape.build(sampler), offload="cpu")
    for _ in range(3):
        assert torch.equal(shape.run(pipe, guidance), plain(name, sampler, guidance)[0])
    report = dcache.memo_report(pipe)
    assert report.hits > 0
    assert 0 < report.share < 1
    assert not report.dropped
    assert report.depends_on
    assert dcache.stats(pipe).memo_bytes == report.table_bytes > 0


@pytest.mark.parametrize("first", [True, False], ids=["memo first", "method first"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_the_same_bits_with_a_memo(name: str, first: bool) -> None:
    expected = dcache.enable(WAN.build(), METHODS[name])
    pipe = WAN.build()
    if first:
        dcache.memo(pipe)
    dcache.enable(pipe, METHODS[name])
    if not first:
        dcache.memo(pipe)
    for _ in range(3):
        assert torch.equal(WAN.run(pipe), WAN.run(expected))
    assert dcache.memo_report(pipe).hits > 0
    ours, theirs = dcache.stats(pipe), dcache.stats(expected)
    assert (ours.computed, ours.predicted) == (theirs.computed, theirs.predicted)


def test_weights_are_off_the_device_by_their_share() -> None:
    pipe = dcache.memo(WAN.build(), offload="cpu")
    for _ in range(3):
        WAN.run(pipe)
    report = dcache.memo_report(pipe)
    sizes = [p.numel() for p in pipe.transformer.parameters()]
    assert report.parameters == sum(sizes)
    timed = [
        p.numel() for n, p in pipe.transformer.named_parameters() if n.startswith("condition_embedder.time")
    ]
    assert report.timed_parameters == sum(timed)
    assert report.bytes_away == 4 * sum(timed)
    assert dcache.stats(pipe).bytes_away == report.bytes_away
    assert f"{100 * report.share:.1f} %" in str(report)
    dcache.disable(pipe)
    assert torch.equal(WAN.run(pipe), WAN.run(WAN.build()))


def test_a_second_prompt_computes_nothing_where_keys_are_free_of_it() -> None:
    pipe = dcache.memo(WAN.build())
    for _ in range(3):
        WAN.run(pipe)
    before = dcache.memo_report(pipe)
    assert torch.equal(WAN.run(pipe, seed=7), WAN.run(WAN.build(), seed=7))
    after = dcache.memo_report(pipe)
    assert (after.fills, after.checks) == (before.fills, before.checks)
    assert after.hits - before.hits == STEPS * len(after.modules) * 2


def test_dropped_weights_come_back_from_the_files(tmp_path: object) -> None:
    made = FLUX.build()
    made.transformer.save_pretrained(tmp_path)
    pipe = FLUX.build(model=type(made.transformer).from_pretrained(tmp_path).eval())
    dcache.memo(pipe, offload="drop")
    for _ in range(3):
        assert torch.equal(FLUX.run(pipe), FLUX.run(made))
    report = dcache.memo_report(pipe)
    assert report.bytes_away == report.weight_bytes > 0
    held = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in pipe.transformer.parameters()
    }
    whole = sum(p.numel() * 4 for p in made.transformer.parameters())
    assert sum(held.values()) < whole - 0.95 * report.weight_bytes
    with pytest.raises(dcache.DcacheError, match="were dropped"):
        pipe.transformer.save_pretrained(tmp_path)
    dcache.disable(pipe)
    for name, tensor in made.transformer.state_dict().items():
        assert torch.equal(pipe.transformer.state_dict()[name], tensor)


def test_enable_takes_the_memo_as_an_option() -> None:
    pipe = dcache.enable(WAN.build(), "interval", interval=2, memo="cpu")
    expected = dcache.enable(WAN.build(), "interval", interval=2)
    for _ in range(3):
        assert torch.equal(WAN.run(pipe), WAN.run(expected))
    assert dcache.memo_report(pipe).bytes_away > 0
    dcache.disable(pipe)
    with pytest.raises(dcache.DcacheError, match="no memo"):
        dcache.memo_report(pipe)
    with dcache.enabled(pipe, "interval", memo="keep"):
        WAN.run(pipe)
        assert dcache.memo_report(pipe).observed
    with pytest.raises(dcache.DcacheError, match="no memo"):
        dcache.memo_report(pipe)


def test_a_memo_that_cannot_be_made_leaves_what_is_enabled() -> None:
    pipe = dcache.enable(WAN.build(), "interval", interval=2)
    for wrong in ("disk", "drop"):
        with pytest.raises(dcache.DcacheError, match="offload"):
            dcache.enable(pipe, "newton", memo=wrong)
    WAN.run(pipe)
    assert dcache.stats(pipe).method == "interval(interval=2)"


def test_a_method_for_a_while_leaves_the_memo_on() -> None:
    pipe = dcache.memo(WAN.build())
    with dcache.enabled(pipe, "interval", interval=2):
        WAN.run(pipe)
    for _ in range(3):
        assert torch.equal(WAN.run(pipe), WAN.run(WAN.build()))
    assert dcache.memo_report(pipe).hits > 0


def test_the_stats_of_a_memo_alone() -> None:
    pipe = dcache.memo(WAN.build())
    assert "nothing was observed yet" in str(dcache.memo_report(pipe))
    WAN.run(pipe)
    assert dcache.stats(pipe).method == "memo"
    assert dcache.memo_report(pipe).to_dict()["share"] == dcache.memo_report(pipe).share


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo.pipeline", "demo.video.pipeline"])
def test_the_shipped_models_draw_the_same(name: str) -> None:
    shipped = importlib.import_module(f"dcache.{name}")

    def drawn(pipe: Any, prompt: str) -> torch.Tensor:
        given = {"num_inference_steps": 6, "output_type": "pt", "generator": torch.Generator().manual_seed(0)}
        return next(iter(pipe(prompt, **{**shipped.call_options(), **given}).values()))

    pipe = dcache.memo(shipped.load_pipeline(), offload="cpu")
    for prompt in ("a red circle", "a blue square", "a red circle"):
        assert torch.equal(
            torch.as_tensor(drawn(pipe, prompt)), torch.as_tensor(drawn(shipped.load_pipeline(), prompt))
        )
    assert dcache.memo_report(pipe).bytes_away > 0
