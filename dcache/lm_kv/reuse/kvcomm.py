"""KVCOMM: chunks are changed as others changed at the same places of earlier texts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from dcache.lm_kv.reuse.anchors import Anchor, alike, by_channel, by_token, changed
from dcache.lm_kv.reuse.method import Reuse, reuse
from dcache.util.checks import check_number, check_whole

if TYPE_CHECKING:
    from dcache.lm_kv.reuse.joining import Joining


@dataclass(frozen=True, eq=False)
class Text:
    """An earlier text.

    Attributes:
        template: digests of the parts that cannot change, the first one and new text; "" for the others.
        anchors: index of each other part -> its anchor.
    """

    template: tuple[str, ...]
    anchors: dict[int, Anchor]

    @property
    def uses(self) -> int:
        """How often its anchors were used."""
        return sum(anchor.uses for anchor in self.anchors.values())


@dataclass
class AnchorPool:
    """The anchors of earlier texts of one template.

    Attributes:
        threshold, most, window: see `kvcomm`.
        texts: the oldest first.
    """

    threshold: float
    most: int
    window: int
    texts: list[Text] = field(default_factory=list)

    def __call__(self, text: Joining) -> torch.Tensor:
        """Bool `[T]`: all chunks where one of them is like none that was seen at its place, else none."""
        none, places = torch.zeros_like(text.reused), text.movable
        if not places:
            return none
        known = [one.anchors for one in self.texts if one.template == _template(text)]
        varying = [n for n in places if any(one[n].name != text.spans[n].name for one in known)]
        known = [one for one in known if all(len(one[n]) >= len(places[n]) for n in varying)]
        seen = {n: (text.unturned(n), len(places[n]), [one[n] for one in known]) for n in places}
        if not known or not all(alike(*seen[n], self.threshold) for n in varying):
            return text.reused
        for n, chunk in places.items():
            before = [m for m in varying if m < n]
            # Fixed text changes with the varying chunk before it, if there is one.
            weigh = by_token(*seen[n]) if n in varying or not before else by_channel(*seen[before[-1]])
            text.place(text.spans[n], replace(chunk, states=changed(*seen[n], weigh)))
        return none

    def learn(self, text: Joining, tokens: torch.Tensor) -> None:
        """A text that was computed as a whole becomes an anchor; of the oldest the least used one goes."""
        if not text.movable or not bool(tokens.all()):
            return
        if len(self.texts) >= self.most:
            self.texts.remove(min(self.texts[: self.window], key=lambda one: one.uses))
        anchors = {n: Anchor(text.spans[n].name, text.unturned(n), text.change(n)) for n in text.movable}
        self.texts.append(Text(_template(text), anchors))


def _template(text: Joining) -> tuple[str, ...]:
    return tuple("" if n in text.movable else span.name for n, span in enumerate(text.spans))


@reuse
def kvcomm(threshold: float = 0.3, anchors: int = 20, window: int = 5) -> Reuse:
    """Reuse: change a chunk as others changed at its place of earlier texts, or compute the whole text.

    Ye et al. 2025 (arXiv 2510.12872), with the weights of its code: an anchor has a chunk's states by itself
    and what they had more in an earlier text; a new chunk gets the sum of these changes, weighed by
    softmax(-difference). Where the entropy of its likeness to the anchors is above `threshold` of the
    largest, or fewer than two are as long, the whole text is computed, and becomes an anchor.

    What this returns keeps the anchors: use one for all texts of a template. These begin with the same part,
    have as many, and the same new text at the same places.

    Args:
        threshold: share of the largest entropy up to which changes are shared, 0 to 1.
        anchors: texts that are kept, at least 2.
        window: of so many oldest ones the least used goes where there are more, at least 1.

    Raises:
        DcacheError: an option is outside its range.
    """
    check_number("threshold", threshold, 0.0, 1.0)
    check_whole("anchors", anchors, 2)
    check_whole("window", window, 1)
    pool = AnchorPool(threshold, anchors, window)
    return Reuse(rule=pool, learn=pool.learn)
