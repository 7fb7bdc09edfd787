"""What a folder of results takes, and what it refuses."""

import copy
from pathlib import Path

import pytest
import torch

from dcache.errors import DcacheError
from dcache.eval.results_folder import made_once, model_facts, open_results


def test_a_model_is_known_by_name_dtype_and_weights() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(300, 7)
    facts = model_facts("toy", model)
    assert (facts["model"], facts["dtype"]) == ("toy", "float32")
    assert facts == model_facts("toy", copy.deepcopy(model))
    with torch.no_grad():
        model.weight += 1e-3
    assert model_facts("toy", model)["weights"] != facts["weights"]


def test_settings_bind_a_folder_from_its_first_result_on(tmp_path: Path) -> None:
    open_results(tmp_path, {"model": "misspelt"}, "answers")
    # Nothing was measured, as where that model cannot be evaluated: another command may have the folder.
    folder = open_results(tmp_path, {"model": "recall"}, "answers")
    made_once(folder / "full.0.json", ("exact",), lambda: {"exact": [True]})
    assert open_results(tmp_path, {"model": "recall"}, "answers") == folder
    with pytest.raises(DcacheError, match=r"results of another evaluation \(model differ\): choose another"):
        open_results(tmp_path, {"model": "misspelt"}, "answers")
