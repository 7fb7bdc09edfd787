"""The parts of examples/diffusion_policy that need no simulator: geometry, optimizer, a training step."""

import math
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples" / "diffusion_policy"
NAMES = ("primitives", "expert", "muon", "train")


@pytest.fixture(scope="module")
def scripts() -> Iterator[Any]:
    """The scripts as modules, without leaving their names behind."""
    before = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    modules: dict[str, ModuleType] = {name: import_module(name) for name in NAMES}
    sys.path.remove(str(FOLDER))
    yield SimpleNamespace(**modules)
    for name in NAMES:
        del sys.modules[name]
    sys.modules.update(before)


def test_distances_to_the_block(scripts: Any) -> None:
    # Above the bar, in the bar's middle, right of the stem's end, and below the stem.
    points = np.array([(0.0, -10.0), (0.0, 15.0), (40.0, 100.0), (0.0, 130.0)])
    assert scripts.primitives.distance(points).tolist() == [10.0, -15.0, 25.0, 10.0]


def test_the_outlines_normals_point_outwards(scripts: Any) -> None:
    points, normals = scripts.primitives.outline()
    assert np.allclose(scripts.primitives.distance(points), 0)
    assert (scripts.primitives.distance(points + normals) > 0).all()


def test_the_error_is_that_of_the_corners(scripts: Any) -> None:
    expert, corners = scripts.expert, scripts.primitives.CORNERS
    assert expert.error(expert.GOAL[:2], expert.GOAL[2]) == pytest.approx(0, abs=1e-6)
    position, angle = np.array([200.0, 310.0]), 2.0
    turn, goal = scripts.primitives.rotation(angle), scripts.primitives.rotation(expert.GOAL[2])
    off = (position + corners @ turn.T) - (expert.GOAL[:2] + corners @ goal.T)
    assert expert.error(position, angle) == pytest.approx(math.sqrt((off**2).sum(1).mean()))


def test_a_way_keeps_off_the_block(scripts: Any) -> None:
    pose = np.array([256.0, 256.0, 0.0])
    agent, goal = np.array([256.0, 200.0]), np.array([256.0, 420.0])
    corners = [agent, *scripts.expert.way(agent, goal, pose)]
    assert np.array_equal(corners[-1], goal)
    assert len(corners) > 2
    for a, b in pairwise(corners):
        points = np.linspace(a, b, 50)[1:-1] - pose[:2]
        assert (scripts.primitives.distance(points) > scripts.primitives.RADIUS).all()


def test_an_expert_pushes_towards_the_goal(scripts: Any) -> None:
    # Two pushes that move the block by 20 pixels without turning it: down its stem, and back.
    pushes = scripts.primitives.Primitives(
        start=np.array([[0.0, -18.0], [0.0, 138.0]]),
        direction=np.array([[0.0, 1.0], [0.0, -1.0]]),
        length=np.array([21.0, 21.0]),
        moved=np.array([[0.0, 20.0], [0.0, -20.0]]),
        turned=np.zeros(2),
    )
    turn = scripts.primitives.rotation(math.pi / 4)
    for side, start in ((-20.0, [0.0, -18.0]), (20.0, [0.0, 138.0])):
        block = np.array([256.0, 256.0]) + turn @ np.array([0.0, side])
        agent = block + turn @ np.array(start)
        expert = scripts.expert.Expert(pushes)
        targets = [expert.act(np.array([*agent, *block, math.pi / 4])) for _ in range(2)]
        # The first target is on the way, the second one pushes towards the goal.
        assert np.linalg.norm(targets[0] - agent) < 1e-6
        assert (targets[1] - agent) @ turn @ np.array([0.0, -side]) >= 0


def test_a_target_line_has_steps_of_a_length(scripts: Any) -> None:
    points = scripts.expert.line(np.zeros(2), np.array([0.0, 50.0]), 18.0)
    assert np.allclose(points, [[0, 50 / 3], [0, 100 / 3], [0, 50]])


def test_muons_update_is_orthogonal(scripts: Any) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(scripts.muon.orthogonal(torch.randn(2, 6, 10)))
    assert bool(((values > 0.6) & (values < 1.3)).all())


def test_muon_takes_the_parts_of_an_attention_apart(scripts: Any) -> None:
    torch.manual_seed(0)
    start = torch.randn(12, 4)
    whole = torch.nn.Parameter(start.clone())
    parts = [torch.nn.Parameter(part.clone()) for part in start.chunk(3)]
    gradient = torch.randn(12, 4)
    whole.grad = gradient
    for part, slope in zip(parts, gradient.chunk(3), strict=True):
        part.grad = slope
    scripts.muon.Muon([whole], lr=0.1).step()
    scripts.muon.Muon(parts, lr=0.1).step()
    torch.testing.assert_close(whole.data, torch.cat([part.data for part in parts]))
    assert not torch.equal(whole.data, start)


def test_a_training_goes_on_where_it_stopped(scripts: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    folder = tmp_path / "demonstrations"
    folder.mkdir()
    states, actions = random.normal(size=(30, 39)), random.normal(size=(30, 4))
    np.savez(folder / "0.npz", lens=[10, 20], obs=states.astype(np.float32), act=actions.astype(np.float32))
    windows, chunks = scripts.train.demonstrations(folder)
    assert (windows.shape, chunks.shape) == ((30, 2, 39), (30, 16, 4))
    # An episode's first state stands for the one before it, its last action for those behind the end.
    assert torch.equal(windows[10, 0], windows[10, 1])
    assert torch.equal(chunks[9], torch.tensor(actions[9], dtype=torch.float32).expand(16, 4))
    scripts.train.train("drawer-open", folder, tmp_path, 1e-9)
    content = torch.load(tmp_path / "training.pt")
    assert content["step"] == 1
    scripts.train.train("drawer-open", folder, tmp_path, content["seconds"] + 1e-9)
    assert torch.load(tmp_path / "training.pt")["step"] == 2
    assert (tmp_path / "model.safetensors").exists()
