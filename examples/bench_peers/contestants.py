"""Who takes part: the models, their captions, thirty-six settings of every library, what tunes itself."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import dcache
from dcache.demo import pictures
from dcache.demo.pipeline import model_path as pictures_path
from dcache.demo.video import clips
from dcache.demo.video.pipeline import model_path as clips_path
from dcache.errors import DcacheError
from dcache.eval.entries import BenchEntry
from dcache.eval.specs import parse
from dcache.eval.subject import Subject, load
from dcache.observation.tuning.folder import VARIABLE

HERE = Path(__file__).parent
LIBRARIES = ("dcache", "cache-dit", "diffusers", "DeepCache")
SETTINGS = 36
STEPS = 20
GUIDANCES = {"on": 3.0, "off": 1.0}
CALIBRATION_PROMPTS = 4


@dataclass(frozen=True)
class Model:
    """A pipeline that is measured.

    Attributes:
        name: what `dcache.eval.subject.load` takes.
        title: for headings.
        folder: its files.
        world: the module that knows its captions.
        options: of a call, beside steps and guidance, where `load` does not know them.
    """

    name: str
    title: str
    folder: Path
    world: Any
    options: dict[str, Any]

    def load(self, guidance: float) -> Subject:
        """The pipeline on the CPU, in float32."""
        return load(
            self.name,
            steps=STEPS,
            guidance=guidance,
            dtype="float32",
            device="cpu",
            options=self.options,
        )

    def prompts(self, count: int) -> list[str]:
        """Held-out captions."""
        return [caption.text for caption in self.world.demo_captions(count)]

    def calibration_prompts(self) -> list[str]:
        """Captions that it was trained on, for whatever measures numbers of the model before."""
        rng = np.random.default_rng(1)
        return [c.text for c in self.world.sample_captions(CALIBRATION_PROMPTS, rng, unseen=False)]


MODELS = {
    "demo": Model("demo", "PixArt", pictures_path(), pictures, {}),
    "demo-video": Model("demo-video", "Wan", clips_path(), clips, {}),
    "unet": Model(
        str(HERE / "unet" / "model"),
        "Stable Diffusion's UNet",
        HERE / "unet" / "model",
        pictures,
        {"height": 64, "width": 64},
    ),
}
# What dcache is given. The UNet has no trunk of blocks: what works there is another choice.
TRANSFORMER = """
default;
newton:interval=2,warmup=3; newton:interval=3,warmup=3; newton:interval=4; newton:interval=5;
newton:interval=6; newton:interval=3,order=2,warmup=3; newton:interval=3,sites=model;
hicache:interval=2,sites=trunk; hicache:interval=3,sites=trunk; hicache:interval=4,sites=trunk;
hicache:interval=5,sites=trunk; hicache:interval=6,sites=trunk;
interval:interval=2; interval:interval=3; interval:interval=4;
taylorseer:interval=2,lite=true; taylorseer:interval=3,lite=true; taylorseer:interval=4,lite=true;
taylorseer:interval=5,lite=true; taylorseer:interval=3;
fbcache:threshold=0.08; fbcache:threshold=0.12; fbcache:threshold=0.2;
dbcache:front=1,warmup=3,threshold=0.08,order=1; dbcache:front=1,warmup=3,threshold=0.12,order=1;
dbcache:front=1,warmup=3,threshold=0.2,order=1;
teacache:threshold=0.2; teacache:threshold=0.4; magcache:threshold=0.06,max_run=2;
seacache:threshold=0.15; seacache; seacache:threshold=0.5,max_run=3;
easycache:warmup=3; easycache:warmup=3,threshold=0.1; easycache:warmup=3,threshold=0.2
"""
UNET = """
default;
newton:interval=2; newton:interval=3; newton:interval=4; newton:interval=5; newton:interval=6;
newton:interval=2,sites=model; newton:interval=3,sites=model; newton:interval=4,sites=model;
newton:interval=5,sites=model; newton:interval=6,sites=model; newton:interval=7,sites=model;
newton:interval=3,sites=model,order=2; newton:interval=4,sites=model,order=2;
interval:interval=2,sites=model; interval:interval=3,sites=model; interval:interval=4,sites=model;
deepcache:interval=2; deepcache; deepcache:interval=4; deepcache:interval=5;
deepcache:interval=2,branch_id=1; deepcache:branch_id=1; deepcache:interval=4,branch_id=1;
deepcache:interval=2,branch_id=3; deepcache:branch_id=3;
newton:interval=3,sites=bracket:1; newton:interval=4,sites=bracket:1; newton:interval=5,sites=bracket:1;
newton:interval=3,sites=bracket:2; newton:interval=3,sites=bracket:3;
easycache:warmup=3,threshold=0.1; easycache:warmup=3,threshold=0.15; easycache:warmup=3,threshold=0.2;
easycache:warmup=3,threshold=0.3; easycache:warmup=3,threshold=0.4
"""
# What tunes itself, beside the thirty-six: planned from one observed call, and steered by the first block.
TUNED = (1.4, 1.6, 1.8, 2, 2.15, 2.3, 2.5, 2.75, 3, 3.5, 4, 5)
QUALITIES = (35, 40, 45, 50)
SHARES = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)


def everyone(name: str, subject: Subject, out: Path, only: Sequence[str] = ()) -> list[BenchEntry]:
    """All settings of the libraries that are installed and asked for.

    Args:
        name: the model's, in `MODELS`.
        subject: the model.
        out: the folder where dcache's numbers of this model are measured to, once.
        only: libraries; none means all.
    """
    entries: list[BenchEntry] = []
    for library in only or LIBRARIES:
        if importlib.util.find_spec(library.replace("-", "_")) is None:
            print(f"{library} is not installed: left out", file=sys.stderr)
        else:
            entries += of_library(library, name, subject, out)
            if library == "dcache":
                entries += self_tuned(name, subject)
    return entries


def self_tuned(name: str, subject: Subject) -> list[BenchEntry]:
    """Settings of `tuned` and, on transformers, of `adaptive`."""
    texts = [f"tuned:speedup={speedup}" for speedup in TUNED]
    if (subject.guidance or 1.0) <= 1:
        texts += [f"tuned:quality={quality}" for quality in QUALITIES]
    if name != "unet":
        texts += [f"adaptive:share={share}" for share in SHARES]
    return [*parse("; ".join(texts))]


def observe_once(subject: Subject, model: Model, out: Path) -> None:
    """Have `tuned` observe one call of one caption that is not measured; its entries plan from this call.

    Args:
        subject: the pipeline.
        model: what it is.
        out: the folder of the measurement; what is observed is kept in it.
    """
    os.environ[VARIABLE] = str(out / "observed")
    with warnings.catch_warnings(), dcache.enabled(subject.pipe, "tuned"):
        # It says that this call is computed in full.
        warnings.simplefilter("ignore", dcache.DcacheWarning)
        subject(model.calibration_prompts()[:1], [2**20])


def of_library(library: str, name: str, subject: Subject, out: Path) -> Sequence[BenchEntry]:
    """One library's settings. Its adapter is imported only here: it may need what is not installed."""
    model = MODELS[name]
    if library == "cache-dit":
        import peer_cache_dit

        return peer_cache_dit.contestants(subject)
    if library == "diffusers":
        import peer_diffusers

        return peer_diffusers.contestants(subject, model.calibration_prompts())
    if library == "DeepCache":
        import peer_deepcache

        return peer_deepcache.contestants()
    if name == "unet":
        return parse(UNET.replace("\n", ""))
    return parse(TRANSFORMER.replace("\n", ""), numbers(model, subject, out))


def numbers(model: Model, subject: Subject, out: Path) -> Path:
    """The coefficients file for `teacache` and `magcache`, measured on the calibration captions.

    Raises:
        DcacheError: the measurement failed.
    """
    file = out / "numbers.json"
    if not file.exists():
        script = HERE.parent / "measure_coefficients.py"
        prompts = [word for text in model.calibration_prompts() for word in ("--prompt", text)]
        command = [sys.executable, script, model.folder, "--out", file, "--no-smoothcache", *prompts]
        done = subprocess.run(
            [*map(str, command), "--call", json.dumps(subject.options)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DcacheError(f"{script.name} {model.folder}: {done.stderr.strip()}")
    return file
