"""FLUX.1-dev and Wan2.1 1.3B by size: full and predicted steps, whole runs, bytes held, on one GPU.

    python examples/bench_sizes/run.py --out sizes.json          # measures; goes on where it stopped
    python examples/bench_sizes/run.py --out sizes.json --docs   # then writes the tables to docs/kernels.md
    python examples/bench_sizes/run.py --out tiny.json --tiny    # small models of the same shape, on a CPU

Random weights made on the device, precomputed prompt embeddings, no VAE: nothing is downloaded. They say what
methods cost and hold, nothing about fidelity, and nothing about how often a dynamic rule computes on the real
weights: First Block Cache's threshold is set from how much the first block changes here, the same for both.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
# Its neighbours, the adapters of the bench against other libraries, and the other examples, under
# PYTHONSAFEPATH too.
sys.path[:0] = [str(HERE), str(HERE.parent / "bench_peers"), str(HERE.parent)]

from entrants import Compile, entrants  # noqa: E402
from giants import GIANTS, Giant, Loaded, load  # noqa: E402
from rounds import (  # noqa: E402
    LOOKS,
    MOVES,
    Entry,
    branches_of,
    change_of_first_block,
    compiled_rounds,
    eager_rounds,
    look,
)
from sheet import sheet, write_docs  # noqa: E402

from dcache.errors import DcacheError  # noqa: E402
from dcache.eval.machine import machine, versions  # noqa: E402
from dcache.eval.subject import DTYPES, placed  # noqa: E402
from dcache.kernels import launch  # noqa: E402
from dcache.util.files import write_json  # noqa: E402

FORMAT = "dcache.cache.size"
MODES = ("eager", "compiled")
LEAST_THRESHOLD = 1e-6


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(GIANTS), help="comma-separated")
    parser.add_argument("--modes", default=",".join(MODES), help="comma-separated")
    for name, what in (("steps", "of a whole run"), ("height", "in pixels"), ("width", "in pixels")):
        parser.add_argument(f"--{name}", type=int, help=what)
    parser.add_argument("--frames", type=int, help="of a clip")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file; what is in it stays")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=DTYPES)
    parser.add_argument("--backend", help="of torch.compile; inductor, or eager with --tiny")
    parser.add_argument("--tiny", action="store_true", help="small models, to try everything on a CPU")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/kernels.md")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Measure what is not in the file yet, print the tables."""
    options = parsed(words)
    try:
        parts = measured(options)
        print(sheet(parts))
        if options.docs:
            print(f"wrote {write_docs(parts)}", file=sys.stderr)
    except DcacheError as error:
        print(f"bench_sizes: {error}", file=sys.stderr)
        return 1
    return 0


