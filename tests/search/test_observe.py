"""What is observed equals what plain hooks see, on every shape; and leaves nothing behind."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dcache
from dcache.engine import bind
from dcache.engine.observe import observe as watch
from dcache.engine.session import session_of
from dcache.errors import DcacheError, DcacheWarning
from dcache.observation.run import SiteObserver
from dcache.profile import Profile
from dcache.search.observe import observe
from dcache.search.observing.passes import passes_of, sites_of
from dcache.search.observing.site_timing import Stopwatch
from dcache.sites.discovery import discover
from dcache.sites.site import Sublayer
from dcache.sites.structure import Structure
from tests.pipelines import FLUX, PIXART, SD, STEPS, WAN, Shape
from tests.search.pipeline_subjects import Shaped, assert_tables, hooked, shaped, tables_of

Take = Callable[[Any, Any, Any], list[torch.Tensor]]


def seen(subject: Shaped, module: Any, take: Take, prompts: tuple[str, ...] = ("1",)) -> list[Any]:
    """Runs x calls of what a hook takes, without dcache."""
    runs = []
    for i, prompt in enumerate(prompts):
        with hooked(module, take) as found:
            subject([prompt], [i])
        runs.append(list(found))
    return runs


def output(_: Any, __: Any, y: Any) -> list[torch.Tensor]:
    return [y[0] if isinstance(y, tuple) else y]


def change(args: Any, _: Any, y: Any) -> list[torch.Tensor]:
    return [y - args[0]]


def test_what_is_said_of_the_model_itself_ends_the_observation() -> None:
    subject = shaped(PIXART)
    for module in PIXART.denoiser(subject.pipe).modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    PIXART.denoiser(subject.pipe).train()
    with pytest.raises(DcacheError, match=r"^model cannot be observed: .*active dropout"):
        observe(subject, ["1"], sites=["model"], timing=False)
    with (
        pytest.warns(DcacheWarning, match="Left out of the profile"),
        pytest.raises(DcacheError, match=r"^model cannot be observed: .*active dropout"),
    ):
        observe(subject, ["1"], timing=False)


def only(profile: Profile, site: str, frame: str, branch: str = "0") -> Any:
    return profile.sites[site][branch][frame]


def test_tables_of_sublayers_blocks_trunk_and_model_are_those_of_plain_hooks() -> None:
    subject = shaped(PIXART)
    found = observe(subject, ["1", "2", "3"], timing=False)
    blocks, model = PIXART.blocks(subject.pipe), PIXART.denoiser(subject.pipe)
    prompts = ("1", "2", "3")
    looks: dict[tuple[str, str], tuple[Any, Take]] = {
        ("attn:1", "value"): (blocks[1].attn1, output),
        ("cross_attn:0", "value"): (blocks[0].attn2, output),
        ("mlp:2", "value"): (blocks[2].ff, output),
        ("block:1", "value"): (blocks[1], output),
        ("block:1", "delta"): (blocks[1], change),
        ("trunk", "value"): (blocks[2], output),
        ("model", "value"): (model, output),
    }
    for (site, frame), (module, take) in looks.items():
        assert_tables(only(found, site, frame), tables_of(seen(subject, module, take, prompts)))
    starts = seen(subject, blocks[0], lambda args, _, __: [args[0]], prompts)
    ends = seen(subject, blocks[2], output, prompts)
    deltas = [
        [[b[0] - a[0]] for a, b in zip(one, other, strict=True)]
        for one, other in zip(starts, ends, strict=True)
    ]
    assert_tables(only(found, "trunk", "delta"), tables_of(deltas))
    sublayers = [f"{kind}:{i}" for i in range(3) for kind in ("attn", "cross_attn", "mlp")]
    assert list(found.sites) == ["trunk", "model", "block:0", "block:1", "block:2", *sublayers]
    # The model predicts noise and variance: its output is no change of its input.
    assert list(found.sites["model"]["0"]) == ["value"]
    assert (found.steps, found.prompts, found.sketch) == (STEPS, 3, 0.0)
    assert (found.model, found.component) == ("PixArtTransformer2DModel", "transformer")
    assert found.sampler == type(subject.pipe.scheduler).__name__
    assert found.latencies is None


def test_ratios_and_changes_are_those_of_plain_hooks() -> None:
    subject = shaped(PIXART)
    found = observe(subject, ["1", "2"], sites=("trunk",), timing=False)
    blocks = PIXART.blocks(subject.pipe)
    ratios, pairs = [], []
    for i, prompt in enumerate(("1", "2")):
        with (
            hooked(blocks[0], lambda args, _, __: [args[0]]) as entries,
            hooked(blocks[0].attn1, lambda args, _, __: [args[0]]) as given,
            hooked(blocks[2], output) as exits,
        ):
            subject([prompt], [i])
        d = [y[0] - x[0] for x, y in zip(entries, exits, strict=True)]
        x = [one[0] for one in given]
        moved = [float((d[t].norm(dim=2) / d[t - 1].norm(dim=2)).mean()) for t in range(1, STEPS)]
        ratios.append([1.0, *moved])
        pairs += [(relative(x[t], x[t - 1]), relative(d[t], d[t - 1])) for t in range(1, STEPS)]
    np.testing.assert_allclose(found.ratios, np.mean(ratios, axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.input_output_changes, pairs, rtol=1e-4)
    assert found.made["ratios_deviation"] == pytest.approx(np.std(ratios, axis=0).max(), abs=1e-5)


def relative(p: torch.Tensor, q: torch.Tensor) -> float:
    return float((p - q).abs().mean() / q.abs().mean())


@pytest.mark.parametrize(
    ("shape", "guided", "branches"),
    [
        (PIXART, "batched", ["0"]),
        (FLUX, "sequential", ["cond", "uncond"]),
        (FLUX, "off", ["cond"]),
        (WAN, "sequential", ["cond", "uncond"]),
    ],
)
def test_every_branch_has_tables_of_its_own(shape: Shape, guided: str, branches: list[str]) -> None:
    subject = shaped(shape, guided)
    found = observe(subject, ["1"], sites=("trunk", "model"), timing=False)
    last = shape.blocks(subject.pipe)[-1]
    # Flux drops the text stream behind its last block: its picture stream comes last.
    (run,) = seen(subject, last, lambda _, __, y: [y[-1] if isinstance(y, tuple) else y])
    for i, branch in enumerate(branches):
        assert_tables(only(found, "trunk", "value", branch), tables_of([run[i :: len(branches)]]))
        alike = shape is not PIXART
        assert list(found.sites["model"][branch]) == ["value", "delta"][: 1 + alike]
    assert list(found.sites["trunk"]) == branches
    assert found.input_output_changes is not None
    assert found.input_output_changes.shape == (len(branches) * (STEPS - 1), 2)
    # DDIM tells no noise levels.
    assert len(found.sigmas) == (0 if shape is PIXART else STEPS + 1)


def test_both_streams_count_where_both_are_read() -> None:
    subject = shaped(FLUX)
    found = observe(subject, ["1"], sites=("block:0", "attn:0"), timing=False)
    block = FLUX.blocks(subject.pipe)[0]
    (run,) = seen(subject, block, lambda _, __, y: list(y))
    assert_tables(only(found, "block:0", "value", "cond"), tables_of([run]))
    (run,) = seen(subject, block.attn, lambda _, __, y: list(y))
    assert len(run[0]) == 2
    assert_tables(only(found, "attn:0", "value", "cond"), tables_of([run]))


# Not on the module: a call that adds to its module is always computed.
ENTRIES: list[torch.Tensor] = []


class Twice(nn.Module):
    """Two sends of one module in an evaluation, as of two streams; the entry is doubled, then tripled."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: torch.Tensor, timestep: float) -> torch.Tensor:
        ENTRIES.append(x.clone())
        return self.inner(x * 2) + self.inner(x[:, :1] * 3)


