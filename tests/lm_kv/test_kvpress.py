"""Kept tokens equal kvpress's, where it is installed (`pip install --no-deps kvpress==0.5.5 cachetools`)."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dcache.demo.recall.task import model_path


@pytest.mark.skipif(importlib.util.find_spec("kvpress") is None, reason="kvpress is not installed")
def test_five_policies_keep_the_tokens_that_kvpress_keeps() -> None:
    script = Path(__file__).parent / "kvpress_peer.py"
    command = [sys.executable, "-P", str(script), str(model_path())]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert run.returncode == 0, run.stderr
    counts = json.loads(run.stdout.splitlines()[-1])
    assert set(counts) == {"snapkv", "keydiff", "tova", "streaming_llm", "expected_attention"}
    # Half of 120 tokens, in two heads of two layers, for two rows.
    assert counts == {name: [60 * 2 * 2 * 2] * 2 for name in counts}
