"""Which argument each output of a block continues, and what a skipped block returns."""

import pytest
import torch
from torch import nn

from dcache.intercept.pytree import flatten
from dcache.sites.streams import StreamTracer, join, joined_dim, named_tensors, with_rows_of


class One(nn.Module):
    def forward(self, hidden_states, temb=None, mask=None):
        return hidden_states + 1


class Two(nn.Module):
    """Two streams; returns text first, takes it second."""

    def forward(self, hidden_states, encoder_hidden_states, temb=None):
        return encoder_hidden_states * 2, hidden_states * 3


class Straight(nn.Module):
    """Two streams; returns them as it takes them."""

    def forward(self, hidden_states, encoder_hidden_states):
        return hidden_states * 3, encoder_hidden_states * 2


class FluxTransformerBlock(Two):
    """Declared: text first."""

    __module__ = "diffusers.models"


class Returns(nn.Module):
    """Returns what `shape` makes of its stream."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, x, y=None):
        return self.shape(x, y)


def watch(prober, block, *args, **kwargs):
    output = block(*args, **kwargs)
    leaves, recipe = flatten(output)
    prober.record(block, args, kwargs, leaves, recipe)
    return output


def passed(passing, args, kwargs):
    """As the lowering does it: by the short way where there is one, which must equal the general one."""
    general = passing(args, kwargs)
    if passing.getter is not None:
        short = passing.getter(kwargs if passing.by_name else args)
        assert type(short) is type(general)
        assert flatten(short)[0] == flatten(general)[0] or all(
            a is b for a, b in zip(flatten(short)[0], flatten(general)[0], strict=True)
        )
    return general


X, TEXT, TEMB = torch.randn(1, 6, 4), torch.randn(1, 3, 4), torch.randn(1, 4)


@pytest.mark.parametrize("by_name", [False, True])
def test_a_stream_is_found_by_its_shape(by_name):
    prober, block = StreamTracer(), One()
    args, kwargs = ((), {"temb": TEMB, "hidden_states": X}) if by_name else ((X, TEMB), {})
    watch(prober, block, *args, **kwargs)
    assert prober.sources(block) == ["hidden_states"]
    assert passed(prober.pass_through(block), args, kwargs) is X


@pytest.mark.parametrize("by_name", [False, True])
def test_two_streams_of_different_lengths(by_name):
    prober, block = StreamTracer(), Two()
    args, kwargs = ((), {"hidden_states": X, "encoder_hidden_states": TEXT}) if by_name else ((X, TEXT), {})
    watch(prober, block, *args, **kwargs)
    assert prober.sources(block) == ["encoder_hidden_states", "hidden_states"]
    text, image = passed(prober.pass_through(block), args, kwargs)
    assert text is TEXT
    assert image is X


def test_mixed_positions_and_names_pass_the_general_way():
    prober, block = StreamTracer(), Two()
    watch(prober, block, X, encoder_hidden_states=TEXT)
    passing = prober.pass_through(block)
    assert passing.getter is None
    assert passing((X,), {"encoder_hidden_states": TEXT})[0] is TEXT


def test_of_two_arguments_of_one_shape_a_declaration_decides():
    prober, block = StreamTracer(), FluxTransformerBlock()
    watch(prober, block, X, X.clone())
    assert prober.sources(block) == ["encoder_hidden_states", "hidden_states"]


def test_else_what_the_next_block_was_given():
    prober, first, second = StreamTracer(), Two(), Two()
    text, image = watch(prober, first, X, X.clone())
    # Before it is seen, the order of the arguments is the guess.
    assert prober.sources(first) == ["hidden_states", "encoder_hidden_states"]
    watch(prober, second, image, text)
    for block in (first, second):
        assert prober.sources(block) == ["encoder_hidden_states", "hidden_states"]


def test_votes_go_by_identity_not_by_shape():
    prober, first, second = StreamTracer(), Straight(), Straight()
    image, text = watch(prober, first, X, X.clone())
    watch(prober, second, image, text)
    assert prober.votes == {(Straight, 0): "hidden_states", (Straight, 1): "encoder_hidden_states"}
    assert prober.sources(first) == ["hidden_states", "encoder_hidden_states"]


def test_a_block_of_another_class_does_not_vote():
    prober, first, second = StreamTracer(), Two(), FluxTransformerBlock()
    text, image = watch(prober, first, X, X.clone())
    watch(prober, second, image, text)
    assert prober.votes == {}
    assert prober.sources(first) == ["hidden_states", "encoder_hidden_states"]


@pytest.mark.parametrize(
    "other",
    [torch.randn(1, 5, 4), X.to(torch.float16), torch.randn(6, 4), torch.ones(1, 6, 4, dtype=torch.long)],
)
def test_an_output_of_another_shape_or_dtype_continues_nothing(other):
    prober, block = StreamTracer(), Returns(lambda x, y: other)
    watch(prober, block, X)
    assert prober.sources(block) == [None]
    assert prober.pass_through(block) is None


def test_vectors_are_no_streams():
    prober, block = StreamTracer(), Returns(lambda x, y: x * 2)
    watch(prober, block, torch.randn(4))
    assert prober.pass_through(block) is None


def test_one_argument_is_continued_only_once():
    prober, block = StreamTracer(), Returns(lambda x, y: (x * 2, x * 3))
    watch(prober, block, X)
    assert prober.sources(block) == ["x", None]
    assert prober.pass_through(block) is None


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (lambda x, y: x, lambda: X),
        (lambda x, y: (x,), lambda: (X,)),
        (lambda x, y: [x], lambda: [X]),
        (lambda x, y: (x, y), lambda: (X, TEXT)),
        (lambda x, y: [y, x], lambda: [TEXT, X]),
        (lambda x, y: (None, x), lambda: (None, X)),
        (lambda x, y: (x, None), lambda: (X, None)),
        (lambda x, y: (x, "kept", 3), lambda: (X, "kept", 3)),
        (lambda x, y: {"sample": x, "extra": None}, lambda: {"sample": X, "extra": None}),
        (lambda x, y: (x, (y, None)), lambda: (X, (TEXT, None))),
    ],
)
def test_a_skipped_block_returns_its_inputs_in_its_outputs_containers(shape, expected):
    prober, block = StreamTracer(), Returns(shape)
    args = (X, TEXT)
    watch(prober, block, *args)
    # New tensors, as in a later step.
    later = passed(prober.pass_through(block), args, {})
    assert type(later) is type(expected())
    mine, theirs = flatten(later), flatten(expected())
    assert mine[1] == theirs[1]
    assert all(a is b for a, b in zip(mine[0], theirs[0], strict=True))


def test_named_tensors_are_floating_and_in_the_order_of_the_signature():
    mask = torch.ones(1, 6, dtype=torch.bool)
    found = named_tensors(One(), (X,), {"mask": mask, "temb": TEMB})
    assert {name: key for name, (key, _) in found.items()} == {"hidden_states": 0, "temb": "temb"}
    assert list(named_tensors(One(), (), {"temb": TEMB, "hidden_states": X})) == ["hidden_states", "temb"]
    assert list(named_tensors(Swallows(), (X, TEXT), {"z": TEMB})) == ["argument 0", "argument 1", "z"]


class Swallows(nn.Module):
    def forward(self, *args, **kwargs):
        return args[0]


@pytest.mark.parametrize(
    ("parts", "whole", "dim"),
    [
        ([(1, 5, 8), (1, 16, 8)], (1, 21, 8), 1),
        ([(1, 5, 8), (1, 16, 8), (1, 2, 8)], (1, 23, 8), 1),
        ([(1, 5, 3), (1, 5, 5)], (1, 5, 8), 2),
        ([(2, 4), (1, 4)], (3, 4), 0),
        # Too long, another width, another number of dimensions, one part alone.
        ([(1, 5, 8), (1, 16, 8)], (1, 22, 8), None),
        ([(1, 5, 8), (1, 16, 7)], (1, 21, 8), None),
        ([(5, 8), (16, 8)], (1, 21, 8), None),
        ([(1, 21, 8)], (1, 21, 8), None),
        ([], (1, 21, 8), None),
    ],
)
def test_a_seam_is_the_dimension_along_which_parts_add_up(parts, whole, dim):
    assert joined_dim([torch.empty(part) for part in parts], torch.empty(whole)) == dim


def test_entries_are_joined_along_their_seam():
    text, picture = torch.zeros(1, 2, 3), torch.ones(1, 4, 3)
    assert join([], 1) is None
    assert join([picture], 1) is picture
    joined = join([text, picture], 1)
    assert joined.shape == (1, 6, 3)
    assert joined.sum(dim=(0, 2)).tolist() == [0, 0, 3, 3, 3, 3]


def test_where_the_streams_are_joined_between_two_blocks_is_seen_there():
    """As in Flux: two streams, and one of text and picture behind them."""
    prober, block, behind = StreamTracer(), FluxTransformerBlock(), One()
    text, picture = watch(prober, block, X, TEXT)
    whole = torch.cat([text, picture], 1)
    given = named_tensors(block, (X, TEXT), {})
    output = watch(prober, behind, whole)
    assert prober.joined == ("encoder_hidden_states", "hidden_states")
    # What leaves the second block continues both entries of the first.
    assert prober.entries(block, "hidden_states", output, given) == (prober.joined, 1)
    assert prober.entries(block, "hidden_states", picture, given) == (("hidden_states",), 0)
    assert prober.entries(block, None, output, given) == ((), 0)
    assert prober.entries(block, "hidden_states", output[:, :3], given) == ((), 0)


@pytest.mark.parametrize("over", [False, True])
def test_a_watched_call_that_is_over_lets_go_of_its_tensors(over):
    prober = StreamTracer()
    text, picture = watch(prober, Two(), X, TEXT)
    if over:
        prober.end_call()
    # A block of the next call has no block before it, although it is given the same tensors.
    watch(prober, Two(), picture, text)
    assert bool(prober.votes) != over


# A stream of a single row -----------------------------------------------------------------------------


class Broadcasts(nn.Module):
    """Two streams; a scale of as many rows as pictures broadcasts the text."""

    def forward(self, hidden_states, encoder_hidden_states, temb):
        scale = temb[:, None]
        return encoder_hidden_states * scale, hidden_states * scale


@pytest.mark.parametrize("by_name", [False, True])
def test_a_stream_of_a_single_row_that_a_block_broadcasts_is_continued_and_passed_with_all_rows(by_name):
    image, scale = torch.randn(2, 6, 4), torch.randn(2, 4)
    prober, block = StreamTracer(), Broadcasts()
    args = () if by_name else (image, TEXT, scale)
    kwargs = {"hidden_states": image, "encoder_hidden_states": TEXT, "temb": scale} if by_name else {}
    outputs = watch(prober, block, *args, **kwargs)
    assert prober.sources(block) == ["encoder_hidden_states", "hidden_states"]
    given = named_tensors(block, args, kwargs)
    assert prober.entries(block, "encoder_hidden_states", outputs[0], given) == (
        ("encoder_hidden_states",),
        0,
    )
    # Joined for the blocks behind, the text has the rows of the image.
    whole = torch.cat(outputs, dim=1)
    assert prober.entries(block, "hidden_states", whole, given) == (
        ("encoder_hidden_states", "hidden_states"),
        1,
    )
    text, same = prober.pass_through(block)(args, kwargs)
    assert torch.equal(text, TEXT.expand(2, 3, 4))
    assert text.data_ptr() == TEXT.data_ptr()
    assert same is image


def test_calls_that_broadcast_and_calls_that_do_not_share_a_block():
    prober, block = StreamTracer(), Broadcasts()
    watch(prober, block, torch.randn(2, 6, 4), TEXT, torch.randn(2, 4))
    prober.pass_through(block)
    # The next signature has a row of text for each picture, and is the last one that was seen.
    watch(prober, block, torch.randn(3, 6, 4), torch.randn(3, 3, 4), torch.randn(3, 4))
    passing = prober.pass_through(block)
    for rows in (2, 3, 5):
        image, own = torch.randn(rows, 6, 4), torch.randn(rows, 3, 4)
        text, same = passing((image, TEXT, torch.randn(rows, 4)), {})
        assert torch.equal(text, TEXT.expand(rows, 3, 4))
        assert same is image
        assert passing((image, own, torch.randn(rows, 4)), {})[0] is own


def test_an_argument_of_the_outputs_shape_comes_before_one_of_a_single_row():
    class Placed(nn.Module):
        def forward(self, positions, hidden_states):
            return hidden_states + positions

    prober, block = StreamTracer(), Placed()
    watch(prober, block, torch.randn(1, 6, 4), torch.randn(2, 6, 4))
    assert prober.sources(block) == ["hidden_states"]


def test_a_row_is_only_broadcast_where_there_are_as_many_elsewhere():
    class Repeats(nn.Module):
        def forward(self, hidden_states):
            return hidden_states.repeat(2, 1, 1)

    prober, block = StreamTracer(), Repeats()
    watch(prober, block, X)
    assert prober.sources(block) == [None]


def test_joining_broadcasts_a_single_row():
    one, two = torch.randn(1, 3, 4), torch.randn(2, 6, 4)
    assert torch.equal(join([one, two], 1), torch.cat([one.expand(2, 3, 4), two], 1))
    assert torch.equal(join([two, one], 1), torch.cat([two, one.expand(2, 3, 4)], 1))
    # Along the rows themselves nothing is broadcast.
    assert join([one, torch.randn(2, 3, 4)], 0).shape == (3, 3, 4)
    assert with_rows_of(two, one) is two
    assert with_rows_of(one, one) is one
