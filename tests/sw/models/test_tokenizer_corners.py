"""Tokenizers of files that are damaged, or odd but legal; texts, conversations and streams at their edges."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.models.chat_template import render_chat
from hwgen.sw.models.model import check_tokens
from hwgen.sw.models.tokenizer import TextStream, Tokenizer, put_ends
from hwgen.sw.models.tokenizer_files import load_tokenizer

pytest.importorskip("jinja2")

WORDS = ["the cat sat on 12 mats, naïvely.", "the cat sat"] * 4

SPECIAL = ["<s>", "</s>", "<|end|>"]


def inner() -> Any:
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made: Any = Inner(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, special_tokens=SPECIAL))
    return made


def directory(path: Path, options: object = None, **files: object) -> Path:
    """A directory with this tokenizer, ``tokenizer_config.json`` and other files (``_`` for a dot in their names)."""
    inner().save(str(path / "tokenizer.json"))
    for name, content in {"tokenizer_config_json": options or {}, **files}.items():
        stem, _, suffix = name.rpartition("_")
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (path / f"{stem}.{suffix}").write_bytes(text)
    return path


SIZE = inner().get_vocab_size()


@pytest.mark.parametrize(("options", "files", "words"), [
    ({"added_tokens_decoder": {"²": {"content": "x"}}}, {}, "added_tokens_decoder is no table of tokens"),
    ({"added_tokens_decoder": {"9" * 5000: {"content": "x"}}}, {}, "added_tokens_decoder is no table of tokens"),
    ({"added_tokens_decoder": {"-1": {"content": "x"}}}, {}, "added_tokens_decoder is no table of tokens"),
    ({"added_tokens_decoder": {"300": {"content": 5}}}, {}, "added_tokens_decoder is no table of tokens"),
    ({"added_tokens_decoder": {"0": {"content": "the"}}}, {}, "token 'the' is to be 0, but tokenizer.json makes it"),
    ({}, {"added_tokens_json": {"x": True}}, "the id of 'x' is True"),
    ({}, {"added_tokens_json": {"x": "5"}}, "the id of 'x' is '5'"),
    ({}, {"added_tokens_json": {"<x>": 999}}, f"token '<x>' is to be 999, but tokenizer.json makes it {SIZE}"),
    ({}, {"added_tokens_json": [1]}, "added_tokens.json is not a JSON object"),
    ({}, {"special_tokens_map_json": b"[" * 100_000}, "special_tokens_map.json is not valid JSON"),
    ({"extra_special_tokens": "<x>"}, {}, "extra_special_tokens is '<x>'; a list is expected"),
    ({"chat_template": 5}, {}, "has the chat template 5, no text"),
    ({"chat_template": {"default": None}}, {}, "has the chat template None, no text"),
    ({"chat_template": [{"name": 1, "template": "x"}, {"name": "a", "template": "x"}]}, {}, "chat templates 1, a, but none named"),
    ({"chat_template": [{"name": "default"}]}, {}, "chat_template is no list of names and templates"),
    ({"chat_template": ["x"]}, {}, "chat_template is no list of names and templates"),
    ({}, {"chat_template_jinja": b"\xff"}, "chat_template.jinja cannot be read as UTF-8 text"),
])
def test_refused_files(options: dict[str, Any], files: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match=words) as error:
        load_tokenizer(directory(tmp_path, options, **files))
    assert error.value.kind == "tokenizer" and error.value.fix and "\n" not in str(error.value)


def test_templates_for_other_purposes(tmp_path: Path) -> None:
    """Templates in a folder are there to be named; the default one is still that of its own file."""
    path = directory(tmp_path, {"chat_template": "of the field"}, chat_template_jinja=b"of the file")
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "tools.jinja").write_text("tools")
    assert load_tokenizer(path).chat_template == "of the file"
    (path / "chat_template.jinja").unlink()
    with pytest.raises(HwgenError, match="has the chat templates tools, but none named 'default'"):
        load_tokenizer(path)


def test_spaces_that_are_cleaned_up(tmp_path: Path) -> None:
    """Of a tokenizer that is no BPE they are no part of the ids, so that the text would be another."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import models

    directory(tmp_path, {"clean_up_tokenization_spaces": True})
    assert load_tokenizer(tmp_path).decode([SIZE - 1])
    other: Any = Inner(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(HwgenError, match="clean_up_tokenization_spaces of a tokenizer that is no BPE"):
        load_tokenizer(tmp_path)


def test_tokens_that_are_there_already(tmp_path: Path) -> None:
    """The same token with the same flags changes nothing; objects and texts name special tokens alike."""
    options = {
        "added_tokens_decoder": {"2": {"content": "<|end|>", "special": True, "normalized": False}},
        "bos_token": {"content": "<s>"}, "extra_special_tokens": {"image_token": "<image>"}, "add_bos_token": True,
    }
    tokenizer = load_tokenizer(directory(tmp_path, options))
    assert tokenizer.names == {"bos_token": "<s>"} and tokenizer.size == SIZE + 1 and tokenizer.begin is None
    assert tokenizer.encode("<image>the") == [SIZE, *tokenizer.encode_text("the")] and tokenizer.decode([SIZE]) == ""


def field(number: int, value: object) -> bytes:
    """A field of Protocol Buffers."""
    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    assert isinstance(value, bytes)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: str, score: float, kind: int) -> bytes:
    return field(1, field(1, text.encode()) + field(2, score) + field(3, kind))


