"""`gather_rows` and `scatter_rows`: torch reference and Triton kernel against a loop over the rows."""

from __future__ import annotations

import pytest
import torch

from dcache.errors import DcacheError
from dcache.kernels import RowIndex, gather_rows, launch, scatter_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn)
# (shape, dim): batch; tokens; tokens of heads; pixels, with nothing behind them; many leading dimensions.
AXES = [((7,), 0), ((5, 3, 2), 0), ((3, 7, 5), 1), ((2, 3, 9, 17), 2), ((3, 7), 1), ((2, 3, 2, 6, 3), 3)]


def tensor(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (20 * torch.randn(shape)).to(DEVICE, dtype)


def some(lead: tuple[int, ...], N: int, K: int) -> torch.Tensor:
    """An index (*lead, K) that names no row twice."""
    count = torch.Size(lead).numel()
    return torch.stack([torch.randperm(N)[:K] for _ in range(count)]).view(*lead, K).to(DEVICE)


def by_hand(x: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    if index.ndim > 1:
        return torch.stack([by_hand(one, its, dim - 1) for one, its in zip(x, index, strict=True)])
    return torch.stack([x.select(dim, int(k)) for k in index], dim)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit: NaN equals NaN."""
    return torch.equal(as_bytes(a), as_bytes(b))


def as_bytes(t: torch.Tensor) -> torch.Tensor:
    return t.contiguous().view(-1).view(torch.uint8)


def assert_there_and_back(x: torch.Tensor, index: torch.Tensor, dim: int) -> None:
    """Gathered rows are those, and come back to where they were in memory that was NaN; others stay."""
    rows = gather_rows(x, index, dim)
    assert same(rows, by_hand(x, index, dim))
    assert rows.dtype == x.dtype
    new = tensor(tuple(rows.shape), x.dtype)
    out = x.clone(memory_format=torch.preserve_format)
    assert scatter_rows(out, index, new, dim) is out
    assert same(gather_rows(out, index, dim), new)
    # Rows that are not named are what they were: put the old ones back and all is as before.
    assert same(scatter_rows(out, index, rows, dim), x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "dim"), AXES, ids=str)
def test_rows_come_out_and_go_back(path, dtype, shape, dim):
    x, N = tensor(shape, dtype), shape[dim]
    assert_there_and_back(x, some((), N, 3), dim)
    assert_there_and_back(x, some(shape[:dim], N, N), dim)
    assert_there_and_back(x, some(shape[:dim], N, 1), dim)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bool, torch.complex64, torch.complex128, torch.int64])
def test_any_other_dtype(path, dtype):
    assert_there_and_back(tensor((2, 5, 3), dtype), some((2,), 5, 4), 1)


@pytest.mark.parametrize("shared", [False, True])
def test_strides_do_not_matter(path, shared):
    wide = tensor((4, 9, 3, 35), torch.bfloat16)
    views = {
        "heads": (wide.transpose(1, 2), 2),
        "a part of the rows": (wide[:, 1:7], 1),
        "a part of the batch": (wide[1:3], 1),
        "a part of each row": (wide[..., 3:20], 2),
        "every other element": (wide[..., ::2], 2),
        "every other element of several lines": (wide[..., ::2], 1),
        "the batch last": (wide.transpose(0, 3), 1),
    }
    for name, (x, dim) in views.items():
        index = some((), x.shape[dim], 4 if x.shape[dim] > 4 else 2)
        if not shared:
            index = some(tuple(x.shape[:dim]), x.shape[dim], 2)
        assert torch.equal(gather_rows(x, index, dim), by_hand(x, index, dim)), name
        # In place, in a view: what is around it stays.
        before, new = wide.clone(), tensor(tuple(gather_rows(x, index, dim).shape), torch.bfloat16)
        kept = gather_rows(x, index, dim)
        scatter_rows(x, index, new, dim)
        assert torch.equal(gather_rows(x, index, dim), new), name
        scatter_rows(x, index, kept, dim)
        assert torch.equal(wide, before), name


def test_rows_longer_than_a_block_and_more_rows_than_one(path):
    assert_there_and_back(tensor((2, 3, 4500)), some((2,), 3, 2), 1)
    assert_there_and_back(tensor((2, 3000, 2)), some((2,), 3000, 2999), 1)
    assert_there_and_back(tensor((1, 40, 130)), some((), 40, 37), 1)


def test_rows_may_be_named_often_and_in_any_order(path):
    x = torch.arange(4.0, device=DEVICE).view(1, 4, 1).repeat(2, 1, 3)
    index = torch.tensor([[3, 3, 0, 3, 1], [0, 0, 0, 0, 2]], dtype=torch.int32, device=DEVICE)
    assert gather_rows(x, index)[..., 1].tolist() == index.tolist()


def test_one_index_for_all_leading_rows_of_a_dimension(path):
    x = tensor((2, 3, 7, 5))
    index = some((2, 1), 7, 4)
    assert torch.equal(gather_rows(x, index, 2), by_hand(x, index.expand(2, 3, 4), 2))


def test_a_gather_writes_every_element_of_what_it_is_given(path):
    x, index = tensor((3, 7, 33)), some((3,), 7, 5)
    room = torch.full((3, 6, 40), torch.nan, device=DEVICE)
    out = room[:, :5, :33]
    assert gather_rows(x, index, out=out) is out
    assert torch.equal(out, by_hand(x, index, 1))
    assert room[:, 5:].isnan().all()
    assert room[..., 33:].isnan().all()


def test_nan_is_moved_as_it_is(path):
    # Two NaN of other bits than torch's own, and infinity.
    x = torch.tensor([0x7FC1, 0x7F81 - 0x10000, 0x7F80], dtype=torch.int32).to(torch.int16).to(DEVICE)
    x = x.view(torch.bfloat16).view(1, 3, 1)
    index = torch.tensor([2, 0, 1], device=DEVICE)
    assert same(gather_rows(x, index), by_hand(x, index, 1))


@pytest.mark.parametrize("shape", [(2, 5, 0), (0, 5, 3)])
def test_nothing_to_move(path, shape):
    x = tensor(shape)
    index = some((), 5, 2)
    assert gather_rows(x, index).shape == (shape[0], 2, shape[2])
    assert scatter_rows(x, index, x[:, :2].clone()) is x
    x, none = tensor((2, 5, 3)), torch.empty(2, 0, dtype=torch.int64, device=DEVICE)
    assert gather_rows(x, none).shape == (2, 0, 3)
    before = x.clone()
    assert torch.equal(scatter_rows(x, none, x[:, :0]), before)


# What is wrong ----------------------------------------------------------------------------------------

X = torch.zeros(2, 5, 3)
ENDS = torch.tensor([0, 4])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((X, torch.tensor([0, 5])), r"there are 5 rows, got indices from 0 to 5"),
        ((X, torch.tensor([[0, 1], [-2, 2]])), r"5 rows, got indices from -2 to 2; -1 means no row"),
        ((X, torch.tensor([0.0])), r"int64 or int32 on cpu, got torch\.float32"),
        ((X, torch.zeros(3, 2, dtype=torch.int64)), r"an index is \(K,\) or \(2, 'K'\), got \(3, 2\)"),
        ((X, torch.zeros(2, 2, 1, dtype=torch.int64)), r"got \(2, 2, 1\)"),
        ((X, torch.tensor(1)), r"got \(\)"),
        ((X, ENDS, 3), r"0 to 2, got 3"),
        ((X, ENDS, -1), r"0 to 2, got -1"),
        ((X, ENDS, 1, torch.zeros(2, 3, 3)), r"out must be \(2, 2, 3\).*got \(2, 3, 3\)"),
        (
            (X, ENDS, 1, torch.zeros(2, 2, 3, dtype=torch.float16)),
            r"in torch\.float32, got .* in torch\.float16",
        ),
    ],
)
def test_a_gather_that_cannot_be(arguments, said):
    with pytest.raises(DcacheError, match=said):
        gather_rows(*arguments)


@pytest.mark.parametrize(
    ("index", "rows", "said"),
    [
        (torch.tensor([1, 1]), X[:, :2], "names a row twice"),
        (torch.tensor([[0, 1], [2, 2]]), X[:, :2], "names a row twice"),
        (torch.tensor([1, 7]), X[:, :2], "there are 5 rows"),
        (ENDS, X, r"rows must be \(2, 2, 3\)"),
        (ENDS, X[:, :2].half(), r"got .* in torch\.float16"),
    ],
)
def test_a_scatter_that_cannot_be_changes_nothing(index, rows, said):
    out = X.clone()
    with pytest.raises(DcacheError, match=said):
        scatter_rows(out, index, rows + 1)
    assert torch.equal(out, X)


def test_the_same_row_of_two_samples_is_not_the_same_row(path):
    out = torch.zeros(2, 5, 3, device=DEVICE)
    index = torch.tensor([[1, 2], [2, 1]], device=DEVICE)
    scatter_rows(out, index, torch.tensor([[10.0, 20], [30, 40]], device=DEVICE)[..., None].expand(2, 2, 3))
    assert out[..., 0].tolist() == [[0, 10, 20, 0, 0], [0, 40, 30, 0, 0]]


def test_the_kernel_never_leaves_its_memory(monkeypatch):
    """The check before it is left out, as on a GPU: rows out of range are zeros, or are not written."""
    from dcache.kernels.rows import triton

    monkeypatch.setattr(launch, "mode", "on")
    room = torch.full((3, 4, 2), 7, dtype=torch.int32, device=DEVICE)
    index = torch.tensor([-1, 2, 4], device=DEVICE)
    few = torch.full((1, 3, 2), 5, dtype=torch.int32, device=DEVICE)
    assert triton.move(room[1:2], index, few, 1, scatter=True)
    assert room[..., 0].tolist() == [[7] * 4, [7, 7, 5, 7], [7] * 4]
    assert triton.move(room[1:2], index, few, 1, scatter=False)
    assert few[0, :, 0].tolist() == [0, 5, 0]


def test_a_row_may_be_a_whole_video(monkeypatch):
    """No axis of the grid but the first may have more than 65,535 programs."""
    from dcache.kernels.rows import triton

    grids = []

    class Launched:
        def __getitem__(self, grid):
            grids.append(grid)
            return lambda *_, **__: None

    monkeypatch.setattr(triton, "rows_kernel", Launched())
    # Nothing is read: the shapes alone say how it is launched.
    many, few = (torch.empty(B, 75_600, 5120, dtype=torch.bfloat16, device="meta") for B in (2, 1))
    assert triton.move(many, torch.zeros(1, dtype=torch.int64), few, 0, scatter=False)
    assert grids == [(75_600 * 5120 // 2048,)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("prepared", [False, True])
def test_minus_one_names_no_row(path, dtype, prepared):
    x = tensor((2, 5, 3), dtype)
    index = torch.tensor([[-1, 3, -1, 0], [4, -1, -1, -1]], device=DEVICE)
    given = RowIndex(index, 5) if prepared else index
    taken = gather_rows(x, given)
    zero = torch.zeros(3, device=DEVICE, dtype=dtype)
    wanted = [[zero, x[0, 3], zero, x[0, 0]], [x[1, 4], zero, zero, zero]]
    assert same(taken, torch.stack([torch.stack(rows) for rows in wanted]))
    before, new = x.clone(), tensor((2, 4, 3), dtype)
    scatter_rows(x, given, new)
    assert same(x[0], torch.stack([new[0, 3], before[0, 1], before[0, 2], new[0, 1], before[0, 4]]))
    assert same(x[1], torch.stack([*before[1, :4], new[1, 0]]))


@pytest.mark.parametrize("prepared", [False, True])
def test_minus_one_in_an_index_for_all_and_in_views(path, prepared):
    wide = tensor((2, 6, 3, 4))
    x, index = wide.transpose(1, 2), torch.tensor([5, -1, 2], device=DEVICE)
    given = RowIndex(index, 6) if prepared else index
    assert torch.equal(gather_rows(x, given, 2), x[:, :, index] * (index >= 0)[:, None])
    before = wide.clone()
    scatter_rows(x, given, torch.ones(2, 3, 3, 4, device=DEVICE), 2)
    before[:, [5, 2]] = 1
    assert torch.equal(wide, before)
    ragged = torch.tensor([[[1, -1]] * 3, [[-1, 0]] * 3], device=DEVICE)
    scatter_rows(x, RowIndex(ragged, 6) if prepared else ragged, torch.zeros(2, 3, 2, 4, device=DEVICE), 2)
    before[0, 1] = before[1, 0] = 0
    assert torch.equal(wide, before)


def test_a_row_index_is_checked_when_it_is_made():
    with pytest.raises(DcacheError, match="there are 5 rows, got indices from 0 to 5"):
        RowIndex(torch.tensor([0, 5]), 5)
    assert RowIndex(torch.tensor([0, 5]), 5, trusted=True).N == 5
    with pytest.raises(DcacheError, match="names a row twice"):
        RowIndex(torch.tensor([[0, -1, -1], [2, 1, 2]]), 5)
    with pytest.raises(DcacheError, match=r"an index is int64 or int32, .*float32"):
        RowIndex(torch.tensor([0.0]), 5)
    with pytest.raises(DcacheError, match="this RowIndex is for 4 rows, got 5"):
        gather_rows(torch.zeros(1, 5, 2), RowIndex(torch.tensor([0]), 4))
