"""Files that weights are read from again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dcache.errors import DcacheError
from dcache.time_memo.checkpoint import Checkpoint


def stored(folder: Path, sharded: bool) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    module.config = SimpleNamespace(_name_or_path=str(folder))
    state = module.state_dict()
    if not sharded:
        save_file(state, folder / "diffusion_pytorch_model.safetensors")
        return module
    files = {name: f"part-{name[0]}.safetensors" for name in state}
    for file in set(files.values()):
        save_file({n: t for n, t in state.items() if files[n] == file}, folder / file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}), encoding="utf-8")
    return module


@pytest.mark.parametrize("sharded", [False, True])
def test_tensors_are_read_from_one_file_or_several(tmp_path: Path, sharded: bool) -> None:
    module = stored(tmp_path, sharded)
    checkpoint = Checkpoint.of(module)
    for name, tensor in module.state_dict().items():
        assert torch.equal(checkpoint.read(name), tensor)
    assert checkpoint.differences(module[0], "0") == []
    module[0].weight.data += 1
    assert checkpoint.differences(module[0], "0") == ["0.weight"]
    assert checkpoint.differences(module[1], "2") == ["2.weight", "2.bias"]


def test_a_model_of_no_folder_is_refused(tmp_path: Path) -> None:
    module = stored(tmp_path, False)
    module.config = SimpleNamespace(_name_or_path=None)
    with pytest.raises(DcacheError, match="offload='cpu'"):
        Checkpoint.of(module)
    module.config = SimpleNamespace(_name_or_path=str(tmp_path / "none"))
    with pytest.raises(DcacheError, match="not known"):
        Checkpoint.of(module)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    checkpoint = Checkpoint.of(stored(tmp_path, False))
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(DcacheError, match=r"0\.weight.*cannot be read"):
        checkpoint.read("0.weight")
