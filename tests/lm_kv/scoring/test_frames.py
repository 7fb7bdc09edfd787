import torch
from torch.nn import functional as F

from dcache.lm_kv.scoring.frames import FrameMeans, LastQuestion, only_frames
from dcache.lm_kv.scoring.observers import Observed
from dcache.lm_kv.scoring.questions import MeanQuery


def test_a_call_is_frames_where_all_its_true_tokens_are_images():
    valid = torch.tensor([[False, True, True], [True, True, True], [False, False, False]])
    marked = torch.tensor([[False, True, True], [False, True, True], [True, True, True]])
    assert only_frames(valid, marked).tolist() == [True, False, False]
    assert only_frames(valid, None).tolist() == [False, False, False]


def call(query: torch.Tensor, valid: torch.Tensor, marked: torch.Tensor | None = None) -> Observed:
    return Observed(query, valid, torch.zeros_like(valid).long(), lambda: query, marked)


def test_the_last_question_is_kept_through_frames_and_decoded_tokens():
    observer, ones = LastQuestion(MeanQuery()), torch.ones(2, 3, dtype=torch.bool)
    frames = torch.ones(2, 3, dtype=torch.bool)
    state = observer.observe({}, call(torch.full((2, 1, 3, 2), 9.0), ones, frames))
    assert state["asks"].tolist() == [False, False]
    # The second row gets a frame once more, then both get a question, a frame and a token.
    frames[0] = False
    state = observer.observe(state, call(torch.full((2, 1, 3, 2), 1.0), ones, frames))
    assert state["asks"].tolist() == [True, False]
    state = observer.observe(state, call(torch.full((2, 1, 3, 2), 2.0), ones))
    for query, marked in ((torch.full((2, 1, 3, 2), 7.0), ~frames | frames), (torch.zeros(2, 1, 1, 2), None)):
        state = observer.observe(state, call(query, ones[:, : query.shape[2]], marked))
    assert state["asked"].tolist() == [[[[2, 2]]], [[[2, 2]]]]
    assert state["asks"].tolist() == [True, True]


def test_frames_are_compared_by_the_cosine_of_all_heads_together():
    torch.manual_seed(0)
    keys, query = torch.randn(1, 2, 6, 4), torch.randn(1, 2, 3, 4)
    selector = FrameMeans(2)
    products = selector.products(query, selector.index(keys, torch.ones(1, 2, 6, dtype=torch.bool), {}))
    means = keys.unflatten(2, (3, 2)).mean(3)
    # Six query heads one after the other, each with its group's mean key.
    expected = [
        F.cosine_similarity(query.flatten(), means[0, :, frame].repeat_interleave(3, 0).flatten(), dim=0)
        for frame in range(3)
    ]
    torch.testing.assert_close(products, torch.stack(expected).expand(1, 2, 3, 3))