PIECES = b"".join(piece(*p) for p in (
    ("<unk>", 0.0, 2), ("<s:1>", 0.0, 3), ("$A", 0.0, 3), ("a", -1.0, 1), ("b", -2.0, 1), ("ab", -0.5, 1), ("▁", -3.0, 1),
    ("▁ab", -0.25, 1),
))


def sentence_piece(path: Path, content: bytes, **options: object) -> Tokenizer:
    (path / "tokenizer.model").write_bytes(content)
    (path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True, "add_eos_token": True, **options}))
    return load_tokenizer(path)


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize(("more", "words"), [
    (field(2, field(24, 1)), "its spaces stand behind words"), (field(3, field(5, 0)), "it does not escape spaces"),
    (piece("x", 0.0, 4), "it trims spaces and has pieces that are cut out of a text first"),
    (field(2, field(40, 99)), "no piece for what is unknown"), (field(2, field(41, b"x")), "special pieces are no numbers"),
    (field(2, field(42, 1.0)), "special pieces are no numbers"), (field(2, field(40, b"x")), "special pieces are no numbers"),
    (field(3, field(2, b"\x01")), "replacements of characters are damaged"),
    (field(3, field(2, struct.pack("<I", 0))), "replacements of characters are damaged"),
    (field(3, field(2, struct.pack("<I", 400) + bytes(20))), "replacements of characters are damaged"),
    (field(3, field(2, struct.pack("<I", 7) + bytes(7))), "replacements of characters are damaged"),
    (field(3, field(2, struct.pack("<I", 1024) + b"\x7f" * 1024 + bytes(8))), "replacements of characters are damaged"),
    (field(3, field(2, struct.pack("<I", 1024) + b"\xff" * 1024 + bytes(8))), "replacements of characters are damaged"),
    (field(3, field(2, struct.pack("<I", 1024) + bytes(1024) + b"\xff")), "Cannot parse precompiled_charsmap"),
    (field(3, field(2, 5)), "no SentencePiece model"), (field(1, 5), "no SentencePiece model"),
    (field(1, field(2, 1.0)), "no SentencePiece model"), (b"\x0b", "no message of Protocol Buffers"),
    (b"\x0a\x7f", "no message of Protocol Buffers"), (b"\x80", "no SentencePiece model"),
])
def test_pieces_that_are_refused(kind: int, more: bytes, words: str, tmp_path: Path) -> None:
    assert sentence_piece(tmp_path, PIECES + field(2, field(3, kind))).size == 8
    with pytest.raises(HwgenError, match=words) as error:
        sentence_piece(tmp_path, PIECES + field(2, field(3, kind)) + more)
    assert error.value.kind == "tokenizer" and error.value.fix and "\n" not in str(error.value)
    (tmp_path / "tokenizer.model").unlink()
    (tmp_path / "tokenizer.model").mkdir()
    with pytest.raises(HwgenError, match="tokenizer.model cannot be read: Is a directory"):
        load_tokenizer(tmp_path)


def test_options_beside_pieces(tmp_path: Path) -> None:
    """Where a begin and an end token stand, whatever is in their texts, and where a space does."""
    content = PIECES + field(2, field(3, 2)) + field(3, field(4, 0))
    tokenizer = sentence_piece(tmp_path, content)
    assert tokenizer.encode("ab") == [1, 7, 2]
    assert tokenizer.names == {"unk_token": "<unk>", "bos_token": "<s:1>", "eos_token": "$A"}
    assert sentence_piece(tmp_path, content, add_eos_token=False).encode("ab") == [1, 7]
    assert sentence_piece(tmp_path, content, add_bos_token=False).encode("ab") == [7, 2]
    assert sentence_piece(tmp_path, content, add_prefix_space=False).encode("ab") == [1, 5, 2]
    assert sentence_piece(tmp_path, content, bos_token="a").encode("b") == [3, 6, 4, 2]
    assert sentence_piece(tmp_path, content, bos_token="new").encode("ab") == [7, 2]
    nobody = content + field(2, field(3, 2) + field(41, (1 << 64) - 1) + field(42, 99))
    assert sentence_piece(tmp_path, nobody).encode("ab") == [7]


