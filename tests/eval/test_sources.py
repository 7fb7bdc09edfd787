"""What is refused of a pipeline before it is loaded, and of a call by the pipeline itself."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import diffusers
import pytest

from dcache.errors import DcacheError
from dcache.eval.limits import LIMITS, check_device, check_limit
from dcache.eval.packages import PACKAGES, require
from dcache.eval.sources import SHIPPED, arguments_of, check_source
from dcache.eval.subject import Subject, load


def test_names_that_may_be_pipelines_pass(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    for name in ("demo", "demo-video", "somebody/model", "model", str(tmp_path)):
        check_source(name, {"height": 64, "num_inference_steps": 4})


def test_devices_of_this_machine_pass() -> None:
    for device in ("auto", "cpu", "cpu:0"):
        check_device(device)
    for device in ("cuda:99", "bogus", "", 1.5, None, "meta:x"):
        with pytest.raises(DcacheError, match="expected auto, cpu, or a GPU of this machine"):
            check_device(device)


def test_limits_let_their_ends_pass_and_nothing_beyond() -> None:
    assert {"seed", "steps", "guidance", "speedup", "repeats", "budget"} <= set(LIMITS)
    for name, good, bad in [
        ("seed", (0, 2**62), (-1, 2**62 + 1)),
        ("steps", (1, 10**6), (0, 10**6 + 1)),
        ("guidance", (0, 0.0, 7.5), (-0.1, float("inf"))),
        ("speedup", (1.01, 100), (1, 1.0, float("nan"))),
    ]:
        for value in (*good, None):
            check_limit(name, value)
        for value in bad:
            with pytest.raises(DcacheError, match=f"^{name} must be"):
                check_limit(name, value)


@pytest.mark.parametrize("name", SHIPPED)
def test_arguments_read_from_the_source_are_those_of_the_class(name: str) -> None:
    shipped = importlib.import_module(SHIPPED[name])
    parameters = list(inspect.signature(getattr(diffusers, shipped.CLASS).__call__).parameters.values())[1:]
    named = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
    assert arguments_of(shipped.CLASS, shipped.SOURCE) == named
    assert arguments_of("NoPipeline", shipped.SOURCE) == arguments_of(shipped.CLASS, "no/file.py") == []


class Strict:
    """A pipeline of its own that refuses odd heights, and takes everything else."""

    def __call__(self, prompt: Any, height: int = 8, **_: Any) -> None:
        if height % 2:
            raise ValueError(f"`height` has to be even but is {height}. See https://example.org.\nMore of it")


def test_a_pipelines_own_refusal_is_one_sentence() -> None:
    with pytest.raises(DcacheError) as caught:
        Subject(Strict(), "strict", {"height": 7})(["a"], [0])
    assert str(caught.value) == (
        "Strict refused the call with height=7: `height` has to be even but is 7. Change the options"
    )
    assert isinstance(caught.value.__cause__, ValueError)


def test_options_that_diffusers_would_drop_are_refused() -> None:
    with pytest.raises(DcacheError, match="demo takes no 'foo': its call takes prompt"):
        load("demo", device="cpu", options={"foo": 3})
    with pytest.raises(DcacheError, match="PixArtAlphaPipeline takes no 'foo': its call takes prompt"):
        Subject(load("demo", device="cpu").pipe, "demo", {"foo": 3})
    # A pipeline that is not diffusers' own may take what it likes.
    assert Subject(Strict(), "strict", {"foo": 3}).options == {"foo": 3}


def test_a_missing_package_comes_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    require("bench", "dcache bench")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    for module, package in PACKAGES.items():
        with pytest.raises(DcacheError) as caught:
            require("eval", "dcache eval", module)
        assert str(caught.value) == f"dcache eval needs {package}: pip install 'dcache-torch[eval]'"
