"""GGUF files as people have them: what each says is used, or the file is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import BITNET, LLAMA
from hwgen.errors import HwgenError
from hwgen.shape import ModelShape
from hwgen.sw.models.gguf_file import GgufFile
from hwgen.sw.models.gguf_tokenizer import tokenizer_from_gguf
from hwgen.sw.models.open import open_model
from hwgen.weights import random_weights

from .llama_files import SHAPE, tokenizer_parts, transformers_model, write_bitnet, write_gguf

gguf = pytest.importorskip("gguf")

UNTIED = random_weights(replace(SHAPE, tied=False), 2, LLAMA, "int4")


def write_tokens(path: Path, tokens: list[str], merges: list[str], pre: str | None, **fields: Any) -> GgufFile:
    """A file that holds a byte-level tokenizer alone."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, value in fields.items():
        writer.add_bool(f"tokenizer.ggml.{name}", value)
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile(path)


TOKENS = ["<s>", "</s>", *"abc0123456789'sxI", "Ġ", "Ċ", "ab", "bc", "abc", "12", "123", "45", "345", "2345", "12345", "'s"]
MERGES = ["b c", "a b", "1 2", "4 5", "3 45", "12 345", "' s"]


def _library_tokenizer(pattern: str | None, digits: bool, whole: bool) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    vocab, merges = {t: i for i, t in enumerate(TOKENS)}, [tuple(m.split()) for m in MERGES]
    inner: Any = Tokenizer(models.BPE(vocab, merges, ignore_merges=whole))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    inner.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(False, use_regex=pattern is None)])
    return inner


#: The patterns of tokenizer.json of Llama 3 and Qwen 2.
LLAMA3, QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + n
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+" for n in (r"\p{N}{1,3}", r"\p{N}")
)


@pytest.mark.parametrize(("pre", "pattern", "digits", "whole", "begins"), [
    ("gpt-2", None, False, False, False), ("smollm", None, True, False, False), ("qwen2", QWEN2, False, False, False),
    ("llama-bpe", LLAMA3, False, True, True), ("falcon3", LLAMA3, False, True, True),
])
def test_word_splitting(pre: str, pattern: str | None, digits: bool, whole: bool, begins: bool, tmp_path: Path) -> None:
    """Words, whole words that no merge makes, and the begin token, as the kind of the vocabulary has them."""
    tokenizer = tokenizer_from_gguf(write_tokens(tmp_path / "t.gguf", TOKENS, MERGES, pre))
    expected = _library_tokenizer(pattern, digits, whole)
    for text in ("abc", "12345", "a 12345 abc", "x's\n\n1", "xI'S 7", "  abc"):
        assert tokenizer.encode_text(text) == expected.encode(text).ids, text
    assert tokenizer.encode("abc") == [0] * begins + tokenizer.encode_text("abc")
    assert tokenizer.begin == (0 if begins else None)


def test_ends_that_the_file_asks_for(tmp_path: Path) -> None:
    asks = tokenizer_from_gguf(write_tokens(tmp_path / "t.gguf", TOKENS, MERGES, "gpt-2", add_bos_token=True, add_eos_token=True))
    assert asks.encode("a") == [0, TOKENS.index("a"), 1] and asks.names == {"bos_token": "<s>", "eos_token": "</s>"}
    off = tokenizer_from_gguf(write_tokens(tmp_path / "u.gguf", TOKENS, MERGES, "llama-bpe", add_bos_token=False))
    assert off.encode("a") == [TOKENS.index("a")] and off.names["bos_token"] == "<s>"


@pytest.mark.parametrize(("pre", "words"), [
    (None, r"does not say how text is cut into words \(tokenizer.ggml.pre\); supported: gpt-2"),
    ("default", "word splitting 'default' is not supported"), ("jais", "word splitting 'jais' is not supported"),
])
def test_unknown_words_are_not_guessed(pre: str | None, words: str, tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match=words) as error:
        tokenizer_from_gguf(write_tokens(tmp_path / "t.gguf", TOKENS, MERGES, pre))
    assert "gguf-new-metadata --pre-tokenizer" in error.value.fix


