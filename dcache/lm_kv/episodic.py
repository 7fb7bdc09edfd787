"""EpiCache: one small cache for each episode of a conversation; a question gets that of its episode.

Kim et al. 2025, arXiv 2509.17396. The conversation's segments are embedded and put into clusters. For every
cluster the conversation is read in blocks, and after each block what the cluster's medoids attend to is kept.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch.nn import functional as F

from dcache.errors import DcacheError
from dcache.lm_kv.cache import KVCache
from dcache.lm_kv.model.families import decoder_of
from dcache.lm_kv.policies.kvzip import kvzip
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import make
from dcache.util.checks import check_whole, is_whole

# Texts, ids int64 `[T]` each -> their embeddings `[n, D]`.
Embed: TypeAlias = Callable[[Sequence[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class Episodes:
    """Caches of one conversation, one for each episode.

    Attributes:
        ids: int64 `[1, T]`, the conversation; what `generate` is given before a question.
        caches: of each episode; forks of them answer questions.
        centroids: float32 `[episodes, D]`.
        labels: the episode of each segment.
        medoids: of each episode, the indices of the segments nearest to its centroid, in order.
        embed: what embeds questions.
    """

    ids: torch.Tensor
    caches: tuple[KVCache, ...]
    centroids: torch.Tensor
    labels: tuple[int, ...]
    medoids: tuple[tuple[int, ...], ...]
    embed: Embed

    def nearest(self, question: torch.Tensor) -> int:
        """The episode whose centroid has the largest dot product with a question's embedding.

        Args:
            question: ids int64 `[T]` or `[1, T]`.

        Raises:
            DcacheError: it is something else.
        """
        if not isinstance(question, torch.Tensor) or question.dtype != torch.int64 or not question.numel():
            tensor = isinstance(question, torch.Tensor)
            what = f"{question.dtype} {tuple(question.shape)}" if tensor else repr(question)
            raise DcacheError(f"a question must be ids int64 [T] or [1, T], at least one, got {what}")
        return int((self.centroids @ embedded(self.embed, [question.flatten()])[0]).argmax())

    def cache(self, question: torch.Tensor) -> KVCache:
        """A cache for a question, which goes its own way; see `nearest`.

        Questions and answers are kept beside the budget: nothing is evicted any more but by `compress()`.
        """
        cache = self.caches[self.nearest(question)].fork()
        # As inside `hold()`, for good: a question's own eviction would read the whole text, not the medoids.
        cache._shared.holding += 1
        return cache

    @property
    def nbytes(self) -> int:
        """Bytes of all caches."""
        return sum(cache.nbytes for cache in self.caches)


def episodes(
    model: Any,
    segments: Sequence[torch.Tensor],
    budget: float,
    *,
    embed: Embed | None = None,
    policy: Policy | str | None = None,
    clusters: int | Sequence[int] = 4,
    medoids: int = 8,
    block: int = 2048,
) -> Episodes:
    """Read a conversation once for each of its episodes, and keep what matters to it.

    Args:
        model: a causal language model of transformers, or what wraps one.
        segments: the conversation's parts in order, ids int64 `[T]` each; four utterances each as published.
        budget: of every cache, as `KVCache` has it.
        embed: ids of texts -> their embeddings `[n, D]`; None for the mean of the model's input embeddings.
        policy: what is kept; it must read a text (its scorer probes). None for `kvzip` with a budget that the
            heads of each layer share, as published.
        clusters: how many episodes k-means looks for, which needs scikit-learn, 4 as published; or each
            segment's episode, from 0.
        medoids: segments of an episode, nearest to its centroid, that say what matters; 8 as published.
        block: tokens that are read between two evictions.

    Returns:
        The caches, and what chooses one for a question.

    Raises:
        DcacheError: an argument is outside its range, the policy reads no text, or scikit-learn is missing.

    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from dcache import lm_kv
    >>> config = LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
    ...     num_key_value_heads=2, intermediate_size=32, eos_token_id=None)
    >>> model = LlamaForCausalLM(config).eval()
    >>> turns = [torch.arange(start, start + 8) for start in (5, 30, 6, 31)]
    >>> memory = lm_kv.episodes(model, turns, 8, clusters=[0, 1, 0, 1], block=16)
    >>> memory.nearest(turns[3]), memory.caches[1].stats().kept
    (1, (8.0,))
    """
    texts = _checked(segments)
    check_whole("medoids", medoids, 1)
    check_whole("block", block, 1)
    chosen = _reading(policy)
    decoder = decoder_of(model)
    embeds = _mean_embedding(model) if embed is None else embed
    points = embedded(embeds, texts)
    groups = _kmeans(points, int(clusters)) if is_whole(clusters) else _given(clusters, len(texts))
    centroids = torch.stack([points[groups == i].mean(0) for i in range(int(groups.max()) + 1)])
    nearest = [_medoids(points, groups == i, centroid, medoids) for i, centroid in enumerate(centroids)]
    device = next(decoder.parameters()).device
    ids = torch.cat(texts)[None].to(device)
    prompts = [torch.cat([texts[i] for i in some])[None].to(device) for some in nearest]
    caches = tuple(_read(KVCache(model, chosen, budget=budget), ids, prompt, block) for prompt in prompts)
    return Episodes(ids, caches, centroids, tuple(groups.tolist()), tuple(nearest), embeds)


def embedded(embed: Embed, texts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Embeddings of length 1, float32 `[n, D]` on the CPU.

    Raises:
        DcacheError: the callable gave something else.
    """
    if not callable(embed):
        raise DcacheError(f"embed must be a function of a list of ids, or None, got {embed!r}")
    points = embed(texts)
    if not isinstance(points, torch.Tensor) or points.ndim != 2 or len(points) != len(texts):
        shape = tuple(points.shape) if isinstance(points, torch.Tensor) else type(points).__name__
        raise DcacheError(f"embed must return a tensor [{len(texts)}, D] for {len(texts)} texts, got {shape}")
    return F.normalize(points.detach().float().cpu(), dim=-1)


