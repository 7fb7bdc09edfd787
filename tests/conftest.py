"""The same conditions for every test: no network, one thread, seeds, Triton's interpreter without a GPU."""

import os

# Libraries read these once, when they are imported. Processes that tests start have one thread too: workers
# share the cores, and threads of several wait for one another.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "MPLBACKEND": "agg",
        "TOKENIZERS_PARALLELISM": "false",
    }
)

import atexit
import gc
import random
import shutil
import tempfile

import numpy as np
import pytest
import torch

# Triton decides between compiling and interpreting when a kernel is defined.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# What methods learn of the tests' models is not to lie in the user's cache folder, nor to outlive the tests.
os.environ["DCACHE_HOME"] = tempfile.mkdtemp(prefix="dcache-home-")
atexit.register(shutil.rmtree, os.environ["DCACHE_HOME"], ignore_errors=True)

# Workers share the cores, and what is tested is so small that a second thread costs more than it does.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Start every test from the same global random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_finish() -> None:
    """Leave what the collection made out of all later garbage collections, which would walk through it."""
    gc.collect()
    gc.freeze()
