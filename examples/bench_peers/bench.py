"""Bench dcache against other caching libraries: thirty-six settings of each, side by side on one model.

    python examples/bench_peers/bench.py                  # everything: about an hour of two idle cores
    python examples/bench_peers/bench.py --model demo --guidance on --only dcache --only diffusers
    python examples/bench_peers/bench.py --docs docs      # then write the page and the plot
    python examples/bench_peers/bench.py --first docs/bench.json   # the second round alone

In a first round every setting runs `--repeats` times. Those that no other of the same library beats, by the
clock or by FLOPs, run again, all libraries in turns, `--final-repeats` times: the tables come from this
second round alone. In both rounds a setting is enabled, called once, and timed in its second call. What is
measured stays in `--out`, a folder for each model and guidance, and is not
measured again while it is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

HERE = Path(__file__).parent
# Its neighbours and the other examples, under PYTHONSAFEPATH too.
sys.path[:0] = [str(HERE), str(HERE.parent)]

from contestants import GUIDANCES, LIBRARIES, MODELS, everyone, observe_once  # noqa: E402
from page import shown, write_page  # noqa: E402
from tables import front, likely, speedup, work_saved  # noqa: E402

from dcache.cli.progress import rounds  # noqa: E402
from dcache.errors import DcacheError  # noqa: E402
from dcache.eval.bench import Bench, bench  # noqa: E402
from dcache.eval.bench_files import results, write_schedules  # noqa: E402
from dcache.eval.entries import UNCACHED, BenchEntry, run_once  # noqa: E402
from dcache.eval.fidelity import broken, to_uint8  # noqa: E402
from dcache.eval.subject import Subject  # noqa: E402
from dcache.util.files import make_folder, write_json  # noqa: E402

PEERS = LIBRARIES[1:]
# The models and guidances of the page.
PAGE = (("demo", "on"), ("demo", "off"), ("demo-video", "on"), ("unet", "on"))
PROGRESS = 12
# A setting's first call after it was enabled has checks and set-up in it; its second one is timed.
CALLS = 2
# What a setting of the first round leaves.
KEPT = (
    "label",
    "library",
    "spec",
    "speedup",
    "denoiser_speedup",
    "flops",
    "mean_psnr",
    "mean_ssim",
    "held",
    "broken",
)


def why_not(subject: Subject, contestant: BenchEntry, prompt: str, plain: Any) -> str:
    """The reason why a contestant cannot be used; "" if it can.

    Args:
        subject: the model.
        contestant: the contestant.
        prompt: prompt of one picture.
        plain: the result of the same call without caching.

    Raises:
        DcacheError: the contestant did not restore the pipeline: the uncached output changed.
    """
    try:
        outcome = run_once(subject, contestant, [prompt], [0], calls=CALLS)
    except DcacheError as error:
        reason = str(error).removeprefix(f"{contestant.spec}: ")
    # Other libraries raise errors of any type.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        reason = broken(outcome.output, to_uint8(plain.output)) or ""
    again = run_once(subject, UNCACHED, [prompt], [0])
    if not np.array_equal(again.output, plain.output):
        raise DcacheError(
            f"{contestant.spec}: it did not leave the pipeline as it was: the uncached output changed"
        )
    return reason


def measured(name: str, guidance: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both rounds on one model, with or without guidance."""
    model = MODELS[name]
    subject, prompts = model.load(GUIDANCES[guidance]), model.prompts(options.captions)
    plain = run_once(subject, UNCACHED, prompts[:1], [0])
    observe_once(subject, model, folder)
    entered = everyone(name, subject, folder, options.only)
    known = None if options.first is None else earlier(options.first, name, guidance)
    fitting, left_out = [], []
    if known is not None:
        before = {setting["label"] for setting in [*known["first_round"], *known["left_out"]]}
        stayed = likely(known["methods"])
        entered = [one for one in entered if one.spec in stayed or one.label not in before]
    for i, contestant in enumerate(entered):
        if i % PROGRESS == 0:
            print(
                f"{name}, guidance {guidance}: trying {i + 1} of {len(entered)}", file=sys.stderr, flush=True
            )
        if known is not None and contestant.label in before:
            # It was tried then.
            fitting.append(contestant)
        elif reason := why_not(subject, contestant, prompts[0], plain):
            left_out.append({"library": contestant.library, "label": contestant.label, "why": reason})
        else:
            fitting.append(contestant)
    print(f"{len(fitting)} of {len(entered)} settings apply", file=sys.stderr, flush=True)
    if known is None:
        settings, idle = first_round(subject, fitting, prompts, options.repeats, options.cpu)
        left_out += idle
        stay = {setting["spec"] for speed in (speedup, work_saved) for setting in front(settings, speed)}
        fitting = [contestant for contestant in fitting if contestant.spec in stay]
    final = run(subject, fitting, prompts, options.final_repeats, options.cpu)
    write_schedules(final, folder)
    counted = Counter(contestant.library for contestant in entered)
    if known is not None:
        # Those that the first round left behind, beside those that came later.
        again = {contestant.label for contestant in entered}
        settings = [setting for setting in known["first_round"] if setting["label"] not in again]
        settings += results(final)["methods"]
        left_out = [*known["left_out"], *left_out]
        counted = Counter(setting["library"] for setting in [*settings, *left_out])
    return {
        **results(final),
        "model": name,
        "title": model.title,
        "guided": guidance,
        "asked": asked(options),
        "entered": counted,
        "first_round": [{key: setting[key] for key in KEPT} for setting in settings],
        "left_out": left_out,
    }


