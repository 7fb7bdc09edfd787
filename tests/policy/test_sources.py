"""Policies by name: the shipped ones, and objects of Python files."""

from pathlib import Path

import pytest
import torch

from dcache import DcacheError
from dcache.policy.sources import policy_named, shipped_observations
from dcache.search.rendering.runs import load_observations


def test_a_shipped_policy_makes_a_chunk_of_its_observations_and_the_seed_decides_the_noise() -> None:
    policy = policy_named("drawer-open")
    path = shipped_observations("drawer-open")
    assert path is not None
    observation = load_observations(path)[0]
    chunks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        chunks.append(policy.predict_action_chunk(observation))
    assert chunks[0].shape == (1, 16, 4)
    assert torch.equal(chunks[0], chunks[1])
    assert not torch.equal(chunks[0], chunks[2])
    assert shipped_observations("robot.py:make") is None


def test_a_name_of_a_file_is_a_policy_or_makes_one_and_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "numbers_of_it.py").write_text("ACTIONS = 3\n", encoding="utf-8")
    (tmp_path / "robot.py").write_text(
        "from numbers_of_it import ACTIONS\n"
        "class Robot:\n"
        "    def predict_action_chunk(self, seen): return ACTIONS\n"
        "robot = Robot()\n"
        "def make(size=1): return robot\n",
        encoding="utf-8",
    )
    for name in ("Robot", "robot", "make"):
        assert policy_named(f"{tmp_path / 'robot.py'}:{name}").predict_action_chunk(None) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("push", "got 'push'"),
        ("robot.py:", "got 'robot.py:'"),
        ("nowhere.py:make", "there is no file nowhere.py"),
        ("{0}/robot.py:other", "defines no 'other'"),
        ("{0}/robot.py:number", "no method that makes a chunk"),
        ("{0}/robot.py:fails", r"made no policy \(ValueError: too few\)"),
        ("{0}/broken.py:make", r"cannot be imported \(ZeroDivisionError"),
    ],
)
def test_what_is_no_policy_is_an_error(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "robot.py").write_text(
        "number = 3\ndef fails(): raise ValueError('too few')\n", encoding="utf-8"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    with pytest.raises(DcacheError, match=says):
        policy_named(text.format(tmp_path))
