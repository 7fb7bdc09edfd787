"""Keys and values of one call, put into another (FreeFlux): pictures are edited, nothing is skipped.

```python
with dcache.capturing(pipe, sites="kv:6-11") as tracks:
    source = pipe("a red circle").images
with dcache.injecting(pipe, tracks):
    edited = pipe("a yellow circle").images
```

Keys are taken before norm and positions, which are the same for the same token. Large models run source and
target as rows of one batch instead, and nothing is stored: `injecting(pipe, rows={1: 0})`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from dcache.engine.call import Call
from dcache.engine.observe import Observer, is_observable, observe
from dcache.errors import DcacheError, DcacheWarning
from dcache.identity.denoisers import denoiser_named
from dcache.intercept.module_call import ModuleIntercept
from dcache.intercept.pytree import batch_of
from dcache.search.observing.numbered import numbered
from dcache.sites.discovery import discover
from dcache.sites.kv import kv_sites
from dcache.util.bytes import bytes_of
from dcache.util.checks import check_wholes, is_whole
from dcache.util.text import short

# (evaluation, branch, block, whether keys or values).
Place = tuple[int, str, int, str]
Change = Callable[[Place, torch.Tensor, int | None], torch.Tensor]


class Tracks:
    """Keys and values of the calls of one denoiser.

    Attributes:
        tensors: evaluation, branch, block and "key" or "value" -> output of that projection, (B, N, C).
    """

    def __init__(self) -> None:
        self.tensors: dict[Place, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return bytes_of(self.tensors.values())


@contextmanager
def capturing(
    pipe: Any,
    sites: str = "kv",
    *,
    steps: Collection[int] | None = None,
    device: str | None = None,
    component: str | None = None,
) -> Iterator[Tracks]:
    """Inside this block the keys and values of the pipeline's self-attention are kept.

    Args:
        pipe: a pipeline, or a denoiser.
        sites: blocks, as in `dcache.sites.kv`.
        steps: evaluations, None for all.
        device: where they are kept; None is where they are made.
        component: name of the denoiser, where the pipeline has several.

    Yields:
        The tracks, which a second call of the pipeline overwrites.

    Raises:
        DcacheError: the denoiser has no such projections.
    """
    tracks = Tracks()

    def keep(place: Place, output: torch.Tensor, _picture: int | None) -> torch.Tensor:
        # A copy: attention may write into its projections' outputs.
        tracks.tensors[place] = output.detach().to(device or output.device, copy=True)
        return output

    with _around(pipe, sites, steps, component, keep):
        yield tracks
    if not tracks and (steps is None or len(steps)):
        warnings.warn(
            "nothing was captured: no call of the pipeline computed these projections and evaluations inside "
            "the block (caching enabled or disabled in it, a denoiser replaced, or projections fused?)",
            DcacheWarning,
            stacklevel=3,
        )


@contextmanager
def injecting(
    pipe: Any,
    tracks: Tracks | None = None,
    sites: str = "kv",
    *,
    rows: torch.Tensor | Mapping[int, int] | None = None,
    steps: Collection[int] | None = None,
    values_only: bool = False,
    text_first: bool = True,
    component: str | None = None,
) -> Iterator[None]:
    """Inside this block keys and values are those of the tracks, where these have them.

    Args:
        pipe: a pipeline, or a denoiser, called with the sampler's settings and sizes of the captured call.
        tracks: as `capturing` gave them; None with `rows` a mapping.
        sites: blocks, as in `dcache.sites.kv`.
        rows: a mask of the picture's tokens, bool (N,) or (B, N), that get those of the tracks; a mapping
            from batch rows to the rows of the same batch whose keys and values they get; None is all tokens.
        steps: evaluations, None for all.
        values_only: leave the keys.
        text_first: where a block's sequence has the text's tokens too: whether they come first, as in FLUX.
            They are never replaced.
        component: name of the denoiser, where the pipeline has several.

    Raises:
        DcacheError: the denoiser has no such projections, or the tracks have other sizes.
    """
    lockstep = rows if isinstance(rows, Mapping) else None
    if (tracks is None) == (lockstep is None):
        raise DcacheError(
            "injecting takes the tracks of a captured call, or rows= as a mapping of batch rows"
        )
    if tracks is not None and not isinstance(tracks, Tracks):
        raise DcacheError(f"tracks must be what dcache.capturing gave, got {short(tracks)}")
    mask = None if isinstance(rows, Mapping) else rows
    if mask is not None and not isinstance(mask, torch.Tensor):
        raise DcacheError(
            f"rows must be a mask (a bool tensor) or a mapping of batch rows, got {short(rows)}"
        )
    if lockstep is not None and not all(is_whole(r) and r >= 0 for r in (*lockstep, *lockstep.values())):
        raise DcacheError(f"rows must map batch rows, numbers from 0, to batch rows, got {short(rows)}")
    count = 0

    def replace(place: Place, output: torch.Tensor, picture: int | None) -> torch.Tensor:
        nonlocal count
        source = _source(place, output, tracks, lockstep)
        if source is None or (values_only and place[3] == "key"):
            return output
        count += 1
        return _mixed(output, source, mask, _tokens(output, picture, text_first))

    with _around(pipe, sites, steps, component, replace):
        yield
    if not count and (lockstep or tracks):
        warnings.warn(
            "nothing was injected: the tracks have none of the evaluations, branches and blocks that ran",
            DcacheWarning,
            stacklevel=3,
        )


def _source(
    place: Place, output: torch.Tensor, tracks: Tracks | None, lockstep: Mapping[int, int] | None
) -> torch.Tensor | None:
    """What is put in the place of a projection's output; None where nothing is."""
    if lockstep is not None:
        order = [lockstep.get(row, row) for row in range(output.shape[0])]
        if max((*lockstep, *order)) >= output.shape[0]:
            raise DcacheError(f"rows names batch rows up to {max((*lockstep, *order))}, of {output.shape[0]}")
        return output[order]
    source = None if tracks is None else tracks.tensors.get(place)
    if source is not None and source.shape != output.shape:
        raise DcacheError(
            f"the tracks of block {place[2]} are {tuple(source.shape)} and this call's are "
            f"{tuple(output.shape)}: capture and inject with the same number and size of pictures, and the "
            "same length of prompts"
        )
    return source


