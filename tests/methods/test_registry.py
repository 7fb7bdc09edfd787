"""Presets of others: registered by hand or by the entry points of installed packages."""

import inspect
import re
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

import dcache
from dcache import methods
from dcache.cli import main
from dcache.errors import DcacheError, DcacheWarning
from dcache.methods import registry
from dcache.methods.resolve import resolve
from dcache.schedulers import Every


@methods.preset("mine", sites="any")
def mine(interval: int = 2, codec: str | None = None) -> dcache.Method:
    """Every second evaluation.

    Args:
        interval: compute once per this many.
        codec: what is remembered.
    """
    return dcache.Method(rule=Every(interval), codec=codec)


@methods.preset("theirs", sites="model")
def theirs() -> dcache.Method:
    """Nothing but the first."""
    return dcache.Method(rule=Every(99), sites=("model",))


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that an installed package's entry points name."""
    module = ModuleType("installed_presets")
    module.theirs, module.other = theirs, theirs
    monkeypatch.setitem(__import__("sys").modules, "installed_presets", module)
    points = [
        EntryPoint(name, f"installed_presets:{name}", registry.GROUP) for name in ("theirs", "other", "gone")
    ]

    def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
        assert group == "dcache.presets"
        return [point for point in points if name in (None, point.name)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    return module


def test_a_preset_stays_a_function_and_names_its_methods():
    assert inspect.isfunction(mine)
    assert str(inspect.signature(mine)).startswith("(interval: ")
    assert (mine.__name__, mine.__module__) == ("mine", __name__)
    method = mine(3)
    assert (method.name, method.parameters) == ("mine", {"interval": 3, "codec": None})
    assert method.describe() == "mine(interval=3)"
    with pytest.raises(TypeError, match=r"mine\(\) got an unexpected keyword argument"):
        mine(order=3)


def test_a_registered_preset_is_known_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DcacheError, match="method 'mine' is unknown"):
        methods.make("mine")
    assert methods.register(mine) is mine
    assert methods.register(mine) is mine
    assert methods.make("mine", interval=4).describe() == "mine(interval=4)"
    assert methods.find("mine") is methods.mine is mine
    assert methods.available()["mine"].paper == "mine"
    assert main(["methods", "mine"]) == 0
    assert "compute once per this many" in capsys.readouterr().out


def test_a_name_that_is_taken_is_refused():
    methods.register(mine)

    @methods.preset("another", sites="any")
    def mine_too() -> dcache.Method:
        """Another of this name."""
        return dcache.Method(rule=Every(2))

    for name in ("mine", "interval"):
        mine_too.__name__ = name
        with pytest.raises(DcacheError, match=f"a preset named '{name}' is registered already"):
            methods.register(mine_too)
    assert methods.find("mine") is mine


def test_a_function_that_is_no_preset_is_refused():
    with pytest.raises(DcacheError, match=r"decorated with @dcache.methods.preset"):
        methods.register(lambda: dcache.Method(rule=Every(2)))


@pytest.mark.usefixtures("installed")
def test_presets_of_installed_packages_are_found_by_name():
    assert methods.make("theirs") == theirs()
    with pytest.raises(DcacheError, match="'gone' of installed_presets:gone cannot be loaded"):
        methods.find("gone")
    with pytest.raises(DcacheError, match=r"'other' and its preset 'theirs' of .* differ in name"):
        methods.find("other")


@pytest.mark.usefixtures("installed")
def test_what_cannot_be_loaded_is_left_out_of_the_list_with_a_warning():
    with pytest.warns(DcacheWarning, match="differ in name|cannot be loaded"):
        assert "theirs" in methods.available()


def test_the_packages_own_presets_look_up_no_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", None)
    assert methods.make("interval").name == "interval"


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("interval", {"last": 3}, "last of interval must be True or False, got 3"),
        ("interval", {"last": "yes"}, "last of interval must be True or False, got 'yes'"),
        ("taylorseer", {"lite": 3}, "lite of taylorseer must be True or False, got 3"),
        ("interval", {"interval": "4"}, "interval must be a whole number of at least 1, got '4'"),
        ("interval", {"interval": True}, "interval must be a whole number of at least 1, got True"),
        ("interval", {"interval": 4.0}, "interval must be a whole number of at least 1, got 4.0"),
        ("fbcache", {"threshold": "0.1"}, "threshold must be a number of at least 0.0, got '0.1'"),
        ("fbcache", {"max_run": 1.5}, "max_run must be a whole number of at least 1, got 1.5"),
        ("interval:last=3", {}, "last of interval must be True or False, got 3"),
    ],
)
def test_options_of_another_type_are_refused(name: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(DcacheError, match=re.escape(says)):
        resolve(name, options)


def test_a_whole_number_is_a_number_and_none_may_stand_for_no_limit() -> None:
    assert methods.make("fbcache", threshold=1, max_run=None).parameters["threshold"] == 1


@pytest.mark.parametrize(
    ("name", "needs"),
    [("sencache", "sensitivities: measured"), ("magcache", "ratios of one observed run")],
)
def test_an_unknown_option_is_answered_with_what_the_preset_needs(name: str, needs: str) -> None:
    with pytest.raises(DcacheError, match=rf"{name} has no option 'coefficients': .*It needs {needs}\.$"):
        methods.make(name, coefficients="flux")


@pytest.mark.parametrize("spelled", ["FLUX", "Flux", "HunyuanVideo", "hunyuan_video"])
def test_published_numbers_are_known_in_any_spelling(spelled: str) -> None:
    exact = "flux" if spelled.lower() == "flux" else "hunyuan-video"
    assert (
        methods.make("teacache", coefficients=spelled).rule
        == methods.make("teacache", coefficients=exact).rule
    )
