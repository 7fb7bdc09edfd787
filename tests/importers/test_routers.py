"""Learned routers: order, threshold, parity; that nothing of a file is executed."""

import argparse
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from dcache.errors import DcacheError
from dcache.importers import harmonica, l2c, read
from dcache.importers.imported import Options
from tests.importers.published import routers


def probability(logit: float) -> float:
    return float(torch.sigmoid(torch.tensor(logit, dtype=torch.float64)))


def published_l2c(content: dict[str, Any], threshold: float) -> list[list[bool]]:
    """Evaluation x sublayer as the published sampler goes: downwards, forgetting where the number is odd."""
    table = []
    count, remembered = len(content["routers"]), False
    for number in reversed(range(count)):
        if number % 2 == 1:
            remembered = False
        logits = content["routers"][f"{number}.prob"].tolist()
        table.append([not remembered or probability(logit) > threshold for logit in logits])
        remembered = True
    return table


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_l2c_computes_what_the_published_sampler_computes(steps: int) -> None:
    content = routers(random.Random(steps), steps, 3)
    for threshold in (0.1, 0.9):
        found = l2c.convert(content, Options(threshold=threshold)).schedule
        assert found is not None
        rows = found.components[""].rows["*"]
        assert list(rows) == ["attn:0", "mlp:0", "attn:1", "mlp:1", "attn:2", "mlp:2"]
        table = [list(row) for row in zip(*rows.values(), strict=True)]
        assert table == published_l2c(content, threshold)
    assert found.measured["imported"]["threshold"] == 0.9


def test_the_published_threshold_is_a_tenth_and_is_not_above_itself() -> None:
    at = -torch.log(torch.tensor(9.0, dtype=torch.float64)).item()
    low = {"routers": {"0.prob": torch.tensor([at - 1e-6, at + 1e-6]), "1.prob": torch.zeros(2)}}
    found = l2c.convert(low, Options()).schedule
    assert found is not None
    assert found.components[""].rows["*"] == {"attn:0": (True, False), "mlp:0": (True, True)}
    half = {"routers": {"0.prob": torch.zeros(2), "1.prob": torch.zeros(2)}}
    assert l2c.convert(half, Options(threshold=0.5)).schedule.components[""].computed == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("held", [0, 5])
def test_harmonica_begins_where_the_router_is_held(held: int, tmp_path: Path) -> None:
    content = routers(random.Random(held), 6, 2, held)
    torch.save(content, tmp_path / "r.pt")
    found = read(tmp_path / "r.pt", "harmonica")
    assert found.schedule is not None
    assert found.schedule.measured["imported"]["order"] == ("last-first" if held else "first-last")
    order = range(6) if held == 0 else reversed(range(6))
    table = [[probability(v) > 0.1 for v in content["routers"][f"{i}.prob"].tolist()] for i in order]
    assert table[0] == [True] * 4
    rows = found.schedule.components[""].rows["*"]
    assert [list(row) for row in zip(*rows.values(), strict=True)] == table


def test_an_order_that_cannot_be_told_is_asked_for() -> None:
    content = routers(random.Random(0), 4, 2)
    with pytest.raises(DcacheError, match="--order last-first"):
        harmonica.convert(content, Options())
    one, other = (harmonica.convert(content, Options(order=o)).schedule for o in ("first-last", "last-first"))
    assert one != other


def test_the_two_are_told_apart_only_where_that_is_sure(tmp_path: Path) -> None:
    torch.save(routers(random.Random(0), 4, 2, 3), tmp_path / "h.pt")
    assert read(tmp_path / "h.pt").format == "harmonica"
    torch.save(routers(random.Random(0), 4, 2), tmp_path / "l.pt")
    with pytest.raises(DcacheError, match="harmonica or of l2c: say which, with --from"):
        read(tmp_path / "l.pt")
    assert read(tmp_path / "l.pt", "l2c").format == "l2c"


def test_a_checkpoint_of_training_is_read(tmp_path: Path) -> None:
    """Their training script saves its arguments and the optimiser beside the routers."""
    content = routers(random.Random(0), 4, 2)
    whole = {**content, "opt": {"state": {0: {"step": torch.ones(())}}}, "args": argparse.Namespace(lr=0.01)}
    torch.save(whole, tmp_path / "0001000.pt")
    found = read(tmp_path / "0001000.pt", "l2c").schedule
    assert found is not None
    assert found.components == l2c.convert(content, Options()).schedule.components  # type: ignore[union-attr]


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    content = {**routers(random.Random(0), 2, 1), "extra": Bomb(tmp_path / "ran")}
    path = tmp_path / "r.pt"
    torch.save(content, path)
    with pytest.raises(DcacheError, match="which is not read because it may run any code"):
        read(path, "l2c")
    torch.save(content, path, _use_new_zipfile_serialization=False)
    with pytest.raises(DcacheError, match=r"not a tensor file of torch 1.6"):
        read(path, "l2c")
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DcacheError, match=r"not a tensor file of torch 1.6"):
        read(path, "l2c")
    assert not (tmp_path / "ran").exists()
    # The planted call does run where a pickle is simply loaded.
    pickle.loads(pickle.dumps(content["extra"]))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("routers", "says"),
    [
        ({}, "expected routers"),
        ({"0.prob": torch.zeros(4), "2.prob": torch.zeros(4)}, "expected routers 0.prob to 1.prob"),
        ({"0.prob": torch.zeros(3)}, "two logits for each block"),
        ({"0.prob": torch.zeros(0)}, "two logits for each block"),
        ({"0.prob": torch.zeros(4), "1.prob": torch.zeros(2)}, "got rows of 2, 4"),
        ({"0.prob": torch.zeros(2, 2)}, "one dimension"),
        ({"0.prob": torch.zeros(4, dtype=torch.long)}, "floating point"),
        ({"0.prob": [0.0, 0.0]}, "floating point"),
        ({"0.prob": torch.tensor([0.0, float("nan")])}, "NaN"),
        ({"0.prob": torch.zeros(1).expand(10**9)}, "expected at most 8192"),
        ({"0.prob": torch.zeros(4).to_sparse()}, "floating point"),
    ],
)
def test_routers_that_make_no_sense_are_refused(routers: dict[str, Any], says: str) -> None:
    for module in (l2c, harmonica):
        with pytest.raises(DcacheError, match=says):
            module.convert({"routers": routers}, Options(order="last-first"))


def test_another_layout_is_refused() -> None:
    with pytest.raises(DcacheError, match="U-ViT"):
        l2c.convert({"0.prob": torch.zeros(4)}, Options())
    with pytest.raises(DcacheError, match="not a file of routers"):
        l2c.convert([], Options())
