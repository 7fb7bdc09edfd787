"""Models with their prompts: the shipped ones, and a folder that answers questions."""

from pathlib import Path

import pytest
import torch

from dcache.demo.texts import acrostic, mirror
from dcache.errors import DcacheError
from dcache.eval.diffusion_lm import subject as subjects
from dcache.eval.diffusion_lm.random_model import prompts, random_subject
from dcache.eval.diffusion_lm.settings import RowSettings
from dcache.eval.diffusion_lm.subject import load


@pytest.mark.parametrize("task", [mirror, acrostic], ids=["mirror", "acrostic"])
def test_shipped_texts_are_scored_by_the_row(task) -> None:
    subject = load(task.NAME)
    (batch,) = subject.batches(3, 0)
    assert batch.ids.shape == (3, task.PROMPT)
    assert (subject.new, subject.temperature) == (task.ANSWER, 1.0)
    right = task.texts(3, torch.Generator().manual_seed(0))
    right[1, -1] = right[1, task.PROMPT] = task.MASK
    scores = batch.scores(right)
    assert scores[::2] == [1.0, 1.0]
    assert scores[1] < 1
    assert task.score(right) == pytest.approx(sum(scores) / 3)


def test_a_mirrored_text_has_all_digits_in_place() -> None:
    ids = torch.tensor([[11, *range(8), *range(7, -1, -1)], [11, *range(8), *range(8)]])
    assert mirror.scores(ids) == [1.0, 0.0]
    assert mirror.text_of(ids[0]) == "^0123456776543210"


def test_a_word_counts_where_it_is_known_and_begins_with_its_initial() -> None:
    words = "the and for are any"
    assert acrostic.scores(_acrostic("taafa", words)) == [0.6]
    assert acrostic.scores(_acrostic("tafaa", words)) == [1.0]
    assert acrostic.scores(_acrostic("tafaa", words + " the")) == [pytest.approx(5 / 6)]


def _acrostic(initials: str, words: str) -> torch.Tensor:
    text = initials + "=" + words.ljust(acrostic.ANSWER, ".")
    return torch.tensor([[acrostic.CHARACTERS.index(character) for character in text]])


class Tokenizer:
    """A tokenizer of characters."""

    chat_template, mask_token_id = None, 5

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}


def test_other_models_are_asked_for_what_their_prompts_say() -> None:
    first, second = subjects._questions(Tokenizer(), 2, 100, "cpu")
    assert first.ids.tolist() != second.ids.tolist()
    text = "".join(map(chr, first.ids[0].tolist()))
    name = text.rpartition("The secret code of ")[2].removesuffix(" is")
    code = text.partition(f"The secret code of {name} is ")[2][:5]
    answer = torch.tensor([[*first.ids[0].tolist(), *map(ord, f" {code} and more")]])
    assert first.scores(answer) == [1.0]
    answer[0, first.ids.shape[1] + 2] += 1
    assert first.scores(answer) == [0.0]


def test_a_folder_is_loaded_with_its_head(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=30, **small)).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    subject = load(str(tmp_path), dtype="bfloat16")
    assert type(subject.model).__name__ == "BertForMaskedLM"
    assert subject.model.dtype == torch.bfloat16
    assert subject.mask_id == 4
    assert len(subject.batches(2, 40)) == 2


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DcacheError, match="Expected mirror, acrostic, a folder"):
        load(str(tmp_path))
    with pytest.raises(DcacheError, match="there is no folder /nowhere"):
        load("/nowhere")


def test_shipped_texts_have_one_length() -> None:
    subject = load("mirror")
    assert RowSettings(new=16).of(subject).new == RowSettings().of(subject).new == 16
    with pytest.raises(DcacheError, match="new must be 16 for mirror, whose texts are of one length, got 3"):
        RowSettings(new=3).of(subject)


def test_random_prompts_have_no_mask_token() -> None:
    subject = random_subject(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, vocab_size=40, mask_token_id=39
    )
    ids = prompts(subject, 3)
    assert ids.shape == (3, 128)
    assert int(ids.max()) < 39
