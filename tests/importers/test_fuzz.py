"""Damaged files of every kind: an error that says so or something whole, quickly, and never a crash."""

import json
import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dcache
from dcache.errors import DcacheError
from dcache.importers import cache_dit, diffusers_hooks, read, sglang
from dcache.methods.replay import replay
from dcache.predictors.corrections import Correction, Corrections
from dcache.profile import FeatureTables, Latencies, Profile
from dcache.schedule import Plan, Schedule
from tests.importers.published import bac, ecad, request, routers, smoothcache

# Lines of the package that one reading may run: a damaged number must not send a reader on a long way.
MOST_LINES = 200_000
PACKAGE = str(Path(dcache.__file__).parent)
ODD = [None, True, 0, -1, 3, 2.5, 1e308, float("nan"), float("inf"), 10**30, -(10**400), "", "1", "000"]
ODD += ["\x00\ud7ff", [], [[]], {}, {"a": {}}, [0] * 300, json.loads("[" * 200 + "]" * 200)]


def edited(value: Any, draw: random.Random) -> Any:
    """The JSON value with one place of another type, size or name."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        rest = {k: v for k, v in value.items() if k != key}
        change = draw.random()
        if change < 0.1:
            return rest
        if change < 0.2:
            return rest | {draw.choice(["", "00", "9" * 40, "trunk", key * 2]): value[key]}
        return rest | {key: edited(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        i = draw.randrange(len(value))
        change = draw.random()
        if change < 0.3:
            return value[:i] + value[i + 1 :]
        return value[:i] + [edited(value[i], draw)] * (200 if change > 0.9 else 1) + value[i + 1 :]
    return draw.choice(ODD)


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The bytes cut, with some flipped, doubled or made zero; or deeper than anyone nests."""
    at, more = draw.randrange(len(data)), draw.randrange(1, 40)
    flipped = bytearray(data)
    for _ in range(draw.choice([1, 1, 3, 20])):
        flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return draw.choice(
        [
            data[:at],
            data[at:],
            bytes(flipped),
            bytes(flipped),
            data[:at] + data[at : at + more] + data[at:],
            data[:at] + b"\0" * more + data[at + more :],
            data[:at] + draw.choice([b"[", b'{"a":', b"1", b"-"]) * 20_000 + data[at:],
        ]
    )


