"""When a kernel is taken."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from dcache.errors import DcacheError
from dcache.kernels import launch, weighted_sum
from tests.kernels.closeness import DEVICE

X = torch.zeros(4, device=DEVICE)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_on_takes_every_op_of_what_kernels_know(kernels):
    for op in launch.MIN_ELEMENTS:
        for dtype in launch.DTYPES:
            assert launch.taken(op, X.to(dtype), None, X)


def test_off_takes_none(monkeypatch):
    monkeypatch.setattr(launch, "mode", "off")
    assert not launch.possible(X.device)
    assert not launch.taken("store", X)


def test_left_alone_a_cpu_takes_none():
    assert launch.mode == os.environ.get("DCACHE_KERNELS", "auto")
    if launch.mode == "auto":
        assert not launch.possible(torch.device("cpu"))


def test_another_word_is_an_error(monkeypatch):
    monkeypatch.setattr(launch, "mode", "yes")
    with pytest.raises(DcacheError, match=r"DCACHE_KERNELS is 'yes': expected one of auto, on, off"):
        weighted_sum(None, [X], [1.0], torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.int64, torch.float8_e5m2])
def test_what_kernels_do_not_know_is_the_references(kernels, dtype):
    assert not launch.taken("store", X, X.to(dtype))


def test_gradients_subclasses_and_empty_tensors_are_the_references(kernels):
    class Mine(torch.Tensor):
        pass

    graded = X.clone().requires_grad_()
    assert not launch.taken("store", X, graded)
    assert not launch.taken("store", X.as_subclass(Mine))
    assert not launch.taken("store", X, X[:0])
    with torch.no_grad():
        assert launch.taken("store", X, graded)
        assert launch.taken("store", torch.nn.Parameter(X))


def test_tensors_on_several_devices_are_the_references(kernels):
    assert not launch.taken("store", X, torch.zeros(4, device="meta"))


def test_devices_without_triton_take_none(kernels):
    assert not launch.possible(torch.device("meta"))
    assert not launch.possible(torch.device("mps"))


def test_without_triton_references_run_and_kernels_that_were_demanded_are_an_error():
    code = """
import sys
sys.modules["triton"] = None
import torch
from dcache.kernels import launch, weighted_sum
print(weighted_sum(None, [torch.ones(2)], [3.0], torch.float32).tolist())
launch.mode = "on"
try:
    launch.possible(torch.device("cpu"))
except launch.DcacheError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    sums, error = ran.stdout.splitlines()
    assert sums == "[3.0, 3.0]"
    assert error == "DCACHE_KERNELS is 'on', which needs Triton: pip install 'dcache-torch[kernels]'"


def test_numbers_are_not_uploaded_into_a_cuda_graph(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(DcacheError, match="a CUDA graph is being captured"):
        launch.upload([0.5], torch.float32, torch.device("cuda"))
    assert launch.upload([0.5], torch.float32, torch.device("cpu")).tolist() == [0.5]


@gpu
def test_on_a_gpu_it_is_taken_from_its_size_on(monkeypatch):
    monkeypatch.setattr(launch, "mode", "auto")
    monkeypatch.setitem(launch.MIN_ELEMENTS, "store", 4)
    assert launch.taken("store", X, X[:2])
    assert not launch.taken("store", X[:3])


@gpu
def test_float8_is_taken_where_the_gpu_converts_it(monkeypatch):
    monkeypatch.setattr(launch, "mode", "auto")
    its = torch.cuda.get_device_capability() >= (8, 9)
    assert launch.taken("store", X.to(torch.float8_e4m3fn)) == its
