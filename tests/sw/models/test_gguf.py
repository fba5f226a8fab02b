"""GGUF files: every format, both families, their tokenizers, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hwgen.decoder import BITNET, LLAMA
from hwgen.errors import HwgenError
from hwgen.golden.float_llama import FloatLlama
from hwgen.int4 import BlockMatrix
from hwgen.shape import ModelShape
from hwgen.sw.models.gguf import open_gguf
from hwgen.sw.models.gguf_file import GgufFile
from hwgen.sw.models.gguf_tokenizer import tokenizer_from_gguf
from hwgen.sw.models.llama import half_split_rows
from hwgen.sw.models.open import open_model
from hwgen.weights import dense, random_weights

from .llama_files import SHAPE, interleave, tokenizer_parts, write_bitnet, write_gguf

gguf = pytest.importorskip("gguf")

WEIGHTS = random_weights(SHAPE, 2, LLAMA, "int4")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_every_format_has_the_values_of_the_library(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, WEIGHTS, kind)
    loaded = open_gguf(path).load()
    assert loaded.family.layer is LLAMA and loaded.weights.shape == SHAPE and loaded.name == "m"
    reader = gguf.GGUFReader(path)
    tensors = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    for i, layer in enumerate(loaded.weights.layers):
        for name, place in (("o", "attn_output"), ("down", "ffn_down"), ("q", "attn_q"), ("k", "attn_k")):
            matrix = layer.matrices[name]
            assert isinstance(matrix, BlockMatrix) == (kind in ("Q4_0", "Q4_1"))
            w = dense(matrix)
            stored = interleave(w, SHAPE.head_dim) if name in "qk" else w
            np.testing.assert_array_equal(stored, tensors[f"blk.{i}.{place}.weight"])
    if kind == "F32":
        for name, w in loaded.weights.layers[1].matrices.items():
            np.testing.assert_array_equal(w, dense(WEIGHTS.layers[1].matrices[name]))


def test_same_logits_as_transformers(tmp_path: Path) -> None:
    """The file through the loader and the float reference, and through transformers' own reader of GGUF."""
    transformers = pytest.importorskip("transformers")
    write_gguf(tmp_path / "m.gguf", WEIGHTS, "Q4_1")
    ours = FloatLlama(open_gguf(tmp_path / "m.gguf").load().weights)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).eval()
    tokens = torch.from_numpy(np.random.default_rng(3).integers(0, SHAPE.vocab, (2, 40)))
    with torch.no_grad():
        expected = theirs(tokens).logits
    torch.testing.assert_close(ours(tokens), expected, rtol=1e-4, atol=1e-4)


def test_separate_head(tmp_path: Path) -> None:
    weights = random_weights(replace(SHAPE, tied=False), 4, LLAMA, "int4")
    write_gguf(tmp_path / "m.gguf", weights, "F32")
    loaded = open_model(tmp_path / "m.gguf")
    assert not loaded.weights.shape.tied
    np.testing.assert_array_equal(loaded.weights.head, weights.head)


def test_row_order() -> None:
    w = np.arange(64 * 3).reshape(64, 3)
    np.testing.assert_array_equal(interleave(w, 16)[half_split_rows(64, 16)], w)


def test_tokenizer(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", WEIGHTS, "F16")
    loaded = open_gguf(tmp_path / "m.gguf").load()
    _, _, inner = tokenizer_parts(SHAPE.vocab)
    text = "The cat sat 12 times, upon\n a  time é"
    assert loaded.tokenizer.encode(text) == inner.encode(text, add_special_tokens=False).ids
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(text)) == text
    start, end = SHAPE.vocab - 2, SHAPE.vocab - 1
    assert loaded.stop_tokens == (0, end)  # <|endoftext|> too
    ids = loaded.tokenizer.encode_messages([{"role": "user", "content": "The cat"}])
    assert ids[0] == start and ids.count(start) == 2 and ids.count(end) == 1
    assert loaded.tokenizer.decode(ids) == "user\nThe cat\nassistant\n"


