"""lerobot's own classes, where lerobot can be imported."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("lerobot")
SCRIPT = Path(__file__).parents[2] / "examples" / "diffusion_policy" / "check_lerobot.py"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_lerobot", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["check_lerobot"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.import_lerobot()
    return module


def test_classes_that_need_no_hub_are_cached_and_all_computed_bit_by_bit(script: ModuleType) -> None:
    assert {case.name: script.check(case) for case in script.cases()} == {
        "DiffusionPolicy, DDPM": [],
        "DiffusionPolicy, DDIM": [],
        "X-VLA SoftPromptedTransformer": [],
        "GR00T DiT": [],
    }


def test_classes_that_denoise_by_a_method_are_refused_with_its_name(script: ModuleType) -> None:
    refused = list(script.refusals())
    assert len(refused) == 2
    assert all("call='denoise_step'" in text for text in refused)
