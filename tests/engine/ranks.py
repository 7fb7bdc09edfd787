"""Work of several processes that compute one denoiser together, on gloo.

They are forked, so that diffusers is not imported again. Each saves what its job returns as FOLDER/RANK.pt.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import traceback
import warnings
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from diffusers import ContextParallelConfig, FlowMatchEulerDiscreteScheduler

import dcache
from dcache import methods
from tests.builders import embeds
from tests.engine.ring_toy import RingToy
from tests.pipelines import FLUX, SHAPES

# Seconds that a collective waits for the other processes.
TIMEOUT = 60


def launched(folder: Path, job: str, *arguments: str, count: int = 2) -> list[BaseProcess]:
    """Start so many processes of a job."""
    context = multiprocessing.get_context("fork")
    work = [
        context.Process(target=_work, args=(folder, rank, count, job, arguments), daemon=True)
        for rank in range(count)
    ]
    with warnings.catch_warnings():
        # Newer Pythons warn of forks beside threads, of which there are none that hold a lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        for process in work:
            process.start()
    return work


def together(folder: Path, job: str, *arguments: str, count: int = 2) -> list[Any]:
    """What the job returns on each of so many processes."""
    runs = launched(folder, job, *arguments, count=count)
    try:
        for rank, run in enumerate(runs):
            run.join(timeout=250)
            error = folder / f"{rank}.error"
            assert run.exitcode == 0, error.read_text() if error.exists() else "no answer"
    finally:
        for run in runs:
            run.kill()
    return [result(folder, rank) for rank in range(count)]


def result(folder: Path, rank: int) -> Any:
    """What the job returned on one process."""
    return torch.load(folder / f"{rank}.pt", weights_only=False)


def _work(folder: Path, rank: int, count: int, job: str, arguments: tuple[str, ...]) -> None:
    """One process."""
    try:
        torch.set_num_threads(1)
        # diffusers calls a collective by a name that torch has replaced.
        warnings.simplefilter("ignore", FutureWarning)
        _join(folder, rank, count)
        torch.save(JOBS[job](rank, *arguments), folder / f"{rank}.pt")
        torch.distributed.destroy_process_group()
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        os._exit(1)
    # Nothing of the parent's (its reports, its temporary folders) is to be ended here.
    os._exit(0)


def _join(folder: Path, rank: int, count: int) -> None:
    # diffusers takes the rank modulo the number of accelerators, which is 0 on a CPU.
    torch.accelerator.device_count = lambda: 1
    torch.distributed.init_process_group(
        "gloo",
        store=torch.distributed.FileStore(str(folder / "store"), count),
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(seconds=TIMEOUT),
    )


def _split(denoiser: Any, **degrees: int) -> None:
    denoiser.enable_parallelism(config=ContextParallelConfig(**(degrees or {"ulysses_degree": 2})))


def _methods(name: str) -> Any:
    return {
        "none": None,
        "interval": methods.interval(interval=2),
        "newton": methods.newton(interval=3, order=1),
        "teacache": methods.teacache(threshold=0.3, coefficients=[1.0, 0.0]),
        "easycache": methods.easycache(threshold=0.3, warmup=2),
        "sublayers": methods.interval(interval=2, sites=["attn", "mlp"]),
        "model": methods.newton(interval=2, sites="model"),
    }.get(name, name)


def draw(shape_name: str, method: str, split: bool) -> dict[str, Any]:
    """The latents, counts and places of one run of a small pipeline.

    Args:
        shape_name: of `tests.pipelines.SHAPES`.
        method: a name of `_methods`, or what `enable` takes.
        split: whether tokens are split among processes.
    """
    shape = SHAPES[shape_name]
    pipe = shape.build()
    chosen = _methods(method)
    if split:
        _split(shape.denoiser(pipe))
    if chosen is None:
        return {"latents": _run(shape, pipe)}
    dcache.enable(pipe, chosen)
    latents = [_run(shape, pipe) for _ in range(2)][-1]
    stats, trace = dcache.stats(pipe), dcache.trace(pipe)
    return {
        "latents": latents,
        "computed": stats.computed,
        "predicted": stats.predicted,
        "reasons": stats.reasons,
        "bytes": stats.bytes_held,
        "method": stats.method,
        "trace": trace.digest(),
    }


def _run(shape: Any, pipe: Any) -> Any:
    # Of Flux the text's tokens are split too: an even number of them.
    text = {"prompt_embeds": embeds(1, 6, 12)} if shape.name == "flux" else {}
    return shape.run(pipe, **text)


def _draw_split(rank: int, shape: str, *methods: str) -> dict[str, Any]:
    return {method: draw(shape, method, split=True) for method in methods}


def _late(rank: int, shape_name: str) -> dict[str, Any]:
    """Parallelism is enabled behind caching; stats of all ranks; what is left behind."""
    shape = SHAPES[shape_name]
    pipe = shape.build()
    dcache.enable(pipe, "interval", interval=2)
    one = _run(shape, pipe)
    _split(shape.denoiser(pipe))
    hooks = _hooks(shape.denoiser(pipe))
    both = _run(shape, pipe)
    stats = dcache.stats(pipe, ranks=True)
    dcache.disable(pipe)
    left = [name for name, part in pipe.transformer.named_modules() if "_compiled_call_impl" in vars(part)]
    return {
        "one": one,
        "both": both,
        "stats": stats,
        "left": left,
        "hooks": hooks == _hooks(pipe.transformer),
    }


def _hooks(model: Any) -> dict[str, Any]:
    """Name of a module -> the plans of its hooks."""
    registries = {n: vars(m).get("_diffusers_hook") for n, m in model.named_modules()}
    return {n: [hook.metadata for hook in r.hooks.values()] for n, r in registries.items() if r is not None}


def _tuned(rank: int, shape_name: str) -> dict[str, Any]:
    """An observed run, and one that is planned from it; the memo is on."""
    shape = SHAPES[shape_name]
    pipe = dcache.memo(shape.build())
    _split(shape.denoiser(pipe))
    dcache.enable(pipe, speedup=2.0)
    with warnings.catch_warnings():
        # It says that it observes.
        warnings.simplefilter("ignore", dcache.DcacheWarning)
        runs = [_run(shape, pipe) for _ in range(2)]
    return {"runs": runs, "trace": dcache.trace(pipe).digest(), "predicted": dcache.stats(pipe).predicted}


def _limited(rank: int, method: str) -> dict[str, Any]:
    """The second process has room for less than its part, as where its part is the larger one."""
    shape = SHAPES["wan"]
    pipe = shape.build()
    _split(shape.denoiser(pipe))
    dcache.enable(pipe, _methods(method), max_cache_bytes="1GB")
    _run(shape, pipe)
    size = dcache.stats(pipe).bytes_held
    dcache.enable(pipe, _methods(method), max_cache_bytes=int(size * (0.7 if rank else 2)))
    with warnings.catch_warnings():
        # It says what was lowered.
        warnings.simplefilter("ignore", dcache.DcacheWarning)
        latents = [_run(shape, pipe) for _ in range(2)]
    stats = dcache.stats(pipe)
    return {
        "latents": latents,
        "trace": dcache.trace(pipe).digest(),
        "method": stats.method,
        "predicted": stats.predicted,
        "share": stats.bytes_held / size,
    }


def _dies(rank: int) -> dict[str, Any]:
    """The second process stops in the middle of a run."""
    pipe = FLUX.build()
    _split(pipe.transformer)
    dcache.enable(pipe, "fbcache", threshold=0.3)
    _run(FLUX, pipe)
    if rank == 1:
        os._exit(3)
    try:
        _run(FLUX, pipe)
    except (RuntimeError, dcache.DcacheError) as error:
        return {"error": str(error)}
    return {"error": ""}


def _ring(rank: int) -> dict[str, Any]:
    """A toy under a plan for ring attention, whose attention gathers keys and values itself."""
    import dcache
    from dcache import methods

    results = {}
    for name, method in (
        ("interval", methods.interval(interval=2)),
        ("newton", methods.newton(interval=2, order=1)),
        ("fbcache", methods.fbcache(threshold=0.2)),
    ):
        runs = {}
        for split in (False, True):
            toy = RingToy.make()
            if split:
                _split(toy, ring_degree=2)
            dcache.enable(toy, method)
            sampler = FlowMatchEulerDiscreteScheduler()
            sampler.set_timesteps(8)
            x = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(2))
            with torch.no_grad():
                for i, t in enumerate(sampler.timesteps):
                    dcache.step(toy, i, steps=8, sigma=float(sampler.sigmas[i]))
                    x = sampler.step(toy(x, t / 1000), t, x).prev_sample
            stats = dcache.stats(toy)
            runs["split" if split else "one"] = (x, stats.computed, stats.predicted)
        results[name] = runs
    return results


JOBS = {
    "draw": _draw_split,
    "late": _late,
    "tuned": _tuned,
    "limited": _limited,
    "dies": _dies,
    "ring": _ring,
}
