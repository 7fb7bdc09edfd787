"""Canonical schedules against a toy network that is run: dropping the dead computes changes no bit.

The toy's executor runs a table as an engine would. Of `schedule.liveness` it takes only the order of names.
"""

import random
from dataclasses import dataclass, field

import pytest

from dcache.predictors import Newton
from dcache.schedule.liveness import live_rows
from dcache.sites.names import span_of

LAYOUTS = {
    "sublayers": ["attn:0", "mlp:0", "attn:1", "mlp:1"],
    "all three": ["attn:0", "cross_attn:0", "mlp:0", "attn:1", "mlp:1"],
    "blocks": ["block:0", "block:1", "block:2"],
    "run between": ["attn:0", "mlp:0", "run:1-2", "attn:3", "mlp:3"],
    "two runs": ["run:0-1", "mlp:2", "run:3-4"],
    "nested": ["run:0-1", "attn:0", "mlp:1", "attn:2", "block:3"],
    "deeply nested": ["model", "trunk", "attn:0", "mlp:0", "attn:1"],
    "trunk": ["trunk"],
    "fused": ["attn:0", "mlp:0", "mlp.context:0", "fused:1", "block:2"],
}
ALTERED = 1e-3


@dataclass
class Toy:
    """A scalar residual network; a site is a function of the stream and the clock.

    With `alter` an event's output is moved a little, to see who reads it.
    """

    rows: dict
    order: int
    codec: str | None
    alter: tuple | None = None
    anchors: dict = field(default_factory=dict)
    events: set = field(default_factory=set)

    def children(self, around):
        """The sites directly inside a site (None for the whole network), in order."""
        inside = [s for s in self.rows if s != around and (around is None or contains(around, s))]
        return sorted(
            (s for s in inside if not any(o != s and contains(o, s) for o in inside)),
            key=span_of,
        )

    def inner(self, site, t, x):
        """What a site's function does: its own arithmetic around what lies inside it."""
        for child in self.children(site):
            x = self.apply(child, t, x)
        salt = sum(map(ord, site)) % 7 + 1
        return x + 0.1 * (x * 0.3 + t * 0.7 * salt) ** 2 / (1 + x * x)

    def apply(self, site, t, x):
        kept = self.anchors.setdefault(site, [])
        sublayer = not site.startswith(("model", "trunk", "run", "block"))
        delta = (self.codec or ("value" if site == "model" else "delta")) == "delta" and not sublayer
        if self.rows[site][t] or not kept:
            self.events.add((t, site))
            y = self.inner(site, t, x)
            y += ALTERED * (self.alter == (t, site))
            out = y - x if sublayer else y
            kept.append((t, y - x if delta else out))
            del kept[: -(self.order + 1)]
        else:
            taus = [float(i) for i, _ in kept]
            weights = Newton(self.order).weights(taus, [i for i, _ in kept], float(t))
            out = sum(w * z for w, (_, z) in zip(weights, kept, strict=True))
            out += x if delta else 0.0
        return x + out if sublayer else out

    def run(self):
        steps = len(next(iter(self.rows.values())))
        outputs = []
        for t in range(steps):
            x = 0.3 + 0.05 * t
            for site in self.children(None):
                x = self.apply(site, t, x)
            outputs.append(x)
        return outputs


DEPTHS = {"model": (-9, 99), "trunk": (-8, 98)}


def contains(outer, inner):
    """By hand, for the layouts above."""
    if outer == inner or not outer.startswith(("model", "trunk", "run", "block")):
        return False
    if inner in DEPTHS and outer not in DEPTHS:
        return False
    if outer in DEPTHS:
        return outer == "model" or inner != "model"
    where = [int(n) for n in outer.partition(":")[2].split("-")]
    inside = [int(n) for n in inner.partition(":")[2].split("-")]
    return where[0] <= inside[0] and inside[-1] <= where[-1]


def plans(layout, count, steps=8):
    rng = random.Random(f"{layout} {count}")
    for _ in range(count):
        density = rng.choice((0.2, 0.5, 0.8))
        sites = list(LAYOUTS[layout])
        rng.shuffle(sites)
        yield {s: tuple(rng.random() < density for _ in range(steps)) for s in sites}