def first_round(
    subject: Subject, fitting: Sequence[BenchEntry], prompts: Sequence[str], repeats: int, cpu: bool
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The settings of the first round, and those that leave nothing out, with the reason."""
    settings, idle = [], []
    for setting in results(run(subject, fitting, prompts, repeats, cpu))["methods"]:
        if setting["flops"] < 1:
            settings.append(setting)
        else:
            label, library = setting["label"], setting["library"]
            idle.append({"library": library, "label": label, "why": "nothing is left out"})
    return settings, idle


def earlier(path: Path, name: str, guidance: str) -> dict[str, Any] | None:
    """An earlier measurement of this model and guidance; None if the file has none."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for measurement in content["measured"]:
        if (measurement["model"], measurement["guided"]) == (name, guidance):
            known: dict[str, Any] = measurement
            return known
    return None


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """The options that change what is measured."""
    return {name: getattr(options, name) for name in ("captions", "repeats", "final_repeats", "only", "cpu")}


def measured_once(name: str, guidance: str, options: argparse.Namespace) -> dict[str, Any]:
    """The results on one model, from an earlier run's file or measured now.

    Raises:
        DcacheError: the earlier run had other options.
    """
    folder = options.out / f"{name}-{guidance}"
    file = folder / "results.json"
    if not file.exists():
        make_folder(folder)
        write_json(file, measured(name, guidance, folder, options))
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if content["asked"] != asked(options):
        raise DcacheError(
            f"{folder} holds a run with {content['asked']}, got {asked(options)}: use the same options, "
            "delete the folder, or choose another --out"
        )
    return content


def run(
    subject: Subject, contestants: Sequence[BenchEntry], prompts: Sequence[str], repeats: int, cpu: bool
) -> Bench:
    """Run one round.

    Raises:
        DcacheError: a contestant did not restore the pipeline.
    """
    with rounds(len(contestants) + 1, repeats) as progress:
        done = bench(
            subject,
            contestants,
            prompts,
            repeats=repeats,
            progress=progress,
            packages=PEERS,
            calls=CALLS,
            clock=process_time if cpu else perf_counter,
        )
    if done.unrestored:
        raise DcacheError(done.unrestored)
    return done


def chosen(options: argparse.Namespace) -> list[tuple[str, str]]:
    """The models and guidances to measure."""
    names = options.model or MODELS
    if options.guidance:
        return [(name, options.guidance) for name in names]
    return [(name, guidance) for name, guidance in PAGE if name in names]


def main() -> int:
    from diffusers.utils import logging

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, action="append", default=[], help="default: all")
    parser.add_argument("--guidance", choices=GUIDANCES, help="default: those of the page")
    parser.add_argument(
        "--only", choices=LIBRARIES, action="append", default=[], help="default: all installed"
    )
    parser.add_argument("--captions", type=int, default=8, help="one picture or clip each (default: 8)")
    parser.add_argument("--repeats", type=int, default=2, help="of the first round (default: 2)")
    parser.add_argument("--final-repeats", type=int, default=7, help="of the second round (default: 7)")
    parser.add_argument(
        "--out", type=Path, default=Path("bench-out/peers"), help="(default: bench-out/peers)"
    )
    parser.add_argument("--cpu", action="store_true", help="seconds of CPU, for a machine with other work")
    parser.add_argument(
        "--first", type=Path, help="bench.json of an earlier bench, whose first round is taken over"
    )
    parser.add_argument("--docs", type=Path, help="write bench.md, bench.json and the plot of this folder")
    options = parser.parse_args()
    logging.set_verbosity_error()
    measurements = []
    try:
        for name, guidance in chosen(options):
            measurements.append(measured_once(name, guidance, options))
            print("\n".join(shown(measurements[-1])), end="\n\n", flush=True)
        if options.docs:
            for path in write_page(measurements, options.docs):
                print(f"wrote {path}")
    except (DcacheError, OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