def _checked(segments: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    texts = list(segments) if isinstance(segments, Sequence | torch.Tensor) else []
    good = [isinstance(text, torch.Tensor) and text.dtype == torch.int64 and text.ndim == 1 for text in texts]
    if not texts or not all(good) or not all(len(text) for text in texts):
        raise DcacheError(
            "segments must be the conversation's parts, one tensor of ids int64 [T] each, none of them empty"
        )
    return texts


def _reading(policy: Policy | str | None) -> Policy:
    """The policy; by default KVzip's score with a budget for each layer, which its heads share freely."""
    if policy is None:
        return replace(kvzip(allocation="heads"), floor=0.0)
    chosen = make(policy) if isinstance(policy, str) else policy
    if not isinstance(chosen, Policy):
        raise DcacheError(f"policy must be an lm_kv.Policy or the name of one, got {chosen!r}")
    if not chosen.scorer.probes or chosen.reader is not None:
        raise DcacheError(
            f"{chosen.name} does not read the medoids, so all episodes would keep the same: choose a policy "
            "that reads a text, such as kvzip"
        )
    return chosen


def _mean_embedding(model: Any) -> Embed:
    table = model.get_input_embeddings()

    @torch.no_grad()
    def embed(texts: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([table(text.to(table.weight.device)).float().mean(0) for text in texts])

    return embed


def _given(clusters: Any, texts: int) -> torch.Tensor:
    """Labels int64 `[n]`."""
    labels = list(clusters) if isinstance(clusters, Sequence) else []
    numbers = sorted(set(labels)) if all(map(is_whole, labels)) else []
    if len(labels) != texts or numbers != list(range(len(numbers))):
        raise DcacheError(
            f"clusters must be a whole number, or {texts} of them from 0 and none left out, each segment's "
            f"episode; got {clusters!r}"
        )
    return torch.tensor(labels)


def _kmeans(points: torch.Tensor, number: int) -> torch.Tensor:
    """Labels int64 `[n]` by k-means, with the best of ten starts, as published."""
    check_whole("clusters", number, 1)
    if number > len(points):
        raise DcacheError(f"clusters must be at most the number of segments, {len(points)}, got {number}")
    if number == 1:
        return torch.zeros(len(points), dtype=torch.int64)
    if importlib.util.find_spec("sklearn") is None:
        raise DcacheError(
            "k-means needs scikit-learn: pip install scikit-learn, or give each segment's episode, such as "
            "clusters=[0, 0, 1]"
        )
    from sklearn.cluster import KMeans

    labels = KMeans(n_clusters=number, n_init=10, random_state=42).fit_predict(points.numpy())
    # Equal points leave clusters empty: those that there are become 0, 1 and so on.
    return torch.tensor(labels).unique(return_inverse=True)[1].long()


def _medoids(points: torch.Tensor, members: torch.Tensor, centroid: torch.Tensor, count: int) -> Any:
    """Indices of the members with the largest cosine with the centroid, in the conversation's order."""
    indices = members.nonzero()[:, 0]
    likeness = points[indices] @ F.normalize(centroid, dim=0)
    best = likeness.argsort(descending=True, stable=True)[:count]
    return tuple(sorted(indices[best].tolist()))


@torch.no_grad()
def _read(cache: KVCache, ids: torch.Tensor, prompt: torch.Tensor, block: int) -> KVCache:
    """Read the conversation in blocks; after each, keep what the prompt attends to."""
    for part in ids.split(block, 1):
        with cache.hold():
            cache.decoder(input_ids=part, past_key_values=cache, use_cache=True)
        cache.compress(context=prompt)
    return cache
