"""What a call brings: whether its sample is the last call's, and its conditioning another picture's."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from dcache.identity.branch import condition_of
from dcache.identity.timestep import TimeArgument
from dcache.intercept.pytree import first_tensor

# Elements of a sample that are compared, from how many on; a correlation that noise has, and one that is a
# fall in a run.
_ELEMENTS, _FEWEST = 65_536, 16
_UNRELATED, _DROP = 0.25, 0.6
# By chance noise of n elements has a correlation of about n ** -0.5: for few, the limit is so many of these,
# and at most the last number.
_CHANCES, _MOST_UNRELATED = 2.5, 0.6

# Evaluations in a row, each with another value of an argument, after which it is taken for one that changes
# within a run (features of a control network, a second time).
_IN_A_ROW = 3
# Elements of an argument that are compared; of a longer one these are spread over it.
_MOST_ELEMENTS = 1 << 20


def content_of(tensor: torch.Tensor) -> torch.Tensor:
    """Two sums over a tensor, shape (2,), which equal tensors share; on its device, so that nothing waits."""
    dtype = torch.float32 if tensor.device.type == "mps" else torch.float64
    plain = tensor.detach()
    weights = torch.arange(1, plain.numel() + 1, device=plain.device, dtype=torch.float32)
    values = plain.flatten().to(torch.float32)
    return torch.stack((values.sum(dtype=dtype), (values * weights).sum(dtype=dtype)))


class Sample:
    """Recognises the sample of the last call: guidance branches of one evaluation are given the same one."""

    def __init__(self) -> None:
        self._content: torch.Tensor | None = None
        self._shape: torch.Size | None = None

    def note(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Remember the sample of a call."""
        sample = first_tensor(args, kwargs)
        self._shape = None if sample is None else sample.shape
        self._content = None if sample is None else content_of(sample)

    def is_same(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call has the sample that was noted (one sync); True where none was."""
        sample = first_tensor(args, kwargs)
        if sample is None or self._content is None:
            return True
        return sample.shape == self._shape and bool((content_of(sample) == self._content).all())


class Continuity:
    """Tells from the samples of two evaluations whether the second can have come of the first.

    A step of a sampler keeps most of the latents, at first and last as well: their correlation is seldom
    below 0.5. The noise of another picture has none with them. Up to `_ELEMENTS` elements are compared;
    constant samples, and those of fewer than 16 elements, say nothing.
    """

    def __init__(self) -> None:
        self._values: torch.Tensor | None = None
        self._shape = torch.Size()
        self._least: float | None = None

    def note(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Remember the sample of the first call of an evaluation."""
        sample = first_tensor(args, kwargs)
        self._values = None if sample is None else _direction(sample)
        self._shape = torch.Size() if sample is None else sample.shape

    def is_broken(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call has a sample that no step can have made of the noted one (one sync).

        A step of few may keep little, so the first one of a run is judged more mildly than those after it,
        which are compared with the least that a step of this run kept.
        """
        sample = first_tensor(args, kwargs)
        if sample is None or self._values is None:
            return False
        if sample.shape[1:] != self._shape[1:]:
            return sample.dim() == len(self._shape)
        values = _direction(sample)
        if values is None or values.shape != self._values.shape or values.device != self._values.device:
            return False
        likeness = float((values * self._values).sum())
        # Without a direction the product is NaN.
        if math.isnan(likeness):
            return False
        limit = max(_UNRELATED, min(_CHANCES * values.numel() ** -0.5, _MOST_UNRELATED))
        if likeness < limit or (self._least is not None and likeness < _DROP * self._least):
            return True
        self._least = min(likeness, likeness if self._least is None else self._least)
        return False


class Conditioning:
    """The conditioning tensors of one run, by identity and by content."""

    def __init__(self) -> None:
        self._seen: list[tuple[weakref.ref[torch.Tensor], torch.Tensor]] = []

    def is_fresh(self, kwargs: Mapping[str, Any]) -> bool:
        """Note a call; whether it brings conditioning that was not seen, while all that was seen is gone.

        Loops that make the same tensor anew in every evaluation, or change between prompts that they hold, do
        not.
        """
        tensor = condition_of(kwargs)
        if tensor is None:
            return False
        for reference, _ in self._seen:
            if reference() is tensor:
                return False
        content = content_of(tensor)
        for i, (_, known) in enumerate(self._seen):
            if bool((known == content).all()):
                self._seen[i] = (weakref.ref(tensor), content)
                return False
        gone = bool(self._seen) and all(reference() is None for reference, _ in self._seen)
        self._seen.append((weakref.ref(tensor), content))
        return gone

    def restart(self, kwargs: Mapping[str, Any]) -> None:
        """A run opens with this call: forget the last one's."""
        self._seen = []
        self.is_fresh(kwargs)


class Observation:
    """The conditioning arguments of one run, by content: a robot's observation, a prompt, an image.

    A chunk of actions may be broken off and the next one begin in the middle of the noise levels (a warm
    start). Timesteps then go on as if nothing had happened, and samples of a few numbers say little; but the
    observation is another one. Features of the old one must not be used: that run is over.

    Args:
        on_unsteady: called with the position or name of an argument that turns out to change within a run.

    Attributes:
        changing: these arguments.
    """

    def __init__(self, on_unsteady: Callable[[str], None]) -> None:
        self.on_unsteady = on_unsteady
        self.changing: set[int | str] = set()
        self._known: dict[int | str, torch.Tensor] = {}
        # Argument -> evaluations in a row in which it was another one, None once it stayed the same.
        self._changes: dict[int | str, int | None] = {}

    def begin(self, args: Sequence[Any], kwargs: Mapping[str, Any], time: TimeArgument) -> None:
        """A run opens with this call."""
        self._known = {key: _sampled(value).clone() for key, value in self._arguments(args, kwargs, time)}

    def differs(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], time: TimeArgument, later: bool = True
    ) -> bool:
        """Whether a call is conditioned on something else than the run.

        One sync for each conditioning argument. An argument that changed in each of three evaluations in a
        row, and was never the same in two, tells nothing from then on.

        Args:
            args: positional arguments of the call.
            kwargs: keyword arguments of the call.
            time: where it has its timestep.
            later: whether it has another timestep than the last call, as the next evaluation of a run has.
        """
        other = False
        for key, value in self._arguments(args, kwargs, time):
            known, now = self._known.get(key), _sampled(value)
            # Another size is another branch, whose histories begin afresh.
            if known is None or known.shape != now.shape or known.device != now.device:
                continue
            if torch.equal(known, now):
                self._changes[key] = None
                continue
            changes = self._changes.get(key, 0)
            if changes is not None and later:
                changes = self._changes[key] = changes + 1
                if changes > _IN_A_ROW:
                    self.changing.add(key)
                    self.on_unsteady(str(key))
                    continue
            other = True
        return other

    def _arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], time: TimeArgument
    ) -> Iterator[tuple[int | str, torch.Tensor]]:
        """Position or name and value of the tensors beside sample and time; also those in a dict."""
        sample, moment = first_tensor(args, kwargs), time.argument(args, kwargs)
        for key, value in _flat((*enumerate(args), *kwargs.items())):
            if value.ndim > 1 and value is not sample and value is not moment and key not in self.changing:
                yield key, value


def _direction(sample: torch.Tensor) -> torch.Tensor | None:
    """Elements of the first item of a batch, (n,), without their mean and of length 1; None of too few."""
    values = sample.detach()[:1].flatten()
    if values.numel() < _FEWEST:
        return None
    values = values[:: max(1, values.numel() // _ELEMENTS)].to(torch.float32)
    values = values - values.mean()
    return values / values.norm()


def _flat(items: Iterable[tuple[int | str, Any]]) -> Iterator[tuple[int | str, torch.Tensor]]:
    """The tensors among arguments, and those in arguments that are dicts."""
    for key, value in items:
        if isinstance(value, torch.Tensor):
            yield key, value
        elif isinstance(value, dict):
            yield from ((f"{key}.{k}", part) for k, part in value.items() if isinstance(part, torch.Tensor))


def _sampled(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach()
    return plain if plain.numel() <= _MOST_ELEMENTS else plain.flatten()[:: plain.numel() // _MOST_ELEMENTS]
