"""What a folder of results takes, and what it refuses."""

from pathlib import Path

import pytest

from dcache.errors import DcacheError
from dcache.eval.results_folder import made_once, open_results


def test_settings_bind_a_folder_from_its_first_result_on(tmp_path: Path) -> None:
    open_results(tmp_path, {"model": "misspelt"}, "answers")
    # Nothing was measured, as where that model cannot be evaluated: another command may have the folder.
    folder = open_results(tmp_path, {"model": "recall"}, "answers")
    made_once(folder / "full.0.json", ("exact",), lambda: {"exact": [True]})
    assert open_results(tmp_path, {"model": "recall"}, "answers") == folder
    with pytest.raises(DcacheError, match=r"results of another evaluation \(model differ\): choose another"):
        open_results(tmp_path, {"model": "misspelt"}, "answers")