@pytest.mark.parametrize("field", [
    {"tokenizer__ggml__bos_token_id": "x"}, {"tokenizer__ggml__eos_token_id": 1.5}, {"tokenizer__ggml__merges": ["a"]},
    {"tokenizer__ggml__tokens": [1, 2]}, {"tokenizer__ggml__token_type": 3}, {"tokenizer__chat_template": 1},
    {"tokenizer__ggml__pre": ["gpt-2"]}, {"llama__block_count": "two"}, {"llama__rope__freq_base": "x"},
    {"llama__context_length": [128, 64]}, {"llama__attention__layer_norm_rms_epsilon": True},
])
def test_fields_of_another_type(field: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field with a value of a type that it never has: one line, and no error of a library."""
    real, (name, value) = gguf.GGUFWriter.add_key_value, next(iter(field.items()))
    write_gguf(tmp_path / "m.gguf", UNTIED, "F16")
    monkeypatch.setattr(gguf.GGUFWriter, "add_key_value", lambda self, key, *rest: (
        None if key == name.replace("__", ".") and rest[0] is not value else real(self, key, *rest)
    ))
    write_gguf(tmp_path / "n.gguf", UNTIED, "F16", **field)
    with pytest.raises(HwgenError) as error:
        open_model(tmp_path / "n.gguf")
    assert name.split("__")[-1] in str(error.value) and "\n" not in str(error.value)


def split(path: Path, count: int = 2) -> list[Path]:
    """The file cut into parts as llama.cpp's tool does: fields in the first, tensors in the order that they had."""
    reader = gguf.GGUFReader(path)
    parts = [path.with_name(f"part-{i + 1:05}-of-{count:05}.gguf") for i in range(count)]
    for number, part in enumerate(parts):
        writer = gguf.GGUFWriter(part, "llama")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for field in reader.fields.values() if number == 0 else ():
            if not field.name.startswith(("GGUF.", "general.architecture")):
                kind, inner = field.types[0], field.types[-1] if len(field.types) > 1 else None
                writer.add_key_value(field.name, field.contents(), kind, inner)
        for tensor in reader.tensors[number * len(reader.tensors) // count : (number + 1) * len(reader.tensors) // count]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return parts


def test_split_file(tmp_path: Path) -> None:
    """Any part stands for all; a part that is missing, renamed or of another model is refused."""
    write_gguf(tmp_path / "m.gguf", UNTIED, "Q4_0")
    whole, parts = open_model(tmp_path / "m.gguf").weights, split(tmp_path / "m.gguf")
    for part in parts:
        weights = open_model(part).weights
        np.testing.assert_array_equal(weights.head, UNTIED.head)
        for a, b in zip(weights.layers, whole.layers, strict=True):
            np.testing.assert_array_equal(a.matrices["down"].codes, b.matrices["down"].codes)
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(parts[0].read_bytes())
    with pytest.raises(HwgenError, match="one of 2 files of a split model, but its name lacks"):
        open_model(alone)
    kept = parts[1].read_bytes()
    parts[1].unlink()
    with pytest.raises(HwgenError, match="part-00002-of-00002.gguf is missing"):
        open_model(parts[0])
    parts[1].write_bytes(parts[0].read_bytes())
    with pytest.raises(HwgenError, match="part 2 of 2 is a part of another model"):
        open_model(parts[0])
    parts[1].write_bytes(kept)
    assert open_model(parts[1]).weights.head is not None


def test_stray_tensors(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", replace(UNTIED, shape=replace(UNTIED.shape, layers=1), layers=UNTIED.layers[:1]), "F16")
    data = (tmp_path / "m.gguf").read_bytes()
    for name in (b"blk.0.attn_q.weight", b"output_norm.weight"):
        changed = name[:-6] + b"abcdef"
        (tmp_path / "n.gguf").write_bytes(data.replace(name, changed))
        with pytest.raises(HwgenError, match=f"tensor {changed.decode()} is no part of a llama model of 1 layers"):
            open_model(tmp_path / "n.gguf")


def retype(path: Path, number: int) -> None:
    """Gives a matrix another type."""
    data, tensor = bytearray(path.read_bytes()), b"blk.0.attn_q.weight"
    at = data.find(tensor) + len(tensor)
    at += 4 + 8 * int.from_bytes(data[at : at + 4], "little")
    data[at : at + 4] = number.to_bytes(4, "little")
    path.write_bytes(data)


@pytest.mark.parametrize(("number", "name"), [(38, "TL1"), (41, "Q1_0"), (99, "unknown")])
def test_types_of_others(number: int, name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, UNTIED, "F16")
    retype(path, number)
    with pytest.raises(HwgenError) as error:
        open_model(path)
    assert error.value.kind == "architecture" and f"type {number} ({name})" in error.value.message
    assert "truncated" not in str(error.value) and "download" not in str(error.value)


def test_tl2(tmp_path: Path) -> None:
    """TL2 has the number that MXFP4 has elsewhere: in a file of bitnet.cpp it is refused for what it is."""
    write_bitnet(tmp_path / "m.gguf", TERNARY, "bitnet-b1.58")
    retype(tmp_path / "m.gguf", 39)
    with pytest.raises(HwgenError, match=r"tensors of type 39 \(TL2\) are not supported") as error:
        open_model(tmp_path / "m.gguf")
    assert "take I2_S" in error.value.fix


def test_big_endian(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(HwgenError, match="big-endian GGUF file"):
        open_model(tmp_path / "m.gguf")


TERNARY = random_weights(
    ModelShape(hidden=64, layers=1, heads=2, kv_heads=1, head_dim=32, ffn=96, vocab=263, max_context=64), 5, BITNET
)


@pytest.mark.parametrize(("arch", "said", "activation"), [
    ("bitnet", None, "silu"), ("bitnet-b1.58", None, "relu2"), ("bitnet-25", None, "relu2"),
    ("bitnet", "relu2", "relu2"), ("bitnet-b1.58", "silu", "silu"),
])
def test_activation(arch: str, said: str | None, activation: str, tmp_path: Path) -> None:
    """What the file says, else what its architecture means in llama.cpp and bitnet.cpp."""
    write_bitnet(tmp_path / "m.gguf", TERNARY, arch, **({"hidden_activation": said} if said else {}))
    assert open_model(tmp_path / "m.gguf").shape.activation == activation


#: Factors that rise as those of Llama 3.1 do.
FREQS = np.array([1, 1, 1, 1.5, 3, 6, 8, 8], np.float32)


@pytest.mark.parametrize(("fields", "freqs", "factors"), [
    ({"llama__rope__scaling__factor": 4.0, "llama__rope__scaling__type": "linear"}, None, (4.0,) * 8),
    ({"llama__rope__scale_linear": 2.0}, None, (2.0,) * 8),
    ({"llama__rope__scaling__factor": 4.0, "llama__rope__scaling__type": "none"}, None, ()),
    ({"llama__rope__scaling__factor": 1.0}, np.ones(8, np.float32), ()),
    ({}, FREQS, tuple(FREQS.tolist())),
    ({"llama__rope__scaling__factor": 2.0, "llama__rope__scaling__type": "linear"}, FREQS, tuple((2 * FREQS).tolist())),
])
def test_scaled_positions(fields: dict[str, Any], freqs: np.ndarray | None, factors: tuple[float, ...], tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", UNTIED, "F16", tensors=None if freqs is None else {"rope_freqs.weight": freqs}, **fields)
    shape = open_model(tmp_path / "m.gguf").shape
    assert shape.rope_factors == factors
    plain = replace(shape, rope_factors=()).rotary_frequencies()
    np.testing.assert_allclose(shape.rotary_frequencies(), plain / (factors or 1.0), rtol=1e-12)


def test_a_factor_without_a_type_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", UNTIED, "F16", llama__rope__scaling__factor=4.0)
    with pytest.raises(HwgenError, match=r"llama.rope.scaling.factor is 4, but there is no llama.rope.scaling.type"):
        open_model(tmp_path / "m.gguf")


def test_scaled_positions_have_the_logits_of_transformers(tmp_path: Path) -> None:
    """A checkpoint of Llama 3.1's kind against its GGUF file, whose factors are those of llama.cpp's converter."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from hwgen.golden.float_llama import FloatLlama

    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32, "rope_theta": SHAPE.rope_theta}
    model = transformers_model(UNTIED)
    config = transformers.LlamaConfig(**(model.config.to_dict() | {"rope_parameters": rope}))
    scaled = transformers.LlamaForCausalLM(config).eval()
    scaled.load_state_dict(model.state_dict())
    plain = SHAPE.rotary_frequencies()
    freqs = (plain / scaled.model.rotary_emb.inv_freq.double().numpy()).astype(np.float32)
    assert freqs.max() > 7 and freqs.min() == pytest.approx(1)
    write_gguf(tmp_path / "m.gguf", UNTIED, "F32", tensors={"rope_freqs.weight": freqs})
    ids = torch.arange(100)[None] % SHAPE.vocab
    with torch.no_grad():
        expected, unscaled = scaled(ids).logits, model(ids).logits
    torch.testing.assert_close(FloatLlama(open_model(tmp_path / "m.gguf").weights)(ids), expected, rtol=1e-4, atol=1e-4)
    assert (unscaled - expected).abs().max() > 0.01


def test_token_beyond_the_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer has one token more than the embedding rows: refused when the model is opened, for every command."""
    shorter = replace(UNTIED.shape, vocab=SHAPE.vocab - 1)
    weights = replace(UNTIED, shape=shorter, embedding=UNTIED.embedding[:-1], head=UNTIED.head_rows[:-1])
    tokens, merges, _ = tokenizer_parts(SHAPE.vocab)
    monkeypatch.setattr("tests.sw.models.llama_files.tokenizer_parts", lambda vocab: (tokens, merges, None))
    write_gguf(tmp_path / "n.gguf", weights, "F16")
    with pytest.raises(HwgenError, match=r"has a token 262 \('<\|im_end\|>'\), the embedding 262 rows"):
        open_model(tmp_path / "n.gguf")
