"""Makes the neighbours importable: pytest's importlib mode finds none by name, and pickles need a module."""

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("engine_toys", Path(__file__).with_name("toys.py"))
if spec is None or spec.loader is None:
    raise ImportError("tests/engine/toys.py is missing")
module = importlib.util.module_from_spec(spec)
sys.modules["engine_toys"] = module
spec.loader.exec_module(module)
