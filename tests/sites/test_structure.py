"""Specifications of sites: how they are read, refused, and cut into atoms."""

import random
from itertools import pairwise

import pytest
from torch import nn

from dcache.errors import DcacheError
from dcache.sites.discovery import discover
from dcache.sites.names import SITE_NAME
from dcache.sites.site import Site
from dcache.sites.structure import SUBLAYER_KINDS, split_overlapping_runs
from tests.sites.models import (
    BasicTransformerBlock,
    Flat,
    Skipping,
    names,
)


def test_a_model_without_blocks_offers_itself():
    model = nn.Sequential(nn.Linear(2, 2), nn.SiLU())
    assert names(model, "auto") == ["model"]
    assert discover(model).available_specs() == "model"


@pytest.mark.parametrize(
    ("specs", "sites"),
    [
        (["auto"], [Site("trunk", "trunk", 0, 3)]),
        (["trunk"], [Site("trunk", "trunk", 0, 3)]),
        (["model"], [Site("model", "model")]),
        (["run:1-3"], [Site("run:1-3", "run", 1, 3)]),
        (["run:2-2"], [Site("run:2-2", "run", 2, 2)]),
        (["block:3"], [Site("block:3", "block", 3, 3)]),
        (["block"], [Site(f"block:{i}", "block", i, i) for i in range(4)]),
        (["run:0-1", "block:2"], [Site("run:0-1", "run", 0, 1), Site("block:2", "block", 2, 2)]),
        (["attn:1"], [Site("attn:1", "attn", 1, 1)]),
        (["mlp"], [Site(f"mlp:{i}", "mlp", i, i) for i in range(4)]),
        (["mlp:2", "attn:2"], [Site("mlp:2", "mlp", 2, 2), Site("attn:2", "attn", 2, 2)]),
        (["cross_attn:0", "cross_attn:0"], [Site("cross_attn:0", "cross_attn", 0, 0)]),
    ],
)
def test_specifications(specs, sites):
    found = discover(Flat(BasicTransformerBlock)).select(specs)
    assert found == sites
    assert [s.is_run for s in found] == [s.kind in ("trunk", "run", "block") for s in sites]


def test_sublayers_are_all_of_them():
    assert names(Flat(BasicTransformerBlock, 1), "sublayers") == ["attn:0", "cross_attn:0", "mlp:0"]


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        (["block:4"], "'block:4' is out of range: Flat has blocks 0 to 3"),
        (["run:2-4"], "'run:2-4' is out of range: Flat has blocks 0 to 3"),
        (["run:3-2"], "'run:3-2' is out of range"),
        (["attn:9"], "'attn:9' does not exist in Flat"),
        (["fused"], "'fused' does not exist in Flat"),
        (["bracket:0"], "needs a UNet"),
        (["bracket"], "needs a UNet"),
        (["trnk"], "'trnk' is not understood; Flat has: model, trunk, run:A-B"),
        (["blocks.3"], "not understood"),
        (["run"], "not understood"),
        (["run:1"], "not understood"),
        (["block:-1"], "not understood"),
        (["attn:"], "not understood"),
        ([""], "not understood"),
        ([], "no site"),
    ],
)
def test_specifications_that_make_no_sense_are_refused(specs, says):
    with pytest.raises(DcacheError, match=says):
        discover(Flat(BasicTransformerBlock)).select(specs)


@pytest.mark.parametrize("spec", ["trunk", "block:0", "run:0-1"])
def test_a_run_needs_a_trunk(spec, unet):
    with pytest.raises(DcacheError, match="sites='model'"):
        discover(nn.Linear(2, 2)).select([spec])
    with pytest.raises(DcacheError, match="a UNet has brackets instead"):
        discover(unet).select([spec])


def test_kinds_that_are_not_there_are_not_offered(flux):
    assert discover(flux).available_specs().endswith("attn, mlp, fused")
    assert discover(Flat()).available_specs() == "model, trunk, run:A-B and block:N with depths 0 to 3"
    with pytest.raises(DcacheError, match="no such sublayer"):
        discover(Flat()).select(["attn"])


def test_names_of_sites_are_specifications_of_themselves(flux, unet):
    """A trace holds the names; replaying it binds them."""
    for model in (flux, unet):
        every = names(model, "sublayers")
        assert names(model, *every) == every
        assert len(set(every)) == len(every)
        for name in every:
            assert names(model, name) == [name]
            assert SITE_NAME.fullmatch(name)
            assert name.partition(":")[0].partition(".")[0] in SUBLAYER_KINDS
    assert names(flux, "mlp") == ["mlp:0", "mlp.context:0", "mlp:1", "mlp.context:1"]


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        (["bracket:6"], "UNet2DConditionModel has skips 0 to 5"),
        (["bracket:0", "bracket:2"], "brackets nest"),
        (["bracket:x"], "not understood"),
    ],
)
def test_brackets_that_make_no_sense_are_refused(specs, says, unet):
    with pytest.raises(DcacheError, match=says):
        discover(unet).select(specs)


