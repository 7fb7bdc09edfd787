"""A method is checked when it is made, and gives each site its codec."""

import pytest

from dcache import methods
from dcache.cache.codec import parse
from dcache.errors import DcacheError
from dcache.method import Method, site_list
from dcache.predictors import Fitted, Reuse
from dcache.schedulers import Every, Listed
from dcache.sites.site import Site


def test_the_codec_of_a_site_depends_on_its_kind_unless_it_is_said():
    runs = [Site("trunk", "trunk", 0, 3), Site("run:1-2", "run", 1, 2), Site("block:0", "block")]
    others = [Site("model", "model"), Site("attn:0", "attn"), Site("bracket:0", "bracket")]
    assert [methods.newton().codec_for(s).name for s in runs] == ["delta"] * 3
    assert [methods.newton().codec_for(s).name for s in others] == ["value"] * 3
    said = methods.newton(codec="delta:float16")
    assert {said.codec_for(s) for s in runs + others} == {parse("delta:float16")}


def test_a_method_elsewhere_is_otherwise_the_same():
    method = methods.newton()
    moved = method.with_sites(("mlp",))
    assert moved.sites == ("mlp",)
    assert moved.with_sites(method.sites) == method
    assert site_list("a") == site_list(["a"]) == ("a",)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sites": ()}, "sites"),
        ({"clock": "x"}, "clock"),
        ({"branches": None}, "branches"),
        ({"codec": "x"}, "codec"),
    ],
)
def test_a_method_is_checked_when_it_is_made(options, says):
    with pytest.raises(DcacheError, match=says):
        Method("mine", rule=lambda moment: None, **options)


def test_what_is_not_said_is_reuse_of_the_trunk_by_separate_branches():
    method = Method("mine", rule=lambda moment: None)
    assert (method.predictor, method.sites, method.branches) == (Reuse(), ("auto",), "separate")
    assert (method.codec, method.clock, method.probe, method.corrections) == (None, None, None, None)
    assert method.predicts


def test_a_method_describes_itself_on_one_line():
    made = Method("mine", rule=lambda moment: None, parameters={"interval": 3, "sites": "mlp"})
    assert made.describe() == "mine(interval=3, sites='mlp')"
    assert Method("mine", rule=lambda moment: None).describe() == "mine()"


def test_values_that_a_preset_has_by_itself_are_left_out_but_for_the_first():
    assert methods.interval().describe() == "interval(interval=3)"
    assert methods.interval(codec="delta:int8").describe() == "interval(interval=3, codec='delta:int8')"
    assert methods.default().describe() == "default()"


def test_what_was_given_up_is_shown_even_where_it_is_the_presets_own_value():
    lowered = methods.interval(sites="trunk").with_parameters(sites="auto", order=0)
    assert lowered.describe() == "interval(interval=3, sites='auto', order=0)"


@pytest.mark.parametrize(
    ("rule", "steps", "predicts"),
    [
        (Every(1), None, False),
        (Every(2), None, True),
        (Listed((0, 1)), None, True),
        (Listed((0, 1)), 2, False),
        (Listed((0, 1)), 3, True),
        (lambda moment: "always", None, True),
    ],
)
def test_whether_a_method_ever_predicts_follows_from_its_rule(rule, steps, predicts):
    assert Method("mine", rule=rule, steps=steps).predicts is predicts


def test_fitted_weights_need_the_clock_that_lists_them():
    fitted = Fitted({"*": {2: {0: -1.0, 1: 2.0}}})
    with pytest.raises(DcacheError, match="clock must be 'step', got None"):
        Method("mine", rule=lambda moment: None, predictor=fitted)
    assert Method("mine", rule=lambda moment: None, predictor=fitted, clock="step").predictor == fitted


def test_noise_levels_fit_the_number_of_evaluations():
    levels = (1.0, 0.6, 0.3, 0.0)
    for steps in (3, 4, None):
        assert Method("mine", rule=lambda moment: None, sigmas=levels, steps=steps).sigmas == levels
    with pytest.raises(DcacheError, match="expected 5 noise levels"):
        Method("mine", rule=lambda moment: None, sigmas=levels, steps=5)
    with pytest.raises(DcacheError, match="must fall from 1 towards 0"):
        Method("mine", rule=lambda moment: None, sigmas=levels[::-1])


def test_sites_are_one_specification_or_several_and_nothing_else():
    assert site_list(("a", "b")) == ("a", "b")
    for wrong in (None, 3, {"a"}, b"a"):
        with pytest.raises(DcacheError, match="sites must be a site name or a list of them"):
            site_list(wrong)
    with pytest.raises(DcacheError, match="sites must be a site name or a list of them"):
        Method("mine", rule=lambda moment: None, sites=("trunk", 3))
