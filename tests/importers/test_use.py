"""An imported schedule in use: the demo pipeline computes what the file of ECAD says."""

import json
import random
from pathlib import Path

import dcache
from dcache.demo.pipeline import call_options, load_pipeline
from dcache.importers import read
from tests.importers.published import ecad


def test_the_demo_computes_what_the_file_says(tmp_path: Path) -> None:
    pipe = load_pipeline()
    content = ecad(random.Random(0), 20, 12)
    content["config"] = {"height": 64, "width": 64, "guidance_scale": 3.0}
    path = tmp_path / "evolved.json"
    path.write_text(json.dumps(content))
    schedule = read(path).schedule
    assert schedule is not None
    dcache.enable(pipe, schedule)
    pipe(["a red circle"], **{**call_options(), "num_inference_steps": 20, "output_type": "latent"})
    trace = dcache.trace(pipe)
    rows = schedule.components[""].rows["*"]
    assert trace.steps == 20
    assert len(rows) == 36
    # Sublayers lie in nothing that is predicted, so every one is reached in every evaluation.
    for branch in trace.components["transformer"].rows.values():
        assert branch == rows
    bits = content["cache_schedule"]["schedule"]
    told = sum(bit for t in range(1, 20) for block in bits[f"{t:03}"].values() for bit in block.values())
    stats = dcache.stats(pipe)
    branches = len(trace.components["transformer"].rows)
    assert trace.components["transformer"].computed == branches * (36 + told)
    assert stats.predicted > 0
