"""GGUF files that are damaged, or odd but legal: a model with the right numbers, or a refusal in one line."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import BITNET, LLAMA
from hwgen.errors import HwgenError
from hwgen.shape import ModelShape
from hwgen.sw.models.gguf_file import GgufFile
from hwgen.sw.models.gguf_i2s import LAYOUTS, find_layout
from hwgen.sw.models.gguf_i2s import read as read_i2s
from hwgen.sw.models.gguf_tokenizer import tokenizer_from_gguf
from hwgen.sw.models.model import Model
from hwgen.sw.models.open import open_model
from hwgen.weights import dense, random_weights

from . import llama_files
from .llama_files import SHAPE, add_stored, tokenizer_parts, write_bitnet, write_gguf
from .test_gguf_door import MERGES, TOKENS, split, write_tokens

gguf = pytest.importorskip("gguf")

WEIGHTS = random_weights(replace(SHAPE, layers=1), 2, LLAMA, "int4")

#: Types of fields by a letter.
KINDS = {"f": "FLOAT32", "d": "FLOAT64", "u": "UINT32", "U": "UINT64", "i": "INT32", "s": "STRING", "b": "BOOL", "a": "ARRAY"}


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Model]:
    """Opens a small file with some fields set: name (dots as ``__``) to a letter of :data:`KINDS` and a value; None leaves one
    out. Options beside them are those of `write_gguf`.
    """
    put, head = gguf.GGUFWriter.add_key_value, gguf.GGUFWriter.write_header_to_file

    def write(**options: Any) -> Model:
        fields = {n.replace("__", "."): options.pop(n) for n in list(options) if "__" in n}

        def write_header(writer: Any) -> None:
            for name, said in fields.items():
                if said is not None:
                    put(writer, name, said[1], gguf.GGUFValueType[KINDS[said[0]]])
            head(writer)

        with monkeypatch.context() as patch:
            patch.setattr(gguf.GGUFWriter, "add_key_value", lambda w, key, *rest: None if key in fields else put(w, key, *rest))
            patch.setattr(gguf.GGUFWriter, "write_header_to_file", write_header)
            write_gguf(tmp_path / "m.gguf", WEIGHTS, "F16", **options)
        return open_model(tmp_path / "m.gguf")

    return write


SCALING = "llama__rope__scaling__"
YARN = {f"{SCALING}type": ("s", "yarn"), f"{SCALING}factor": ("f", 4.0)}


@pytest.mark.parametrize(("fields", "words"), [
    ({"general__architecture": ("a", ["llama", "x"])}, r"general.architecture is \['llama', 'x'\], no name"),
    ({"general__architecture": ("s", "gpt2")}, "architecture 'gpt2' is not supported; supported: bitnet"),
    ({"general__architecture": None}, "has no field general.architecture"),
    ({"llama__embedding_length": None}, "has no field llama.embedding_length"),
    ({"llama__attention__head_count": ("u", 0)}, "llama.attention.head_count is 0"),
    ({"llama__attention__head_count": ("a", [4, 2])}, r"must be one number for all layers, not \[4, 2\]"),
    ({"llama__attention__head_count_kv": ("u", 3)}, "heads must be a multiple of kv_heads, not 4 and 3"),
    ({"llama__block_count": ("U", 2**40)}, "1099511627776 layers and heads of 16 are more than its"),
    ({"llama__attention__key_length": ("U", 2**40), f"{SCALING}type": ("s", "linear"), f"{SCALING}factor": ("f", 2.0)},
     "heads of 1099511627776 are more than"),
    ({"llama__vocab_size": ("u", 262)}, "llama.vocab_size is 262, but the embedding has 263 rows"),
    ({"llama__attention__layer_norm_rms_epsilon": ("f", -1.0)}, "epsilon is -1.0, a number from 0 to 1 is wanted"),
    ({"llama__attention__layer_norm_rms_epsilon": ("d", 1e300)}, "epsilon must be a number, not 1e[+]300"),
    ({"llama__rope__freq_base": ("f", 0.0)}, "freq_base is 0.0, a positive number is wanted"),
    ({"llama__rope__freq_base": ("f", -10000.0)}, "freq_base is -10000.0, a positive number is wanted"),
    ({"llama__rope__freq_base": ("f", 1.0), **YARN}, "yarn wants one above 1"),
    ({f"{SCALING}factor": ("s", "four")}, "rope.scaling.factor must be a number, not 'four'"),
    ({f"{SCALING}factor": ("a", [4.0])}, r"rope.scaling.factor must be a number, not \[4.0\]"),
    ({f"{SCALING}factor": ("f", -4.0), f"{SCALING}type": ("s", "linear")}, "factor is -4.0, a positive number is wanted"),
    ({"llama__rope__scale_linear": ("f", float("inf"))}, "scale_linear must be a number, not inf"),
    ({f"{SCALING}yarn_beta_fast": ("f", 0.0), **YARN}, "yarn_beta_fast is 0.0, a positive number is wanted"),
    ({f"{SCALING}attn_factor": ("s", "x"), **YARN}, "attn_factor must be a number, not 'x'"),
    ({"tokenizer__ggml__bos_token_id": ("u", 263)}, "bos_token_id is 263, there are 263 tokens"),
    ({"tokenizer__ggml__eot_token_id": ("u", 263)}, "the end token 263 is no row of the embedding, which has 263"),
    ({"tokenizer__ggml__token_type": ("a", [1, 1])}, "2 token types for 263 tokens"),
    ({"tokenizer__ggml__merges": ("a", ["x yz"])}, "tokenizer.ggml.merges: "),
    ({"tokenizer__ggml__add_space_prefix": ("b", True)}, r"a space before every text \(add_space_prefix\)"),
])
def test_fields_that_are_refused(fields: dict[str, Any], words: str, opened: Callable[..., Model]) -> None:
    with pytest.raises(HwgenError, match=words) as error:
        opened(**fields)
    assert error.value.fix and "\n" not in str(error.value)


def test_fields_that_change_nothing(opened: Callable[..., Model]) -> None:
    """A whole number for a factor, none in two spellings, one head count for each layer."""
    plain = opened().shape
    for same in (
        {f"{SCALING}factor": ("u", 1)}, {f"{SCALING}factor": ("f", 0.0), "llama__rope__scale_linear": ("f", 2.0)},
        {"llama__attention__head_count_kv": ("a", [2, 2])}, {"llama__attention__sliding_window": ("u", 128)},
        {"llama__expert_count": ("u", 0)}, {"split__count": ("u", 1)}, {"llama__rope__freq_base": ("d", 5000.0)},
    ):
        assert opened(**same).shape == plain, same
    assert opened(llama__rope__freq_base=None).shape == replace(plain, rope_theta=10000.0)
    assert opened(**{f"{SCALING}type": ("s", "linear"), f"{SCALING}factor": ("u", 2)}).shape.rope_factors == (2.0,) * 8


@pytest.mark.parametrize("shape", [(), (0,), (0, 128)])
@pytest.mark.parametrize("number", [0, 36, 42])
@pytest.mark.parametrize("name", ["token_embd.weight", "blk.0.attn_q.weight"])
def test_tensors_without_a_size(
    name: str, number: int, shape: tuple[int, ...], opened: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of no dimension or no row, in types whose size is counted in three ways."""
    monkeypatch.setattr(llama_files, "add_stored", lambda writer, name, _, number, data: (
        add_stored(writer, name, shape, number, data)
    ))
    with pytest.raises(HwgenError) as error:
        opened(stored={name: (number, np.zeros(36, np.uint8))})
    assert error.value.kind in ("checkpoint", "architecture") and "\n" not in str(error.value)


