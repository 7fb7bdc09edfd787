"""The animation of rollouts."""

from pathlib import Path

import numpy as np
from PIL import Image

from dcache.demo.policies.rollouts import save


def test_rollouts_stand_side_by_side_until_the_longest_ends(tmp_path: Path) -> None:
    def frames(count: int) -> list[np.ndarray]:
        return [np.full((30, 20, 3), 10 * i, np.uint8) for i in range(count)]

    path = save(tmp_path / "rollouts.gif", [frames(3), frames(9)], [True, False])
    with Image.open(path) as picture:
        # Every second picture of nine; the last one is the ninth.
        assert (picture.size, picture.n_frames) == ((48, 38), 5)
        picture.seek(4)
        last = np.asarray(picture.convert("RGB")).astype(int)
    # The first rollout stands still at its third picture, above a green bar; the second one's bar is grey.
    assert abs(last[5, 5] - 20).max() <= 8
    assert abs(last[5, 30] - 80).max() <= 8
    assert last[34, 5, 1] > last[34, 5, 0] + 50
    assert np.ptp(last[34, 30]) <= 8
