"""What a policy sees."""

from tests.diffusion_lm.steps import listed, step


def test_columns_blocks_and_windows():
    now = step()
    assert now.columns.tolist() == list(range(12))
    assert listed(now.between(2, 4)) == [[2, 3]] * 2
    assert listed(now.block) == [[4, 5, 6, 7]] * 2
    assert listed(now.leftmost(1)) == [[5], [4]]
    # Clipped to the block.
    assert listed(now.leftmost(4)) == [[5], [4, 6]]
    assert listed(step(end=12).leftmost(3)) == [[5, 8, 9], [4, 6, 9]]