@pytest.mark.parametrize(("tensors", "words"), [
    ({"rope_freqs.weight": np.zeros(8, np.float32)}, "rope_freqs.weight has factors that are not above 0"),
    ({"rope_freqs.weight": np.full(8, np.inf, np.float32)}, "rope_freqs.weight holds values that are not finite"),
    ({"rope_factors_short.weight": -np.ones(8, np.float32)}, "rope_factors_short.weight has factors that are not above 0"),
    ({"rope_factors_short.weight": np.ones(8, np.float32), f"{SCALING}type": ("s", "linear")},
     "rope.scaling.type is 'linear', but there is a tensor rope_factors_short.weight"),
])
def test_rotary_factors(tensors: dict[str, Any], words: str, opened: Callable[..., Model]) -> None:
    fields = {name: tensors.pop(name) for name in list(tensors) if "__" in name}
    with pytest.raises(HwgenError, match=words):
        opened(tensors=tensors, **fields)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_values_that_are_not_finite(tmp_path: Path) -> None:
    """In a gain, in floats, and in the scale of a 4-bit block."""
    gain = np.full(64, np.nan, np.float32).view(np.uint8)
    write_gguf(tmp_path / "m.gguf", WEIGHTS, "F16", stored={"output_norm.weight": (0, gain)})
    with pytest.raises(HwgenError, match="tensor output_norm.weight holds values that are not finite"):
        open_model(tmp_path / "m.gguf")
    blocks = np.full((64, 2 * 18), 0x7C, np.uint8)  # 0x7C7C: no number of half precision
    write_gguf(tmp_path / "m.gguf", WEIGHTS, "F16", stored={"blk.0.attn_output.weight": (2, blocks)})
    with pytest.raises(HwgenError, match="tensor blk.0.attn_output.weight holds values that are not finite") as error:
        open_model(tmp_path / "m.gguf")
    assert error.value.kind == "checkpoint"


