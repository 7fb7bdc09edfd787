"""Binding a method's sites to a model: which region and intercepts each becomes, and what is refused."""

from __future__ import annotations

import ast
import builtins
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dcache
import dcache.engine
from dcache import DcacheError, DcacheWarning, Method, methods
from dcache.engine.bind import bind
from dcache.engine.group import GroupRegion
from dcache.engine.lowering.blocks import BlockCall, RunRegion
from dcache.engine.lowering.bracket import BracketRegion, SkipConcatCall
from dcache.engine.lowering.guidance import GuidanceRegion
from dcache.engine.lowering.module import ModuleCall, ModuleRegion, PlaceholderCall
from dcache.engine.lowering.probe import AttentionInputProbe, BlockInputProbe, FrontProbeCall
from dcache.engine.lowering.whole_model import WholeRegion
from dcache.engine.session import Session
from dcache.intercept.module_call import ModuleIntercept, intercepts_of
from dcache.predictors.corrections import Correction, Corrections
from dcache.probes import Probe
from tests.engine.tiny_models import (
    Attention,
    Double,
    Meeting,
    ThreeSublayers,
    Toy,
    integers,
    session_on,
    steps,
    unet,
    walk,
)

EVERY_2 = methods.interval(interval=2, codec=None)
TEACACHE = methods.teacache(threshold=0.1, coefficients=[1.0, 0.0])


def on(*sites: str, **more: Any) -> Method:
    return replace(EVERY_2, sites=sites, **more)


def bound(model: nn.Module, method: Method, **options: Any) -> Session:
    return session_on(model, method, **options)


def kinds(session: Session) -> list[tuple[str, type]]:
    return [(region.site.name, type(region)) for region in session.binding.regions]


def calls(session: Session) -> list[tuple[type, nn.Module]]:
    return [(type(intercept), intercept.module) for intercept in session.binding.intercepts]


