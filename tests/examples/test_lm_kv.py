"""The examples of lm_kv run, with a tiny model that is read from a folder as a user's would be."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

FOLDER = Path(__file__).parents[2] / "examples" / "lm_kv"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of two layers and a tokenizer of single words."""
    texts = " ".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py"))
    words = ["[PAD]", "[UNK]", *sorted({word for word, _ in Whitespace().pre_tokenize_str(texts)})]
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    folder = tmp_path_factory.mktemp("model")
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def run(name: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(model)])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")


def test_the_guide_has_every_example_and_they_are_short() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in SCRIPTS:
        assert f"[{name}.py]({name}.py)" in text
        assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 40


def test_a_padded_batch(model, monkeypatch, capsys) -> None:
    run("generate", model, monkeypatch)
    printed = capsys.readouterr().out
    # 80 and 40 tokens, and 16 new ones of which the last is not stored; a quarter is kept of the former.
    assert re.search(r"tokens seen +95, 55", printed)
    assert re.search(r"kept per head +35\.0, 25\.0", printed)


def test_turns(model, monkeypatch, capsys) -> None:
    run("turns", model, monkeypatch)
    answers = [line for line in capsys.readouterr().out.splitlines() if len(line.split()) == 8]
    assert len(answers) >= 2


def test_few_bits(model, monkeypatch, capsys) -> None:
    run("few_bits", model, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    shares = [float(line[9:15].rstrip("%")) for line in lines]
    assert [line[:9].strip() for line in lines] == ["evicted", "4 bits", "both"]
    assert shares[2] < min(shares[:2]) < 100.0


def test_a_cache_is_kept(model, monkeypatch, capsys) -> None:
    run("keep", model, monkeypatch)
    size, *answers = capsys.readouterr().out.splitlines()
    assert " bytes on disk, " in size
    assert [len(answer.split()) for answer in answers] == [4, 4]
