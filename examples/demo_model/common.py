"""What the training scripts share: resumable runs with averaged weights, and the pictures."""

import copy
import math
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5Tokenizer

from dcache.demo import pictures
from dcache.util.files import write


class Average:
    """An exponential moving average of a module's weights, which forgets faster at the beginning."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards `module`'s weights; `step` counts from zero."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        mine, theirs = list(self.module.parameters()), list(module.parameters())
        torch._foreach_lerp_(mine, [p.detach() for p in theirs], weight)
        for average, current in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(current)


class Run:
    """A module in training. A killed run goes on from its file, at step `first`."""

    def __init__(
        self, file: Path, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], decay: float
    ) -> None:
        self.file, self.module, self.optimizers = file, module, optimizers
        self.average = Average(module, decay)
        self.threads = ThreadPoolExecutor(2)
        self.first = 0
        self.usual_norm = 0.5
        if state := load(file):
            self.first = state["step"]
            module.load_state_dict(state["model"])
            self.average.module.load_state_dict(state["average"])
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)

    def gradients(self, pieces: Sequence[Callable[[], Tensor]]) -> float:
        """Set the gradients of the pieces' mean loss, and return that loss.

        Whichever thread is free takes the next piece, so that a core busy with other work holds up none.
        """
        parameters = [p for p in self.module.parameters() if p.requires_grad]

        def differentiate(piece: Callable[[], Tensor]) -> tuple[float, list[Tensor]]:
            loss = piece() / len(pieces)
            return loss.item(), list(torch.autograd.grad(loss, parameters))

        (total, sums), *others = self.threads.map(differentiate, pieces)
        for loss, gradients in others:
            total += loss
            torch._foreach_add_(sums, gradients)
        for parameter, gradient in zip(parameters, sums, strict=True):
            parameter.grad = gradient
        return total

    def update(self, step: int, share: float) -> None:
        """Descend one step, at the share of the peak rates that the optimizers were made with."""
        # A limit that follows the usual norm keeps one unusual batch from steering.
        limit = min(1.0, 2 * self.usual_norm)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), limit).item()
        self.usual_norm += 0.05 * (min(norm, 2 * self.usual_norm) - self.usual_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * group.setdefault("peak", group["lr"])
        list(self.threads.map(lambda optimizer: optimizer.step(), self.optimizers))
        self.average.update(self.module, step)

    def save(self, done: int) -> None:
        """Keep everything that going on after `done` steps needs."""
        weights = {"model": self.module.state_dict(), "average": self.average.module.state_dict()}
        save(self.file, weights | {"optimizers": [o.state_dict() for o in self.optimizers], "step": done})


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` so that a reader never sees half a file."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def save_half(module: nn.Module, path: Path) -> None:
    """Write the module's weights as safetensors, its floats as float16."""
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in module.state_dict().items()
    }
    write(path, lambda temporary: save_file(weights, temporary))


def load(path: Path) -> dict[str, Any] | None:
    """Read what `save` wrote, or None where nothing has been saved yet."""
    return torch.load(path, weights_only=True) if path.exists() else None


def rate(step: int, steps: int, *, warmup: int, decay_from: float = 0.0) -> float:
    """The share of the peak rate: a warm-up, a plateau until `decay_from`, then a half cosine to zero."""
    progress = (step / steps - decay_from) / (1 - decay_from)
    decayed = 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return max(1e-4, min(1.0, (step + 1) / warmup) * decayed)


def word_tokenizer(texts: Iterable[str], length: int) -> T5Tokenizer:
    """One token per word of these texts; any other word becomes <unk>. Prompts have up to `length` tokens."""
    words = sorted({word for text in texts for word in text.split()})
    special = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    vocab = special + [("▁", -20.0)] + [(f"▁{word}", -1.0) for word in words]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=length)