def test_a_module_that_is_called_twice_gives_one_longer_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Twice().eval()
    sublayer = Sublayer("mlp:0", "mlp", 0, model.inner)
    monkeypatch.setattr(bind, "discover", lambda m, specs: Structure(m, sublayers=[sublayer]))
    found: dict[int, list[torch.Tensor]] = {}

    def see(site: str, call: Any, output: Any) -> None:
        assert (site, output.changes, output.places) == ("mlp:0", None, (0,))
        found.setdefault(call.index, []).extend(v.clone() for v in output.values)

    everything = dcache.methods.interval(interval=1, sites="mlp:0")
    with torch.no_grad(), dcache.enabled(model, everything):
        for run in range(2):
            with watch(model, SiteObserver(see, model=False)):
                for i in range(3):
                    dcache.step(model, i)
                    model(torch.randn(1 + run, 4), 0.0)
            for i in range(3):
                x = ENTRIES[-3 + i]
                assert torch.equal(found[i][0], x * 2)
                assert torch.equal(found[i][1], x[:, :1] * 3)
                assert len(found[i]) == 2
            found.clear()
        # A stopwatch hears both of them too.
        ticks = iter(range(100))
        stopwatch = Stopwatch(lambda: next(ticks))
        with watch(model, stopwatch):
            dcache.step(model, 0)
            model(torch.randn(2, 4), 0.0)
        assert stopwatch.readings.computed["mlp:0"][0] == [(0, 1), (2, 3)]


