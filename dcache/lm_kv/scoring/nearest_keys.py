"""Keys with the largest dot products with a query: all of them looked at, or by a graph of an ANN library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.weak import WeakTensorKeyDictionary

from dcache.errors import DcacheError
from dcache.lm_kv.scoring.observers import State
from dcache.lm_kv.scoring.selectors import ByItself, Index
from dcache.util.distribution import install_line

# The serialized graphs of an index -> those of each run, which read them where they lie.
live_graphs: Any = WeakTensorKeyDictionary()


@dataclass(frozen=True)
class EveryKey(ByItself):
    """Dot products with all keys, where they lie."""

    page: ClassVar[int] = 1
    reads_attention: ClassVar[bool] = False
    reads_keys: ClassVar[bool] = True

    def index(self, keys: torch.Tensor, valid: torch.Tensor, state: State) -> Index:
        """Nothing: `keys` `[B, h, n, d]` come with the query."""
        return {}

    def products(self, query: torch.Tensor, index: Index) -> torch.Tensor:
        """Exact dot products."""
        keys = index["keys"]
        return (query.to(keys.device, keys.dtype) @ keys.mT).to(query.device, query.dtype)


@dataclass(frozen=True)
class KeyGraph(ByItself):
    """Dot products with keys that a walk over an HNSW graph finds, for each query head as many as are read.

    Graphs are faiss's, over the keys of each row and KV head, in host memory; a search reads them where they
    lie. Keys that are not found have -inf.

    Args:
        edges: of a key in the lowest layer, half as many above; at least 2.
        effort: keys that a walk remembers, at least; more are found for more work. At least 1.
    """

    edges: int = 32
    effort: int = 128
    page: ClassVar[int] = 1
    reads_attention: ClassVar[bool] = False

    def index(self, keys: torch.Tensor, valid: torch.Tensor, state: State) -> Index:
        """`graphs` uint8 `[B, h, bytes]`, serialized, with zeros behind; `extents` int64 `[B, h, 2]`.

        `extents` has each graph's bytes, and n, the slots of the longest run.
        """
        rows, heads, slots = keys.shape[:3]
        runs = zip(keys.flatten(0, 1), valid.flatten(0, 1), strict=True)
        graphs = [self._graph(run[there].float().cpu().numpy()) for run, there in runs]
        widest = max(graph.size for graph in graphs)
        padded = np.stack([np.pad(graph, (0, widest - graph.size)) for graph in graphs])
        sizes = torch.tensor([[graph.size, slots] for graph in graphs], device="cpu")
        return {
            "graphs": torch.from_numpy(padded).unflatten(0, (rows, heads)),
            "extents": sizes.unflatten(0, (rows, heads)),
        }

    def products(self, query: torch.Tensor, index: Index) -> torch.Tensor:
        """Exact dot products of what is found, -inf elsewhere."""
        faiss, runs = library(), _runs(index)
        rows, heads, group, _ = query.shape
        limits = index["limit"].repeat_interleave(heads).tolist()
        slots = int(index["extents"][0, 0, 1])
        found = np.full((rows * heads, group, slots), -np.inf, dtype=np.float32)
        asked = query.flatten(0, 1).float().cpu().numpy()
        for run, (graph, limit) in enumerate(zip(runs, limits, strict=True)):
            count = min(limit, graph.ntotal)
            if count:
                search = faiss.SearchParametersHNSW()
                search.efSearch = max(self.effort, count)
                near, places = graph.search(asked[run], count, params=search)
                there = places >= 0
                found[run, np.nonzero(there)[0], places[there]] = near[there]
        return torch.from_numpy(found).unflatten(0, (rows, heads)).to(query.device, query.dtype)

    def _graph(self, keys: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The serialized graph of keys `[n, d]`."""
        faiss = library()
        graph = faiss.IndexHNSWFlat(keys.shape[1], max(self.edges // 2, 1), faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = self.effort
        graph.add(keys)
        serialized: np.ndarray[Any, Any] = faiss.serialize_index(graph)
        return serialized


def library() -> Any:
    """The module faiss.

    Raises:
        DcacheError: it is not installed; the message has the line that installs it.
    """
    try:
        import faiss
    except ImportError:
        raise DcacheError(
            f"a search by graphs needs faiss-cpu: {install_line('ann')}. Or search exactly: search='exact'."
        ) from None
    return faiss


def _runs(index: Index) -> list[Any]:
    """The graphs of an index, one for each row and KV head; what was read once is read no more."""
    graphs = index["graphs"]
    if graphs not in live_graphs:
        faiss = library()
        host = graphs.flatten(0, 1).cpu().numpy()
        readers = [
            faiss.ZeroCopyIOReader(faiss.swig_ptr(run[:size]), size)
            for run, size in zip(host, index["extents"][..., 0].flatten().tolist(), strict=True)
        ]
        # Readers and bytes stay alive with the graphs, which point into them.
        live_graphs[graphs] = ([faiss.read_index(reader) for reader in readers], readers, host)
    runs: list[Any] = live_graphs[graphs][0]
    return runs
