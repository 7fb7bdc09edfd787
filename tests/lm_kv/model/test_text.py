import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.model.text import Text

IDS = torch.tensor([[1, 2], [3, 4]])
TRUE = torch.ones(2, 2, dtype=torch.bool)


def test_calls_are_joined_cropped_and_reordered():
    text = Text()
    text.append(IDS, TRUE)
    text.append(IDS + 10, TRUE)
    text.crop(1)
    text.select_rows(torch.tensor([1, 0]))
    assert text.ids.tolist() == [[3, 4, 13], [1, 2, 11]]
    text.repeat_rows(2)
    assert text.valid.shape == (4, 3)


def test_the_text_is_read_again_or_a_context_in_its_place():
    text = Text()
    text.append(IDS, TRUE)
    assert text.to_read(None, "kvzip")[0].tolist() == IDS.tolist()
    ids, valid, history = text.to_read(torch.tensor([[7], [8]]), "kvzip")
    assert ids.tolist() == [[7], [8]]
    assert valid.all()
    assert history.shape == (2, 2)


def test_a_context_of_another_batch_is_refused():
    text = Text()
    text.append(IDS, TRUE)
    with pytest.raises(DcacheError, match=r"context must be ids of shape \[2, T\], got \(1, 1\)"):
        text.to_read(torch.tensor([[7]]), "kvzip")


@pytest.mark.parametrize(
    ("context", "got"), [([[7], [8]], "list"), (torch.tensor([[7.0], [8.0]]), "torch.float32")]
)
def test_a_context_that_is_no_ids_is_refused(context, got):
    text = Text()
    text.append(IDS, TRUE)
    with pytest.raises(DcacheError, match=f"context must be ids of dtype int64, got {got}"):
        text.to_read(context, "kvzip")


def test_embeddings_cannot_be_read_again():
    text = Text()
    text.append(None, TRUE)
    with pytest.raises(DcacheError, match="kvzip reads the text again, but a call came as embeddings"):
        text.to_read(None, "kvzip")


def test_nothing_seen_is_nothing_to_read():
    with pytest.raises(DcacheError, match="holds nothing yet"):
        Text().to_read(None, "kvzip")


def test_a_fork_goes_its_own_way():
    text = Text()
    text.append(IDS, TRUE)
    other = text.fork()
    text.append(IDS, TRUE)
    assert other.ids.shape == (2, 2)