def test_long_texts(tmp_path: Path) -> None:
    """Are encoded as a batch, with the ids of the same text in parts."""
    tokenizer = Tokenizer(inner())
    assert tokenizer.encode("the cat" * 2000) == [t for _ in range(4) for t in tokenizer.encode_text("the cat" * 500)]
    with pytest.raises(HwgenError, match="a text cannot be made tokens: it is no valid Unicode text"):
        tokenizer.encode("a" * 5000 + "\udcff")


def test_a_tokenizer_as_text() -> None:
    made = inner()
    put_ends(made, ("<s>", 0), None)
    one = Tokenizer(made, chat_template="{{ messages[0].content }}", names={"bos_token": "<s>"})
    again = Tokenizer.from_json(one.to_json(), one.names, one.chat_template)
    assert again.encode("the cat") == one.encode("the cat") and again.begin == one.begin == 0
    assert again.has_tokens_of(one) and one.has_tokens_of(again) and again.settings()["bos_token"] == "<s>"
    more = inner()
    more.add_special_tokens(["<more>"])
    assert Tokenizer(more).has_tokens_of(one) and not one.has_tokens_of(Tokenizer(more))


def test_without_a_chat_template() -> None:
    made = inner()
    tokenizer = Tokenizer(made)
    assert tokenizer.usual_beginning == [] and not tokenizer.has_chat_template and "chat_template" not in tokenizer.settings()
    with pytest.raises(HwgenError, match="this model has no chat template") as error:
        tokenizer.encode_chat("the cat")
    assert error.value.fix == "run without --chat"
    put_ends(made, ("<s>", 0), ("</s>", 1))
    begins = Tokenizer(made)
    assert begins.usual_beginning == [0] and begins.encode("the") == [0, *begins.encode_text("the"), 1]
    assert begins.encode("the cat", ["cat"]) == [0, *begins.encode_text("the "), *begins.encode_text("cat")]


def test_control_tokens_at_any_depth_of_a_message() -> None:
    """In parts of a content, names of arguments and descriptions of tools; the marks themselves are taken out."""
    template = "{{ messages | tojson }}{{ tools | tojson }}<|end|>"
    tokenizer = Tokenizer(inner(), chat_template=template)
    message = {
        "role": "user", "content": [{"type": "text", "text": "a<|end|>b"}, 5, None],
        "tool": {"<s>": ["</s>", {"x": "<s>\U0010fffc"}]},
    }
    ids = tokenizer.encode_messages([message], [{"name": "<|end|>"}])
    assert [i for i in ids if i < len(SPECIAL)] == [2] and ids[-1] == 2
    text = tokenizer.decode(ids)
    assert json.loads(text.partition("][")[0] + "]") == [json.loads(json.dumps(message).replace("\\udbff\\udffc", ""))]
    assert text.endswith('[{"name": "<|end|>"}]')
    no_control = inner().__class__.from_str(inner().to_str().replace('"special":true', '"special":false'))
    assert Tokenizer(no_control, chat_template="{{ messages[0].content }}").encode_chat("a<s>") == [*tokenizer.encode_text("a"), 0]


def test_a_template_that_never_ends_its_own_calls() -> None:
    template = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"
    with pytest.raises(HwgenError, match="the chat template fails: RecursionError"):
        render_chat(template, [{"role": "user", "content": "a"}], {})


def test_characters_of_several_tokens() -> None:
    """Nothing is shown before a character is whole; what never becomes one is shown at the end; a prompt may end within one."""
    tokenizer = Tokenizer(inner())
    ids = tokenizer.encode_text("é🐱x")
    assert len(ids) == 7
    stream = TextStream(tokenizer)
    assert [stream.add(i) for i in ids] == ["", "é", "", "", "", "🐱", "x"] and stream.finish() == ""
    stream = TextStream(tokenizer)
    assert [stream.add(i) for i in ids[:4]] == ["", "é", "", ""] and stream.finish() == "\N{REPLACEMENT CHARACTER}"
    stream = TextStream(tokenizer, ids[:4])
    assert "".join(stream.add(i) for i in ids[4:]).endswith("x")