def _tokens(output: torch.Tensor, picture: int | None, text_first: bool) -> slice:
    """The picture's tokens of a projection's output."""
    count = output.shape[1]
    if picture is None or picture >= count:
        return slice(0, count)
    return slice(count - picture, count) if text_first else slice(0, picture)


def _mixed(
    output: torch.Tensor, source: torch.Tensor, mask: torch.Tensor | None, tokens: slice
) -> torch.Tensor:
    """The output with the picture's tokens of the source, where the mask has them."""
    mixed, given = output.clone(), source.to(output.device, output.dtype)[:, tokens]
    if mask is None:
        mixed[:, tokens] = given
        return mixed
    rows = mask.to(output.device).bool()
    if tuple(rows.shape) not in {given.shape[1:2], (1, given.shape[1]), given.shape[:2]}:
        raise DcacheError(
            f"rows must be a mask of the picture's {given.shape[1]} tokens, one for all or one for each of "
            f"{len(given)} batch rows, got the shape {tuple(rows.shape)}"
        )
    mixed[:, tokens] = torch.where(rows.view(-1, given.shape[1], 1), given, mixed[:, tokens])
    return mixed


@contextmanager
def _around(
    pipe: Any, sites: str, steps: Collection[int] | None, component: str | None, change: Change
) -> Iterator[None]:
    """Have `change` called with each output of the sites' projections."""
    if not isinstance(sites, str):
        raise DcacheError(f"sites must be a text such as 'kv:0,7-10', got {short(sites)}")
    if steps is not None:
        check_wholes("steps", list(steps) if isinstance(steps, set | frozenset | range) else steps, 0)
    _, module = denoiser_named(pipe, component)
    calls = _Calls(steps, change)
    with ExitStack() as stack:
        if not is_observable(module):
            stack.enter_context(numbered(pipe))
        stack.enter_context(observe(module, calls))
        for site in kv_sites(discover(module), sites):
            for kind, projection in (("key", site.key), ("value", site.value)):
                intercept = _Projection(projection, calls, site.depth, kind)
                intercept.install()
                stack.callback(intercept.remove)
        yield


class _Calls(Observer):
    """Knows the call under way.

    Args:
        steps: the evaluations of interest, None for all.
        change: called with the outputs of projections in them.
    """

    sees_outputs = False

    def __init__(self, steps: Collection[int] | None, change: Change) -> None:
        self.steps, self.change = steps, change
        self.call: Call | None = None
        self.picture: int | None = None

    def on_call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A call begins. Latents of shape (B, N, C) tell how many tokens the picture has."""
        sample = batch_of(args, kwargs)
        self.call = call if self.steps is None or call.index in self.steps else None
        self.picture = sample.shape[1] if sample is not None and sample.ndim == 3 else None

    def on_output(self, call: Call, output: Any) -> None:
        """It is over; what is called behind it is none of the run's."""
        self.call = None


class _Projection(ModuleIntercept):
    """In front of a key or value projection."""

    name = "kv"

    def __init__(self, module: nn.Module, calls: _Calls, depth: int, kind: str) -> None:
        super().__init__(module)
        self.calls, self.depth, self.kind = calls, depth, kind

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the projection, and give its output away."""
        output, call = self.inner(*args, **kwargs), self.calls.call
        if call is None or not isinstance(output, torch.Tensor):
            return output
        return self.calls.change(
            (call.index, call.branch.name, self.depth, self.kind), output, self.calls.picture
        )
