"""The picture of a schedule has a square for each evaluation of each site."""

import io

from PIL import Image

from dcache.schedule.picture import COMPUTED, GAP, PAPER, PREDICTED, SQUARE, png_of


def test_squares_are_dark_where_the_site_is_computed() -> None:
    rows = [(True, False, False), (False, True, False)]
    picture = Image.open(io.BytesIO(png_of(rows))).convert("RGB")
    size = SQUARE + GAP
    assert picture.size == (3 * size + GAP, 2 * size + GAP)
    assert picture.getpixel((0, 0)) == PAPER
    for y, row in enumerate(rows):
        for x, computed in enumerate(row):
            middle = (x * size + GAP + SQUARE // 2, y * size + GAP + SQUARE // 2)
            assert picture.getpixel(middle) == (COMPUTED if computed else PREDICTED)