def measured(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """All parts that are asked for, from the file where the same was measured on the same machine.

    Raises:
        DcacheError: an unknown model or mode, no device of that name, or a model that does not fit.
    """
    models, modes = (
        _known(word, getattr(options, word), all_of)
        for word, all_of in (("models", tuple(GIANTS)), ("modes", MODES))
    )
    if options.repeats < 1:
        raise DcacheError(f"--repeats must be at least 1, got {options.repeats}")
    dtype, device = placed(options.dtype, options.device)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DcacheError(f"torch sees no GPU, and --device is {device}")
    stored = _read(options.out)
    for name in models:
        _measure_giant(GIANTS[name], modes, device, dtype, options, stored)
    wanted = [f"{name}, {mode}" for name in models for mode in modes]
    return {key: stored[key] for key in wanted}


def _measure_giant(
    giant: Giant,
    modes: list[str],
    device: str,
    dtype: str,
    options: argparse.Namespace,
    stored: dict[str, dict[str, Any]],
) -> None:
    parts = {}
    for mode in modes:
        new = _blank(giant, mode, device, dtype, options)
        was = stored.get(f"{giant.name}, {mode}")
        parts[mode] = was if was is not None and _same(was, new) else new
    if all(part.get("rows") for part in parts.values()):
        tell(f"{giant.title}: in {options.out} already")
        return
    tell(f"{giant.title}: making it on {device}")
    loaded = load(giant, device, getattr(torch, dtype), options.tiny, _asked(options))
    threshold = next((part["threshold"] for part in parts.values() if "threshold" in part), None)
    if threshold is None:
        threshold = max(MOVES * change_of_first_block(loaded), LEAST_THRESHOLD)
    for mode, part in parts.items():
        stored[f"{giant.name}, {mode}"] = part
        part["threshold"] = part.get("threshold", threshold)
        if not part.get("rows"):
            seen = parts["eager"].get("seen", {}) if "eager" in parts else {}
            _measure_part(loaded, part, seen, Keeping(options, stored, device))


def _blank(giant: Giant, mode: str, device: str, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """A part without figures: what they will depend on."""
    call = giant.options | (giant.tiny_options if options.tiny else {})
    settings = {
        "mode": mode,
        "tiny": options.tiny,
        "device": device,
        "dtype": dtype,
        "repeats": options.repeats,
        "options": call | {key: value for key, value in _asked(options).items() if key in call},
        "config": giant.config | (giant.tiny if options.tiny else {}),
        "kernels": launch.mode,
        "branches": 1 + ("negative_prompt_embeds" in giant.text),
    }
    if mode == "compiled":
        settings["backend"] = options.backend or ("eager" if options.tiny else "inductor")
    hardware = machine()
    hardware.pop("load")
    return {
        "title": giant.title + (" in miniature" if options.tiny else ""),
        "settings": settings,
        "machine": hardware,
        "versions": versions(["triton"]),
        "kernels": launch.possible(torch.device(device)),
    }


def _asked(options: argparse.Namespace) -> dict[str, int]:
    """Options of the pipeline's call, from the command line."""
    names = {
        "steps": "num_inference_steps",
        "height": "height",
        "width": "width",
        "frames": "num_frames",
    }
    given = {name: getattr(options, word) for word, name in names.items()}
    return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Keeping:
    """Where figures go."""

    options: argparse.Namespace
    stored: dict[str, dict[str, Any]]
    device: str

    def write(self) -> None:
        """Write all of them, whole or not at all."""
        write_json(self.options.out, {"format": FORMAT, "version": 1, "parts": self.stored})


def _measure_part(loaded: Loaded, part: dict[str, Any], looks: dict[str, Any], to: Keeping) -> None:
    """Go on with one part from what was seen before; its rows are there when it is whole.

    Args:
        loaded: the model.
        part: is filled.
        looks: what was seen of the same entrants without compiling, by label.
        to: written to after every run.
    """
    backend = part["settings"].get("backend")
    compiling: Compile = None if backend is None else {"backend": backend}
    guided = branches_of(loaded) > 1
    entries = [Entry(entrant) for entrant in entrants(to.device, part["threshold"], compiling, guided)]
    for entry in entries:
        label = entry.contestant.label
        before = part.get("seen", {}).get(label)
        # What failed is tried again.
        if before is not None and not before["failed"]:
            entry.take(before)
        elif label in looks:
            entry.take(looks[label], LOOKS)

    def keep() -> None:
        part["seen"] = {entry.contestant.label: entry.state() for entry in entries}
        to.write()

    look(loaded, entries, tell, keep)
    rounds = eager_rounds if compiling is None else compiled_rounds
    rounds(loaded, entries, to.options.repeats, tell, keep)
    part["rows"] = [entry.figures(loaded.steps) for entry in entries]
    keep()


def tell(what: str) -> None:
    """Say how far it is."""
    print(what, file=sys.stderr, flush=True)


def _known(word: str, text: str, all_of: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in all_of]
    if unknown or not names:
        raise DcacheError(f"--{word} takes {', '.join(all_of)}, got {', '.join(unknown) or 'none'}")
    return [name for name in all_of if name in names]


def _read(out: Path) -> dict[str, dict[str, Any]]:
    """The parts that the file has.

    Raises:
        DcacheError: it is not a file of this program.
    """
    if not out.exists():
        return {}
    try:
        content = json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DcacheError(f"--out {out}: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DcacheError(f"--out {out} is something else: give another name")
    return content["parts"]


def _same(stored: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether what is stored was measured with these settings on this machine."""
    # What went through JSON has no tuples.
    plain = json.loads(json.dumps(new))
    return all(stored[key] == value for key, value in plain.items())


if __name__ == "__main__":
    sys.exit(main())
