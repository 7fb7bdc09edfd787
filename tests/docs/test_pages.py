"""Every snippet and every command of the pages runs: each page from top to bottom, as a reader would.

A failure's traceback has the page and the line. What stands for the reader's own things is in `stand_ins.py`
and `reader_files.py`, for missing packages and machines in `conditions.py`; `shell.py` makes commands small.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcache import diffusion_lm, importers, lm_kv, probes
from dcache.eval import metrics
from dcache.methods import registry as presets
from dcache.predictors import registry as predictors
from dcache.schedulers import planners
from dcache.search.strategies import registry as strategies
from dcache.sites import blocks as tables
from tests.docs import conditions, pages, reader_files, shell, stand_ins
from tests.docs.checks import CHECKS
from tests.docs.snippets import PROGRAMS, all_pages, blocks, lines, text_of

# Pages whose commands take more than a few seconds of a core even when they are made small.
SLOW = {"docs/calibrate.md", "docs/diffusion_lm/measure.md"}
# What a block without a language may be beside commands: what a command prints, kept up to date by tools.
PRINTED = ("method            default()\n", "pictures: 8, ", "clips of 9 frames: ")
RUN = [page for page in all_pages() if any(block.kind in {"python", "shell"} for block in blocks(page))]


@pytest.fixture
def _afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a page registers or declares is known to the next one."""
    # All that is built in is loaded first, so that it is not registered in the copies alone.
    diffusion_lm.registry.available()
    for registry in (planners.PLANNERS, importers.FORMATS, strategies.STRATEGIES):
        monkeypatch.setattr(registry, "_makers", dict(registry._makers))
    for registry in (lm_kv.registry, diffusion_lm.registry):
        monkeypatch.setattr(registry, "_presets", dict(registry._presets))
    monkeypatch.setattr(metrics, "METRICS", metrics.Registry())
    monkeypatch.setattr(probes, "_registered", {})
    monkeypatch.setattr(presets, "_registered", {})
    monkeypatch.setattr(predictors, "_MAKERS", dict(predictors._MAKERS))
    kept = {name: getattr(tables, name).copy() for name in ("SUBLAYERS", "FUSED", "STREAMS", "ASIDE")}
    yield
    for name, before in kept.items():
        table = getattr(tables, name)
        table.clear()
        table.update(before)


def marked(page: str) -> object:
    return pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())


# What `tuned` observes, a small budget and a schedule of another model are said in warnings.
@pytest.mark.filterwarnings("default::dcache.DcacheWarning")
@pytest.mark.usefixtures("_afresh")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [marked(page) for page in RUN])
def test_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = pages.run(page, tmp_path, monkeypatch)
    if page in CHECKS:
        CHECKS[page](names, capsys.readouterr().out)


def test_what_a_page_declared_is_gone() -> None:
    assert "page.MyBlock" not in tables.SUBLAYERS
    assert "my_refiner_blocks" not in tables.ASIDE


def test_every_block_is_run_or_is_no_code() -> None:
    """A formula or an output is marked as text; it does not begin with a command."""
    for page in all_pages():
        assert 2 * len(blocks(page)) == text_of(page).count("```"), f"{page} has a fence that is not read"
    for block in (block for page in all_pages() for block in blocks(page)):
        first = block.code.split()[0]
        if block.language == "text":
            assert first not in PROGRAMS, f"{block} is a command: mark it as bash"
        elif not block.language and block.kind == "text":
            assert block.code.startswith(PRINTED), f"{block}: mark it as python, bash or text"


def test_the_tables_have_nothing_that_is_no_longer_in_the_pages() -> None:
    run = set(RUN)
    assert run >= SLOW
    assert run >= CHECKS.keys()
    assert run >= reader_files.FILES.keys()
    assert run >= conditions.MISSING.keys()
    shells = [block.code for page in run for block in blocks(page) if block.kind == "shell"]
    typed = [words for code in shells for _, words in lines(code)]
    commands = [shell.placed(words[1:]) for words in typed if words[0] == "dcache"]
    # `make demo-video` is this command.
    commands.append(["demo", "--video"])
    assert {shell.beginning(words) for words in commands} - {""} == shell.SMALLER.keys()
    assert {words[1] for words in typed if words[0] == "python"} >= shell.EXAMPLES.keys()
    for page, files in reader_files.FILES.items():
        code = "".join(block.code for block in blocks(page))
        missing = [name for name in files if name not in code and name not in shell.MODELS.values()]
        assert not missing, f"{page} names no {missing}"
    for page, packages in conditions.MISSING.items():
        assert [name for name in packages if name not in text_of(page)] == []
    for beginning, names in stand_ins.NAMES.items():
        assert any(page.startswith(beginning) for page in run)
        if beginning in run:
            code = "".join(block.code for block in blocks(beginning))
            assert [name for name in names if name not in code and name not in stand_ins.LM] == []
