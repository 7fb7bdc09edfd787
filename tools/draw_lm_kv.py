"""Draw docs/pictures/lm_kv.png: what a cache keeps of a padded batch, and how it lies in memory.

    python tools/draw_lm_kv.py [PATH]

The model is the recall model of dcache.demo, the policy SnapKV with budgets shared by the heads of a layer.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from transformers import LlamaForCausalLM

from dcache import lm_kv
from dcache.demo.recall import task

ROOT = Path(__file__).parents[1]

TOKENS, PADS, WINDOW, LAYER = 49, 16, 6, 1
PAD, EVICTED, PACKED, TAIL = range(4)
COLOURS = ["#ffffff", "#e3e7ec", "#2f6fb0", "#f0a030"]
NAMES = ["pad", "evicted", "kept: a packed segment", "kept: the tail"]


@torch.no_grad()
def kept() -> list[tuple[str, np.ndarray]]:
    """Name of a row and head -> the state of each column after the prompt."""
    model = LlamaForCausalLM.from_pretrained(task.model_path()).eval()
    ids = task.recall_batch(TOKENS - 1, 12, 2, torch.Generator().manual_seed(3))[:, :TOKENS]
    mask = torch.ones_like(ids)
    mask[1, :PADS] = 0
    policy = lm_kv.snapkv(window=WINDOW, pool=1, allocation="heads")
    cache = lm_kv.KVCache(model, policy, budget=0.4)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    model(ids, attention_mask=mask, position_ids=positions, past_key_values=cache)
    store = cache.layers[LAYER].store
    runs = store.segments[0].positions.split(store.segments[0].sizes)
    states = []
    for run, positions in enumerate(runs):
        row, head = divmod(run, store.heads)
        pads = PADS if row else 0
        state = np.full(TOKENS, EVICTED)
        state[:pads] = PAD
        state[positions.numpy() + pads] = PACKED
        state[TOKENS - WINDOW :] = TAIL
        states.append((f"row {row}, head {head}", state))
    return states


def draw(path: Path) -> None:
    """Draw the columns as the text has them, and below as they lie in memory."""
    states = kept()
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[4, 3])
    cells(above, np.stack([state for _, state in states]), [name for name, _ in states])
    above.set_title("One layer after the prompt: columns of the text", loc="left", fontsize=10)
    packed(below, states)
    handles = [Patch(facecolor=c, edgecolor="#9aa4b0", label=n) for c, n in zip(COLOURS, NAMES, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def cells(axes: Axes, table: np.ndarray, names: list[str]) -> None:
    """One coloured cell for each slot."""
    axes.pcolormesh(table, cmap=ListedColormap(COLOURS), vmin=0, vmax=3, edgecolors="#ffffff", linewidth=1)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=9)
    axes.tick_params(length=0)
    axes.set_xticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def packed(axes: Axes, states: list[tuple[str, np.ndarray]]) -> None:
    """The segment's runs end to end, and the dense tail of both rows."""
    sizes = [int((state == PACKED).sum()) for _, state in states]
    total = sum(sizes)
    title = f"The same in memory: {total} packed tokens, runs end to end, and a dense tail"
    axes.set_title(title, loc="left", fontsize=10)
    draw_run(axes, 0.0, total, PACKED)
    start = 0
    for (name, _), size in zip(states, sizes, strict=True):
        axes.axvline(start, 0.62, 0.98, color="#ffffff", linewidth=3)
        axes.text(start + size / 2, 0.5, name, ha="center", va="center", color="#ffffff", fontsize=8)
        start += size
    for index, (name, _) in enumerate(states):
        left = index * (total - WINDOW) // (len(states) - 1)
        draw_run(axes, 1.6, WINDOW, TAIL, left)
        axes.text(left + WINDOW / 2, 2.1, name, ha="center", va="center", fontsize=8)
    axes.set_xlim(0, total)
    axes.set_ylim(2.7, -0.1)
    axes.axis("off")


def draw_run(axes: Axes, top: float, size: int, kind: int, left: int = 0) -> None:
    """A bar of so many slots."""
    for slot in range(size):
        place = (left + slot, top)
        axes.add_patch(Rectangle(place, 1, 1, facecolor=COLOURS[kind], edgecolor="#ffffff", linewidth=0.6))


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures" / "lm_kv.png")
