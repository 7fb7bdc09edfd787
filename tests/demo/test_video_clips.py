"""The world of moving shapes: deterministic, and what the caption says is what moves, in which way."""

from dataclasses import replace

import numpy as np
import pytest

from dcache.demo.video import clips
from dcache.demo.video.clips import DIRECTIONS, DISTANCES, FRAMES, GROUNDS, PALETTE, SIDE, Caption
from dcache.eval.fidelity import flicker

HELD_OUT = 90
RED = Caption("large", "red", "circle", "quickly", "left", "black")


def draw(caption: Caption, count: int = 8) -> np.ndarray:
    return clips.render([caption] * count, np.random.default_rng(0)).astype(float)


def covered(drawn: np.ndarray) -> np.ndarray:
    """Which pixels are not the background, which the corner of the whole clip's median shows."""
    ground = np.median(drawn, axis=(1, 2, 3), keepdims=True)
    return np.abs(drawn - ground).sum(-1) > 60


def path(drawn: np.ndarray) -> np.ndarray:
    """From the first frame's centre to the last one's, x and y in pixels."""
    mask = covered(drawn)
    ys, xs = np.mgrid[:SIDE, :SIDE]
    centre = np.stack([(mask * axis).sum((2, 3)) / mask.sum((2, 3)) for axis in (xs, ys)], -1)
    return centre[:, -1] - centre[:, 0]


def test_the_same_generator_draws_the_same_clips_and_another_does_not() -> None:
    captions = clips.sample_captions(5, np.random.default_rng(1))
    first, again, other = (clips.render(captions, np.random.default_rng(seed)) for seed in (2, 2, 3))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=(1, 2, 3, 4)).all()
    assert first.dtype == np.uint8
    assert first.shape == (5, FRAMES, SIDE, SIDE, 3)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("speed", DISTANCES)
def test_it_moves_where_the_caption_says_and_as_far(direction: str, speed: str) -> None:
    for moved in path(draw(replace(RED, direction=direction, speed=speed))):
        assert np.abs(moved - np.array(DIRECTIONS[direction]) * DISTANCES[speed]).max() < 1.2


@pytest.mark.parametrize("colour", PALETTE)
@pytest.mark.parametrize("background", GROUNDS)
def test_colours_are_those_of_the_caption(colour: str, background: str) -> None:
    drawn = draw(replace(RED, colour=colour, background=background))
    mask = covered(drawn)
    assert np.abs(np.median(drawn[mask], axis=0) - PALETTE[colour]).max() < 9
    assert np.abs(np.median(drawn[~mask], axis=0) - GROUNDS[background]).max() < 9


@pytest.mark.parametrize("shape", clips.SHAPES)
def test_a_large_shape_covers_more_and_all_of_it_stays_in_the_frame(shape: str) -> None:
    large, small = (covered(draw(replace(RED, shape=shape, size=size))) for size in ("large", "small"))
    assert 1.8 < large.mean() / small.mean() < 3.2
    for mask in (large, small):
        counts = mask.sum((2, 3))
        assert (counts.max(1) - counts.min(1)).max() < 0.15 * counts.mean()


def test_one_caption_in_ten_is_held_out_for_good() -> None:
    captions = clips.all_captions()
    assert len({c.text for c in captions}) == len(captions) == 864
    assert sum(map(clips.held_out, captions)) == HELD_OUT
    rng = np.random.default_rng(0)
    assert all(map(clips.held_out, clips.sample_captions(100, rng, unseen=True)))
    assert not any(map(clips.held_out, clips.sample_captions(100, rng, unseen=False)))


def test_demo_captions_are_held_out_distinct_and_show_every_shape_direction_and_ground() -> None:
    chosen = clips.demo_captions(6)
    assert len(set(chosen)) == 6
    assert all(map(clips.held_out, chosen))
    for name in ("size", "shape", "speed", "direction", "background"):
        assert {getattr(c, name) for c in chosen} == set(clips.ATTRIBUTES[name])
    assert len({c.colour for c in chosen}) >= 5
    assert chosen[:4] == clips.demo_captions(4)


def test_an_impossible_caption_is_refused() -> None:
    with pytest.raises(ValueError, match="direction must be one of"):
        replace(RED, direction="sideways")


def test_flicker_counts_an_error_that_moves_and_not_one_that_stands_still() -> None:
    moving = clips.render([RED], np.random.default_rng(0))
    dark = (moving // 2).astype(np.uint8)
    assert flicker(moving, moving) == [0]
    assert flicker(np.minimum(dark, 100) + np.uint8(7), np.minimum(dark, 100)) == [0]
    blinking = dark.copy()
    blinking[:, ::2] += 8
    assert flicker(blinking, dark) == [8]
