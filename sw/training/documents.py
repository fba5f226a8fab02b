"""Documents to train on, and a tokenizer for them. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["open_tokenizer", "read_documents", "train_tokenizer"]

END_OF_TEXT = "<|endoftext|>"


def read_documents(path: Path) -> list[str]:
    """Documents of a text file, separated by lines ``<|endoftext|>`` (a file without any is one document)."""
    text = path.read_text(encoding="utf-8")
    return [d for d in (part.strip() for part in text.split(END_OF_TEXT)) if d]


def train_tokenizer(documents: list[str], vocab: int) -> Any:
    """Byte-level BPE tokenizer (`tokenizers.Tokenizer`) with ``<|endoftext|>`` as token 0, which it puts before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)])
    return tokenizer


def open_tokenizer(path: Path, documents: list[str], vocab: int) -> Any:
    """The tokenizer at ``path``, trained where there is none."""
    from tokenizers import Tokenizer

    if path.exists():
        return Tokenizer.from_file(str(path))
    tokenizer = train_tokenizer(documents, vocab)
    tokenizer.save(str(path))
    return tokenizer
