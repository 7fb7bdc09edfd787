"""`dcache methods`: every preset with its options, all about one, and names that are none."""

import inspect
from pathlib import Path

import pytest

from dcache import methods
from dcache.cli import main

ROOT = Path(__file__).parents[2]


def test_methods_lists_every_preset_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    for name, what in methods.available().items():
        assert f"\n{name} " in f"\n{out}"
        assert str(what) in out
    assert "threshold=0.08" in out
    source = "for: cross-attention and guidance; sites: cross_attn, guidance, attn; from: T-GATE, Zhang"
    assert source in " ".join(out.split())
    assert "<" not in out


@pytest.mark.parametrize("name", methods.available())
def test_a_page_tells_what_every_option_means_and_where_it_comes_from(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["methods", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = dict(line.strip().split(maxsplit=1) for line in lines if line.startswith("  ") and line[2] != " ")
    parameters = inspect.signature(getattr(methods, name)).parameters.values()
    assert [*told] == [f"{parameter.name}={parameter.default!r}".split()[0] for parameter in parameters]
    (page,) = [line.split()[1] for line in lines if line.startswith("page ")]
    assert (ROOT / page).is_file()
    assert all(
        any(line.startswith(f"{fact} ") for line in lines) for fact in ("for", "sites", "needs", "from")
    )


def test_a_page_links_its_paper_and_says_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "teacache", "newton"]) == 0
    first, second = capsys.readouterr().out.split("\n\nnewton: ")
    assert "paper   https://arxiv.org/abs/2411.19108" in first
    assert "needs   coefficients: published for flux, hunyuan-video; else measured" in first
    assert second.startswith("Newton interpolation")
    assert "paper" not in second
    assert "Raises" not in first


def test_a_near_miss_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "taylorser"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith("Did you mean 'taylorseer'?\n")


@pytest.mark.parametrize(("name", "command"), [("snapkv", "lm"), ("window", "dlm")])
def test_a_policy_of_language_models_is_listed_elsewhere(
    name: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["methods", name]) == 2
    assert f"is a policy of language models: `dcache {command} methods` lists" in capsys.readouterr().err
    assert main([command, "methods"]) == 0
    assert name in capsys.readouterr().out