@pytest.mark.parametrize(("level", "first", "last"), [(0, 1, 6), (1, 2, 5), (2, 3, 4)])
def test_a_bracket_between_two_blocks_is_the_run_between_them(level, first, last):
    found = discover(Skipping(8, [5, 6, 7]))
    assert found.select([f"bracket:{level}"]) == [Site(f"bracket:{level}", "run", first, last)]
    with pytest.raises(DcacheError, match="Skipping has skips 0 to 2"):
        found.select(["bracket:3"])


@pytest.mark.parametrize(("first", "last"), [(a, b) for b in range(8) for a in range(b + 1)])
def test_a_run_may_be_predicted_if_nothing_but_its_entry_and_exit_joins_it_to_the_rest(first, last):
    """Walk the skips: what is read inside and made outside is the run's entry, and the other way round."""
    found = discover(Skipping(8, [5, 6, 7]))
    cut = False
    for source, sink in [(0, 7), (1, 6), (2, 5)]:
        inside = range(first, last + 1)
        # A block within the run that is passed through would hand on what it was given.
        cut |= source in inside and sink not in inside and source != last
        # A block within the run that is not called would miss what it is given from elsewhere.
        cut |= sink in inside and source not in inside and sink != first and source != first - 1
    if cut:
        with pytest.raises(
            DcacheError, match=rf"'run:{first}-{last}' \(blocks {first} to {last}\) cuts skip"
        ):
            found.select([f"run:{first}-{last}"])
    else:
        assert names(found.model, f"run:{first}-{last}") == [f"run:{first}-{last}"]


def test_a_cut_skip_is_named_with_the_blocks_that_it_joins():
    found = discover(Skipping(8, [5, 6, 7]))
    begins = r"cuts skip 1 of Skipping: it joins block 1 to block 6, and only begins inside"
    with pytest.raises(DcacheError, match=begins + r".* 'bracket:1' \(blocks 2 to 5\)"):
        found.select(["run:1-3"])
    with pytest.raises(DcacheError, match=r"cuts skip 0 .* block 0 to block 7, and only ends inside"):
        found.select(["run:4-7"])
    assert len(found.select(["block"])) == 8


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("front:1", "run:0-0"),
        ("front:3", "run:0-2"),
        ("front:8", "run:0-7"),
        ("rear:1", "run:7-7"),
        ("rear:3", "run:5-7"),
        ("front:25%", "run:0-1"),
        ("rear:75%", "run:2-7"),
        ("rear:37.5%", "run:5-7"),
        ("front:100%", "run:0-7"),
        ("middle:0-0", "run:0-7"),
        ("middle:1-0", "run:1-7"),
        ("middle:3-4", "run:3-3"),
    ],
)
def test_ends_and_the_middle_are_counted_from_the_models_depth(spec, name):
    (site,) = discover(Flat(count=8)).select([spec])
    first, last = map(int, name.partition(":")[2].split("-"))
    assert site == Site(name, "run", first, last)
    assert SITE_NAME.fullmatch(site.name)


@pytest.mark.parametrize("spec", ["front:0", "rear:9", "front:1%", "rear:120%"])
def test_an_end_of_no_blocks_or_of_too_many_is_refused(spec):
    with pytest.raises(
        DcacheError, match=f"site '{spec}' is (0|9|10) blocks, and Flat has 8; it has: model, trunk"
    ):
        discover(Flat(count=8)).select([spec])


@pytest.mark.parametrize("spec", ["middle:4-4", "middle:8-0", "middle:0-8", "middle:20-20"])
def test_a_middle_without_blocks_is_refused(spec):
    front, back = spec.partition(":")[2].split("-")
    says = f"'{spec}' leaves nothing between {front} front and {back} back blocks: Flat has 8 block"
    with pytest.raises(DcacheError, match=says):
        discover(Flat(count=8)).select([spec])


@pytest.mark.parametrize(
    "spec", ["front", "front:", "front:-1", "rear:x", "middle:1", "middle:1-", "front:1-2"]
)
def test_misspelt_ends_are_not_understood(spec):
    with pytest.raises(DcacheError, match=f"site '{spec}' is not understood"):
        discover(Flat(count=8)).select([spec])


def test_a_kind_that_need_not_exist():
    with_cross = Flat(BasicTransformerBlock, 2)
    without = Flat(lambda: BasicTransformerBlock(cross=False), 2)
    assert names(with_cross, "attn", "cross_attn?") == ["attn:0", "attn:1", "cross_attn:0", "cross_attn:1"]
    assert names(without, "attn", "cross_attn?") == ["attn:0", "attn:1"]
    with pytest.raises(DcacheError, match="'cross_attn' does not exist"):
        discover(without).select(["attn", "cross_attn"])
    with pytest.raises(DcacheError, match="no site of"):
        discover(without).select(["cross_attn?"])
    for wrong in ("cross_atn?", "?", "block?", "attn:0?"):
        with pytest.raises(DcacheError, match="is not understood"):
            discover(with_cross).select(["attn", wrong])


