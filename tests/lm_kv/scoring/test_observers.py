import torch

from dcache.lm_kv.scoring.observers import (
    ColumnSums,
    Nothing,
    Observed,
    QueryMoments,
    QueryWindow,
    symmetric,
    upper_triangle,
)


def call(values: list[list[float]], valid: list[list[int]], positions: list[list[int]]) -> Observed:
    query = torch.tensor(values).view(len(values), 1, -1, 1)
    return Observed(query, torch.tensor(valid).bool(), torch.tensor(positions), lambda: query + 1)


def test_a_window_has_the_last_true_queries_of_each_row():
    window = QueryWindow(2)
    state = window.observe({}, call([[1, 2, 3], [4, 5, 6]], [[0, 1, 0], [1, 1, 1]], [[0, 0, 0], [0, 1, 2]]))
    # The first row has one true query yet.
    assert state["query"].flatten().tolist() == [3, 2, 5, 6]
    assert state["valid"].tolist() == [[False, True], [True, True]]
    state = window.observe(state, call([[7], [8]], [[1], [0]], [[1], [2]]))
    assert state["query"].flatten().tolist() == [2, 7, 5, 6]
    assert state["position"].tolist() == [[0, 1], [1, 2]]
    assert state["valid"].all()


def test_cropped_queries_no_longer_count():
    window = QueryWindow(2)
    state = window.observe({}, call([[1, 2]], [[1, 1]], [[0, 1]]))
    assert window.crop(state, torch.tensor([1]))["valid"].tolist() == [[True, False]]
    assert window.crop({}, torch.tensor([1])) == {}


def test_moments_are_of_true_queries_before_rotation():
    moments = QueryMoments()
    state = moments.observe({}, call([[1, 9, 2]], [[1, 0, 1]], [[0, 0, 1]]))
    state = moments.observe(state, call([[3]], [[1]], [[2]]))
    # Unrotated they are 2, 3 and 4.
    assert state["count"].tolist() == [3]
    assert state["sum"].flatten().tolist() == [9]
    assert state["products"].flatten().tolist() == [4 + 9 + 16]
    assert moments.crop(state, torch.tensor([0])) is state
    assert QueryMoments(skip=1).observe({}, call([[1, 9, 2]], [[1, 0, 1]], [[0, 0, 1]]))["sum"].item() == 3


def test_column_sums_lie_beside_the_tokens():
    assert ColumnSums().statistic == "sum"
    assert ColumnSums().observe({}, call([[1]], [[1]], [[0]])) == {}
    assert Nothing().statistic is None


def test_symmetric_matrices_are_kept_as_one_triangle():
    matrices = torch.tensor([[[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]]])
    assert upper_triangle(matrices).tolist() == [[1, 2, 3, 4, 5, 6]]
    assert torch.equal(symmetric(upper_triangle(matrices), 3), matrices)