@pytest.mark.parametrize("codec", [None, "value", "delta"])
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_canonical_table_gives_the_same_bits_for_no_more_computes(layout, order, codec):
    for rows in plans(layout, 15):
        raw, canonical = Toy(rows, order, codec), Toy(live_rows(rows, order, codec), order, codec)
        assert canonical.run() == raw.run()
        assert canonical.events <= raw.events
        assert list(canonical.rows) == list(rows)
        assert live_rows(canonical.rows, order, codec) == canonical.rows


@pytest.mark.parametrize("codec", [None, "value"])
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_live_is_what_an_output_depends_on(layout, order, codec):
    """Every executed event is moved a little: some output moves if and only if it is called live."""
    for rows in plans(layout, 3, steps=6):
        plain = Toy(rows, order, codec)
        outputs = plain.run()
        canonical = live_rows(rows, order, codec)
        for t, site in sorted(plain.events):
            moved = Toy(rows, order, codec, alter=(t, site)).run() != outputs
            inside = [s for s in rows if contains(site, s)]
            needed = moved or any(canonical[s][t] for s in inside)
            assert canonical[site][t] == needed, (rows, t, site)
        assert all(c <= ((t, s) in plain.events) for s in rows for t, c in enumerate(canonical[s]))


def test_a_value_run_makes_what_is_before_it_dead():
    rows = {"attn:0": (True, True, True, True), "run:1-2": (True, False, False, True), "mlp:3": (True,) * 4}
    value = live_rows(rows, 0, "value")
    assert value["attn:0"] == (True, False, False, True)
    assert value["mlp:3"] == (True,) * 4
    assert live_rows(rows, 0, None) == rows


def test_a_compute_that_is_overwritten_unread_is_dead():
    # Block 0 computes at evaluation 2, where block 1 is predicted from its own anchor, and never again.
    rows = {"block:0": (True, False, True), "block:1": (True, True, False)}
    assert live_rows(rows, 0, "value") == {"block:0": (True, False, False), "block:1": (True, True, False)}


def test_forced_first_computes_are_set_where_they_are_live():
    assert live_rows({"trunk": (False, False, True)}, 0, None) == {"trunk": (True, False, True)}
    rows = {"block:0": (False, False), "block:1": (True, True)}
    assert live_rows(rows, 0, None) == {"block:0": (True, False), "block:1": (True, True)}


def test_an_anchor_inside_a_run_keeps_the_run_computed():
    # At evaluation 1 block 3 hides everything, but the attention computed there is read at evaluation 2.
    rows = {"run:0-1": (True, True, True), "attn:0": (True, True, False), "block:3": (True, False, True)}
    assert live_rows(rows, 0, "value") == rows
    unread = rows | {"attn:0": (True, True, True)}
    assert live_rows(unread, 0, "value") == {s: (r[0], False, r[2]) for s, r in unread.items()}


def test_all_computed_stays():
    rows = dict.fromkeys(LAYOUTS["nested"], (True,) * 5)
    for order in range(3):
        assert live_rows(rows, order, "value") == rows


def test_beside_a_bracket_nothing_is_dropped():
    rows = {"bracket:0": (True, False), "attn:0": (False, True)}
    assert live_rows(rows, 0, None) == rows
    assert live_rows({"bracket:0": (False, False, True)}, 0, None) == {"bracket:0": (True, False, True)}


@pytest.mark.parametrize(
    ("order", "steps", "share"), [(0, 16, 0.31), (1, 16, 0.23), (2, 16, 0.18), (0, 300, 1 / 3)]
)
def test_share_of_dead_computes_in_random_plans(order, steps, share):
    """A sublayer before a run that is remembered by value, half computed (methods-diffusion.md, 6.2)."""
    rng = random.Random(order)
    dead = total = 0
    for _ in range(9600 // steps):
        rows = {s: tuple(rng.random() < 0.5 for _ in range(steps)) for s in ("attn:0", "run:1-1")}
        asked = [t for t in range(steps) if rows["attn:0"][t] or t == 0]
        total += len(asked)
        canonical = live_rows(rows, order, "value")["attn:0"]
        dead += sum(not canonical[t] for t in asked)
    assert dead / total == pytest.approx(share, abs=0.015)
