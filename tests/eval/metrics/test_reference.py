import numpy as np
import pytest
from PIL import Image

from dcache.errors import DcacheError
from dcache.eval.metrics.reference import reference_chunks


def save(path, level, size=(6, 4), mode="RGB"):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, (level, level, level)).convert(mode).save(path)


def test_pictures_come_sorted_in_batches_of_one_shape(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", i)
    save(tmp_path / "4.jpg", 40, size=(8, 8))
    save(tmp_path / "below" / "a.PNG", 200, mode="L")
    (tmp_path / "readme.txt").write_text("no picture")
    batches = [chunk.load() for chunk in reference_chunks(tmp_path, 2)]

    assert [one.pictures.shape for one in batches] == [(2, 4, 6, 3), (1, 4, 6, 3), (1, 8, 8, 3), (1, 4, 6, 3)]
    assert [one.pictures.max() for one in batches] == [1, 2, 40, 200]
    assert batches[0].pictures.dtype == np.uint8
    assert batches[0].prompts == ["", ""]


def test_its_content_changes_with_the_files(tmp_path):
    save(tmp_path / "a.png", 1)
    before = reference_chunks(tmp_path, 2)[0].content
    save(tmp_path / "a.png", 2)

    assert reference_chunks(tmp_path, 2)[0].content != before


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(DcacheError, match="--reference: no pictures in"):
        reference_chunks(tmp_path / "none", 2)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "bad.png").write_text("text")

    with pytest.raises(DcacheError, match=r"bad\.png cannot be read as a picture"):
        reference_chunks(tmp_path, 2)


def test_a_damaged_picture_is_named(tmp_path):
    save(tmp_path / "a.png", 1, size=(64, 64))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(DcacheError, match=r"a\.png is damaged"):
        reference_chunks(tmp_path, 2)[0].load()
