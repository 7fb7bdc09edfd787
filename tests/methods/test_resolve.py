"""What people type as a method is understood, or answered with the line to type."""

import inspect
import typing
from pathlib import Path

import pytest

from dcache import DcacheError, Method, Schedule, methods
from dcache.methods.options import PresetOptions
from dcache.methods.registry import PresetName
from dcache.methods.resolve import ALIASES, preset_called, resolve


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("FORA", "interval"),
        # Not "foca", which is one letter away.
        ("fora", "interval"),
        ("foca", "foca"),
        ("FoCa", "foca"),
        ("FBCache", "fbcache"),
        ("first_block_cache", "fbcache"),
        ("First-Block Cache", "fbcache"),
        ("TaylorSeer", "taylorseer"),
        ("Delta-DiT", "delta_dit"),
        ("T-GATE", "tgate"),
        ("PyramidAttentionBroadcast", "pab"),
        ("interval", "interval"),
        ("newtons", None),
        ("", None),
    ],
)
def test_names_are_known_in_the_spellings_of_papers_and_libraries(typed: str, meant: str | None) -> None:
    assert preset_called(typed) == meant
    if meant is not None:
        method = resolve(typed, {}) if meant not in ("teacache", "magcache") else None
        assert method is None or (isinstance(method, Method) and method.name == meant)


def test_an_alias_is_no_presets_own_name() -> None:
    assert not set(ALIASES) & {name.replace("_", "") for name in methods.available()}
    assert set(ALIASES.values()) <= set(methods.available())


def test_options_go_in_the_name_or_beside_it() -> None:
    expected = methods.newton(interval=4, order=2)
    assert resolve("newton:interval=4,order=2", {}) == expected
    assert resolve("newton", {"interval": 4, "order": 2}) == expected
    assert resolve("Newton:interval=4", {"order": 2}) == expected
    assert resolve(methods.newton, {"interval": 4, "order": 2}) == expected
    assert resolve("interval:sites=attn+mlp", {}).sites == ("attn", "mlp")  # type: ignore[union-attr]


class Policy:
    """What makes actions by a method of a policy's name."""

    def predict_action_chunk(self, observation: object) -> object:
        return observation


def test_a_policys_default_is_its_own_and_takes_its_options() -> None:
    assert resolve(None, {}, target=Policy()) == methods.policy_default()
    assert resolve(None, {"interval": 6}, target=Policy()) == methods.policy_default(interval=6)
    assert resolve(None, {}, target=object()) == resolve(None, {}) == methods.default()
    # A named method is that method whatever it is for.
    assert resolve("interval", {"interval": 6}, target=Policy()) == methods.interval(interval=6)
    with pytest.raises(DcacheError, match=r"write dcache\.enable\(pipe, 'adaptive', threshold=0\.1\)"):
        resolve(None, {"threshold": 0.1}, target=Policy())
    with pytest.raises(DcacheError, match=r"unknown option\(s\) nothing for policy_default"):
        resolve(None, {"nothing": 1}, target=Policy())


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (None, {"interval": 3}, r"write dcache\.enable\(pipe, 'interval', interval=3\)"),
        (
            None,
            {"order": 2, "interval": 4},
            r"write dcache\.enable\(pipe, '\w+', order=2, interval=4\)",
        ),
        (None, {"threshold": 0.1}, r"enable\(pipe, 'adaptive', threshold=0\.1\); .* fbcache"),
        ("newtn", {}, "Did you mean 'newton'"),
        ("firstblockcach", {}, "Did you mean 'fbcache'"),
        ("newton:4", {}, "expected option=value, as in newton:interval=4"),
        (3, {}, r"got int: write dcache\.enable"),
        (print, {}, r"got builtin_function_or_method: write dcache\.enable"),
        (Path("x.json"), {"interval": 3}, "unknown option.s. interval for the schedule 'x.json'"),
    ],
)
def test_what_cannot_be_meant_is_answered_with_the_line_to_type(
    method: object, options: dict[str, object], words: str
) -> None:
    with pytest.raises(DcacheError, match=words):
        resolve(method, options)


def test_a_schedule_and_its_path_are_schedules(tmp_path: Path) -> None:
    schedule = Schedule.of_steps((0, 2), 4)
    path = schedule.save(tmp_path / "my.json")
    assert resolve(schedule, {}) is schedule
    assert resolve(path, {}) == resolve(str(path), {}) == schedule


def test_editors_complete_every_preset_and_every_option() -> None:
    assert set(typing.get_args(PresetName)) == set(methods.available())
    takes = {o for name in methods.available() for o in inspect.signature(getattr(methods, name)).parameters}
    assert set(PresetOptions.__annotations__) == takes


@pytest.mark.slow
def test_the_type_checker_shows_the_names_and_refuses_others(tmp_path: Path) -> None:
    from mypy import api

    code = tmp_path / "user.py"
    code.write_text(
        "import dcache\n"
        "pipe = object()\n"
        "reveal_type(dcache.enable)\n"
        "dcache.enable(pipe, 'newton', interval=4, codec='delta', branches='together')\n"
        "dcache.enable(pipe, lowering='slow')\n"
    )
    out, _, _ = api.run(["--strict", "--no-incremental", str(code)])
    # Of the user's code alone: where dcache is no installed package its own lines are judged, too.
    lines = [line for line in out.splitlines() if line.startswith(str(code))]
    revealed, *errors = [line for line in lines if ": error" in line or "Revealed" in line]
    for name in typing.get_args(PresetName):
        assert f"'{name}'" in revealed
    assert [line.split(":")[1] for line in errors] == ["5"]