def test_a_unet_shows_its_brackets_one_in_each_pass() -> None:
    subject = shaped(SD)
    found = observe(subject, ["1"], sites=("bracket:0", "bracket:2", "model"), timing=False)
    unet = SD.denoiser(subject.pipe)
    skips = discover(unet).skips
    for level in (0, 2):
        skip = skips[level]
        (run,) = seen(subject, skip.sink, lambda args, _, __, c=skip.channels: [args[0][:, :-c]])
        assert_tables(only(found, f"bracket:{level}", "value"), tables_of([run]))
    assert found.ratios is None
    assert found.input_output_changes is None
    usual = observe(subject, ["1"], timing=False)
    assert list(usual.sites)[:2] == ["bracket:0", "model"]
    assert usual.of_kind("attn")


def test_sites_that_overlap_go_to_different_passes() -> None:
    structure = discover(PIXART.denoiser(PIXART.build()))
    chosen = ["trunk", "run:0-1", "block:1", "block:2", "mlp:0", "model"]
    passes = passes_of(sites_of(structure, chosen))
    assert [one.names for one in passes] == [["trunk", "mlp:0"], ["run:0-1", "block:2"], ["block:1"]]
    assert [one.model for one in passes] == [True, False, False]
    with pytest.raises(DcacheError, match="block:7"):
        sites_of(structure, ["trunk", "block:7"])
    with pytest.raises(DcacheError, match="no sites: expected some of those of PixArt"):
        sites_of(structure, [])


def test_nothing_is_left_behind() -> None:
    subject = shaped(PIXART)
    before = subject(["1"], [5])
    model = PIXART.denoiser(subject.pipe)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    observe(subject, ["1"], timing=False)
    assert session_of(model) is None
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    np.testing.assert_array_equal(subject(["1"], [5]), before)
    with dcache.enabled(subject.pipe, "interval"):
        method = session_of(model).method
        observe(subject, ["1"], sites=("trunk",), timing=False)
        assert session_of(model).method is method


def test_a_branch_that_pauses_counts_as_it_was_last() -> None:
    subject = shaped(WAN, "part")
    found = observe(subject, ["1"], sites=("trunk",), timing=False)
    paused = only(found, "trunk", "value", "uncond")
    # Guidance is off in evaluations 3 and 4, between 2 and 5: each is taken for its neighbour.
    assert paused.squared[2, 3] == pytest.approx(0, abs=1e-9)
    assert paused.squared[4, 5] == pytest.approx(0, abs=1e-9)
    assert paused.squared[2, 5] > 1e-4
    assert only(found, "trunk", "value", "cond").squared[2, 3] > 1e-4


def test_a_batch_that_shrinks_is_refused() -> None:
    with pytest.raises(DcacheError, match="another size in evaluation"):
        observe(shaped(SD, "part"), ["1"], sites=("bracket:0",), timing=False)