def calm(reader: Callable[[], Any]) -> Any:
    """What the reader returns, None where it refuses; anything but a refusal fails."""
    lines = 0

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        assert lines < MOST_LINES
        return count if frame.f_code.co_filename.startswith(PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(count)
    try:
        return reader()
    except DcacheError:
        return None
    finally:
        sys.settrace(before)


def damage(cases: int, check: Callable[[int, random.Random], None]) -> None:
    """Call the check with a kind of damage, by number, and what it is drawn from; always the same cases."""

    @settings(derandomize=True, deadline=None, max_examples=cases, database=None)
    @given(kind=st.integers(0, 11), draw=st.randoms(use_true_random=False))
    def each(kind: int, draw: random.Random) -> None:
        check(kind, draw)

    each()


def examples() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Format, content, options."""
    draw = random.Random(7)
    yield "ecad", ecad(draw, 4, 3), {}
    yield "ecad", ecad(draw, 4, 2, 2), {}
    yield "smoothcache", smoothcache(draw, 5), {"blocks": 3}
    yield "smoothcache", {"attn-0": [1, 0, 1], "mlp-1": [1, 1, 0]}, {}
    yield "bac", bac(draw, 9, 2), {"steps": 9}
    yield "magcache", {"mag_ratios": [draw.uniform(0.5, 1.5) for _ in range(8)]}, {"interleaved": True}
    yield "teacache", [draw.uniform(-300, 300) for _ in range(5)], {}
    row = Schedule(4, {"": Plan({"*": {"run:1-3": (True, True, False, True)}}, codec="delta")})
    yield "cache-dit", dict(cache_dit.export(row, blocks=5).content), {"blocks": 5}
    trunk = Schedule(4, {"": Plan({"*": {"trunk": (True, True, False, True)}}, codec="delta")})
    yield "diffusers", dict(diffusers_hooks.export(trunk).content), {}
    yield "sglang", dict(sglang.export(trunk, request(4)).content), {}


def check(found: Any, folder: Path) -> None:
    """Whatever was accepted works: as a method and as a file."""
    if found.schedule is None:
        numbers = [v for its in found.coefficients.values() for values in its.values() for v in values]
        assert all(map(math.isfinite, numbers))
        return
    replay(found.schedule)
    found.schedule.canonical()
    path = found.schedule.save(folder / "again.json")
    assert Schedule.load(path).components == found.schedule.components


@pytest.mark.parametrize(("source", "content", "options"), list(examples()))
def test_importers_of_json(source: str, content: Any, options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps(content))
    check(read(path, source, **options), tmp_path)
    whole, refused = path.read_bytes(), 0

    def check_one(kind: int, draw: random.Random) -> None:
        nonlocal refused
        if kind % 2:
            path.write_bytes(damaged(whole, draw))
        else:
            path.write_text(json.dumps(edited(content, draw)))
        for name in (source, None):
            found = calm(lambda name=name: read(path, name, **options))  # type: ignore[misc]
            refused += found is None
            if found is not None:
                check(found, tmp_path)

    damage(120, check_one)
    assert refused > 40


@pytest.mark.parametrize("source", ["l2c", "harmonica"])
def test_importers_of_tensors(source: str, tmp_path: Path) -> None:
    path = tmp_path / "f.pt"
    torch.save(routers(random.Random(source), 4, 2, 3), path)
    whole, refused = path.read_bytes(), 0

    def check_one(kind: int, draw: random.Random) -> None:
        nonlocal refused
        path.write_bytes(damaged(whole, draw))
        found = calm(lambda: read(path, source))
        refused += found is None
        if found is not None:
            check(found, tmp_path)

    damage(100, check_one)
    assert refused > 20


SCHEDULE = Schedule(
    4,
    {
        "transformer": Plan(
            {"cond": {"attn:0": (True, False, True, False)}, "uncond": {"attn:0": (True, True, False, True)}},
            predictor="taylor",
            parameters={"order": 1},
            clock="step",
            corrections=Corrections(
                {"attn:0": {1: Correction(torch.ones(3), torch.zeros(3), 0)}}, {"attn:0": -1}
            ),
        )
    },
    sigmas=(1.0, 0.75, 0.5, 0.25, 0.0),
    resolution=(64, 64),
    guidance=3.0,
    measured={"seconds": 1.5},
)


def test_schedules(tmp_path: Path) -> None:
    path = SCHEDULE.save(tmp_path / "s.json")
    (beside,) = (p for p in tmp_path.iterdir() if p != path)
    whole, numbers = path.read_bytes(), beside.read_bytes()
    content = json.loads(whole)
    del content["checksum"]
    kept = 0

    def check_one(kind: int, draw: random.Random) -> None:
        nonlocal kept
        path.write_bytes(whole)
        beside.write_bytes(numbers)
        if kind % 3 == 0:
            path.write_bytes(damaged(whole, draw))
        elif kind % 3 == 1:
            path.write_text(json.dumps(edited(content, draw)))
        else:
            beside.write_bytes(damaged(numbers, draw))
        found = calm(lambda: Schedule.load(path))
        if found is not None:
            kept += 1
            found.digest()
            for name in found.components:
                replay(found, name)

    damage(240, check_one)
    assert 0 < kept < 120


def profile() -> Profile:
    """A small one with every table."""
    draw = np.random.default_rng(0)
    tables = {"value": FeatureTables(np.eye(4), 1 - np.eye(4), np.ones(4))}
    return Profile(
        4,
        {site: {"cond": tables, "uncond": tables} for site in ("trunk", "attn:0")},
        latencies=Latencies(1.0, {"trunk": 0.2}, {"trunk": 0.01}),
        ratios=np.ones(4),
        input_output_changes=draw.random((5, 2)),
        importance=draw.random((1, 4)),
        important=("trunk",),
        attention={"block:0": 0.5},
        sigmas=(1.0, 0.75, 0.5, 0.25, 0.0),
    )


def test_profiles(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = profile().save(tmp_path / "p.safetensors")
    whole, arrays = path.read_bytes(), load_file(path)
    size = int.from_bytes(whole[:8], "little")
    about = json.loads(json.loads(whole[8 : 8 + size])["__metadata__"]["dcache.profile"])
    assert calm(lambda: Profile.load(path)) is not None
    refused = 0

    def check_one(kind: int, draw: random.Random) -> None:
        nonlocal refused
        if kind % 4 == 0:
            path.write_bytes(damaged(whole, draw))
        elif kind % 4 == 1:
            # The header alone, where the structure is.
            path.write_bytes(damaged(whole[: size + 8], draw) + whole[size + 8 :])
        elif kind % 4 == 2:
            save_file(arrays, path, {"dcache.profile": json.dumps(edited(about, draw))})
        else:
            key = draw.choice(list(arrays))
            odd = [np.zeros(0), np.zeros((2, 3)), np.full_like(arrays[key], np.nan), np.ones(4, np.int64)]
            save_file(arrays | {key: draw.choice(odd)}, path, {"dcache.profile": json.dumps(about)})
        found = calm(lambda: Profile.load(path))
        refused += found is None
        if found is not None:
            found.merged([])
            found.save(tmp_path / "again.safetensors")
            if found.latencies is not None:
                assert 0 < found.latencies.uncached + sum(found.latencies.computed.values()) < math.inf

    damage(200, check_one)
    assert refused > 60
