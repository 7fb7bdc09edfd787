"""`dcache show PIPE`: what is found in the denoisers of a pipeline, in words and numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import dcache
from dcache.cli import main
from dcache.cli.show_pipeline import describe
from tests.engine.tiny_models import Double, Meeting, ThreeSublayers, Toy, unet, walk
from tests.families import FAMILIES

TO_CONFIRM = "found by structure; the first call confirms them"


def rows(pipe: object) -> list[tuple[str, str]]:
    """What each line is about, and what it says; the first names the denoiser."""
    parts = [line.partition(" ") if line[0] != " " else line[2:].partition(" ") for line in describe(pipe)]
    return [(what, text.strip()) for what, _, text in parts]


def test_the_demos_transformer_has_twelve_blocks_with_three_sublayers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show", "demo"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["transformer:", "PixArtTransformer2DModel"],
        ["trunk", "12 x BasicTransformerBlock"],
        ["attn", f"12, {TO_CONFIRM}"],
        ["cross_attn", f"12, {TO_CONFIRM}"],
        ["mlp", f"12, {TO_CONFIRM}"],
        ["probe", "the input of attn:0"],
    ]


def test_what_a_first_call_confirmed_needs_no_other() -> None:
    toy = dcache.enable(Toy([ThreeSublayers() for _ in range(2)]), "interval", interval=2, sites="attn")
    assert ("attn", f"2, {TO_CONFIRM}") in rows(toy)
    walk(toy, [0, 1])
    assert ("attn", "2, found by structure") in rows(toy)


def test_declared_sublayers_and_blocks_without_any_are_told_apart() -> None:
    ltx = FAMILIES["ltx"]
    assert ("attn", f"{ltx.depth}, declared") in rows(ltx.build())
    assert rows(Toy([Double()]))[1:] == [
        ("trunk", "1 x Double"),
        ("sublayers", "none found (docs/add-a-family.md)"),
        ("probe", "the first block's input: it has no attention"),
    ]
    assert ("fused", f"1, {TO_CONFIRM}") in rows(Toy([Double(), Meeting()]))


def test_a_unet_has_brackets_and_no_trunk() -> None:
    assert ("trunk", "no list of blocks") in rows(unet())
    assert any(name == "bracket" for name, _ in rows(unet()))


def test_options_of_schedules_do_not_go_with_a_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "demo", "--json"]) == 2
    assert "are for schedules" in capsys.readouterr().err


def test_a_folder_without_a_pipeline_is_refused_with_what_was_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(tmp_path)]) == 2
    assert "a folder written by save_pretrained" in capsys.readouterr().err


def test_a_denoiser_alone_is_described_without_a_name() -> None:
    assert next(describe(Toy([Double()]))) == "Toy"
    assert isinstance(Toy(), nn.Module)
