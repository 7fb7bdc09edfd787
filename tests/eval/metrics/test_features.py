import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.eval.metrics import features
from dcache.eval.metrics.base import Batch
from dcache.eval.metrics.features import Chunk, Features


def chunk(number, content=None):
    batch = Batch(np.full((2, 1, 1, 3), number, np.uint8), None, ["", ""])
    return Chunk((content or f"digest {number}",), lambda: batch)


class Counting:
    """Reads the level of each picture, and remembers which batches it saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, batch):
        self.seen.append(int(batch.pictures[0, 0, 0, 0]))
        return batch.pictures[:, 0, 0, :1].astype(np.float32)


def filled(folder, chunks, identity="reader", process=(0, 1), progress=lambda *_: None):
    read = Counting()
    Features(folder, identity, {"m": chunks}).fill(read, process, progress)
    return read.seen


def rows(folder, chunks, identity="reader"):
    return Features(folder, identity, {"m": chunks}).rows("m")[:, 0].tolist()


def test_nothing_is_read_twice(tmp_path):
    chunks = [chunk(0), chunk(1)]

    assert filled(tmp_path, chunks) == [0, 1]
    assert filled(tmp_path, chunks) == []
    assert rows(tmp_path, chunks) == [0, 0, 1, 1]


def test_a_picture_that_was_made_anew_is_read_again_and_nothing_else_is(tmp_path):
    filled(tmp_path, [chunk(0), chunk(1)])
    changed = [chunk(0), chunk(7, "another digest")]

    assert filled(tmp_path, changed) == [7]
    assert rows(tmp_path, changed) == [0, 0, 7, 7]


def test_another_reader_reads_everything_again(tmp_path):
    filled(tmp_path, [chunk(0)])

    assert filled(tmp_path, [chunk(0)], identity="other weights") == [0]


def test_processes_share_the_batches_and_one_gathers_all_in_order(tmp_path):
    chunks = [chunk(i) for i in range(5)]

    assert filled(tmp_path, chunks, process=(1, 2)) == [1, 3]
    assert filled(tmp_path, chunks, process=(0, 2)) == [0, 2, 4]
    assert rows(tmp_path, chunks) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert filled(tmp_path, chunks) == []


def test_what_another_process_left_out_is_told(tmp_path):
    chunks = [chunk(i) for i in range(5)]
    filled(tmp_path, chunks, process=(0, 2))

    with pytest.raises(DcacheError, match="2 of 5 batches have no rows"):
        rows(tmp_path, chunks)


def test_two_batches_with_the_same_content_both_count(tmp_path):
    chunks = [chunk(3), chunk(3), chunk(4)]
    filled(tmp_path, chunks)

    assert rows(tmp_path, chunks) == [3, 3, 3, 3, 4, 4]


def test_a_damaged_file_is_made_again(tmp_path):
    filled(tmp_path, [chunk(0)])
    (tmp_path / "m" / "0.safetensors").write_bytes(b"half of it")

    assert filled(tmp_path, [chunk(0)]) == [0]
    assert rows(tmp_path, [chunk(0)]) == [0, 0]


def test_rows_survive_a_stop_in_the_middle(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SECONDS_BETWEEN_WRITES", -1.0)

    def stop(done, _):
        if done == 2:
            raise KeyboardInterrupt

    chunks = [chunk(i) for i in range(3)]
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path, chunks, progress=stop)
    assert filled(tmp_path, chunks) == [1, 2]


def test_progress_counts_the_batches_of_this_process(tmp_path):
    told = []
    filled(tmp_path, [chunk(i) for i in range(5)], process=(1, 2), progress=lambda *both: told.append(both))

    assert told == [(1, 2), (2, 2)]


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(DcacheError, match="No space left on device"):
        filled(tmp_path, [chunk(0)])