def muon_and_adam(
    module: nn.Module, inner: Collection[str], muon_rate: float, adam_rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices named `inner`, in two halves for two threads; AdamW for everything else."""
    named = dict(module.named_parameters())
    matrices = [named[name] for name in sorted(inner)]
    rest = [parameter for name, parameter in named.items() if name not in inner]
    muons = [
        torch.optim.Muon(half, muon_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        for half in (matrices[::2], matrices[1::2])
    ]
    return [*muons, torch.optim.AdamW(rest, adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]


def averaged(path: Path, module: nn.Module) -> tuple[int, Average]:
    """The step and the averaged weights, in this module, of the run that left `path`."""
    state = load(path)
    if state is None:
        raise SystemExit(f"there is no {path.name} in {path.parent}: run train_model.py first")
    average = Average(module, 0.0)
    average.module.load_state_dict(state["average"])
    return int(state["step"]), average


def replace_model(pipe: Any, folder: Path) -> None:
    """Write the pipeline in the place of a model folder, in one swap; the folder's README stays."""
    fresh, old = folder.with_name(".model.new"), folder.with_name(".model.old")
    # A component that was loaded knows from where: that is nobody else's business.
    pipe.vae.register_to_config(_name_or_path="")
    shutil.rmtree(fresh, ignore_errors=True)
    pipe.save_pretrained(fresh, max_shard_size="8MB")
    for file in fresh.rglob("*.safetensors"):
        file.chmod(0o644)
    if (card := folder / "README.md").exists():
        shutil.copy(card, fresh)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def to_tensor(images: Any) -> Tensor:
    """Turn uint8 (N, H, W, 3) into floats (N, 3, H, W) in [-1, 1], channels last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def roughen(x: Tensor) -> Tensor:
    """Noise, a slight blur and a change of brightness, differing from picture to picture; x in [0, 1]."""
    blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    x = torch.lerp(x, blurred, torch.rand(len(x), 1, 1, 1) * 0.7)
    x = x * (0.95 + 0.1 * torch.rand(len(x), 1, 1, 1))
    return x + torch.rand(len(x), 1, 1, 1) * 0.05 * torch.randn(x.shape)


def classification_loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy, summed over the attributes: logits (N, number of values) of each, labels (N, 6)."""
    losses = [F.cross_entropy(*pair) for pair in zip(logits, labels.unbind(1), strict=True)]
    return torch.stack([loss.float() for loss in losses]).sum()


def drawn(count: int, seed: int, *, unseen: bool | None = False) -> tuple[list[pictures.Caption], Any]:
    """Draw `count` captions (by default none held out) and a picture of each, uint8 (count, 64, 64, 3)."""
    rng = np.random.default_rng(seed)
    captions = pictures.sample_captions(count, rng, unseen=unseen)
    parts = [pictures.render(captions[i : i + 256], rng) for i in range(0, count, 256)]
    return captions, np.concatenate(parts)


@torch.no_grad()
def clip_accuracy(
    model: nn.Module, tokenizer: Callable[[list[str]], Tensor], images: Any, captions: list[pictures.Caption]
) -> tuple[float, float]:
    """How often a CLIP finds a picture's caption: among nine random others, and among its 29 neighbours.

    `images` are uint8 (N, 64, 64, 3); the model wants them in [-1, 1].
    """
    drawn_by_lot = pictures.sample_captions(9 * len(captions), np.random.default_rng(0))
    random = [drawn_by_lot[i : i + 9] for i in range(0, len(drawn_by_lot), 9)]
    near = [pictures.neighbours(caption) for caption in captions]
    seen = F.normalize(model.encode_image(to_tensor(images)), dim=-1)
    shares = []
    for others in (random, near):
        right = 0
        for caption, wrong, features in zip(captions, others, seen, strict=True):
            texts = [caption.text, *(other.text for other in wrong if other != caption)]
            said = F.normalize(model.encode_text(tokenizer(texts)), dim=-1)
            mine, *theirs = (said @ features).tolist()
            right += all(mine > other for other in theirs)
        shares.append(right / len(captions))
    return shares[0], shares[1]


def log(text: str) -> None:
    """Print a line with the time of day."""
    print(time.strftime("%H:%M:%S"), text, flush=True)
