"""Folders of language models: what is missing in one is said before transformers reads it."""

from __future__ import annotations

from pathlib import Path

from dcache.errors import DcacheError

# How the names of a tokenizer's files begin, and how those of SentencePiece end.
TOKENIZERS = ("tokenizer", "vocab", "merges")
SENTENCEPIECE = ".model"


def check_folder(name: str) -> None:
    """Check that a folder has a model's config and a tokenizer; an id of the hub passes.

    Args:
        name: what was named on the command line.

    Raises:
        DcacheError: there is no such folder, or a file is missing in it.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        # Ids of the hub have at most one slash, and do not begin with it.
        if folder.is_absolute() or name.startswith((".", "~")) or len(folder.parts) > 2:
            raise DcacheError(f"there is no folder {name}: give one that has a model and its tokenizer")
        return
    files = [path.name for path in folder.iterdir()]
    if "config.json" not in files:
        raise DcacheError(
            f"{name} has no config.json, so no model: give the folder that model.save_pretrained wrote"
        )
    if not any(file.startswith(TOKENIZERS) or file.endswith(SENTENCEPIECE) for file in files):
        raise DcacheError(
            f"{name} has a model and no tokenizer: write it there too, tokenizer.save_pretrained({name!r})"
        )
