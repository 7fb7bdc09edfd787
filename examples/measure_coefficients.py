"""Measure the numbers that `teacache`, `magcache` and `smoothcache` need, in a few uncached runs.

    python examples/measure_coefficients.py demo --out numbers.json
    python examples/measure_coefficients.py black-forest-labs/FLUX.1-dev --out flux.json --device cuda

    dcache.enable(pipe, "teacache", coefficients="flux.json", threshold=0.25)

What is measured, y_t being what is looked at in evaluation t and relL1(p, q) = mean|p - q| / mean|q|:

- teacache: coefficients of the polynomial of degree 4 (highest power first) that takes relL1(x_t, x_{t-1})
  of what the first block gives its attention to relL1(d_t, d_{t-1}) of the trunk's delta, by least squares.
- magcache: r_t = mean over tokens of |d_t| / |d_{t-1}| of the trunk's delta, with the Euclidean norm over
  channels; r_0 = 1.
- smoothcache: relL1(y_t, y_{t+j}) of every sublayer's output for j = 1, 2, 3, averaged over the sublayers of
  a kind. From evaluation 0 on, the table leaves out as many evaluations, up to 3, as have errors below alpha;
  the first and the last are computed. alpha = 0 computes all.

Every number is a mean over prompts and guidance branches. They hold for this model, number of steps, sampler,
resolution and guidance: "of" in the file says which these were.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import dcache
from dcache.components import config_digest, denoisers
from dcache.containers import flatten
from dcache.discovery import discover
from dcache.errors import DcacheError, DcacheWarning
from dcache.eval.machine import versions
from dcache.files import write_json
from dcache.session import session_of

DEGREE = 4
LOOKAHEAD = 3
ALPHAS = (0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
KINDS = ("attn", "cross_attn", "mlp")
PROMPTS = (
    "a photo of a red fox in the snow",
    "an oil painting of a harbour at dusk",
    "a bowl of fruit on a wooden table",
    "an astronaut riding a horse",
)


class Observer:
    """Looks at one denoiser during uncached runs.

    dcache, with everything computed, says which evaluation and guidance branch a call belongs to and what
    the trunk's delta is; hooks on the sublayers show the rest.
    """

    def __init__(self, module: nn.Module, smooth: bool) -> None:
        self.module = module
        self.structure = discover(module)
        self.inputs: dict[str, tuple[int, torch.Tensor]] = {}
        self.deltas: dict[str, tuple[int, Sequence[torch.Tensor | None]]] = {}
        self.outputs: dict[tuple[str, int, str], deque[tuple[int, torch.Tensor]]] = defaultdict(
            lambda: deque(maxlen=LOOKAHEAD)
        )
        self.pairs: list[tuple[float, float]] = []
        self.ratios: dict[int, list[float]] = defaultdict(list)
        self.errors: dict[tuple[str, int, int], list[float]] = defaultdict(list)
        self.changes: dict[str, tuple[int, float]] = {}
        self.count = 0
        self.kinds = [k for k in KINDS if any(s.kind == k for s in self.structure.sublayers)]
        hooks = [module.register_forward_hook(self._see_delta)]
        first = next((s for s in self.structure.sublayers if s.kind == "attn" and s.depth == 0), None)
        if first is not None:
            hooks.append(first.module.register_forward_pre_hook(self._see_input, with_kwargs=True))
        for sublayer in self.structure.sublayers if smooth else ():
            if sublayer.kind in KINDS:
                see = self._see_output(sublayer.name, sublayer.kind)
                hooks.append(sublayer.module.register_forward_hook(see))
        self.hooks = hooks

    @property
    def site(self) -> str:
        """Where dcache looks."""
        return "trunk" if self.structure.blocks else "model"

    def end_run(self) -> None:
        """Forget what was kept for comparison."""
        self.inputs, self.deltas, self.changes = {}, {}, {}
        self.outputs.clear()

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self.hooks:
            hook.remove()

    def _call(self) -> Any:
        session = session_of(self.module)
        call = None if session is None else session.call
        return None if call is None or call.checking else call

    def _see_input(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = self._call()
        now = next((v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)), None)
        if call is None or now is None:
            return
        index, before = self.inputs.get(call.branch.name, (-1, now))
        if index == call.index - 1 and index >= 0 and before.shape == now.shape:
            self.changes[call.branch.name] = (call.index, relative(now, before))
        self.inputs[call.branch.name] = (call.index, now.clone())

    def _see_delta(self, *_: Any) -> None:
        session, call = session_of(self.module), self._call()
        if session is None or call is None:
            return
        self.count = max(self.count, call.index + 1)
        region = next((r for r in session.binding.regions if r.site.kind == "trunk"), None)
        if region is None or region.history is None:
            return
        now, branch = region.history.leaves[-1], call.branch.name
        index, before = self.deltas.get(branch, (-1, now))
        self.deltas[branch] = (call.index, now)
        # Of several streams, those that somebody reads behind the trunk; the first of them is the picture's.
        both = [(a, b) for a, b in zip(now, before, strict=True) if a is not None and b is not None]
        if index != call.index - 1 or index < 0 or not both or both[0][0].shape != both[0][1].shape:
            return
        self.ratios[call.index].append(magnitude(*both[0]))
        when, change = self.changes.get(branch, (-1, 0.0))
        if when == call.index:
            self.pairs.append((change, relative(*both[0])))

    def _see_output(self, name: str, kind: str) -> Any:
        times: list[Any] = [None, 0]

        def see(_: nn.Module, __: Any, output: Any) -> None:
            call = self._call()
            if call is None:
                return
            # Some models send both of their streams through one module.
            times[:] = [call, times[1] + 1 if times[0] is call else 0]
            now = next(leaf for leaf in flatten(output)[0] if isinstance(leaf, torch.Tensor)).clone()
            kept = self.outputs[name, times[1], call.branch.name]
            for index, before in kept:
                if call.index - index <= LOOKAHEAD and before.shape == now.shape:
                    self.errors[kind, index, call.index - index].append(relative(before, now))
            kept.append((call.index, now))

        return see


def relative(p: torch.Tensor, q: torch.Tensor) -> float:
    """relL1(p, q)."""
    return float((p.float() - q.float()).abs().mean() / q.float().abs().mean())


def magnitude(now: torch.Tensor, before: torch.Tensor) -> float:
    """Mean over tokens of |now| / |before|, Euclidean norm over channels, which come last."""
    return float((now.float().norm(dim=-1) / before.float().norm(dim=-1)).mean())


def fit(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """TeaCache's polynomial, and how much of the variance it explains."""
    x, y = np.array(pairs).T
    coefficients = np.polyfit(x, y, DEGREE)
    rest = ((y - np.polyval(coefficients, x)) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    return {
        "coefficients": [float(f"{c:.9g}") for c in coefficients],
        "r2": round(float(1 - rest), 4),
        "points": len(pairs),
        "inputs_between": [round(float(x.min()), 6), round(float(x.max()), 6)],
    }


def walk(errors: dict[tuple[int, int], float], count: int, alpha: float) -> list[int]:
    """One row of SmoothCache's table.

    Args:
        errors: (evaluation, j) -> error of its output where that of the j-th after it belongs.
        count: number of evaluations.
        alpha: errors below it are allowed.
    """
    row = [0] * count
    t = 0
    while t < count - 1:
        row[t] = 1
        reach = 0
        while reach < LOOKAHEAD and t + reach + 1 < count - 1 and errors[t, reach + 1] < alpha:
            reach += 1
        t += reach + 1
    row[-1] = 1
    return row


def tables(observer: Observer, alpha: float) -> dict[str, list[int]]:
    """A row for every kind of sublayer."""
    found = {}
    for kind in observer.kinds:
        errors = {(t, j): float(np.mean(v)) for (k, t, j), v in observer.errors.items() if k == kind}
        found[kind] = walk(errors, observer.count, alpha)
    return found


def results(observer: Observer, alpha: float) -> tuple[dict[str, Any], list[str]]:
    """What was measured, by preset; and why something was not."""
    found: dict[str, Any] = {}
    missing = []
    name = type(observer.module).__name__
    if len({x for x, _ in observer.pairs}) > DEGREE + 1:
        found["teacache"] = fit(observer.pairs)
    else:
        why = (
            "more steps"
            if observer.pairs
            else "a list of blocks whose attention is declared (docs/add-a-family.md)"
        )
        missing.append(f"teacache: {len(observer.pairs)} changes were seen in {name}; it needs {why}")
    if observer.ratios:
        rows = [1.0, *(round(float(np.mean(observer.ratios[t])), 6) for t in range(1, observer.count))]
        spread = max(float(np.std(observer.ratios[t])) for t in range(1, observer.count))
        found["magcache"] = {"ratios": rows, "largest_deviation": round(spread, 6)}
    else:
        missing.append(f"magcache: {name} has no list of blocks that dcache recognises")
    if observer.errors:
        found["smoothcache"] = {
            "alpha": alpha,
            "table": tables(observer, alpha),
            "tables": {f"{a:g}": tables(observer, a) for a in ALPHAS},
        }
    elif observer.kinds:
        missing.append("smoothcache: left out")
    else:
        missing.append(f"smoothcache: no sublayers are declared for the blocks of {name}")
    return found, missing


def load(options: argparse.Namespace) -> tuple[Any, dict[str, Any], list[str]]:
    """The pipeline, the arguments of a call without the prompt, and the prompts."""
    dtype = getattr(torch, options.dtype)
    if options.pipe == "demo":
        from dcache.demo.pictures import sample_captions
        from dcache.demo.pipeline import call_options, load_pipeline

        pipe = load_pipeline(options.device, None if dtype is torch.float32 else dtype)
        # Of those it was trained on: what is compared elsewhere is made from held-out ones.
        captions = [c.text for c in sample_captions(8, np.random.default_rng(1), unseen=False)]
        call = call_options()
    else:
        from diffusers import DiffusionPipeline

        kind = {} if dtype is torch.float32 else {"torch_dtype": dtype}
        pipe = DiffusionPipeline.from_pretrained(options.pipe, **kind).to(options.device)
        pipe.set_progress_bar_config(disable=True)
        captions, call = list(PROMPTS), {}
    given = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    call |= {name: value for name, value in given.items() if value is not None}
    known = inspect.signature(type(pipe).__call__).parameters
    call |= {"output_type": "latent"} if "output_type" in known else {}
    call |= json.loads(options.call)
    unknown = [name for name in call if name not in known]
    if unknown:
        raise DcacheError(f"{type(pipe).__name__} takes no {', '.join(unknown)}: it takes {', '.join(known)}")
    return pipe, call, (options.prompt or captions) if "prompt" in known else [""]


def observe(pipe: Any, module: nn.Module, call: dict[str, Any], prompts: list[str], smooth: bool) -> Observer:
    """Run the pipeline once for each prompt, uncached, and watch.

    Raises:
        DcacheError: dcache does not understand this model well enough to tell its trunk's delta.
    """
    observer = Observer(module, smooth)
    began = time.perf_counter()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # A denoiser that was not understood is remembered as a whole, with a warning.
            warnings.simplefilter("error", DcacheWarning)
            codec = "delta" if observer.site == "trunk" else "value"
            everything = dcache.methods.interval(interval=1, sites=observer.site, codec=codec)
            with dcache.enabled(pipe, everything):
                for i, prompt in enumerate(prompts):
                    words = {"prompt": prompt} if prompt else {}
                    pipe(**words, generator=torch.Generator().manual_seed(i), **call)
                    observer.end_run()
                    spent = time.perf_counter() - began
                    print(f"run {i + 1} of {len(prompts)} ({spent:.0f} s)", file=sys.stderr, flush=True)
    except DcacheWarning as warning:
        raise DcacheError(f"{type(module).__name__} cannot be observed: {warning}") from None
    finally:
        observer.close()
    return observer


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "pipe", metavar="PIPE", help="a name on the hub, a folder, or 'demo' for the shipped model"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--prompt", action="append", help="may be given more than once; each is one run")
    parser.add_argument("--steps", type=int, help="default: the pipeline's own")
    parser.add_argument("--guidance", type=float, help="default: the pipeline's own")
    parser.add_argument("--call", default="{}", metavar="JSON", help="more arguments of the pipeline's call")
    parser.add_argument("--component", default="", help="which denoiser, where the pipeline has several")
    parser.add_argument("--alpha", type=float, default=0.15, help="SmoothCache's threshold (default: 0.15)")
    parser.add_argument("--no-smoothcache", action="store_true", help="keep no sublayer outputs: less memory")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    options = parser.parse_args()
    try:
        if not options.out.resolve().parent.is_dir():
            raise DcacheError(f"--out: there is no folder {options.out.resolve().parent}")
        pipe, call, prompts = load(options)
        found = denoisers(pipe)
        name = options.component or next(iter(found), "")
        if name not in found or (len(found) > 1 and not options.component):
            raise DcacheError(f"--component must be one of {', '.join(found) or '(none was found)'}")
        observer = observe(pipe, found[name], call, prompts, not options.no_smoothcache)
        measured, missing = results(observer, options.alpha)
        if not measured:
            raise DcacheError("nothing could be measured. " + "; ".join(missing))
    except (DcacheError, OSError, ValueError, RuntimeError) as error:
        print(f"measure_coefficients: {error}", file=sys.stderr)
        return 1
    plain = {k: v for k, v in call.items() if isinstance(v, str | int | float | bool | None)}
    of = {
        "pipe": options.pipe,
        "model": type(found[name]).__name__,
        "config": config_digest(found[name]),
        "component": name,
        "sampler": type(getattr(pipe, "scheduler", None)).__name__,
        "evaluations": observer.count,
        "call": plain,
        "prompts": prompts,
        "dtype": options.dtype,
        "versions": versions(),
    }
    write_json(options.out, {"format": "dcache.coefficients", "version": 1, "of": of, **measured})
    print(f"wrote {options.out}: {', '.join(measured)}; {observer.count} evaluations, {len(prompts)} run(s)")
    if "teacache" in measured:
        print(
            f"teacache: R^2 = {measured['teacache']['r2']:.3f} over {measured['teacache']['points']} changes"
        )
    for line in missing:
        print(f"not measured: {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
