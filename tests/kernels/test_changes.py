"""`changes`: torch reference and Triton kernel against float64 arithmetic, and the indicators' bits."""

from __future__ import annotations

import itertools

import pytest
import torch

from dcache.errors import DcacheError
from dcache.kernels import launch
from dcache.kernels.changes import SUMS, changes, in_memory_order, reference, relative_change

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Odd ones; rows of one element; more than a block in one row, and than a program takes; many short rows.
SHAPES = [((7,), 0), ((3, 5), 0), ((3, 5), 1), ((3, 5), 2), ((2, 33, 65), 2), ((2, 9001), 1), ((20011,), 0)]
# Of the sum of the terms' magnitudes, for float32 accumulation.
CLOSE = 5e-7


def pair(shape: tuple[int, ...], a: torch.dtype, b: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.randn(shape)
    return (y + 0.1 * torch.randn(shape)).to(DEVICE, a), y.to(DEVICE, b)


def terms(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each sum is over, in float64."""
    x, y = x.double(), y.double()
    return {
        "distance": (x - y).abs(),
        "length": y.abs(),
        "square": (x - y) ** 2,
        "xy": x * y,
        "xx": x * x,
        "yy": y * y,
    }


def assert_sums(x: torch.Tensor, y: torch.Tensor, lead: int) -> None:
    found = changes(x, y, lead=lead)
    assert found.count == x[(0,) * lead].numel()
    for name, term in terms(x, y).items():
        exact = term.reshape(*x.shape[:lead], -1)
        its = found[name]
        assert its.shape == x.shape[:lead]
        assert its.dtype == torch.float32
        off = (its.double() - exact.sum(-1)).abs() / exact.abs().sum(-1)
        assert off.max() < CLOSE, name


@pytest.mark.parametrize(("shape", "lead"), SHAPES, ids=str)
def test_every_sum(path, shape, lead):
    assert_sums(*pair(shape, torch.float32, torch.float32), lead)


@pytest.mark.parametrize(("a", "b"), list(itertools.product(DTYPES, DTYPES)), ids=str)
def test_any_two_dtypes(path, a, b):
    assert_sums(*pair((3, 37), a, b), 1)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_what_is_stored_in_one_byte(path, dtype):
    x, y = (20 * torch.randn(2, 45, device=DEVICE) for _ in range(2))
    assert_sums(x, y.to(dtype), 1)


def test_strides_do_not_matter(path):
    x, y = pair((4, 6, 35), torch.float32, torch.float32)
    for lead in (0, 1, 2):
        assert_sums(x.transpose(0, 1), y.transpose(0, 1), lead)
        assert_sums(x[:, 1:4], y[:, 2:5], lead)
        assert_sums(x[..., ::2], y[..., ::2], lead)
        assert_sums(x, y[:1].expand(4, 6, 35), lead)
    last = [t.view(2, 2, 6, 35).to(memory_format=torch.channels_last) for t in (x, y)]
    assert_sums(*last, 0)
    assert_sums(last[0], last[1].contiguous(), 1)


@pytest.mark.parametrize("lead", [0, 1])
def test_channels_last_is_read_where_it_lies(lead):
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    for t in in_memory_order(x, x, lead):
        assert t.shape[:lead] == x.shape[:lead]
        assert t.reshape(*t.shape[:lead], -1).data_ptr() == x.data_ptr()


def test_what_is_not_finite_shows_and_only_where_it_is(path):
    x, y = pair((3, 40), torch.float32, torch.bfloat16)
    x[1, 39] = torch.nan
    y[2, 0] = torch.inf
    found = changes(x, y, lead=1)
    for name in SUMS:
        finite = found[name].isfinite().tolist()
        # Sums of one input do not see the other.
        assert finite == [True, name in {"length", "yy"}, name == "xx"], name
    assert changes(x[1], y[1])["distance"].isnan()


def test_equal_inputs_give_equal_bits(path):
    x, y = pair((2, 9001), torch.float32, torch.bfloat16)
    first, again = (torch.stack(list(changes(*t, lead=1).values)) for t in ((x, y), (x.clone(), y.clone())))
    assert torch.equal(first, again)


def test_inputs_stay_as_they_are(path):
    x, y = pair((3, 40), torch.float32, torch.float32)
    before = x.clone(), y.clone()
    changes(x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert not changes(x.requires_grad_(), y)["xx"].requires_grad


def test_sums_by_hand(path):
    x, y = torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([[2.0, 2.0], [-4.0, 0.0]])
    found = changes(x.to(DEVICE), y.to(DEVICE), lead=1)
    assert [found[n].tolist() for n in ("distance", "length", "square")] == [[5, 7], [4, 4], [17, 49]]
    assert [found[n].tolist() for n in ("xy", "xx", "yy")] == [[-2, -12], [5, 9], [8, 16]]
    assert found.mean("distance").tolist() == [2.5, 3.5]
    assert found.relative().tolist() == [1.25, 1.75]
    assert float(relative_change(x.to(DEVICE), y.to(DEVICE))) == 1.5


def test_no_elements(path):
    empty = torch.empty(3, 0, device=DEVICE)
    found = changes(empty, empty, lead=1)
    assert [found[name].tolist() for name in SUMS] == [[0, 0, 0]] * 6
    assert relative_change(empty, empty).isnan()
    assert changes(empty[:0], empty[:0], lead=1)["xy"].shape == (0,)


def test_only_what_is_asked_for_is_there_on_the_reference(monkeypatch):
    monkeypatch.setattr(launch, "mode", "off")
    found = changes(torch.ones(3), torch.zeros(3), ("distance",))
    assert found["distance"] == 3
    with pytest.raises(ValueError, match="not in"):
        found["xx"]


# The reference, piece by piece ------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "lead"), [((1, 70), 0), ((5, 13), 1), ((5, 13), 0), ((2, 3, 40), 2)])
def test_pieces_add_up(monkeypatch, shape, lead):
    monkeypatch.setattr(launch, "mode", "off")
    x, y = pair(shape, torch.float32, torch.float32)
    whole = changes(x, y, lead=lead)
    monkeypatch.setattr(reference, "PIECE", 32)
    assert_sums(x, y, lead)
    assert changes(x, y, lead=lead)["xy"].shape == whole["xy"].shape


def test_the_reference_takes_no_memory_of_the_inputs_size(monkeypatch):
    """Whatever is allocated on the way is at most a piece."""
    monkeypatch.setattr(launch, "mode", "off")
    sizes: list[int] = []
    like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda x: sizes.append(x.numel()) or like(x))
    x = torch.ones(1 << 20, dtype=torch.bfloat16)
    assert changes(x, x, ("length",))["length"] == 1 << 20
    assert sizes == [reference.PIECE] * 4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5,), (2, 4, 17, 15), (8, 64, 192), (3, 50021)])
def test_a_relative_change_on_a_cpu_has_the_bits_of_the_plain_formula(monkeypatch, dtype, shape):
    monkeypatch.setattr(launch, "mode", "off")
    now, then = (torch.randn(shape).to(dtype) for _ in range(2))
    a, b = now.float(), then.float()
    assert float(relative_change(now, then)) == float((a - b).abs().mean() / b.abs().mean())
    if len(shape) == 4:
        last = [t.to(memory_format=torch.channels_last) for t in (now, then)]
        a, b = (t.float() for t in last)
        assert float(relative_change(*last)) == float((a - b).abs().mean() / b.abs().mean())


def test_float64_is_summed_in_float64(path):
    x, y = torch.randn(30, dtype=torch.float64), torch.randn(30)
    found = changes(x, y, ("distance",))["distance"]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, (x - y.double()).abs().sum(), rtol=1e-15, atol=0)


# What is wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((torch.ones(2), torch.ones(3)), r"of one shape.*\(2,\) and \(3,\)"),
        ((torch.ones(2, dtype=torch.complex64), torch.ones(2)), "complex64"),
        ((torch.ones(2), torch.ones(2), ("distanse",)), "'distanse'; there are distance, length"),
        ((torch.ones(2), torch.ones(2), SUMS, 2), r"lead is 0 to 1.*got 2"),
    ],
)
def test_what_cannot_be_compared(arguments, said):
    with pytest.raises(DcacheError, match=said):
        changes(*arguments)
