"""One of each part is added from outside, as docs/add-a-part.md has it, and used; taken names are refused."""

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dcache
from dcache import importers, predictors, probes
from dcache.errors import DcacheError
from dcache.eval import metrics
from dcache.eval.metrics.base import Batch, Sample
from dcache.eval.metrics.options import MetricOptions
from dcache.methods import registry as presets
from dcache.predictors import registry as predictor_registry
from dcache.schedulers import Every, planners
from dcache.search.search import SearchConfig
from dcache.search.strategies import registry as strategies
from dcache.sites import blocks
from dcache.sites.discovery import discover
from tests.engine.tiny_models import Double, Toy, walk
from tests.search.random_walk import World

PAGE = Path(__file__).parents[2] / "docs" / "add-a-part.md"
TABLES = {"SUBLAYERS": blocks.SUBLAYERS, "FUSED": blocks.FUSED, "STREAMS": blocks.STREAMS}


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a test registers is known to the next one."""
    for registry in (planners.PLANNERS, importers.FORMATS, strategies.STRATEGIES):
        monkeypatch.setattr(registry, "_makers", dict(registry._makers))
    monkeypatch.setattr(metrics, "METRICS", metrics.Registry())
    monkeypatch.setattr(probes, "_registered", {})
    monkeypatch.setattr(presets, "_registered", {})
    monkeypatch.setattr(predictor_registry, "_MAKERS", dict(predictor_registry._MAKERS))
    kept, aside = {name: dict(table) for name, table in TABLES.items()}, set(blocks.ASIDE)
    yield
    for name, table in TABLES.items():
        table.clear()
        table.update(kept[name])
    blocks.ASIDE.intersection_update(aside)


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the page defines when its Python is run from top to bottom in an empty folder."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", module)
    parts = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    exec(compile("\n".join(parts), str(PAGE), "exec"), module.__dict__)
    return module


def test_the_page_names_every_registration() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    for name in re.findall(r"`(dcache[\w.]+)\(", table):
        room, _, function = name.rpartition(".")
        assert callable(getattr(__import__(room, fromlist=[function]), function)), name


def test_a_planner(guide: Any) -> None:
    assert guide.schedule.components[""].rows["*"]["trunk"] == (True,) * 5 + (False, False, True)
    found = planners.for_speedup(guide.profile, "halves", 1.3)
    # 1 / (1 - 0.12 n) is 1.3 or more from two predictions on.
    assert found.components[""].rows["*"]["trunk"].count(False) == 2
    with pytest.raises(DcacheError, match="planner halves takes no speed: it takes gap"):
        planners.make("halves", guide.profile, speed=2)
    with pytest.raises(DcacheError, match="cannot reach a speedup of 9"):
        planners.for_speedup(guide.profile, "halves", 9.0)
    for name in ("halves", "bac"):
        with pytest.raises(DcacheError, match=f"a planner named '{name}' is registered already"):
            planners.register(name, guide.halves)


def test_an_importer(guide: Any) -> None:
    assert (guide.read.format, guide.read.schedule.steps) == ("bits", 5)
    assert importers.detect({"bits": "1"}) == "bits"
    with pytest.raises(DcacheError, match="bits has no use for steps: it takes no options"):
        importers.read("theirs.json", steps=4)
    with pytest.raises(DcacheError, match="a format named 'ecad' is registered already"):
        importers.register("ecad", guide.Bits())


def test_a_strategy(guide: Any) -> None:
    from tests.search.test_search import found, reached, ways

    world = World()
    done = found(ways(strategy="climb", budget=40), world)
    assert len(done.candidates) > 20
    assert reached(done)
    assert guide.config.strategy == "climb"
    with pytest.raises(DcacheError, match="a strategy named 'nsga2' is registered already"):
        strategies.register("nsga2", guide.Climb)
    with pytest.raises(DcacheError, match=r"a strategy is one of .*climb, got 'walk'"):
        SearchConfig(strategy="walk")


def test_a_probe(guide: Any) -> None:
    toy = dcache.enable(Toy([Double() for _ in range(4)]), guide.looking)
    walk(toy, [100, 99, 98, 97, 50])
    stats = dcache.stats(toy)
    # Relative changes of what the second block is given: 0.01, 0.02, 0.03, then a half.
    assert (stats.computed, stats.predicted) == (2, 3)
    assert stats.reasons["threshold"] == 1
    dcache.disable(toy)
    with pytest.raises(DcacheError, match="a place of probes named 'front' is registered already"):
        probes.register("front", guide.second_block)
    with pytest.raises(
        DcacheError, match="a probe's place must be one of front, modulated, input, frames, second block"
    ):
        probes.Probe("third block")


def test_a_metric(guide: Any) -> None:
    (metric,) = metrics.chosen(["darkness"])
    pictures = np.full((2, 4, 4, 3), 55, dtype=np.uint8)
    rows = metric.source.load(MetricOptions()).read(Batch(pictures, None, ["a", "b"]))
    assert metric.summary(Sample(rows, None, np.arange(2))).value == 200.0
    with pytest.raises(DcacheError, match="a metric named 'psnr' is registered already"):
        metrics.register(guide.Metric(**{**vars(metric), "name": "psnr"}))


def test_a_class_of_blocks() -> None:
    toy = Toy([Double() for _ in range(2)])
    blocks.register_block(Double, sublayers={"mlp": ("odd",)}, streams=("x",))
    blocks.register_block("tests.Double", streams=("x",))
    assert blocks.SUBLAYERS["tests.Double"] == {"mlp": ("odd",)}
    assert len(discover(toy).blocks) == 2
    with pytest.raises(DcacheError, match=r"sublayers of tests\.Double are declared already"):
        blocks.register_block(Double, sublayers={"mlp": ("even",)})
    flux = "diffusers.FluxTransformerBlock"
    with pytest.raises(DcacheError, match=f"streams of {flux} are declared already"):
        blocks.register_block(flux, fused=blocks.Fused("x", ()), streams=("hidden_states",))
    assert flux not in blocks.FUSED
    with pytest.raises(DcacheError, match=r"mine\.MyBlock needs sublayers=, fused= or streams="):
        blocks.register_block("mine.MyBlock")
    with pytest.raises(DcacheError, match="'MyBlock' is a class's name without its package"):
        blocks.register_block("MyBlock", streams=("x",))
    blocks.register_aside("blocks")
    assert not discover(toy).blocks


def test_a_preset_and_a_predictor() -> None:
    @dcache.methods.register
    @dcache.methods.preset("mine", sites="any")
    def every_second() -> dcache.Method:
        """Every second evaluation."""
        return dcache.Method(rule=Every(2))

    toy = dcache.enable(Toy(), "every_second")
    walk(toy, [4, 3, 2, 1])
    assert dcache.stats(toy).method == "every_second()"
    predictors.register("mine", predictors.Newton)
    assert predictors.make("mine", {"order": 1}) == predictors.Newton(1)
    with pytest.raises(DcacheError, match="a predictor named 'newton' is registered already"):
        predictors.register("newton", predictors.Taylor)