@pytest.mark.parametrize(
    ("specs", "atoms"),
    [
        (["front:6", "rear:6"], ["run:0-1", "run:2-5", "run:6-7"]),
        (["front:4", "rear:4"], ["run:0-3", "run:4-7"]),
        (["front:3", "rear:3"], ["run:0-2", "run:5-7"]),
        (["front:8", "rear:8"], ["run:0-7"]),
        (["front:7", "rear:7"], ["block:0", "run:1-6", "block:7"]),
        (["trunk", "block:3"], ["run:0-2", "block:3", "run:4-7"]),
        (["run:0-1", "run:1-2", "run:5-6"], ["block:0", "block:1", "block:2", "run:5-6"]),
        (["run:1-6", "run:3-4", "run:4-7"], ["run:1-2", "block:3", "block:4", "run:5-6", "block:7"]),
        (["guidance", "front:2", "rear:7"], ["guidance", "block:0", "block:1", "run:2-7"]),
    ],
)
def test_overlapping_runs_are_cut_into_atoms(specs, atoms):
    model = Flat(BasicTransformerBlock, 8)
    assert names(model, *specs) == atoms
    # The order of the specifications does not matter, and atoms are not cut any further.
    assert sorted(names(model, *reversed(specs))) == sorted(atoms)
    assert names(model, *atoms) == atoms


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("front:1.5", "site 'front:1.5' must be a whole number of blocks, as in 'front:2', or a share"),
        ("attn|", "site 'attn|' has an empty alternative"),
        ("|", "site '|' has an empty alternative"),
    ],
)
def test_a_site_that_cannot_be_is_refused_with_what_can(spec, says):
    with pytest.raises(DcacheError) as caught:
        discover(Flat(BasicTransformerBlock)).select([spec])
    assert says in str(caught.value)


@pytest.mark.parametrize("spec", ["trunk", "front:75%", "rear:2", "middle:1-0", "block:0"])
def test_a_model_without_blocks_is_sent_to_methods_for_whole_models(spec):
    with pytest.raises(DcacheError, match=r"and Sequential has none: .*'interval', sites='model'"):
        discover(nn.Sequential(nn.Linear(2, 2))).select([spec])


def test_a_missing_sublayer_is_answered_with_the_line_that_declares_it():
    for spec in ("mlp", "mlp:2", "mlp.context:1"):
        with pytest.raises(
            DcacheError, match=r"register_block\('tests\.Block', sublayers=\{'mlp': \('NAME',\)\}\)"
        ):
            discover(Flat()).select([spec])
    # A second row of a class would be refused, and more depth is no row's.
    with pytest.raises(DcacheError) as caught:
        discover(Flat(BasicTransformerBlock)).select(["attn:9"])
    assert "register_block" not in str(caught.value)


def test_of_two_names_for_the_same_blocks_the_first_is_kept():
    model = Flat(count=8)
    assert names(model, "trunk", "run:0-7") == ["trunk"]
    assert names(model, "run:0-7", "trunk") == ["run:0-7"]


def test_atoms_are_the_coarsest_disjoint_runs_that_make_up_every_run():
    rng = random.Random(3)
    for _ in range(200):
        ends = [sorted(rng.choices(range(12), k=2)) for _ in range(rng.randint(1, 5))]
        runs = [Site(f"run:{a}-{b}", "run", a, b) for a, b in ends]
        atoms = split_overlapping_runs(runs)
        covered = [depth for s in atoms for depth in range(s.first, s.last + 1)]
        assert sorted(covered) == sorted({d for s in runs for d in range(s.first, s.last + 1)})
        inside = {s: frozenset(r for r in runs if r.first <= s.first and s.last <= r.last) for s in atoms}
        for s in atoms:
            assert all(r in inside[s] or r.last < s.first or r.first > s.last for r in runs)
            assert SITE_NAME.fullmatch(s.name)
        if len({(r.first, r.last) for r in runs}) < len(runs) or atoms == runs:
            continue
        # Two neighbours that belong to the same runs would be one atom.
        ordered = sorted(atoms, key=lambda s: s.first)
        for a, b in pairwise(ordered):
            assert b.first > a.last + 1 or inside[a] != inside[b]


def test_of_alternatives_the_first_that_exists_is_selected() -> None:
    model = Flat(BasicTransformerBlock, 2)
    assert names(model, "mlp|block") == ["mlp:0", "mlp:1"]
    assert names(model, "fused|bracket:0|block:1|trunk") == ["block:1"]
    assert discover(model).existing(["sublayers|block", "trunk", "fused|bracket|model"]) == (
        "sublayers",
        "trunk",
        "model",
    )
    assert names(Flat(), "sublayers|block:3|model") == ["block:3"]
    with pytest.raises(DcacheError, match="'bracket:0' needs a UNet"):
        names(Flat(), "attn|bracket")