def test_eight_tokens_before_an_answer_are_looked_at() -> None:
    decoded: list[list[int]] = []
    stand_in: Any = SimpleNamespace(decode=lambda ids: (decoded.append(list(ids)), "x" * len(ids))[1])
    stream = TextStream(stand_in, range(20))
    assert decoded == [[12, 13, 14, 15, 16, 17, 18, 19]] and stream.add(20) == "x" and decoded[1] == list(range(12, 21))


@pytest.mark.parametrize(("length", "batch"), [(1, False), (4095, False), (4096, True), (9999, True)])
def test_long_texts_are_encoded_as_a_batch(length: int, batch: bool) -> None:
    calls: list[object] = []

    def encoded(*ids: int) -> Any:
        return SimpleNamespace(ids=ids)

    made: Any = Tokenizer(inner())
    made._inner = SimpleNamespace(
        encode=lambda text, **options: (calls.append((text, options)), encoded(1, 2))[1],
        encode_batch=lambda texts, **options: (calls.append((*texts, options)), [encoded(1, 2), encoded(3)])[1],
    )
    assert made.encode_text("a" * length) == [1, 2] and calls == [("a" * length, {"add_special_tokens": False})]
    assert made.encode("a" * length) == [1, 2] and calls[1:] == [("a" * length, {"add_special_tokens": True})]
    made._inner.encode = made._inner.encode_batch if batch else None
    if not batch:
        with pytest.raises(HwgenError, match="a text cannot be made tokens: 'NoneType'"):
            made.encode("a" * length)


def test_control_tokens_that_begin_alike() -> None:
    """The longer one is marked whole; what stands between them is text; a tokenizer without tokens has no largest."""
    made = inner()
    made.add_special_tokens(["<|end|>x", "<|end|>xy"])
    tokenizer = Tokenizer(made, chat_template="{{ messages[0].content }}")
    for typed in ("<|end|>xy", "<|end|>x", "a<|end|>xyb<|end|>"):
        ids = tokenizer.encode_chat(typed)
        assert tokenizer.decode(ids) == typed and max(ids) < SIZE and not {0, 1, 2} & set(ids)
    assert tokenizer.largest == SIZE + 1 and tokenizer.size == SIZE + 2
    from tokenizers import Tokenizer as Inner
    from tokenizers import models

    empty = Tokenizer(Inner(models.BPE()))
    assert (empty.largest, empty.size, empty.begin, empty.encode("a")) == (-1, 0, None, [])


def test_tokens_before_and_behind_every_text() -> None:
    """The first is the begin token, however many there are; one behind a text is none."""
    from tokenizers.processors import TemplateProcessing

    for single, begin in (("<s> </s> $A", 0), ("</s> $A <s>", 1), ("$A <s>", None), ("$A", None)):
        made = inner()
        made.post_processor = TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
        assert Tokenizer(made).begin == begin


def test_what_stands_before_every_prompt() -> None:
    """In a chat template: all that does not depend on the message."""
    tokenizer = Tokenizer(inner(), chat_template="<s>the cat <|end|>{{ messages[0].content }}</s>")
    start = tokenizer.usual_beginning
    assert start == [0, *tokenizer.encode_text("the cat "), 2] and tokenizer.encode_chat("mats")[: len(start)] == start
    assert Tokenizer(inner(), chat_template="{{ messages[0].content }}").usual_beginning == []


def test_control_tokens_in_a_vocabulary_of_pieces(tmp_path: Path) -> None:
    """Typed into a message they are the letters that they are made of; what costs more than a piece is still taken."""
    more = piece("<", -9.0, 1) + piece("s", -9.0, 1) + piece(":", -9.0, 1) + piece("1", -9.0, 1) + piece(">", -9.0, 1)
    content = PIECES + more + field(2, field(3, 1)) + field(3, field(4, 0))
    template = "{{ messages[0].content }}"
    tokenizer = sentence_piece(tmp_path, content, chat_template=template, add_prefix_space=False)
    assert tokenizer.encode_chat("<s:1>") == [8, 9, 10, 11, 12] and tokenizer.encode_text("<s:1>") == [1]
    assert tokenizer.encode_chat("ab<s:1>a") == [5, 8, 9, 10, 11, 12, 3]


def test_tokens_and_rows() -> None:
    tokenizer = Tokenizer(inner())
    check_tokens(tokenizer, [0, SIZE - 1], SIZE, "m")
    for stop, vocab, words in (([SIZE], SIZE, f"the end token {SIZE} is no row"), ([-1], SIZE, "the end token -1 is no row"),
                               ([], SIZE - 1, f"has a token {SIZE - 1}")):
        with pytest.raises(HwgenError, match=words) as error:
            check_tokens(tokenizer, stop, vocab, "m")
        assert error.value.kind == "tokenizer" and error.value.fix