def test_beyond_the_cap_features_are_sketched_and_it_is_said() -> None:
    subject = shaped(PIXART)
    told: list[str] = []
    exact = observe(subject, ["1", "2"], sites=("trunk", "block:1"), timing=False)
    # A trunk's value and delta of 2 x 16 x 16 numbers in seven evaluations: 28,672 bytes.
    with pytest.warns(DcacheWarning, match=r"do not fit into 20000 bytes: .* sketches of 357 numbers"):
        found = observe(
            subject, ["1", "2"], sites=("trunk", "block:1"), timing=False, cap=20_000, progress=told.append
        )
    assert any("sketches of 357 numbers" in text for text in told)
    assert found.sketch == pytest.approx(np.sqrt(2 / (357 // 2)) / np.sqrt(2))
    for site in ("trunk", "block:1"):
        for frame in ("value", "delta"):
            a, b = only(found, site, frame), only(exact, site, frame)
            lengths = np.sqrt(np.diag(b.gram))
            assert np.abs((a.gram - b.gram) / np.outer(lengths, lengths)).max() < 4 * found.sketch
            assert np.abs(a.distance - b.distance).max() < 0.3 * b.distance.max()
    np.testing.assert_array_equal(found.ratios, exact.ratios)


def test_sites_that_the_engine_does_not_understand_are_left_out_aloud(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check(owner: Any, *_: Any) -> str | None:
        return "planted" if any(region.site.is_run for region in owner.binding.regions) else None

    monkeypatch.setattr("dcache.engine.first_call.self_check", check)
    subject = shaped(PIXART)
    with pytest.warns(DcacheWarning, match=r"planted.*Left out of the profile") as told:
        found = observe(subject, ["1"], timing=False)
    assert len(told) == 2
    assert [site.partition(":")[0] for site in found.sites] == ["model", *["attn", "cross_attn", "mlp"] * 3]
    assert list(found.made["left_out"]) == ["trunk", "block:0", "block:1", "block:2"]
    assert found.ratios is None
    with pytest.raises(DcacheError, match=r"^trunk cannot be observed: .*planted"):
        observe(subject, ["1"], sites=("trunk",), timing=False)


def test_bad_input_is_refused_with_what_to_do() -> None:
    subject = shaped(PIXART)
    with pytest.raises(DcacheError, match="at least one prompt to observe, got none"):
        observe(subject, [])
    with pytest.raises(DcacheError, match=r"batch_size and cap must be at least 1, got 0 and 5"):
        observe(subject, ["1"], batch_size=0, cap=5)
    with pytest.raises(DcacheError, match=r"has 'transformer'; got 'unet'"):
        observe(subject, ["1"], component="unet")
    with pytest.raises(DcacheError, match=r"10752 bytes or more"):
        observe(subject, ["1"], sites=("block",), timing=False, cap=10751)
    left: list[int] = []

    def poison(_: Any, __: Any, y: torch.Tensor) -> torch.Tensor:
        left[0] -= 1
        return y * float("nan") if left[0] < 0 else y

    PIXART.blocks(subject.pipe)[1].ff.register_forward_hook(poison)
    # In the first evaluation of all; and in the third of the second run.
    for good, where in ((0, "evaluation 0"), (STEPS + 2, "evaluation 2")):
        left[:] = [good]
        with pytest.raises(
            DcacheError, match=rf"value of 'mlp:1' on branch '0' is NaN or infinite in {where}"
        ):
            observe(subject, ["1"], sites=("mlp:1",), timing=False)


def test_pictures_in_a_batch_are_those_of_single_calls() -> None:
    from dcache.eval.subject import load

    subject = load("demo", steps=3, device="cpu", dtype="float32")
    prompts = ["a red circle", "a large blue square", "a green star"]
    one = observe(subject, prompts, sites=("trunk", "mlp:3"), timing=False)
    two = observe(subject, prompts, sites=("trunk", "mlp:3"), timing=False, batch_size=2)
    for site, frame in (("trunk", "delta"), ("mlp:3", "value")):
        assert_tables(only(one, site, frame), only(two, site, frame))
    np.testing.assert_allclose(one.ratios, two.ratios, rtol=1e-2)
    assert (two.prompts, two.resolution, two.guidance) == (3, (64, 64), 3.0)
