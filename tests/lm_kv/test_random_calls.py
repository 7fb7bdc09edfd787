"""Random calls and changes of a padded batch: every row goes on as a cache of its own, and bytes are true."""

import inspect
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from dcache import DcacheError, DcacheWarning, lm_kv
from dcache.lm_kv.layers.figures import tensors_of
from dcache.util.bytes import bytes_of
from tests.lm_kv.language_models import llama

# Options so small that short texts are evicted, indexed and encoded often.
SMALL: dict[str, Any] = {
    "sinks": 1, "window": 2, "every": 3, "page": 2, "residual": 4, "group": 4, "queries": 4, "history": 8,
    "codes": 4, "distance": 4, "rank": 6, "value_rank": 6, "channels": 6, "start": 1, "again": 2,
}  # fmt: skip
FAST = (
    "d2o",
    "h2o",
    "keydiff",
    "kivi",
    "kvzip",
    "quest",
    "snapkv",
    "streaming_llm",
    "tidal_decode",
    "zipcache",
)
# Sums in float32, of which the order differs.
TOLERANCE = 1e-5
MODEL = cache(lambda: llama(4).double())


def policy(name: str) -> tuple[Any, dict[str, Any]]:
    """A preset with small options, and the budget."""
    preset: Any = getattr(lm_kv, name)
    known = inspect.signature(preset).parameters
    made = preset(**{option: value for option, value in SMALL.items() if option in known})
    return made, {} if made.budget is not None else {"budget": 9}


@dataclass
class Batch:
    """A cache of several rows beside one cache for each row."""

    whole: lm_kv.KVCache
    single: list[lm_kv.KVCache]
    mask: torch.Tensor
    random: random.Random
    folder: Path
    done: list[str] = field(default_factory=list)

    @torch.no_grad()
    def call(self, columns: int) -> None:
        """A prompt with pads in front of its rows, or one token of each row."""
        rows, generator = len(self.single), torch.Generator().manual_seed(self.random.randrange(1000))
        valid = torch.ones(rows, columns, dtype=torch.long)
        for row in valid:
            row[: self.random.randint(0, columns // 2)] = 0
        ids = torch.randint(2, 97, (rows, columns), generator=generator)
        self.mask = torch.cat([self.mask, valid], 1)
        places = (self.mask.cumsum(1) - 1).clamp_min(0)[:, -columns:]
        given = {"attention_mask": self.mask, "position_ids": places, "past_key_values": self.whole}
        logits = MODEL()(ids, **given).logits
        for row, own in enumerate(self.single):
            there = valid[row].bool()
            alone = {"position_ids": places[row, there][None], "past_key_values": own}
            expected = MODEL()(ids[row, there][None], **alone).logits[0]
            torch.testing.assert_close(logits[row, there], expected, atol=TOLERANCE, rtol=0, msg=self.said)

    def said(self, message: str) -> str:
        return f"{self.done}: {message}"

    def prompt(self) -> None:
        self.call(self.random.randint(8, 14))

    def token(self) -> None:
        self.call(1)

    def crop(self) -> None:
        """A batch takes back what all its rows can; rows by themselves may have more."""
        count = self.random.randint(1, 3)
        if self.mask[:, -count:].all():
            try:
                self.whole.crop(-count)
            except DcacheError:
                return
            for own in self.single:
                own.crop(-count)
            self.mask = self.mask[:, :-count]

    def reorder(self) -> None:
        rows = [self.random.randrange(len(self.single)) for _ in self.single]
        self.whole.reorder_cache(torch.tensor(rows))
        self.single, self.mask = [self.single[row].fork() for row in rows], self.mask[rows]

    def select(self) -> None:
        rows = self.random.sample(range(len(self.single)), max(1, len(self.single) - 1))
        self.whole.batch_select_indices(torch.tensor(rows))
        self.single, self.mask = [self.single[row] for row in rows], self.mask[rows]

    def fork(self) -> None:
        self.whole = self.whole.fork()

    def save(self) -> None:
        self.whole = lm_kv.KVCache.load(self.whole.save(self.folder / "cache.safetensors"), MODEL())

    def compress(self) -> None:
        for one in (self.whole, *self.single):
            one.compress()

    def check(self) -> None:
        """Rows hold what they hold alone, and bytes are those of the tensors."""
        alone = [own.stats().kept[0] for own in self.single]
        assert self.whole.stats().kept == pytest.approx(alone), self.done
        held = [tensor for layer in self.whole.layers for tensor in layer.storages()]
        # A storage without bytes, of a file, begins where the next one does.
        storages = [tensor.untyped_storage() for tensor in held]
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}
        # The text that policies with a probe remember is counted beside the layers.
        text = bytes_of(tensors_of(self.whole._text))
        assert self.whole.nbytes == self.whole.stats().bytes_held == sum(sizes.values()) + text, self.done


def check_random_calls(name: str, seed: int, folder: Path) -> None:
    chosen, budget = policy(name)
    drawn = random.Random(seed)
    rows = drawn.choice([2, 3])
    whole, *single = (lm_kv.KVCache(MODEL(), chosen, **budget) for _ in range(rows + 1))
    batch = Batch(whole, single, torch.zeros(rows, 0, dtype=torch.long), drawn, folder)
    changes: list[Callable[[], None]] = [
        batch.prompt, batch.token, batch.token, batch.token, batch.crop, batch.reorder, batch.select,
        batch.fork, batch.save, batch.compress,
    ]  # fmt: skip
    for change in (batch.prompt, batch.token, *drawn.choices(changes, k=8)):
        batch.done.append(change.__name__)
        change()
        batch.check()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FAST)
def test_rows_go_on_as_by_themselves(name, seed, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DcacheWarning)
        check_random_calls(name, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(lm_kv.available("policy")))
def test_more_policies(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DcacheWarning)
        for seed in range(3, 8):
            check_random_calls(name, seed, tmp_path)
