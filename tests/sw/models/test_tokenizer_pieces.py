"""Flags of tokens: which are control tokens, which are cut out of a text first, and where they end up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.models import sentence_piece
from hwgen.sw.models.gguf_tokenizer import stop_tokens, tokenizer_from_gguf
from hwgen.sw.models.sentence_piece import (
    CONTROL,
    NORMAL,
    USER_DEFINED,
    Piece,
    SentencePieces,
    _fields,
    _is_whole,
    _parse,
    build_tokenizer,
)
from hwgen.sw.models.tokenizer import TextStream, Tokenizer, put_ends
from hwgen.sw.models.tokenizer_files import load_tokenizer

lib = pytest.importorskip("tokenizers")

#: A control token, one that is cut out first, letters, and words.
PIECES = [
    Piece("<unk>", 0, 2), Piece("<s>", 0, CONTROL), Piece("</s>", 0, CONTROL), Piece("▁", -9), Piece("a", -8), Piece("b", -8),
    Piece("▁a", -3), Piece("ab", -2), Piece("▁ab", -1), Piece("<X>", 0, USER_DEFINED), Piece("bb", -7),
]


def sentence(**options: Any) -> Any:
    first_only = options.pop("first_only", False)
    said = SentencePieces(**{"pieces": PIECES[:9], "unigram": True, "trim": False} | options)
    return build_tokenizer(said, first_only=first_only)


@pytest.mark.parametrize("unigram", [True, False])
def test_control_tokens_of_sentence_piece(unigram: bool) -> None:
    """They are left out of a text that is decoded; tokens that are cut out first are not."""
    inner = sentence(unigram=unigram)
    added = {token.content: (token.special, token.normalized) for token in inner.get_added_tokens_decoder().values()}
    assert added == {"<s>": (True, False), "</s>": (True, False)}
    ids = [1, *inner.encode("ab a", add_special_tokens=False).ids, 2]
    assert inner.decode(ids, skip_special_tokens=True) == "ab a"
    assert inner.decode(ids, skip_special_tokens=False).startswith("<s>")
    both = sentence(unigram=unigram, pieces=PIECES)
    added = {token.content: (token.special, token.normalized) for token in both.get_added_tokens_decoder().values()}
    assert added["<X>"] == (False, False)
    ids = both.encode("ab<X>a", add_special_tokens=False).ids
    assert 9 in ids and "<X>" in both.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(("options", "text", "tokens"), [
    ({}, "ab", ["▁ab"]), ({"prefix": False}, "ab", ["ab"]), ({"trim": True}, "  ab  a ", ["▁ab", "▁a"]),
    ({}, "a ab", ["▁a", "▁ab"]),
    ({"first_only": True}, "ab a", ["▁ab", "▁a"]), ({"first_only": True, "prefix": False}, "ab a", ["ab", "▁a"]),
    ({"unigram": False}, "ab", ["▁ab"]),
])
def test_spaces(options: dict[str, Any], text: str, tokens: list[str]) -> None:
    assert sentence(**options).encode(text, add_special_tokens=False).tokens == tokens


def test_better_pieces_win() -> None:
    """By unigram probabilities; by merges the one whose piece has the better score first."""
    pieces = [*PIECES[:6], Piece("ba", -1.0), Piece("ab", -2.0), Piece("x", 0.0, NORMAL)]
    assert sentence(pieces=pieces, unigram=False, prefix=False).encode("aba", add_special_tokens=False).tokens == ["a", "ba"]
    pieces[6], pieces[7] = Piece("ba", -2.0), Piece("ab", -1.0)
    assert sentence(pieces=pieces, unigram=False, prefix=False).encode("aba", add_special_tokens=False).tokens == ["ab", "a"]


@pytest.mark.parametrize("least", [-1.0, 1.0])
def test_pieces_that_no_text_is_cut_into(least: float) -> None:
    """Whatever the scores of others, and however good their own."""
    pieces = [Piece("<unk>", least, 2), Piece("a", least), Piece("b", least), Piece("ab", 5.0, 5), Piece("ba", 5.0, 6)]
    inner = sentence(pieces=pieces, prefix=False)
    assert inner.encode("abab", add_special_tokens=False).ids == [1, 2, 1, 2]
    assert inner.encode("ab" * 9, add_special_tokens=False).ids == [1, 2] * 9


def test_kinds_of_pieces_are_those_of_gguf() -> None:
    theirs = pytest.importorskip("gguf").TokenType
    assert {kind.name: int(kind) for kind in theirs} == {kind.name: getattr(sentence_piece, kind.name) for kind in theirs}


# ---- messages of Protocol Buffers ------------------------------------------------------------------------------------
def varint(value: int) -> bytes:
    out = bytearray()
    value %= 1 << 64
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def model(trainer: bytes = b"", normalizer: bytes = b"", pieces: int = 3) -> bytes:
    said = b"".join(field(1, field(1, f"p{i}".encode()) + field(3, 1 + (i == 0))) for i in range(pieces))
    return said + field(2, trainer) + field(3, normalizer)


def test_fields_of_a_message() -> None:
    data = field(1, 0) + field(2, 127) + field(3, 128) + field(16, 1 << 40) + field(40, -1) + field(5, b"abc")
    data += varint(6 << 3 | 5) + b"1234" + varint(7 << 3 | 1) + b"12345678"
    expected = [(1, 0), (2, 127), (3, 128), (16, 1 << 40), (40, -1), (5, b"abc"), (6, b"1234"), (7, b"12345678")]
    assert list(_fields(data)) == expected
    for wrong in (varint(1 << 3 | 3), varint(6 << 3 | 5) + b"123", varint(5 << 3 | 2) + varint(4) + b"abc"):
        with pytest.raises(ValueError, match="no message"):
            list(_fields(wrong))


@pytest.mark.parametrize(("trainer", "normalizer", "expected"), [
    (b"", b"", {}), (field(3, 2), b"", {"unigram": False}), (field(35, 1), b"", {"byte_fallback": True}),
    (field(40, 1) + field(41, -1) + field(42, 0), b"", {"unknown": 1, "begin": -1, "end": 0}),
    (b"", field(3, 0), {"prefix": False}),
    (b"", field(4, 0), {"trim": False}),
])
def test_what_a_model_says(trainer: bytes, normalizer: bytes, expected: dict[str, Any]) -> None:
    said = _parse(model(trainer, normalizer))
    assert [piece.text for piece in said.pieces] == ["p0", "p1", "p2"] and [piece.kind for piece in said.pieces] == [2, 1, 1]
    usual = {"unigram": True, "byte_fallback": False, "unknown": 0, "begin": 1, "end": 2, "prefix": True, "trim": True}
    assert {name: getattr(said, name) for name in usual} == usual | expected


@pytest.mark.parametrize(("data", "message"), [
    (model(field(3, 3)), "its kind 3 is not supported"), (model(field(24, 1)), "spaces stand behind words"),
    (model(normalizer=field(5, 0)), "does not escape spaces"), (model(pieces=0), "it has no pieces"),
    (model(field(40, 3)), "no piece for what is unknown"), (model(field(40, -1)), "no piece for what is unknown"),
    (model(normalizer=field(2, b"abc")), "replacements of characters are damaged"), (model(field(40, b"x")), "are no numbers"),
    (model() + field(1, field(1, b"u") + field(3, 4)), "trims spaces and has pieces"),
])
def test_models_that_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _parse(data)
    assert _parse(model(field(40, 2))).unknown == 2


def test_compiled_replacements() -> None:
    """A double array in blocks of 256 units, behind its size: no unit may point beyond it, no value beyond the texts."""
    def charsmap(units: dict[int, int], texts: bytes = b"ab\0", size: int = 1024, count: int = 256) -> bytes:
        array = [units.get(i, 0) for i in range(count)]
        return size.to_bytes(4, "little") + b"".join(unit.to_bytes(4, "little") for unit in array) + texts

    assert _is_whole(charsmap({})) and _is_whole(charsmap({5: 1 << 31 | 2})) and not _is_whole(charsmap({5: 1 << 31 | 3}))
    assert not _is_whole(charsmap({5: 256 << 10})) and _is_whole(charsmap({5: 255 << 10}))
    assert not _is_whole(charsmap({}, size=1028))
    assert not _is_whole(charsmap({}, size=0)) and not _is_whole(charsmap({}, size=2048)) and _is_whole(charsmap({}, b""))
    assert not _is_whole(charsmap({5: 1 << 10 | 0x200})), "an offset that is shifted by eight bits"


# ---- GGUF and files --------------------------------------------------------------------------------------------------
class File:
    path = Path("m.gguf")

    def __init__(self, **fields: Any) -> None:
        letters = [chr(c) for c in range(ord("a"), ord("f"))]
        self.fields = {
            "model": "gpt2", "pre": "gpt-2", "tokens": [*letters, "ab", "<end>", "<|im_end|>", "<Y>"], "merges": ["a b"],
            "token_type": [1, 1, 1, 1, 1, 1, 3, 3, 4], **fields,
        }

    def get(self, name: str, default: Any = None) -> Any:
        value = self.fields.get(name.removeprefix("tokenizer.ggml."))
        return default if value is None else value

    require = get

    def listed(self, name: str, kind: type, default: Any = None) -> Any:
        return self.get(name, default)

    token_id = get


def of_gguf(**fields: Any) -> Tokenizer:
    file: Any = File(**fields)
    return tokenizer_from_gguf(file)


def test_tokens_of_a_gguf_file() -> None:
    made = of_gguf()
    added = {t.content: (t.special, t.normalized) for t in made._inner.get_added_tokens_decoder().values()}
    assert added == {"<end>": (True, False), "<|im_end|>": (True, False), "<Y>": (False, False)}
    assert made.encode("ab<Y>c") == [5, 8, 2] and made.decode([0, 6, 8, 7]) == "a<Y>" and made.begin is None
    assert of_gguf(bos_token_id=6, add_bos_token=True).encode("a") == [6, 0] and of_gguf(bos_token_id=6).encode("a") == [0]
    both = of_gguf(bos_token_id=6, eos_token_id=7, add_bos_token=True, add_eos_token=True)
    assert both.encode("a") == [6, 0, 7] and both.names == {"bos_token": "<end>", "eos_token": "<|im_end|>"}
    end = of_gguf(eos_token_id=7, add_eos_token=True)
    assert end.encode("a") == [0, 7] and end.names == {"eos_token": "<|im_end|>"}
    assert of_gguf(pre="llama-bpe", bos_token_id=6).encode("a") == [6, 0], "Llama 3 begins where the file does not say"
    assert of_gguf(pre="llama-bpe", bos_token_id=6, add_bos_token=False).encode("a") == [0]


@pytest.mark.parametrize(("fields", "message"), [
    ({"pre": "odd"}, "the word splitting 'odd' is not supported"), ({"pre": None}, "does not say how text is cut"),
    ({"model": "bert"}, "tokenizer model 'bert'"), ({"add_space_prefix": True}, "a space before every text"),
    ({"merges": ["ab"]}, "has 'ab', no two tokens"), ({"bos_token_id": 9}, "bos_token_id is 9, there are 9 tokens"),
    ({"eos_token_id": 12}, "eos_token_id is 12, there are 9 tokens"),
    ({"add_sep_token": True}, "a separator behind every text"), ({"token_type": [1]}, "1 token types for 9 tokens"),
])
def test_files_that_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        of_gguf(**fields)


def test_tokens_that_end_an_answer() -> None:
    """Those that are named, and control tokens of known names."""
    for fields, expected in (({}, (7,)), ({"eos_token_id": 6}, (6, 7)), ({"eot_token_id": 2, "eom_token_id": 3}, (2, 3, 7)),
                             ({"token_type": [1] * 9}, ())):
        file: Any = File(**fields)
        assert stop_tokens(file) == expected


@pytest.mark.parametrize(("before", "behind", "ids"), [
    (None, None, [0]), (("<s>", 1), None, [1, 0]), (None, ("</s>", 2), [0, 2]), (("<s>", 1), ("</s>", 2), [1, 0, 2]),
])
def test_ends_of_texts(before: Any, behind: Any, ids: list[int]) -> None:
    inner = lib.Tokenizer(lib.models.WordLevel({"a": 0, "<s>": 1, "</s>": 2}, unk_token="a"))
    put_ends(inner, before, behind)
    made = Tokenizer(inner)
    assert made.encode("a") == ids and made.encode_text("a") == [0] and made.begin == (1 if before else None)


def test_tokens_at_the_ids_that_files_say(tmp_path: Path) -> None:
    """Whatever their order in the file; a flag that is not said has the library's default."""
    inner = lib.Tokenizer(lib.models.WordLevel({"a": 0}, unk_token="a"))
    inner.save(str(tmp_path / "tokenizer.json"))
    names = {3: "<z>", 1: "<m>", 2: "<a>"}
    (tmp_path / "added_tokens.json").write_text(json.dumps({text: number for number, text in names.items()}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<m>"}))
    made = load_tokenizer(tmp_path)
    assert {number: made.token(number) for number in names} == names and made.largest == 3 and made.size == 4
    added = {t.content: (t.special, t.normalized) for t in made._inner.get_added_tokens_decoder().values()}
    assert added == {"<m>": (True, False), "<a>": (False, True), "<z>": (False, True)}
    decoder = {str(n): {"content": text, "special": n == 2} for n, text in names.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    made = load_tokenizer(tmp_path)
    assert {number: made.token(number) for number in names} == names
    assert [t.content for t in made._inner.get_added_tokens_decoder().values() if t.special] == ["<a>"]


def test_text_piece_by_piece() -> None:
    """Bytes of an unfinished character are held back, also behind a prompt that ends within one."""
    inner = lib.Tokenizer(lib.models.BPE({c: i for i, c in enumerate(sorted(lib.pre_tokenizers.ByteLevel.alphabet()))}, []))
    inner.pre_tokenizer, inner.decoder = lib.pre_tokenizers.ByteLevel(add_prefix_space=False), lib.decoders.ByteLevel()
    made = Tokenizer(inner)
    ids = made.encode("aéb")
    assert len(ids) == 4
    for after in ([], made.encode("xyz" * 9), [ids[1]]):
        stream = TextStream(made, after)
        assert [stream.add(token) for token in ids] == ["a", "", "é", "b"] and stream.finish() == ""
    cut = TextStream(made)
    assert [cut.add(ids[0]), cut.add(ids[1])] == ["a", ""] and cut.finish() == "\N{REPLACEMENT CHARACTER}"
    long = "a" * 5000
    assert made.encode(long) == made.encode("a" * 4000) + made.encode("a" * 1000) and made.encode_text("") == []
    assert made.encode("xabx", ["ab"]) == made.encode("xabx") and made.has_tokens_of(made)


@pytest.mark.parametrize(("pre", "digits", "whole"), [
    ("gpt-2", ["12"], False), ("smollm", ["1", "2"], False), ("qwen2", ["1", "2"], False), ("llama-bpe", ["12"], True),
    ("llama3", ["12"], True), ("llama-v3", ["12"], True), ("falcon3", ["12"], True),
])
def test_words(pre: str, digits: list[str], whole: bool) -> None:
    """Digits alone or together; a word that is a token is that token, where it is so, without a merge that makes it."""
    tokens = ["a", "b", "c", "d", "e", "1", "2", "12", "cd", "ab"]
    made = of_gguf(pre=pre, tokens=tokens, merges=["a b", "1 2"], token_type=[1] * 10)
    assert [made.token(token) for token in made.encode("12")] == digits and made.encode("ab") == [9]
    assert made.encode("cd") == ([8] if whole else [2, 3])


def test_sentence_pieces_of_a_gguf_file() -> None:
    """Merged by scores; spaces stay as they are, with one more before a text unless the file says no; bytes stand for the rest."""
    tokens = ["<unk>", "<s>", "▁", "a", "b", "ab", "▁a", "<0x63>"]
    fields = {"model": "llama", "tokens": tokens, "scores": [0.0, 0.0, -9.0, -9.0, -9.0, -2.0, -1.0, 0.0],
              "token_type": [2, 3, 1, 1, 1, 1, 1, 6], "bos_token_id": 1}
    made = of_gguf(**fields)
    assert made.encode("ab") == [1, 6, 4] and made.encode("b  a ") == [1, 2, 4, 2, 6, 2] and made.encode("c") == [1, 2, 7]
    assert made.decode([1, 6, 4, 2, 6]) == "ab  a" and made.names == {"bos_token": "<s>"}
    bare = of_gguf(**fields, add_space_prefix=False)
    assert bare.encode("ab") == [1, 5] and bare.encode("d") == [1, 0]
    assert of_gguf(**fields, unknown_token_id=3, add_space_prefix=False).encode("d") == [1, 3]
    for wrong, what in (
        ({"scores": [0.0] * 7}, "7 scores and the unknown token 0"), ({"unknown_token_id": 8}, "the unknown token 8"),
        ({"unknown_token_id": 9}, "8 scores and the unknown token 9 for 8 tokens"),
    ):
        with pytest.raises(HwgenError, match=what):
            of_gguf(**fields | wrong)


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("flag", ["single_word", "lstrip", "rstrip", "normalized", "special"])
def test_flags_of_a_token_that_two_files_have(flag: str, said: bool, tmp_path: Path) -> None:
    """Those of ``tokenizer_config.json`` count."""
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    inner = lib.Tokenizer(lib.models.WordLevel({"a": 0}, unk_token="a"))
    token = lib.AddedToken("<t>", **off | {flag: not said})
    (inner.add_special_tokens if token.special else inner.add_tokens)([token])
    inner.save(str(tmp_path / "tokenizer.json"))
    options = {"added_tokens_decoder": {"1": {"content": "<t>", **off, flag: said}}, "pad_token": "<pad>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    found = load_tokenizer(tmp_path)._inner.get_added_tokens_decoder()
    assert {number: found[number].content for number in found} == {1: "<t>", 2: "<pad>"}
    assert {name: getattr(found[1], name) for name in off} == off | {flag: said}
    assert {name: getattr(found[2], name) for name in off} == off | {"special": True}, "one that has a name alone"


def test_bytes_are_no_digits() -> None:
    """The library writes some bytes of letters as superscript digits, which a cut at digits must not see."""
    made = of_gguf(pre="smollm", tokens=["a", "1", "Ã", "²", "Ã²"], merges=["Ã ²"], token_type=[1] * 5)
    assert made.encode("ò") == [4] and made.encode("1ò1") == [1, 4, 1]