class Flat(nn.Module):
    """No blocks at all."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Double()
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        return self.one(x + timestep)


# What sites become ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "depths"), [("trunk", [0, 1, 2]), ("run:1-2", [1, 2]), ("block:1", [1]), ("front:2", [0, 1])]
)
def test_a_run_is_one_region_and_a_call_of_each_of_its_blocks(site: str, depths: list[int]) -> None:
    toy = Toy()
    session = bound(toy, on(site))
    ((_, kind),) = kinds(session)
    assert kind is RunRegion
    (region,) = session.binding.regions
    assert calls(session) == [(BlockCall, toy.blocks[i]) for i in depths]
    ends = [
        (c.region is region, c.first, c.last) for c in session.binding.intercepts if isinstance(c, BlockCall)
    ]
    assert ends == [(True, i == depths[0], i == depths[-1]) for i in depths]
    # Nothing else of the model is touched.
    assert [bool(intercepts_of(block)) for block in toy.blocks] == [i in depths for i in range(3)]


def test_the_reference_lowering_makes_a_part_of_each_block() -> None:
    toy = Toy()
    session = bound(toy, on("run:1-2"), lowering="replay")
    assert kinds(session) == [("run:1-2", GroupRegion)]
    parts = list(session.binding.storing())
    assert [(part.site.name, type(part)) for part in parts] == [
        ("block:1", RunRegion),
        ("block:2", RunRegion),
    ]
    assert all(part.leader is session.binding.regions[0] for part in parts)
    assert all(c.first and c.last for c in session.binding.intercepts if isinstance(c, BlockCall))
    assert calls(session) == [(BlockCall, toy.blocks[1]), (BlockCall, toy.blocks[2])]


def test_a_sublayer_is_a_region_of_its_module() -> None:
    toy = Toy([ThreeSublayers() for _ in range(2)])
    session = bound(toy, on("attn", "mlp:1"))
    assert kinds(session) == [(name, ModuleRegion) for name in ("attn:0", "attn:1", "mlp:1")]
    first, second = toy.blocks
    assert calls(session) == [(ModuleCall, m) for m in (first.attn1, second.attn1, second.ff)]


def test_of_a_fused_block_the_exit_is_a_region_and_the_rest_is_hollow() -> None:
    toy = Toy([Meeting()])
    (block,) = toy.blocks
    session = bound(toy, on("fused"))
    assert kinds(session) == [("fused:0", ModuleRegion)]
    hollow = [(PlaceholderCall, m) for m in (block.proj_mlp, block.act_mlp, block.attn)]
    assert calls(session) == [*hollow, (ModuleCall, block.proj_out)]
    assert len({intercept.region for intercept in session.binding.intercepts}) == 1  # type: ignore[attr-defined]


def test_a_bracket_is_everything_between_two_ends_and_its_sink() -> None:
    model = unet()
    session = bound(model, on("bracket:1"))
    assert kinds(session) == [("bracket:1", BracketRegion)]
    skip = session.binding.structure.skips[1]
    assert calls(session) == [*[(PlaceholderCall, m) for m in skip.inside], (SkipConcatCall, skip.sink)]
    replayed = bound(model, on("bracket:1"), lowering="replay")
    assert kinds(replayed) == [("bracket:1", GroupRegion)]
    assert [part.site.name for part in replayed.binding.storing()] == [
        f"part:{i}" for i in range(len(skip.inside))
    ]
    assert calls(replayed) == [(ModuleCall, m) for m in skip.inside]


def test_the_model_and_its_guidance_intercept_nothing_inside() -> None:
    toy = Toy()
    session = bound(toy, on("model"))
    assert kinds(session) == [("model", WholeRegion)]
    assert session.binding.whole is session.binding.regions[0]
    session = bound(toy, on("guidance", "trunk", uncond_from="drop"))
    assert kinds(session) == [("guidance", GuidanceRegion), ("trunk", RunRegion)]
    assert session.binding.guidance is session.binding.regions[0]
    assert session.binding.whole is None
    session = bound(toy, on("guidance", uncond_from="drop"))
    assert calls(session) == []


def test_every_site_has_the_codec_of_the_method_or_of_its_kind() -> None:
    toy = Toy([ThreeSublayers() for _ in range(2)])
    session = bound(toy, on("block:0", "attn:1"))
    assert [region.codec.name for region in session.binding.storing()] == ["delta", "value"]
    session = bound(toy, on("block:0", "attn:1", codec="value:int8"))
    assert [region.codec.name for region in session.binding.storing()] == ["value:int8"] * 2


def test_nothing_is_installed_yet() -> None:
    toy = Toy()
    session = bound(toy, EVERY_2)
    installed = intercepts_of(toy.blocks[0])
    made = bind(session, ["block"])
    assert intercepts_of(toy.blocks[0]) == installed
    assert [site.name for site in made.sites] == ["block:0", "block:1", "block:2"]
    assert made is not session.binding


def test_what_is_compiled_is_what_is_intercepted_and_the_blocks_beside_it() -> None:
    toy = Toy()
    session = bound(toy, on("block:1"), compile={"backend": "eager"})
    assert calls(session) == [
        (BlockCall, toy.blocks[1]),
        (ModuleIntercept, toy.blocks[0]),
        (ModuleIntercept, toy.blocks[2]),
    ]
    assert integers(steps(toy, [4, 3])) == [40, 2 * (8 + 10)]
    torch.compiler.reset()


# Said ------------------------------------------------------------------------------------------------


def test_a_model_without_blocks_is_remembered_whole_and_says_so_where_nothing_else_was_asked_for() -> None:
    with pytest.warns(DcacheWarning, match=r"Flat has no block list that dcache recognises.*sites='model'"):
        assert kinds(bound(Flat(), on("auto"))) == [("model", WholeRegion)]
    bound(Flat(), on("model"))


def test_where_there_is_nothing_to_compile_it_says_so() -> None:
    with pytest.warns(DcacheWarning, match="compile=True found nothing to compile in Flat"):
        bound(Flat(), on("model"), compile=True)
    # Of a UNet, which has no blocks either, what is inside its bracket is compiled.
    bound(unet(), on("bracket:0"), compile={"backend": "eager"})


# Refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "site", "what"),
    [
        (lambda: Toy([ThreeSublayers()]), "mlp:0", "a sublayer's output does not continue its input"),
        (unet, "bracket:0", "a UNet's bracket begins and ends with different channel counts"),
    ],
)
def test_changes_do_not_fit_what_has_no_entry_of_its_shape(model: Any, site: str, what: str) -> None:
    with pytest.raises(DcacheError, match=rf"codec 'delta' does not fit {site}: {what}; use codec='value'"):
        bound(model(), on(site, codec="delta:int8"))


def test_guidance_needs_a_method_for_it_and_sites_that_can_follow_half_a_batch() -> None:
    with pytest.raises(
        DcacheError, match=r"predicts the unconditional branch .*: use 'tgate' or 'fastercache'"
    ):
        bound(Toy(), on("guidance", "trunk"))
    with pytest.raises(DcacheError, match=r"which \['model'\] do not support: choose sublayers or runs"):
        bound(Toy(), on("guidance", "model", uncond_from="drop"))
    fused = Toy([Meeting()])
    with pytest.raises(DcacheError, match=r"which \['fused:0'\] do not support"):
        bound(fused, on("guidance", "fused", uncond_from="drop"))


def test_corrections_need_their_site_and_the_usual_lowering_of_a_bracket() -> None:
    def corrected(site: str) -> Corrections:
        row = Correction(torch.ones(8), torch.zeros(8), 0)
        return Corrections({site: {1: row}}, {site: 1})

    with pytest.raises(DcacheError, match="there are corrections for block:0, and the sites here are trunk"):
        bound(Toy(), on("trunk", corrections=corrected("block:0")))
    method = on("bracket:0", corrections=corrected("bracket:0"))
    with pytest.raises(DcacheError, match="corrections of bracket:0 need the usual lowering"):
        bound(unet(), method, lowering="replay")
    assert kinds(bound(unet(), method)) == [("bracket:0", BracketRegion)]


# Dynamic rules ---------------------------------------------------------------------------------------


def test_what_a_rule_looks_at_in_front_is_computed_and_the_rest_is_the_site() -> None:
    toy = Toy([Double() for _ in range(4)])
    for blocks, site in ((1, "run:1-3"), (2, "run:2-3")):
        session = bound(toy, on("auto", probe=Probe("front", blocks)))
        assert kinds(session) == [(site, RunRegion)]
        fronts = [c for c in session.binding.intercepts if isinstance(c, FrontProbeCall)]
        assert [front.module for front in fronts] == list(toy.blocks[:blocks])
        assert [(f.first, f.last) for f in fronts] == [(i == 0, i == blocks - 1) for i in range(blocks)]
        assert len({front.front for front in fronts}) == 1


def test_sites_that_were_chosen_stay_where_they_are() -> None:
    toy = Toy([Double() for _ in range(4)])
    assert kinds(bound(toy, on("run:2-3", probe=Probe()))) == [("run:2-3", RunRegion)]
    assert kinds(bound(toy, on("model", probe=Probe("input")))) == [("model", WholeRegion)]
    assert calls(bound(toy, on("trunk", probe=Probe("input")))) == [
        (BlockCall, block) for block in toy.blocks
    ]


@pytest.mark.parametrize(
    ("sites", "blocks", "taken", "instead"),
    [
        ("trunk", 1, "trunk", "run:1-3"),
        ("run:0-2", 1, "run:0-2", "run:1-3"),
        (["block:0", "block:2"], 1, "block:0", "run:1-3"),
        ("block", 2, "block:0, block:1", "run:2-3"),
        ("run:1-3", 2, "run:1-3", "run:2-3"),
    ],
)
def test_a_site_among_the_blocks_that_the_rule_looks_at_is_refused_with_one_to_choose(
    sites: Any, blocks: int, taken: str, instead: str
) -> None:
    toy = Toy([Double() for _ in range(4)])
    plain = integers(walk(toy, [4, 3]))
    method = methods.fbcache(sites=sites) if blocks == 1 else methods.dbcache(front=blocks, back=0)
    if blocks > 1:
        method = replace(method, sites=(sites,))
    with pytest.raises(
        DcacheError,
        match=rf"first {blocks} block\(s\), which are always computed, and {taken} would predict "
        rf"them: choose sites that begin at block {blocks}, such as '{instead}'",
    ):
        dcache.enable(toy, method)
    assert integers(walk(toy, [4, 3])) == plain
    # What it says can be done.
    dcache.enable(toy, replace(method, sites=(instead,)))


def test_a_model_of_no_more_blocks_than_the_rule_looks_at_is_refused() -> None:
    with pytest.raises(
        DcacheError, match=r"the first 1 block\(s\), and the others are cached; Toy has 1 block"
    ):
        bound(Toy([Double()]), methods.fbcache())
    with pytest.raises(DcacheError, match=r"Flat has 0 block\(s\)\. Choose a method with sites='model'"):
        bound(Flat(), methods.fbcache())


@pytest.mark.parametrize("others", [Double, ThreeSublayers])
def test_without_attention_in_the_first_block_its_input_is_what_the_rule_looks_at(others: type) -> None:
    toy = Toy([Double(), others()])
    with pytest.warns(DcacheWarning, match="none is found in Double: the block's own input is the probe"):
        session = bound(toy, TEACACHE)
    assert calls(session)[-1] == (BlockInputProbe, toy.blocks[0])


def test_a_rule_that_looks_at_the_first_attention_needs_a_site_that_begins_there() -> None:
    toy = Toy([ThreeSublayers() for _ in range(2)])
    session = bound(toy, TEACACHE)
    assert calls(session)[-1] == (AttentionInputProbe, toy.blocks[0].attn1)
    with pytest.raises(DcacheError, match=r"none of the sites \['model'\] begins with it"):
        bound(Flat(), replace(TEACACHE, sites=("model",)))
    with pytest.raises(
        DcacheError, match=r"none of the sites \['block:1'\] begins with it: choose 'trunk' or"
    ):
        bound(toy, replace(TEACACHE, sites=("block:1",)))


# Default sites of sublayers ----------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["taylorseer", "hicache", "foca"])
@pytest.mark.parametrize(
    ("model", "site", "sites"),
    [(Toy, "block", ["block:0", "block:1", "block:2"]), (Flat, "model", ["model"])],
)
def test_default_sublayers_fall_back_with_one_warning_and_stats_name_what_is_used(
    preset: str, model: type, site: str, sites: list[str]
) -> None:
    denoiser = model()
    with pytest.warns(DcacheWarning) as caught:
        dcache.enable(denoiser, preset, interval=2, warmup=1)
    assert [str(w.message) for w in caught] == [
        f"{preset} caches sublayers, and none are found in {model.__name__}: sites='{site}' is cached instead"
    ]
    steps(denoiser, [3, 2, 1])
    assert f"sites='{site}'" in dcache.stats(denoiser).method
    assert list(dcache.trace(denoiser).components[""].sites) == sites
    assert dcache.stats(denoiser).predicted == len(sites)


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("taylorseer", {"sites": "sublayers"}),
        ("hicache", {"sites": "sublayers"}),
        ("pab", {}),
        ("smoothcache", {"table": {"attn": [1, 0]}}),
        ("interval", {"sites": ["attn", "mlp"]}),
    ],
)
def test_sublayers_that_were_asked_for_or_that_a_preset_is_about_stay_refused(
    preset: str, options: dict[str, Any]
) -> None:
    with pytest.raises(DcacheError, match=r"does not exist in Toy: no such sublayer is found"):
        dcache.enable(Toy(), preset, **options)


def test_sublayers_that_exist_are_cached_without_a_word() -> None:
    toy = dcache.enable(Toy([ThreeSublayers()]), "taylorseer", interval=2, warmup=1)
    steps(toy, [3, 2, 1])
    assert list(dcache.trace(toy).components[""].sites) == ["attn:0", "cross_attn:0", "mlp:0"]
    assert "sites" not in dcache.stats(toy).method


# What is raised --------------------------------------------------------------------------------------


def test_the_engine_raises_no_error_that_is_not_of_dcache() -> None:
    root = Path(dcache.engine.__file__).parent
    raised = [
        f"{path.relative_to(root)}:{node.lineno}: {name}"
        for path in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and node.exc is not None
        for name in [ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)]
        if hasattr(builtins, name)
    ]
    assert raised == []


def test_a_sublayer_that_blocks_share_is_computed_in_each_and_said() -> None:
    model = Toy([ThreeSublayers(), ThreeSublayers()])
    model.blocks[1].attn1 = model.blocks[0].attn1
    with pytest.warns(DcacheWarning, match=r"share modules \(Attention\).*not cached by themselves"):
        session = session_on(model, methods.interval(interval=2, sites="sublayers"))
    assert [site.name for site in session.binding.sites] == ["cross_attn:0", "mlp:0", "cross_attn:1", "mlp:1"]
    session.remove()
    with (
        pytest.warns(DcacheWarning, match="share modules"),
        pytest.raises(DcacheError, match="'attn:1' does not exist"),
    ):
        session_on(model, methods.interval(interval=2, sites="attn:1"))


def test_the_rules_probe_is_the_attention_that_is_named_without_a_suffix() -> None:
    class TextFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn_context, self.attn = Attention(), Attention()

    model = Toy([TextFirst(), TextFirst()])
    session = session_on(model, TEACACHE)
    (probe,) = [i for i in session.binding.intercepts if isinstance(i, AttentionInputProbe)]
    assert probe.module is model.blocks[0].attn


def test_an_mlp_that_was_asked_for_and_is_not_there_is_said() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Attention()

    model = Toy([Alone(), Alone()])
    with pytest.warns(DcacheWarning, match=r"pab caches mlp, and none is found in the blocks of Toy"):
        session = session_on(model, methods.pab(mlp=2))
    assert session.method.describe() == "pab(attn=2, mlp=None)"
    session.remove()
    # Without an MLP in the method nothing is said.
    session_on(model, methods.pab()).remove()
