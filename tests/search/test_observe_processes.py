"""Observation by several processes: prompts are dealt out, the profile is that of one."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.eval.processes import ProcessGroup
from dcache.profile import Profile
from dcache.search import importance as staged
from dcache.search.observe import batches_of, observe
from tests.eval.test_processes import play
from tests.pipelines import PIXART
from tests.search import observe_demo
from tests.search.pipeline_subjects import assert_tables, shaped


def test_every_prompt_goes_to_one_process_with_its_own_seed() -> None:
    prompts = ["a", "b", "c", "d", "e"]
    dealt = [batches_of(prompts, 7, 2, ProcessGroup(index, 2)) for index in range(2)]
    assert dealt == [[(["a", "b"], [7, 8]), (["e"], [11])], [(["c", "d"], [9, 10])]]
    with pytest.raises(DcacheError, match="leave nothing to do for some of 4 processes"):
        batches_of(prompts, 0, 2, ProcessGroup(3, 4))


def test_everybody_gets_what_everybody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    found = play(lambda team: team.gather({"mine": team.rank}), monkeypatch, 3)
    assert found == [[{"mine": 0}, {"mine": 1}, {"mine": 2}]] * 3
    assert ProcessGroup().gather(5) == [5]


def test_importance_of_several_is_that_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = observe(shaped(PIXART), ["1", "2", "3"], sites=("trunk",), timing=False)

    def work(team: ProcessGroup) -> Any:
        return staged.importance(shaped(PIXART), profile, ["1", "2", "3"], seed=4, group=team).importance

    one = work(ProcessGroup())
    found: list[Any] = []
    for index in range(2):
        # One after the other: each hears what it said itself, and the mean is made here.
        parts: list[Any] = []
        monkeypatch.setattr(ProcessGroup, "all", lambda _, done: done())
        monkeypatch.setattr(ProcessGroup, "gather", lambda _, mine, parts=parts: parts.append(mine) or [mine])
        work(ProcessGroup(index, 2))
        found += parts
    mean = sum(rows * count for rows, count in found) / 3
    np.testing.assert_allclose(mean[:, 1:], one[:, 1:])


def launched(out: Path, count: int) -> None:
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={count}"]
    launch += ["--main_process_port=0", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    run = subprocess.run(
        [sys.executable, "-P", *(launch if count > 1 else []), observe_demo.__file__, str(out)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
        timeout=400,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_observe_what_one_does(tmp_path: Path) -> None:
    for count in (1, 2):
        launched(tmp_path / f"{count}.safetensors", count)
    one, two = (Profile.load(tmp_path / f"{count}.safetensors") for count in (1, 2))
    assert (one.prompts, two.prompts) == (3, 3)
    assert (one.made["processes"], two.made["processes"]) == (1, 2)
    for site, frame in (("trunk", "value"), ("trunk", "delta"), ("mlp:1", "value")):
        assert_tables(two.tables(site, frame), one.tables(site, frame), rel=1e-12)
    np.testing.assert_allclose(two.ratios, one.ratios, rtol=1e-12)
    np.testing.assert_allclose(
        np.sort(two.input_output_changes, axis=0), np.sort(one.input_output_changes, axis=0), rtol=1e-9
    )
    assert two.latencies is not None
    assert set(two.latencies.computed) == {"trunk", "mlp:1"}
