"""Observation and calibration of a loop of one's own, and files of observations."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dcache
from dcache import DcacheError, DcacheWarning
from dcache.schedulers.planners.registry import make
from dcache.search.calibrate import calibrate
from dcache.search.observe import observe
from dcache.search.rendering.runs import Runs, load_observations
from tests.policies import Decoder, euler, made, observation


def test_a_callable_is_observed_as_the_denoiser_really_ran() -> None:
    net = made(Decoder)
    inputs: list[torch.Tensor] = []
    net.decoder.layers[0].register_forward_hook(lambda _, __, output: inputs.append(output.clone()))
    euler(net, observation(1))
    profile = observe(
        net, 1, run=lambda i: euler(net, observation(i + 1)), sites=["block:0", "mlp"], timing=False
    )
    assert set(profile.sites) == {"block:0", "mlp:0", "mlp:1", "mlp:2"}
    assert profile.steps == 10
    (tables,) = profile.sites["block:0"].values()
    value = tables["value"]
    first = torch.stack([x.flatten() for x in inputs[:10]]).double()
    # Tables are means over elements.
    assert np.allclose(value.gram, (first @ first.T).numpy() / first.shape[1], rtol=1e-4)


def test_schedules_are_planned_of_it_and_replay_on_the_denoiser() -> None:
    net = made(Decoder)
    profile = observe(net, 2, run=lambda i: euler(net, observation(i)), timing=False)
    schedule = make("bac", profile, computes=4)
    dcache.enable(net, schedule)
    euler(net, observation(5))
    assert dcache.stats(net).predicted > 0


@pytest.mark.slow
def test_a_callable_is_calibrated_to_a_speedup() -> None:
    # Large enough that the trunk's seconds are most of a run's.
    net = made(lambda: Decoder(layers=24))
    result = calibrate(net, 3, 1.3, run=lambda i: euler(net, observation(i)), budget=2, repeats=1)
    dcache.enable(net, result.schedule)
    euler(net, observation(9))
    assert dcache.stats(net).predicted > 0


def test_a_module_in_training_mode_ends_the_observation_with_an_error() -> None:
    net = made(Decoder).train()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", DcacheWarning)
        with pytest.raises(DcacheError, match="active dropout"):
            observe(net, 1, run=lambda i: euler(net, observation(i)), timing=False)
    assert len(said) < 10


def test_a_module_without_what_runs_it_is_an_error() -> None:
    with pytest.raises(DcacheError, match="give run=, a function that makes run number i"):
        observe(made(Decoder), 1)


def test_runs_are_seeded_and_give_arrays_of_a_batch() -> None:
    subject = Runs(made(Decoder), lambda i: torch.randn(1, 4, 2) + i)
    first = subject(["1", "2"], [7, 8])
    assert first.shape == (2, 4, 2)
    assert np.array_equal(subject(["2"], [8])[0], first[1])
    assert Runs(None, lambda _: None)(["0"], [0]).shape == (1, 1, 1)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_has_observations_by_name(tmp_path: Path, suffix: str) -> None:
    arrays = {"state": torch.arange(6.0).reshape(3, 2), "image": torch.zeros(3, 1, 2, 2)}
    path = tmp_path / f"seen{suffix}"
    if suffix == ".npz":
        np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    else:
        save_file(arrays, path)
    loaded = load_observations(path)
    assert [seen["state"].tolist() for seen in loaded] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert loaded[0]["image"].shape == (1, 1, 2, 2)


def test_files_that_are_none_are_errors(tmp_path: Path) -> None:
    odd: dict[str, Any] = {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}
    np.savez(tmp_path / "odd.npz", **odd)
    (tmp_path / "damaged.npz").write_bytes(b"no")
    for name, says in (("odd.npz", "one and the same"), ("damaged.npz", "cannot read"), ("x.csv", "npz or")):
        with pytest.raises(DcacheError, match=says):
            load_observations(tmp_path / name)
