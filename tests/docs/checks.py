"""What pages leave behind when they ran: values that follow from their text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import dcache
from dcache import diffusion_lm, lm_kv

Names = dict[str, Any]


def method(names: Names, printed: str) -> None:
    """A rule of one's own, and the schedule that replays its run."""
    assert "widening(every=6)" in printed
    row = dcache.Schedule.load("widening.json").components["transformer"].rows["*"]["trunk"]
    assert row.count(True) == names["stats"].computed


def family(names: Names, printed: str) -> None:
    """What is found in a model, and what is not."""
    assert "model, trunk, run:A-B and block:N with depths 0 to 3\n" in printed
    assert "no such sublayer is found in its blocks" in printed


def index(names: Names, printed: str) -> None:
    """The README: 9 of 20 in the default's run, as its table says."""
    assert "tuned(speedup=2.5)" in printed
    assert Path("calibrated.schedule.json").exists()
    assert Path("search-out", "picked.schedule.json").exists()


def pipelines(names: Names, printed: str) -> None:
    """A stretched schedule, and a loop by hand."""
    assert "newton(interval=3" in printed
    assert dcache.Schedule.load("my-50.schedule.json").steps == 50
    assert dcache.stats(names["model"]).predicted > 0


def policy(names: Names, printed: str) -> None:
    """A control loop, one around lerobot's policy, and a planned schedule."""
    assert "latency in ms  p50 " in printed
    assert names["action"].shape == (1, 2)
    assert names["loop"].act({"state": torch.ones(1, 5)}).shape == (1, 2)
    names["policy"](names["observations"][0])
    assert dcache.stats(names["policy"].denoiser).predicted > 0


def rows(names: Names, printed: str) -> None:
    """Rows of a masked-diffusion model: two prompts of 8 tokens, 16 new ones."""
    assert names["out"].shape == (2, 24)
    assert "rows" in printed
    assert dcache.stats(names["model"]).method == "block_and_next()"


def bound(names: Names, printed: str) -> None:
    """With every row computed the page's model decodes as it does by itself; with dual it computes fewer."""
    assert "sdpa calls" in printed
    model, ids, stats = names["model"], names["input_ids"], dcache.stats(names["model"])
    assert stats.rows == 4 * 24 + 12 * 4
    dcache.disable(model)
    plain = diffusion_lm.generate(model, ids, max_new_tokens=16)
    with dcache.enabled(model, dcache.methods.dkv(refresh=1)):
        assert (diffusion_lm.generate(model, ids, max_new_tokens=16) == plain).all()


def cached(names: Names, printed: str) -> None:
    """The last cache of a page."""
    assert isinstance(names["cache"], lm_kv.KVCache)


def filed(names: Names, printed: str) -> None:
    """A cache in a file."""
    assert names["path"].exists()


def reused(names: Names, printed: str) -> None:
    """80 tokens and 8 new ones; of two chunks of 30 the first has four tokens in place of two."""
    assert names["out"].shape == (1, 88)
    assert names["cache"].stats().seen == (32,)


def corrected(names: Names, printed: str) -> None:
    """A schedule with corrections."""
    assert dcache.Schedule.load("ertacache.schedule.json").steps == 20


CHECKS: dict[str, Callable[[Names, str], None]] = {
    "README.md": index,
    "docs/add-a-family.md": family,
    "docs/add-a-method.md": method,
    "docs/corrections.md": corrected,
    "docs/diffusion_lm/README.md": rows,
    "docs/diffusion_lm/bind.md": bound,
    "docs/lm_kv/README.md": cached,
    "docs/lm_kv/add-a-policy.md": cached,
    "docs/lm_kv/cachegen.md": filed,
    "docs/lm_kv/reuse/README.md": reused,
    "docs/pipelines.md": pipelines,
    "docs/policy.md": policy,
}
