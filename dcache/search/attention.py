"""ProfilingDiT's profile: how much of the foreground each block's self-attention prefers, from uncached runs.

For every block l: R(l) = |high & foreground| / |foreground|, where `high` are the tokens that receive most of
the block's self-attention, and the foreground is as in `dcache.search.observing.foreground`. The observed
evaluations compute every self-attention a second time.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from dcache.engine.call import Call
from dcache.engine.observe import Observer, observe
from dcache.errors import DcacheError, DcacheWarning
from dcache.eval.progress import StageProgress
from dcache.eval.subject import Subject
from dcache.identity.denoisers import denoisers
from dcache.intercept.pytree import first_tensor, flatten
from dcache.profile import Profile
from dcache.search.check import refuse_other
from dcache.search.observing.attention_mass import AttentionCalls, mass
from dcache.search.observing.attention_tokens import PictureTokens
from dcache.search.observing.foreground import foreground, patches, preference
from dcache.search.observing.numbered import numbered
from dcache.sites.discovery import discover
from dcache.sites.structure import Structure
from dcache.sites.sublayers import is_attention
from dcache.util.checks import check_number, check_whole

EVERY = 4
TOP = 0.5


def with_attention(
    subject: Subject,
    profile: Profile,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    every: int = EVERY,
    top: float = TOP,
    progress: StageProgress = lambda _stage: None,
) -> Profile:
    """The profile with `attention`: for every block the share of the foreground that its attention prefers.

    Args:
        subject: the pipeline.
        profile: a profile of the pipeline.
        prompts: one run each.
        seed: picture i has seed + i.
        every: observe every `every`-th evaluation, from the first on.
        top: share of the tokens that counts as preferred. Attention without any preference gives R = `top`.
        progress: called with a description of each stage.

    Raises:
        DcacheError: no prompts, a profile of another model, or a model whose self-attention cannot be seen.
    """
    if not prompts:
        raise DcacheError("expected at least one prompt to observe attention, got none")
    check_whole("every", every, 1)
    check_number("top", top, 0.0)
    refuse_other(profile, subject)
    module = denoisers(subject.pipe)[profile.component]
    try:
        with warnings.catch_warnings(), numbered(subject.pipe):
            warnings.simplefilter("error", DcacheWarning)
            watch = Watch(module, every, top)
            for i, prompt in enumerate(prompts):
                progress(f"attention: run {i + 1} of {len(prompts)}")
                with watch.looking():
                    subject([prompt], [seed + i])
    except DcacheWarning as warning:
        raise DcacheError(f"{type(module).__name__} cannot be observed: {warning}") from None
    recorded = {**profile.made, "attention": {"prompts": len(prompts), "every": every, "top": top}}
    return replace(profile, attention=watch.result(), made=recorded)


def attentions(structure: Structure) -> dict[int, nn.Module]:
    """Depth -> the self-attention of that block; of a fused block the one that feeds its exit."""
    every: dict[int, nn.Module] = {}
    for sublayer in structure.sublayers:
        depth = sublayer.depth
        if sublayer.name in {f"attn:{depth}", f"fused:{depth}"}:
            first = next(
                (m for m in (*sublayer.feeders, sublayer.module) if is_attention(m)), sublayer.module
            )
            every.setdefault(depth, first)
    return every


class Watch(Observer):
    """Observes one denoiser's self-attention, block by block.

    Args:
        module: the denoiser.
        every: as in `with_attention`.
        top: as in `with_attention`.

    Raises:
        DcacheError: the module has no list of blocks, or blocks whose self-attention is not declared.
    """

    sees_outputs = False

    def __init__(self, module: nn.Module, every: int, top: float) -> None:
        self.module = module
        self.call: Call | None = None
        self.every, self.top = every, top
        structure = discover(self.module)
        self.depth = len(structure.blocks)
        self.attentions = attentions(structure)
        missing = [str(i) for i in range(self.depth) if i not in self.attentions]
        if not self.depth or missing:
            what = f"of its blocks {', '.join(missing)} none" if self.depth else "no list of blocks"
            raise DcacheError(
                f"the self-attention of {type(self.module).__name__} cannot be observed: {what} is found "
                "(docs/add-a-family.md)"
            )
        self.inside: int | None = None
        self.picture = PictureTokens()
        self.masses: dict[int, torch.Tensor] = {}
        self.channels = 0
        self.preferences: dict[int, list[float]] = defaultdict(list)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Observe the model, its attention modules and torch's attention function during one run."""
        hooks = []
        for depth, attention in self.attentions.items():
            hooks += self.picture.hooks(attention)
            hooks.append(attention.register_forward_pre_hook(self._entering(depth)))
            hooks.append(attention.register_forward_hook(self._entering(None), always_call=True))
        try:
            with observe(self.module, self), AttentionCalls(self._see):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def result(self) -> dict[str, float]:
        """Block -> R, the mean over pictures, branches and evaluations.

        Raises:
            DcacheError: the attention of some block was not seen.
        """
        unseen = [str(i) for i in range(self.depth) if not self.preferences[i]]
        if unseen:
            raise DcacheError(
                f"the self-attention of blocks {', '.join(unseen)} of {type(self.module).__name__} was not "
                "seen: it must go through torch.nn.functional.scaled_dot_product_attention, not compiled, "
                "and the predicted noise must differ from token to token"
            )
        return {f"block:{i}": float(np.mean(self.preferences[i])) for i in range(self.depth)}

    @property
    def wanted(self) -> bool:
        """Whether the current call belongs to an observed evaluation."""
        return self.call is not None and self.call.index % self.every == 0

    def on_call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note the call and the number of latent channels; forget the last call's attention."""
        self.call, self.masses = call, {}
        entry = first_tensor(args, kwargs)
        self.channels = 0 if entry is None else entry.shape[1]

    def _entering(self, depth: int | None) -> Callable[..., None]:
        def see(*_: Any) -> None:
            self.inside = depth

        return see

    def _see(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: Any,
    ) -> None:
        # A module may attend more than once, to other tokens after its own: the first call is self-attention.
        if self.inside is not None and self.inside not in self.masses and self.wanted:
            self.masses[self.inside] = mass(query, key, mask, scale)
            self.picture.see(value)

    def on_output(self, call: Call, output: Any) -> None:
        """At the end of a call, compare each block's attention with the foreground of the prediction."""
        wanted, self.call = self.wanted, None
        if not wanted or not self.masses:
            return
        prediction = next(leaf for leaf in flatten(output)[0] if isinstance(leaf, torch.Tensor))
        tokens = self._tokens(prediction[:, : self.channels] if prediction.ndim > 3 else prediction)
        masks = [foreground(picture) for picture in tokens]
        for depth, every in self.masses.items():
            masses = self.picture.of_picture(every, tokens.shape[1])
            if masses.shape != tokens.shape[:2]:
                raise DcacheError(
                    f"block {depth} of {type(self.module).__name__} attends to {masses.shape[1]} tokens, "
                    f"and the prediction has {tokens.shape[1]}: attention that includes text tokens is "
                    "supported only where another block projects text and picture apart"
                )
            for row, mask in zip(masses.cpu().double().numpy(), masks, strict=True):
                if mask.any():
                    self.preferences[depth].append(preference(row, mask, self.top))

    def _tokens(self, prediction: torch.Tensor) -> torch.Tensor:
        """(B, N, C): the prediction cut into the tokens it was assembled from."""
        if prediction.ndim == 3:
            return prediction
        size = getattr(getattr(self.module, "config", None), "patch_size", None)
        sizes = [size] * (prediction.ndim - 2) if isinstance(size, int) else list(size or ())
        extents = prediction.shape[2:]
        if len(sizes) != len(extents) or any(e % s for e, s in zip(extents, sizes, strict=True)):
            raise DcacheError(
                f"cannot cut the prediction {tuple(prediction.shape)} of {type(self.module).__name__} into "
                f"patches: expected config.patch_size to divide it, got {size!r}"
            )
        return patches(prediction, sizes)
