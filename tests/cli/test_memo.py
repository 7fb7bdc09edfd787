"""`dcache memo`: shares of weights from configs alone."""

import json
from pathlib import Path

import pytest
import torch

from dcache.cli import main
from tests.pipelines import FLUX


def test_the_share_of_a_shipped_pipeline_and_of_a_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pipe = FLUX.build()
    pipe.save_pretrained(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    assert main(["memo", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["transformer"]
    named = dict(pipe.transformer.named_parameters())
    timed = {n: p for n, p in named.items() if n.startswith(tuple(f"{m}." for m in report["modules"]))}
    assert report["parameters"] == sum(p.numel() for p in named.values())
    assert report["timed_parameters"] == sum(p.numel() for p in timed.values())
    assert {"time_text_embed", "norm_out.linear", "transformer_blocks.0.norm1.linear"} <= set(
        report["modules"]
    )
    assert main(["memo", str(tmp_path), "--modules"]) == 0
    assert "single_transformer_blocks.1.norm.linear: pooled_projections, timestep" in capsys.readouterr().out


def test_the_demo_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memo", "demo"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("transformer: ")
    assert "timestep" in out


def test_a_folder_without_configs_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}'
    )
    assert main(["memo", str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_nothing_is_allocated(capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers import FluxTransformer2DModel

    from dcache.time_memo.share import share_of

    with torch.device("meta"):
        report = share_of(FluxTransformer2DModel(guidance_embeds=True, num_layers=2, num_single_layers=2))
    assert report.depends_on == ("guidance", "pooled_projections", "timestep")
    # 6 and 3 vectors a block, 2 for the output.
    width = 3072
    linears = (2 * (2 * 6) + 2 * 3 + 2) * (width * width + width)
    embeds = 2 * (256 * width + width) + (768 * width + width) + 3 * (width * width + width)
    assert report.timed_parameters == linears + embeds
