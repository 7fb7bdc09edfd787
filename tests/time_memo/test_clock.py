"""The clock: the timestep of each call, read from a GPU where nobody knows it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dcache import DcacheWarning
from dcache.time_memo.clock import Clock
from dcache.time_memo.memo import TimeMemo
from tests.time_memo.nets import draw, net, walk


class OnDevice(Clock):
    """As on a GPU: to read a tensor is to wait."""

    def must_wait(self, value: torch.Tensor) -> bool:
        return True


class Sampler(SimpleNamespace):
    timesteps: torch.Tensor
    step_index: int | None


def test_on_a_device_a_sampler_tells_the_timestep_and_each_entry_is_read_once() -> None:
    table = torch.tensor([900.0, 500.0, 100.0])
    sampler = Sampler(timesteps=table, step_index=None)
    clock = OnDevice(net(), lambda: sampler)
    keys = []
    for _ in range(2):
        for i, time in enumerate(table):
            # Samplers know no index before their first step.
            sampler.step_index = i or None
            keys.append(clock.read((), {"timestep": (time / 1000).expand(2)}))
    assert keys[:3] == keys[3:]
    assert len(set(keys)) == 3
    # The first of each run, and the two others once.
    assert clock.waits == 4
    host = Clock(net())
    assert keys[:3] == [host.read((), {"timestep": (time / 1000).expand(2)}) for time in table]


@pytest.mark.parametrize(
    "time", [torch.tensor([[5.0, 5.0]]), torch.tensor([5.0, 6.0])], ids=["tokens", "rows"]
)
def test_timesteps_by_row_or_token_are_read_always(time: torch.Tensor) -> None:
    clock = OnDevice(net(), lambda: Sampler(timesteps=torch.tensor([5.0]), step_index=0))
    assert {clock.read((), {"timestep": time}), clock.read((), {"timestep": time})} == {
        Clock(net()).read((), {"timestep": time})
    }
    assert clock.waits == 2


def test_a_table_that_was_replaced_or_written_to_is_read_anew() -> None:
    sampler = Sampler(timesteps=torch.tensor([5.0, 4.0]), step_index=1)
    clock = OnDevice(net(), lambda: sampler)
    first = clock.read((), {"timestep": torch.tensor([4.0])})
    sampler.timesteps[1] = 3.0
    assert clock.read((), {"timestep": torch.tensor([3.0])}) != first


def test_a_sampler_in_inference_mode_is_not_asked() -> None:
    with torch.inference_mode():
        sampler = Sampler(timesteps=torch.tensor([9.0, 5.0]), step_index=0)
        clock = OnDevice(net(), lambda: sampler)
        assert clock.read((draw(0, 2, 8), torch.tensor([9.0])), {}) is not None
        sampler.timesteps[0] = 8.0
        first = clock.read((draw(0, 2, 8), torch.tensor([8.0])), {})
    assert first == Clock(net()).read((draw(0, 2, 8), torch.tensor([8.0])), {})


def test_a_sampler_that_is_not_the_one_that_runs_is_found_out_and_said() -> None:
    table = torch.tensor([900.0, 500.0, 100.0])
    sampler = Sampler(timesteps=table, step_index=1)
    clock = OnDevice(net(), lambda: sampler)

    def read(time: float) -> Any:
        return clock.read((), {"timestep": torch.tensor([time])})

    assert read(500.0) == read(500.0)
    read(400.0)
    # Another pipeline's loop, while this one's sampler stands still.
    read(300.0)
    with pytest.warns(DcacheWarning, match="2 calls of Net had other timesteps"):
        clock.verify()
    assert clock.misled
    assert read(300.0) == Clock(net()).read((), {"timestep": torch.tensor([300.0])})


def test_what_a_sampler_told_rightly_is_no_news() -> None:
    sampler = Sampler(timesteps=torch.tensor([900.0, 500.0]), step_index=1)
    clock = OnDevice(net(), lambda: sampler)
    for _ in range(600):
        clock.read((), {"timestep": torch.tensor([500.0])})
    clock.verify()
    assert clock.trusted
    assert not clock.misled
    assert clock.waits == 1


@pytest.mark.parametrize(
    "times", [(900.0, 400.0, 400.0, 300.0), (900.0, 400.0, 300.0)], ids=["later", "at once"]
)
def test_tables_that_a_wrong_sampler_filled_are_thrown_away(
    times: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clock, "must_wait", OnDevice.must_wait)
    sampler = Sampler(timesteps=torch.tensor([900.0, 500.0]), step_index=0)
    model = net()
    memo = TimeMemo(model, lambda: sampler)

    def run() -> None:
        walk(model, times)
        memo.report()

    with pytest.warns(DcacheWarning, match="other timesteps than the sampler") as said:
        run()
    assert len(said) == 1
    for _ in range(4):
        assert torch.equal(walk(model), walk(net()))
    assert memo.report().hits > 0
    assert not memo.dropped
