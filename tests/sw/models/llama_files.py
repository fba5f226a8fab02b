"""Small llama models written as GGUF files and Hugging Face checkpoints, by the libraries that define these formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwgen.shape import ModelShape
from hwgen.sw.training.documents import train_tokenizer
from hwgen.ternary import TernaryMatrix
from hwgen.weights import ModelWeights, dense

#: Sizes are multiples of 32, so that every block format fits; grouped queries.
SHAPE = ModelShape(
    hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=96, vocab=263, activation="silu", max_context=128, rope_theta=5000.0
)

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TENSORS = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}

HF = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj",
      "up": "mlp.up_proj", "down": "mlp.down_proj"}


def tokenizer_parts(vocab: int) -> tuple[list[str], list[str], Any]:
    """Tokens and merges of a trained byte-level tokenizer, the last two tokens being those of the chat template."""
    inner: Any = train_tokenizer(["Once upon a time there was a cat. The cat sat."], vocab - 2)
    model = json.loads(inner.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    tokens += [f"<unused{i}>" for i in range(vocab - 2 - len(tokens))] + ["<|im_start|>", "<|im_end|>"]
    return tokens, merges, inner


def interleave(w: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows from half-split to interleaved rotary pairs, as llama.cpp's converter does."""
    return w.reshape(-1, 2, head_dim // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def add_stored(writer: Any, name: str, shape: tuple[int, ...], number: int, data: np.ndarray) -> None:
    """A tensor of any type by its bytes. The writer takes uint8 for blocks of a type that it knows, so they go by another name."""
    writer.add_tensor(name, np.ascontiguousarray(data).reshape(-1).view(np.int8), raw_shape=shape, raw_dtype=number)


def write_gguf(
    path: Path, weights: ModelWeights, kind: str, *, tensors: Mapping[str, np.ndarray] | None = None,
    stored: Mapping[str, tuple[int, np.ndarray]] | None = None, arch: str = "llama", interleaved: bool = True,
    leave: tuple[str, ...] = (), **fields: Any
) -> None:
    """A GGUF file of ``arch`` with linear layers of type ``kind``, and other ``tensors`` besides; rotary pairs ``interleaved``.
    ``stored``: tensors as the number of a type, which may be one of another program, and bytes. ``leave``: places of layers that
    have no tensor of their own.
    """
    import gguf

    s = weights.shape
    tokens, merges, _ = tokenizer_parts(s.vocab)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(s.layers)
    writer.add_context_length(s.max_context)
    writer.add_embedding_length(s.hidden)
    writer.add_feed_forward_length(s.ffn)
    writer.add_head_count(s.heads)
    writer.add_head_count_kv(s.kv_heads)
    writer.add_rope_dimension_count(s.head_dim)
    writer.add_key_length(s.head_dim)
    writer.add_rope_freq_base(s.rope_theta)
    writer.add_layer_norm_rms_eps(s.rms_eps)
    writer.add_vocab_size(s.vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i == 0 or i >= len(tokens) - 2 else 1 for i in range(len(tokens))])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(s.vocab - 1)
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, value in fields.items():
        kinds = {str: writer.add_string, int: writer.add_uint32, bool: writer.add_bool, list: writer.add_array}
        kinds.get(type(value), writer.add_float32)(name.replace("__", "."), value)
    quant = gguf.GGMLQuantizationType[kind]

    def add(name: str, values: np.ndarray) -> None:
        if name in (stored or {}):
            add_stored(writer, name, values.shape, *stored[name])
            return
        matrix = values.ndim == 2 and "embd" not in name
        data = gguf.quantize(np.ascontiguousarray(values), quant) if matrix else values
        writer.add_tensor(name, data, raw_dtype=quant if matrix else None)

    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    add("token_embd.weight", weights.embedding)
    add("output_norm.weight", weights.norm)
    if weights.head is not None:
        writer.add_tensor("output.weight", weights.head)
    for i, layer in enumerate(weights.layers):
        for name, place in ((name, place) for name, place in TENSORS.items() if place not in leave):
            w = dense(layer.matrices[name])
            add(f"blk.{i}.{place}.weight", interleave(w, s.head_dim) if interleaved and name in ("q", "k") else w)
        add(f"blk.{i}.attn_norm.weight", layer.norms["input_layernorm"])
        add(f"blk.{i}.ffn_norm.weight", layer.norms["post_attention_layernorm"])
        for name in weights.layer.head_norms:
            add(f"blk.{i}.attn_{name}.weight", layer.norms[name])
        for name, bias in weights.layer.bias_of.items():
            add(f"blk.{i}.{TENSORS[name]}.bias", layer.biases[bias])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_bitnet(
    path: Path, weights: ModelWeights, arch: str = "bitnet", *, kind: str = "F32", separate_scale: bool = False,
    pack: Callable[[TernaryMatrix], tuple[int, np.ndarray]] | None = None, **fields: str
) -> None:
    """A BitNet GGUF file with linear layers of type ``kind``, their scale inside them or in a tensor beside each; or of the type
    and bytes that ``pack`` makes.
    """
    import gguf

    s, quant = weights.shape, gguf.GGMLQuantizationType[kind]
    tokens, merges, _ = tokenizer_parts(s.vocab)
    writer = gguf.GGUFWriter(path, arch)
    for name, number in (
        ("block_count", s.layers), ("context_length", s.max_context), ("embedding_length", s.hidden),
        ("feed_forward_length", s.ffn), ("attention.head_count", s.heads), ("attention.head_count_kv", s.kv_heads),
    ):
        writer.add_uint32(f"{arch}.{name}", number)
    writer.add_layer_norm_rms_eps(s.rms_eps)
    for name, text in fields.items():
        writer.add_string(f"{arch}.{name}", text)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    norms = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for i, layer in enumerate(weights.layers):
        for name, matrix in layer.matrices.items():
            scale = np.float32(1) if separate_scale else np.float32(np.float16(matrix.scale))
            place = f"blk.{i}.{TENSORS[name]}"
            if pack:
                add_stored(writer, f"{place}.weight", matrix.shape, *pack(matrix))
                continue
            writer.add_tensor(f"{place}.weight", gguf.quantize(matrix.trits * scale, quant), raw_dtype=quant)
            if separate_scale:
                writer.add_tensor(f"{place}.scale", np.array([matrix.scale], np.float32))
        for name, gain in layer.norms.items():
            writer.add_tensor(f"blk.{i}.{norms.get(name, name)}.weight", gain)
    writer.add_tensor("token_embd.weight", weights.embedding)
    writer.add_tensor("output_norm.weight", weights.norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def transformers_model(weights: ModelWeights) -> Any:
    """The same weights in ``transformers``."""
    import torch
    import transformers

    s = weights.shape
    config = transformers.LlamaConfig(
        hidden_size=s.hidden, num_hidden_layers=s.layers, num_attention_heads=s.heads, head_dim=s.head_dim,
        num_key_value_heads=s.kv_heads, intermediate_size=s.ffn, vocab_size=s.vocab, rms_norm_eps=s.rms_eps,
        max_position_embeddings=s.max_context, tie_word_embeddings=s.tied,
        rope_parameters={"rope_type": "default", "rope_theta": s.rope_theta},
    )
    state = {"model.embed_tokens.weight": weights.embedding, "model.norm.weight": weights.norm, "lm_head.weight": weights.head_rows}
    for i, layer in enumerate(weights.layers):
        for name, place in HF.items():
            state[f"model.layers.{i}.{place}.weight"] = dense(layer.matrices[name])
        state |= {f"model.layers.{i}.{name}.weight": gain for name, gain in layer.norms.items()}
    model = transformers.LlamaForCausalLM(config).eval()
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()})
    return model
