"""Row policies on a command line, and their decode orders."""

import pytest

from dcache import diffusion_lm
from dcache.errors import DcacheError
from dcache.eval.diffusion_lm.entries import Order, by_order, parse


def test_names_in_any_spelling_with_their_options() -> None:
    first, second = parse("Dual:block=4; dkv:refresh=2,delay=0")
    assert first.method == diffusion_lm.make("dual", block=4)
    assert (second.method.delay, second.label) == (0, "dkv refresh=2 delay=0")
    assert second.file_name == "dkv-refresh=2-delay=0"


def test_policies_are_gathered_by_decode_order() -> None:
    entries = parse("dkv;window:window=4;dual:block=8;elastic:window=4;prefix;freecache:block=8")
    orders = by_order(entries, 16)
    assert {order: [one.method.name for one in members] for order, members in orders.items()} == {
        Order(16, None): ["dkv", "prefix"],
        Order(16, 4): ["window", "elastic"],
        Order(8, None): ["dual", "freecache"],
    }
    # A window of the whole block restricts nothing.
    (whole,) = by_order(parse("window:window=16"), 16)
    assert whole == Order(16, None)


def test_an_orders_reference_computes_every_row_in_it() -> None:
    assert Order(8, None).reference() is None
    reference = Order(8, 2).reference()
    assert reference == diffusion_lm.make("none", window=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names none"),
        (" ; ", "names none"),
        ("duel", "Did you mean 'dual'"),
        ("dual:blocks=3", "block"),
        ("dual;dual", "more than once"),
        ("dual:block", "block"),
        ("dual:block=0", "block must be"),
    ],
)
def test_what_is_no_policy_is_named(text: str, message: str) -> None:
    with pytest.raises(DcacheError, match=message):
        parse(text)
