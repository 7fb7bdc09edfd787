"""The drawn world: deterministic, what the caption says is where it says it, one split of the captions."""

from dataclasses import astuple, replace

import numpy as np
import pytest

from dcache.demo import pictures
from dcache.demo.pictures import ATTRIBUTES, CENTRES, PALETTE, Caption

HELD_OUT = 2457
RED_ON_BLUE = Caption("large", "plain", "red", "circle", "top left", "blue")


def draw(caption: Caption, count: int = 8, seed: int = 0) -> np.ndarray:
    return pictures.render([caption] * count, np.random.default_rng(seed)).astype(float)


def closest(colour: np.ndarray) -> str:
    """The palette's name for a colour."""
    return min(PALETTE, key=lambda name: float(np.abs(colour - PALETTE[name]).sum()))


def covered(caption: Caption) -> np.ndarray:
    """Mean share of the picture that the object covers, by the distance from the background's colour."""
    corner = draw(caption)[:, -4:, -4:].mean((1, 2), keepdims=True)
    return (np.abs(draw(caption) - corner).sum(-1) > 90).mean()


def test_the_same_generator_draws_the_same_pictures_and_another_does_not() -> None:
    captions = pictures.sample_captions(5, np.random.default_rng(1))
    first, again, other = (pictures.render(captions, np.random.default_rng(seed)) for seed in (2, 2, 3))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=(1, 2, 3)).all()


def test_pictures_are_uint8_and_64_by_64() -> None:
    images = pictures.render([RED_ON_BLUE] * 3, np.random.default_rng(0))
    assert images.dtype == np.uint8
    assert images.shape == (3, 64, 64, 3)


@pytest.mark.parametrize("place", ATTRIBUTES["place"])
@pytest.mark.parametrize("colour", ATTRIBUTES["colour"])
def test_the_object_has_its_colour_at_its_place(colour: str, place: str) -> None:
    background = "blue" if colour != "blue" else "white"
    x, y = (int(v) for v in CENTRES[place])
    far = (63 - x if x != 32 else 2, 63 - y if y != 32 else 2)
    for image in draw(Caption("small", "plain", colour, "square", place, background)):
        assert closest(image[y, x]) == colour
        assert closest(image[far[1], far[0]]) == background


@pytest.mark.parametrize("shape", ATTRIBUTES["shape"])
def test_a_large_object_covers_more_than_a_small_one(shape: str) -> None:
    large = replace(RED_ON_BLUE, shape=shape)
    small = replace(large, size="small")
    assert 1.8 < covered(large) / covered(small) < 3.2


def test_shapes_differ() -> None:
    images = [draw(replace(RED_ON_BLUE, shape=shape, place="center")) for shape in ATTRIBUTES["shape"]]
    for i, one in enumerate(images):
        for other in images[:i]:
            assert (np.abs(one - other).sum(-1) > 90).mean() > 0.01


def test_textures_put_dark_ink_on_part_of_the_object_and_differ() -> None:
    images = {t: draw(replace(RED_ON_BLUE, texture=t)) for t in ATTRIBUTES["texture"]}
    dark = {t: (image.max(-1) < 90).mean() / covered(RED_ON_BLUE) for t, image in images.items()}
    assert dark["plain"] < 0.02
    assert all(0.15 < dark[t] < 0.65 for t in ("striped", "dotted", "checkered"))
    assert (np.abs(images["striped"] - images["checkered"]).sum(-1) > 90).mean() > 0.02
    assert (np.abs(images["dotted"] - images["checkered"]).sum(-1) > 90).mean() > 0.02


def test_edges_are_antialiased() -> None:
    redness = draw(RED_ON_BLUE)[..., 0]
    assert 0.005 < ((redness > 80) & (redness < 180)).mean() < 0.1


def test_one_caption_in_ten_is_held_out_for_good() -> None:
    captions = pictures.all_captions()
    assert len({c.text for c in captions}) == len(captions) == 24192
    assert sum(pictures.held_out(c) for c in captions) == HELD_OUT
    assert not pictures.held_out(RED_ON_BLUE)
    rng = np.random.default_rng(0)
    assert all(pictures.held_out(c) for c in pictures.sample_captions(200, rng, unseen=True))
    assert not any(pictures.held_out(c) for c in pictures.sample_captions(200, rng, unseen=False))


def test_neighbours_are_all_the_captions_that_differ_in_one_attribute() -> None:
    near = set(pictures.neighbours(RED_ON_BLUE))
    mine = astuple(RED_ON_BLUE)
    one_away = {
        c for c in pictures.all_captions() if sum(a != b for a, b in zip(astuple(c), mine, strict=True)) == 1
    }
    assert near == one_away
    assert len(near) == 29


def test_labels_name_the_fields() -> None:
    for caption in pictures.sample_captions(50, np.random.default_rng(0)):
        assert tuple(ATTRIBUTES[k][i] for k, i in zip(ATTRIBUTES, caption.labels, strict=True)) == astuple(
            caption
        )


def test_demo_captions_are_held_out_distinct_and_show_every_shape_and_colour() -> None:
    chosen = pictures.demo_captions(8)
    assert len(set(chosen)) == 8
    assert all(pictures.held_out(caption) for caption in chosen)
    assert {c.shape for c in chosen} == set(ATTRIBUTES["shape"])
    assert len({c.colour for c in chosen}) >= 7
    assert chosen[:4] == pictures.demo_captions(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"shape": "blob"}, "shape must be one of"), ({"background": "red"}, "must differ")],
)
def test_an_impossible_caption_is_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RED_ON_BLUE, **change)
