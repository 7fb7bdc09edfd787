"""Runs a page from top to bottom, as a reader would: Python in one namespace, commands in one folder."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

import dcache
from dcache import lm_kv
from dcache.engine.enabled import Enabled
from tests.docs import conditions, reader_files, shell, stand_ins
from tests.docs.snippets import ROOT, Block, blocks
from tests.engine import ranks


def run(page: str, folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the Python and the commands of a page in an empty folder.

    Args:
        page: below the repository's root.
        folder: an empty one, which becomes the current one.
        patch: undone by the caller.

    Returns:
        what the page defined.
    """
    if page in conditions.PROCESSES:
        ranks.JOBS["page"] = _part
        ranks.together(folder, "page", page, str(folder))
        return {}
    patch.chdir(folder)
    patch.setenv("DCACHE_HOME", str(folder / "home"))
    reader_files.put(page, folder)
    module = types.ModuleType("page")
    patch.setitem(sys.modules, "page", module)
    names = module.__dict__
    given = stand_ins.names_for(page)
    names.update(given)
    with conditions.holding(page, folder, patch):
        for block in blocks(page):
            if block.kind == "python":
                python(block, names)
            elif block.kind == "shell":
                shell.run(block)
        use(given, names)
    return names


def _part(rank: int, page: str, folder: str) -> None:
    """The Python of a page in one of several processes, which ends behind it."""
    with pytest.MonkeyPatch.context() as patch, conditions.holding(page, Path(folder), patch):
        names: dict[str, Any] = {}
        for block in blocks(page):
            python(block, names)


def python(block: Block, names: dict[str, Any]) -> None:
    """Run a block; its lines in a traceback are the page's."""
    code = "\n" * (block.line - 1) + block.code.replace('"PIPE"', '"demo"')
    try:
        exec(compile(code, str(ROOT / block.page), "exec", dont_inherit=True), names)
    except BaseException as error:
        error.add_note(f"in the block of {block}")
        raise


def use(given: dict[str, Any], names: dict[str, Any]) -> None:
    """Call the reader's pipeline where the page only enabled caching, and fill a cache that it only made."""
    pipe = given.get("pipe")
    enabled = pipe is not None and names["pipe"] is pipe and Enabled.on(pipe).sessions
    if enabled and not dcache.stats(pipe).steps:
        pipe("a red circle")
        assert dcache.stats(pipe).computed > 0
    cache = names.get("cache")
    if isinstance(cache, lm_kv.KVCache) and cache.get_seq_length() == 0 and "batch" in names:
        out = names["model"].generate(**names["batch"], past_key_values=cache, max_new_tokens=4)
        assert out.shape[1] == names["batch"]["input_ids"].shape[1] + 4
        assert cache.get_seq_length() > 0
