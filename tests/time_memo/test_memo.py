"""The memo of one denoiser: exact whatever happens to the model between calls."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import accelerate
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning
from tests.time_memo.nets import TIMED, Net, draw, net, walk


def warm(offload: str = "keep", runs: int = 3) -> nn.Module:
    model = dcache.memo(net(), offload)
    for _ in range(runs):
        walk(model)
    return model


def test_weights_that_are_written_to_make_everything_void() -> None:
    model, plain = warm("cpu"), net()
    for changed in (model, plain):
        changed.get_parameter("time_embed.0.weight").add_(0.5)
    for _ in range(4):
        assert torch.equal(walk(model), walk(plain))


def test_so_do_an_adapter_loaded_in_mid_run_and_another_dtype() -> None:
    model = warm()
    sample = draw(1, 2, 8)
    with torch.no_grad():
        first = model(sample, torch.tensor([900.0]))
        adapted = nn.Module()
        adapted.base_layer = model.blocks[0].linear
        adapted.forward = lambda x: adapted.base_layer(x) * 2  # type: ignore[method-assign]
        model.blocks[0].linear = adapted  # type: ignore[index]
        second = model(sample, torch.tensor([900.0]))
    assert not torch.equal(first, second)
    model = warm().bfloat16()
    plain = net().bfloat16()
    time, sample = torch.tensor([900.0], dtype=torch.bfloat16), draw(1, 2, 8).bfloat16()
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(model(sample, time), plain(sample, time))


def test_a_lora_that_is_fused_and_taken_off_between_two_calls() -> None:
    peft = pytest.importorskip("peft")

    model, plain = warm(), net()
    config = peft.LoraConfig(r=2, target_modules=["linear"], init_lora_weights=False)
    for changed in (model, plain):
        torch.manual_seed(3)
        tuner = peft.tuners.lora.LoraModel(changed, config, "default")
        tuner.merge_and_unload()
    assert not torch.equal(walk(plain), walk(net()))
    for _ in range(4):
        assert torch.equal(walk(model), walk(plain))
    assert list(dcache.memo_report(model).modules) == TIMED


def test_modules_are_timed_again_when_their_adapters_are_taken_off() -> None:
    peft = pytest.importorskip("peft")
    model = dcache.memo(net())
    config = peft.LoraConfig(
        r=2, target_modules=["linear", "time_embed.0", "time_embed.1"], init_lora_weights=False
    )
    tuner = peft.tuners.lora.LoraModel(model, config, "default")
    with pytest.warns(DcacheWarning, match="nothing to keep"):
        walk(model)
    tuner.unload()
    for _ in range(3):
        assert torch.equal(walk(model), walk(net()))
    assert list(dcache.memo_report(model).modules) == TIMED


def test_a_lora_is_fused_with_weights_that_were_dropped(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model, plain = net(), net()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    model.config = SimpleNamespace(_name_or_path=str(tmp_path))
    dcache.memo(model, offload="drop")
    for _ in range(3):
        walk(model)
    assert dcache.memo_report(model).bytes_away > 0
    config = peft.LoraConfig(r=2, target_modules=["linear"], init_lora_weights=False)
    for changed in (plain, model):
        torch.manual_seed(3)
        vars(changed).pop("config", None)
        peft.tuners.lora.LoraModel(changed, config, "default").merge_and_unload()
    with pytest.warns(DcacheWarning, match="is not what its file has"):
        walk(model)
    for _ in range(3):
        assert torch.equal(walk(model), walk(plain))


@pytest.mark.parametrize("change", ["switch", "fuse"])
def test_an_adapter_that_is_switched_or_fused_between_two_calls(change: str) -> None:
    peft = pytest.importorskip("peft")

    models = []
    for memo in (True, False):
        torch.manual_seed(0)
        model = Net().eval().requires_grad_(False)
        if memo:
            dcache.memo(model)
            walk(model)
        config = peft.LoraConfig(r=2, target_modules=["time_embed.1"], init_lora_weights=False)
        torch.manual_seed(3)
        models.append((model, peft.tuners.lora.LoraModel(model, config, "default")))
    (model, ours), (plain, theirs) = models
    for _ in range(3):
        assert torch.equal(walk(model), walk(plain))
    before = walk(plain)
    for tuner in (ours, theirs):
        if change == "fuse":
            tuner.merge_adapter()
        else:
            tuner.disable_adapter_layers()
    if change == "switch":
        assert not torch.equal(walk(plain), before)
    for _ in range(3):
        assert torch.equal(walk(model), walk(plain))


def test_a_condition_that_is_written_to_in_inference_mode() -> None:
    model, plain = dcache.memo(net(width=24)), net(width=24)
    with torch.inference_mode():
        pooled = draw(3, 2, 24).clone()
        for _ in range(4):
            for _ in range(3):
                assert torch.equal(walk(model, pooled=pooled), walk(plain, pooled=pooled))
            pooled.add_(1)


def test_tables_of_weights_that_accelerate_fetches_for_each_call_answer() -> None:
    model = net()
    accelerate.cpu_offload(model, "cpu")
    dcache.memo(model, offload="cpu")
    for _ in range(5):
        assert torch.equal(walk(model), walk(net()))
    report = dcache.memo_report(model)
    assert report.hits >= 3 * 3
    assert report.bytes_away == 0


def test_what_is_kept_does_not_grow_with_the_number_of_prompts() -> None:
    model = dcache.memo(net(), offload="cpu")
    for i in range(60):
        pooled, times = draw(i, 2, 8), (900.0 + i / 100, 500.0, 100.0)
        assert torch.equal(walk(model, times, pooled=pooled), walk(net(), times, pooled=pooled))
    report = dcache.memo_report(model)
    assert report.table_bytes <= report.weight_bytes
    # Timesteps that no run has any more have made way, so that this one is kept.
    for _ in range(3):
        walk(model, (7.0, 8.0), pooled=pooled)
    before = dcache.memo_report(model).hits
    walk(model, (7.0, 8.0), pooled=pooled)
    assert dcache.memo_report(model).hits - before == 2 * len(TIMED)


def test_a_method_that_compiles_blocks_after_the_memo_was_put_on() -> None:
    model = warm()
    model.blocks[0].compile(backend="eager")  # type: ignore[operator]
    for _ in range(3):
        assert torch.allclose(walk(model), walk(net()), atol=1e-6)
    assert "blocks.0.linear" not in dcache.memo_report(model).modules


@pytest.mark.parametrize("place", [True, False], ids=["in place", "around"])
def test_a_denoiser_with_a_memo_is_not_compiled_as_a_whole(place: bool) -> None:
    model = warm("cpu")
    compiled = model
    if place:
        model.compile(backend="eager")
    else:
        compiled = torch.compile(model, backend="eager")
    with pytest.raises(Exception, match="compiled as a whole"):
        walk(compiled)
    dcache.disable(compiled)
    assert torch.allclose(walk(compiled), walk(net()), atol=1e-6)
    assert set(model.time_embed.__dict__) == set(net().time_embed.__dict__)


def test_disable_leaves_nothing() -> None:
    model, plain = warm("cpu"), net()
    keys = set(model.__dict__)
    dcache.disable(model)
    assert set(model.__dict__) == set(plain.__dict__) < keys
    assert not model._forward_pre_hooks
    for name, part in model.named_modules():
        assert set(part.__dict__) == set(plain.get_submodule(name).__dict__)
    with pytest.raises(DcacheError, match=r"call dcache\.memo first"):
        dcache.memo_report(model)


def test_a_denoiser_whose_memo_was_taken_off_is_freed_at_once() -> None:
    model = warm("cpu")
    dcache.disable(model)
    gc.collect()
    gc.disable()
    try:
        reference = weakref.ref(model)
        del model
        assert reference() is None
    finally:
        gc.enable()


def test_another_memo_takes_the_place_of_the_first() -> None:
    model = warm("cpu")
    dcache.memo(model)
    assert not dcache.memo_report(model).observed
    for _ in range(3):
        assert torch.equal(walk(model), walk(net()))
    assert dcache.memo_report(model).bytes_away == 0


def test_tables_stay_smaller_than_the_weights() -> None:
    model = dcache.memo(net())
    times = tuple(float(t) for t in range(1000, 0, -10))
    for _ in range(2):
        assert torch.equal(walk(model, times), walk(net(), times))
    report = dcache.memo_report(model)
    assert 0 < report.table_bytes <= report.weight_bytes


def test_what_was_kept_for_conditions_goes_with_them() -> None:
    model = dcache.memo(net(width=32))
    for seed in range(5):
        pooled = draw(seed, 2, 32)
        for _ in range(2):
            assert torch.equal(walk(model, pooled=pooled), walk(net(width=32), pooled=pooled))
        # Three timesteps: of the embedding for ever, of two blocks for this condition.
        assert dcache.memo_report(model).entries <= 3 * 3


def test_two_threads_share_the_tables() -> None:
    model, expected, equal = dcache.memo(net()), walk(net()), list[bool]()

    def run() -> None:
        equal.extend(torch.equal(walk(model), expected) for _ in range(20))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 40


def test_a_model_without_timed_modules_says_so() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.all = nn.Linear(8, 8)

        def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return self.all(sample + timestep)

    model = dcache.memo(Mixed().eval())
    with pytest.warns(DcacheWarning, match="nothing to keep"):
        walk(model)


def test_modules_within_compiled_blocks_are_left_out() -> None:
    model = net()
    model.blocks[0].compile(backend="eager")  # type: ignore[operator]
    dcache.memo(model)
    for _ in range(3):
        assert torch.allclose(walk(model), walk(net()), atol=1e-6)
    assert list(dcache.memo_report(model).modules) == [n for n in TIMED if n != "blocks.0.linear"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offload": "disk"}, "'keep', 'cpu', 'drop'"),
        ({"offload": None}, "'keep', 'cpu', 'drop'"),
        ({"text": 1}, "text must be True, False or 'alone', got 1"),
        ({"offload": "drop"}, "offload='cpu'"),
    ],
    ids=["disk", "none", "text", "drop"],
)
def test_options_out_of_range_are_refused_before_anything(options: dict[str, object], message: str) -> None:
    model = net()
    with pytest.raises(DcacheError, match=message):
        dcache.memo(model, **options)
    assert set(model.__dict__) == set(net().__dict__)


@pytest.mark.parametrize("target", [nn.Linear(2, 2), object(), 3], ids=["layer", "object", "number"])
def test_what_is_no_denoiser_is_refused(target: object) -> None:
    with pytest.raises(DcacheError, match=r"timestep|pipeline or a torch module"):
        dcache.memo(target)


class _Flexible(Net):
    """Attention that takes functions stands in front of the blocks."""

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        # Its module is slow to import.
        from torch.nn.attention.flex_attention import flex_attention

        tokens, bias = sample[None, None], sample[:, 0]
        seen = flex_attention(tokens, tokens, tokens, score_mod=lambda score, b, h, i, j: score + bias[j])
        return super().forward(sample + seen[0, 0], timestep, **given)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_a_model_with_flex_attention_has_the_same_timed_modules() -> None:
    torch.manual_seed(0)
    model = _Flexible(8).eval().requires_grad_(False)
    plain = walk(model)
    dcache.memo(model)
    for _ in range(3):
        assert torch.equal(walk(model), plain)
    report = dcache.memo_report(model)
    assert sorted(report.modules) == sorted(TIMED)
    assert report.hits > 0
