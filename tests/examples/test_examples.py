"""The examples run, and the engine benchmark's bar that is no timing holds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dcache
from dcache import lm_kv
from dcache.demo.pipeline import GUIDANCE, STEPS, call_options, coefficients, load_pipeline
from dcache.eval.specs import parse
from dcache.identity.denoisers import config_digest
from tests import scripts

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_the_engine_benchmark_prints_its_figures() -> None:
    """One short run; timings are printed, not judged here; the count of Python calls is."""
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / "bench_engine.py"), "--repeats", "1", "--prompts", "1"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert "inside dcache, all computed" in run.stdout
    assert "interval(4), trunk        computes 25 %" in run.stdout
    found = re.search(r"predicted denoiser call: (\d+) \(bar: 40 plus (\d+) blocks\)", run.stdout)
    assert found is not None
    assert 0 < int(found[1]) <= 40 + int(found[2])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_benchmark_of_language_models_prints_its_figures() -> None:
    command = [sys.executable, str(EXAMPLES / "bench_lm_kv.py"), "--context", "256", "--rounds", "1"]
    run = subprocess.run([*command, "--steps", "1"], capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stderr
    # DynamicCache, four caches and two bounds.
    assert len(re.findall(r" ms  x\d+\.\d\d", run.stdout)) == 7
    assert len(re.findall(r"\d\.\d\d%", run.stdout)) == len(lm_kv.available("policy"))


# Measuring coefficients ---------------------------------------------------------------------------


def load_script(name: str) -> Any:
    """A script as a module."""
    return scripts.load(f"examples/{name}.py")


@pytest.fixture(scope="module")
def script() -> Any:
    """The script that measures coefficients."""
    return load_script("measure_coefficients")


def measure(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "measure_coefficients.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_what_the_script_measures_the_presets_read(tmp_path: Path) -> None:
    out = tmp_path / "numbers.json"
    run = measure("demo", "--out", str(out), "--steps", "8", "--prompt", "a red circle", "--alpha", "0.3")
    assert run.returncode == 0, run.stderr
    assert "run 1 of 1" in run.stderr
    assert "wrote" in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]
    found = json.loads(out.read_text())
    assert (found["of"]["evaluations"], found["of"]["prompts"]) == (8, ["a red circle"])
    assert found["of"]["model"] == "PixArtTransformer2DModel"
    pipe = load_pipeline()
    call = {**call_options(), "num_inference_steps": 8, "output_type": "latent"}
    made = (
        dcache.methods.teacache(coefficients=out, threshold=2.0),
        dcache.methods.magcache(ratios=out),
        dcache.methods.smoothcache(table=out),
        dcache.methods.sencache(sensitivities=out, threshold=1.0, early=0),
    )
    for method in made:
        with dcache.enabled(pipe, method):
            pipe("a red circle", **call)
            assert dcache.stats(pipe).predicted > 0
    with pytest.raises(dcache.DcacheError, match="8 evaluations"), dcache.enabled(pipe, made[2]):
        pipe("a red circle", **{**call, "num_inference_steps": 9})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["demo", "--out", "nowhere/at/all.json"], "--out: there is no folder"),
        (
            ["demo", "--out", "a.json", "--component", "unet"],
            "component must be one denoiser of PixArtAlphaPipeline, which has 'transformer'; got 'unet'",
        ),
        (["demo", "--out", "a.json", "--call", '{"frames": 3}'], "demo takes no 'frames'"),
        (["no/such/pipeline", "--out", "a.json"], "measure_coefficients: "),
    ],
)
def test_the_script_refuses_in_one_line(
    arguments: list[str],
    expected: str,
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["measure_coefficients.py", *arguments])
    assert script.main() == 1
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_numbers_are_of_the_shipped_model() -> None:
    found = json.loads(coefficients().read_text())
    assert found["of"]["config"] == config_digest(load_pipeline().transformer)
    assert (found["of"]["evaluations"], found["of"]["call"]["guidance_scale"]) == (STEPS, GUIDANCE)
    (tea, mag, smooth) = parse("teacache;magcache:threshold=0.1;smoothcache", coefficients())
    assert tea.method == dcache.methods.teacache(coefficients=found["teacache"]["coefficients"])
    assert mag.call == ", dcache.methods.magcache(threshold=0.1, ratios='FILE.json'))"
    assert mag.label == "magcache 0.1"
    assert "of the shipped model" in smooth.note
    assert parse("newton")[0].note == ""
    given = parse("teacache:coefficients=flux", coefficients())[0]
    assert given.note == ""
    assert given.method != tea.method
    with pytest.raises(dcache.DcacheError, match="teacache needs coefficients="):
        parse("teacache")


# Measuring methods --------------------------------------------------------------------------------


def test_a_row_that_was_not_timed_says_so_and_is_not_drawn(tmp_path: Path) -> None:
    script = load_script("measure_methods")
    row = {"computed": 0.45, "speedup": None, "psnr": 40.04, "ssim": 0.9912, "held": 2**20, "predicted": 11}
    assert script.cells_of(row, with_bytes=True) == ["45 %", "not timed", "40.0", "0.991", "1.0 MiB"]
    assert script.cells_of(row | {"speedup": 2.0})[1] == "2.00x"
    rows = [{"method": "spectrum", "setting": "as it comes", "on": row, "off": row}]
    script.draw(tmp_path / "plot.png", {"rows": rows, "guidance": {"on": 3.0}})
    assert (tmp_path / "plot.png").exists()


@pytest.mark.slow
def test_the_table_of_methods_is_measured_and_written(tmp_path: Path) -> None:
    script = load_script("measure_methods")
    found = script.measured(repeats=1, captions=1, only={"default", "deepcache"})
    (default, deepcache) = found["rows"]
    assert default["on"]["computed"] == 0.45
    assert default["on"]["speedup"] > 1
    assert 30 < default["on"]["psnr"] < 60
    assert 30 < default["off"]["psnr"] < 60
    assert default["off"]["psnr"] != default["on"]["psnr"]
    assert "needs a UNet" in deepcache["on"]["refused"]
    json.dumps(found)
    pages, pictures = tmp_path / "methods", tmp_path / "pictures"
    pages.mkdir()
    pictures.mkdir()
    for name in ("README", "default", "deepcache"):
        (pages / f"{name}.md").write_text("before <!-- measured -->\nold\n<!-- /measured --> after\n")
    script.write_docs(found, tmp_path)
    table = (pages / "README.md").read_text()
    assert table.startswith("before <!-- measured -->\n1 held-out captions, 20 steps")
    assert table.endswith("<!-- /measured --> after\n")
    assert "old" not in table
    cells = [line.split(" | ") for line in table.splitlines() if line.startswith("| [default]")]
    assert cells[0][1:3] == ["as it comes", "45 %"]
    assert "Refused on this model: site 'bracket:0'" in (pages / "deepcache.md").read_text()
    assert (pictures / "methods.png").read_bytes().startswith(b"\x89PNG")
    (pages / "default.md").write_text("no place")
    with pytest.raises(dcache.DcacheError, match="no place for measured figures"):
        script.write_docs(found, tmp_path)


@pytest.mark.slow
def test_pictures_are_edited_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "edit.png"
    monkeypatch.setattr(sys, "argv", ["edit_pictures", "--steps", "2", "--out", str(out)])
    assert load_script("edit_pictures").main() == 0
    assert len(re.findall(r"PSNR \d+\.\d, \d+\.\d   share", capsys.readouterr().out)) == 5
    assert out.stat().st_size > 1000


@pytest.mark.slow
def test_strategies_are_compared_and_the_archive_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "archive.png"
    profile = str(coefficients().with_name("demo.profile.safetensors"))
    options = ["--units", "whole", "--budget", "30", "--seeds", "1", "--only", "MAP-Elites, ours"]
    monkeypatch.setattr(sys, "argv", ["measure_strategies", profile, *options, "--archive", str(out)])
    load_script("measure_strategies").main()
    assert re.search(r"MAP-Elites, ours .*\d\.\d%$", capsys.readouterr().out.strip())
    assert out.stat().st_size > 1000