def test_rows_that_are_no_blocks(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    add_stored(writer, "a", (4, 48), 2, np.zeros(4 * 27, np.uint8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(HwgenError, match="tensor a has rows of 48, Q4_0 has blocks of 32"):
        GgufFile(tmp_path / "m.gguf")


def test_a_file_that_changes_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, WEIGHTS, "F16")
    file = GgufFile(path)
    last = file.names()[-1]
    with pytest.raises(HwgenError, match="has no tensor nothing"):
        file.stored("nothing")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(HwgenError, match=f"truncated: tensor {last} is not whole"):
        file.stored(last)
    path.unlink()
    for read in (lambda: file.stored(last), lambda: GgufFile(path)):
        with pytest.raises(HwgenError, match="cannot be read: No such file"):
            read()


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    """A tensor twice, or one too few, in the parts of a split file."""
    write_gguf(tmp_path / "m.gguf", WEIGHTS, "F16")
    parts = split(tmp_path / "m.gguf")
    kept = parts[0].read_bytes()
    names = GgufFile(parts[0]).names()
    count = struct.pack("<i", len(names))
    place = kept.index(b"split.tensors.count") + len("split.tensors.count") + 4
    parts[0].write_bytes(kept[:place] + struct.pack("<i", 99) + kept[place + len(count):])
    with pytest.raises(HwgenError, match=f"the parts hold {len(names)} tensors, 99 expected"):
        open_model(parts[1])
    first, second = b"blk.0.attn_q.weight", b"blk.0.attn_k.weight"
    data = (tmp_path / "m.gguf").read_bytes()
    assert data.count(second) == 1
    (tmp_path / "m.gguf").write_bytes(data.replace(second, first))
    with pytest.raises(HwgenError, match=f"two tensors are called {first.decode()}"):
        open_model(tmp_path / "m.gguf")


TERNARY = ModelShape(hidden=64, layers=1, heads=2, kv_heads=1, head_dim=32, ffn=96, vocab=263, max_context=64)


def test_ternary_matrices_of_two_scales_or_none(tmp_path: Path) -> None:
    """A matrix of zeros is ternary, too."""
    weights = random_weights(TERNARY, 5, BITNET)
    layer = weights.layers[0]
    q = layer.matrices["q"]
    zeros = layer.with_matrices({"q": replace(q, trits=np.zeros_like(q.trits))})
    write_bitnet(tmp_path / "m.gguf", replace(weights, layers=(zeros,)))
    found = open_model(tmp_path / "m.gguf").weights.layers[0].matrices["q"]
    assert not found.trits.any() and found.scale == 0

    def spoilt(matrix: Any) -> tuple[int, np.ndarray]:
        values = dense(matrix).copy()
        values[0] *= 2
        return 0, values.view(np.uint8)

    write_bitnet(tmp_path / "m.gguf", weights, pack=spoilt)
    with pytest.raises(HwgenError, match="tensor blk.0.attn_q.weight has more than one scale, so it is not ternary"):
        open_model(tmp_path / "m.gguf")


def test_i2_s_of_sizes_that_a_layout_has_not() -> None:
    stored, gains = np.zeros(6 * 64 // 4 + 32, np.uint8), np.linspace(0.5, 1.5, 64).astype(np.float32)
    with pytest.raises(ValueError, match="has 6 rows of 64 inputs, which I2_S in the layout 'rows' cannot have"):
        read_i2s(stored, 6, 64, "rows")
    assert find_layout([(stored, 5, 64, gains)]) == "arm"  # the only one that five rows of 64 can have
    assert find_layout([(stored, 5, 64, gains), (stored, 5, 32, gains[:32])]) is None
    assert find_layout([]) is None and set(LAYOUTS) == {"x86", "arm", "rows"}


@pytest.mark.parametrize("text", ["<e:1>", "$A", "$0", "<e> x", "A:B"])
def test_end_tokens_of_any_text(text: str, tmp_path: Path, opened: Callable[..., Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """A colon or a dollar in the text of a token means nothing: it stands before and behind a text once."""
    tokens, merges, _ = tokenizer_parts(SHAPE.vocab)
    tokens[-2:] = [text, f"{text}!"]
    monkeypatch.setattr(llama_files, "tokenizer_parts", lambda vocab: (tokens, merges, None))
    asked = {f"tokenizer__ggml__add_{name}_token": ("b", True) for name in ("bos", "eos")}
    tokenizer = opened(tokenizer__ggml__bos_token_id=("u", 261), **asked).tokenizer
    ids = tokenizer.encode_text("The cat")
    assert tokenizer.encode("The cat") == [261, *ids, 262] and tokenizer.begin == 261 and ids


@pytest.mark.parametrize(("scores", "unknown", "words"), [
    ([0.0] * 2, 0, "2 scores and the unknown token 0 for 3 tokens"), ([0.0] * 3, 3, "the unknown token 3 for 3 tokens"),
])
def test_pieces_without_scores(scores: list[float], unknown: int, words: str, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["a", "b", "ab"])
    writer.add_token_scores(scores)
    writer.add_unk_token_id(unknown)
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(HwgenError, match=words):
        tokenizer_from_gguf(GgufFile(tmp_path / "t.gguf"))


def test_merges_of_tokens_that_are_not_there(tmp_path: Path) -> None:
    for merges, words in (([*MERGES, "q z"], "merges: "), (["abc"], "merges has 'abc', no two tokens")):
        with pytest.raises(HwgenError, match=words) as error:
            tokenizer_from_gguf(write_tokens(tmp_path / "t.gguf", TOKENS, merges, "gpt-2"))
        assert error.value.fix == "convert the model again"
