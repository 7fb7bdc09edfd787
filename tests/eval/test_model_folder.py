"""Folders that lack something are refused with what is missing; ids of the hub pass."""

from pathlib import Path

import pytest

from dcache.errors import DcacheError
from dcache.eval.model_folder import check_folder


@pytest.mark.parametrize("tokenizer", ["tokenizer.json", "vocab.txt", "spiece.model"])
def test_a_folder_needs_a_model_and_a_tokenizer(tmp_path: Path, tokenizer: str) -> None:
    with pytest.raises(DcacheError, match=r"has no config\.json, so no model: give the folder"):
        check_folder(str(tmp_path))
    (tmp_path / "config.json").touch()
    with pytest.raises(DcacheError, match=r"has a model and no tokenizer: .*tokenizer\.save_pretrained\("):
        check_folder(str(tmp_path))
    (tmp_path / tokenizer).touch()
    check_folder(str(tmp_path))


@pytest.mark.parametrize("name", ["/nowhere", "./nowhere", "../nowhere", "~/nowhere", "a/b/c"])
def test_a_path_that_is_not_there_is_no_id(name: str) -> None:
    with pytest.raises(DcacheError, match=f"there is no folder {name}: give one that has a model"):
        check_folder(name)


@pytest.mark.parametrize("name", ["gpt2", "org/model-7b"])
def test_an_id_of_the_hub_passes(name: str) -> None:
    check_folder(name)