def spm_file(path: Path, pieces: list[tuple[str, float]], **extra: object) -> GgufFile:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(str(extra.get("model", "llama")))
    writer.add_token_list([p for p, _ in pieces])
    writer.add_token_scores([s for _, s in pieces])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(pieces) - 259))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_tensor("x", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile(path)


def test_sentence_piece(tmp_path: Path) -> None:
    """Merges follow the scores; unknown characters become bytes; the begin token comes first."""
    words = ["▁", "c", "a", "t", "s", "▁c", "at", "▁cat", "ca", "ts"]
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)] + [(f"<0x{i:02X}>", 0.0) for i in range(256)]
    pieces += [(w, -float(i)) for i, w in enumerate(words)]
    tokenizer = tokenizer_from_gguf(spm_file(tmp_path / "t.gguf", pieces))
    ids = tokenizer.encode("cat cats")
    assert [pieces[i][0] for i in ids] == ["<s>", "▁cat", "▁cat", "s"]
    assert tokenizer.decode(tokenizer.encode("cat é cats")) == "cat é cats"
    with pytest.raises(HwgenError, match="tokenizer model 'wordpiece' is not supported"):
        tokenizer_from_gguf(spm_file(tmp_path / "u.gguf", pieces, model="wordpiece"))


@pytest.mark.parametrize(("fields", "words"), [
    ({"llama__rope__scaling__type": "longrope"}, "rope.scaling.type is 'longrope'; supported: 'none', 'linear', 'yarn'"),
    ({"llama__rope__scaling__attn_factor": 0.5}, "rope.scaling.attn_factor is 0.5"),
    ({"llama__attention__key_length": 8}, "rope.dimension_count is 16"),
    ({"llama__attention__key_length": 8.0}, "key_length must be one number for all layers, not 8.0"),
    ({"llama__attention__sliding_window": 64}, "sliding_window is 64, shorter than the context of 128"),
    ({"llama__attention__causal": False}, "attention that sees later tokens"),
    ({"llama__expert_count": 8}, "mixtures of experts"),
    ({"llama__logit_scale": 8.0}, r"the field llama.logit_scale \(8.0\) is not known"),
    ({"prism__hadamard__block": 128}, r"the field prism.hadamard.block \(128\) is not known"),
    ({"llama__hidden_activation": "gelu"}, "hidden_activation is 'gelu'; supported: silu, swish"),
    ({"general__type": "adapter"}, "it holds no model, but 'adapter'"),
    ({"tokenizer__ggml__add_sep_token": True}, "add_sep_token"),
    ({"tokenizer__ggml__precompiled_charsmap": [1, 2]}, "precompiled_charsmap"),
])
def test_refused(fields: dict[str, object], words: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", WEIGHTS, "F16", **fields)
    with pytest.raises(HwgenError, match=words) as error:
        open_gguf(tmp_path / "m.gguf").load()
    assert error.value.kind in ("architecture", "tokenizer") and error.value.fix


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, WEIGHTS, "Q4_0")
    data = path.read_bytes()
    for damaged in (b"GGUFxxxx", data[:3], data[: len(data) // 2], data[:-200], b""):
        path.write_bytes(damaged)
        with pytest.raises(HwgenError) as error:
            open_gguf(path).load()
        assert error.value.kind == "checkpoint"
    (tmp_path / "m.bin").write_bytes(data)
    with pytest.raises(HwgenError, match="is a file, but no .gguf file"):
        open_model(tmp_path / "m.bin")
    with pytest.raises(HwgenError, match="is a ternary model"):
        open_model("stories", engine="int4")
    path.write_bytes(data)
    with pytest.raises(HwgenError, match="is a llama model"):
        open_model(path, engine="ternary")


TERNARY = ModelShape(hidden=256, layers=1, heads=4, kv_heads=2, head_dim=64, ffn=512, vocab=263, activation="silu", max_context=64)


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0", "F16"])
@pytest.mark.parametrize("separate_scale", [False, True])
def test_ternary(kind: str, separate_scale: bool, tmp_path: Path) -> None:
    weights = random_weights(TERNARY, 5)
    s, layer = TERNARY, weights.layers[0]
    write_bitnet(tmp_path / "b.gguf", weights, kind=kind, separate_scale=separate_scale)
    loaded = open_model(tmp_path / "b.gguf")
    assert loaded.family.layer is BITNET and loaded.weights.shape == replace(s, rope_theta=10000.0)
    for name, matrix in loaded.weights.layers[0].matrices.items():
        np.testing.assert_array_equal(matrix.trits, layer.matrices[name].trits)
        expected = layer.matrices[name].scale
        assert matrix.scale == (expected if separate_scale else float(np.float16(expected)))
    np.testing.assert_array_equal(loaded.weights.embedding, weights.embedding)
