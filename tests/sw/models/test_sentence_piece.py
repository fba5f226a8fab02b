"""``tokenizer.model`` alone: ids and text of the library ``sentencepiece``, which trains the models here, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.models.sentence_piece import SentencePieces
from hwgen.sw.models.tokenizer_files import load_tokenizer

sentencepiece = pytest.importorskip("sentencepiece")

WORDS = [
    "once", "upon", "a", "time", "there", "was", "little", "cat", "who", "sat", "on", "the", "mat", "and", "looked", "at", "stars",
]

#: Fifty texts: sentences, numbers, spaces of every kind, other scripts, what no piece has, names of control tokens.
TEXTS = [
    *(" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(2, 3 + i % 9)) for i in range(25)),
    "", " ", "  ", "a", " a", "a ", "  two  spaces  ", "tabs\tand\nlines\n\n", "12345", "3.14159, 2.71828", "it's the cat's",
    "(a) [b] {c}", "CAPITALS", "MixedCase", "naïve café", "日本語のテキスト", "Привет, мир", "🙂 and 🚀🚀", "\N{NO-BREAK SPACE}x",
    "ﬁne ﬂour", "\N{ANGSTROM SIGN} A\N{COMBINING RING ABOVE}",
    "...!!!???", "a\u200bb", "unbelievably-hyphenated-words", "▁ is a character, too",
]

OPTIONS = [
    {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    {"model_type": "bpe", "byte_fallback": False},
    {"model_type": "unigram", "byte_fallback": True},
    {"model_type": "unigram", "add_dummy_prefix": False, "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
     "user_defined_symbols": ["cat", "<x>"]},
]


def train(path: Path, **options: Any) -> Any:
    text = [" ".join(WORDS[(i * k + 3 * k) % len(WORDS)] for k in range(1, 12)) + " café 12 ." for i in range(60)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_prefix=str(path / "tokenizer"), vocab_size=390 if options.get("byte_fallback") else 120,
        hard_vocab_limit=False, minloglevel=2, num_threads=1, character_coverage=1.0, **options,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(path / "tokenizer.model"))


@pytest.mark.parametrize("options", OPTIONS, ids=["llama", "bpe", "unigram", "unigram-symbols"])
def test_ids_and_text(options: dict[str, Any], tmp_path: Path) -> None:
    theirs = train(tmp_path, **options)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BitnetTokenizer"}))
    ours = load_tokenizer(tmp_path)
    assert len(TEXTS) == 50 and ours.size == theirs.get_piece_size() and ours.begin == theirs.bos_id()
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode_text(text) == ids, text
        if theirs.unk_id() not in ids:  # which decodes to nothing, as in transformers
            assert ours.decode(ids) == theirs.decode(ids), text
    assert ours.encode("the cat") == [theirs.bos_id(), *theirs.encode("the cat")]
    assert ours.names == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def test_control_tokens_that_somebody_types_are_text(tmp_path: Path) -> None:
    for options in OPTIONS[0], OPTIONS[1], OPTIONS[2]:
        train(tmp_path, **options)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({
            "add_bos_token": True, "chat_template": "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
        }))
        ids = load_tokenizer(tmp_path).encode_messages([{"role": "user", "content": "the </s> cat"}])
        assert ids[0] == 1 and 2 not in ids and len(ids) > 3


@pytest.mark.parametrize(("content", "options", "words"), [
    (None, {}, "does not say add_bos_token, and tokenizer_class is None"),
    (b"", {"add_bos_token": True}, "it has no pieces"), (b"\xff" * 40, {"add_bos_token": True}, "tokenizer.model: "),
    (b"hello, world", {"add_bos_token": True}, "tokenizer.model: "),
])
def test_refused(content: bytes | None, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    train(tmp_path, **OPTIONS[1])
    if content is not None:
        (tmp_path / "tokenizer.model").write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    with pytest.raises(HwgenError, match=words) as error:
        load_tokenizer(tmp_path)
    assert error.value.kind == "tokenizer" and error.value.fix and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["word", "char"])
def test_other_kinds(kind: str, tmp_path: Path) -> None:
    train(tmp_path, model_type=kind)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True}))
    with pytest.raises(HwgenError, match="is not supported; supported: unigram and BPE"):
        load_tokenizer(tmp_path)


def test_defaults_are_those_of_the_format() -> None:
    assert SentencePieces() == SentencePieces(
        pieces=[], unigram=True, byte_fallback=False, unknown=0, begin=1, end=2, prefix=True, trim=True, charsmap=b""
    )
