"""The tokenizer inside a GGUF file, rebuilt with the ``tokenizers`` library."""

from __future__ import annotations

from typing import Any

from ...errors import HwgenError
from ...packages import needs
from .gguf_file import GgufFile
from .tokenizer import Tokenizer

__all__ = ["stop_tokens", "tokenizer_from_gguf"]

#: Token types of the format.
_CONTROL, _USER_DEFINED = 3, 4

#: Tokens that end an answer wherever they exist as control tokens.
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "<|end|>", "<end_of_turn>")

#: How Llama 3 cuts text into words.
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _library() -> Any:
    with needs("a tokenizer", "tokenizers"):
        import tokenizers
    return tokenizers


def _byte_level(file: GgufFile, tokens: list[str]) -> Any:
    """Byte-level BPE of the GPT-2 kind, cut into words as the field ``pre`` says."""
    lib = _library()
    pre, kind = lib.pre_tokenizers, file.get("tokenizer.ggml.pre", "default")
    byte_level = pre.ByteLevel(add_prefix_space=False)
    if kind == "smollm":
        words = pre.Sequence([pre.Digits(individual_digits=True), byte_level])
    elif kind in ("default", "gpt-2"):
        words = byte_level
    elif kind in ("llama-bpe", "llama3", "llama-v3"):
        split = pre.Split(lib.Regex(_LLAMA3_WORDS), "isolated")
        words = pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        raise HwgenError(
            "tokenizer", f"{file.path}: the word splitting {kind!r} is not supported; supported: smollm, gpt-2, llama-bpe",
            "convert the model to Hugging Face layout, with its tokenizer.json",
        )
    merges = [tuple(merge.split(" ", 1)) for merge in file.require("tokenizer.ggml.merges")]
    inner = lib.Tokenizer(lib.models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    inner.pre_tokenizer, inner.decoder = words, lib.decoders.ByteLevel()
    return inner


def _sentence_piece(file: GgufFile, tokens: list[str]) -> Any:
    """SentencePiece BPE: the merges follow from the scores, better ones first."""
    lib = _library()
    scores = file.require("tokenizer.ggml.scores")
    ids = {token: i for i, token in enumerate(tokens)}
    merges = []
    for token, score in zip(tokens, scores, strict=True):
        parts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ids and token[i:] in ids]
        merges += [(-score, ids[a], ids[b], a, b) for a, b in parts]
    merges.sort()
    unknown = tokens[file.get("tokenizer.ggml.unknown_token_id", 0)]
    model = lib.models.BPE(ids, [(a, b) for *_, a, b in merges], unk_token=unknown, fuse_unk=True, byte_fallback=True)
    inner = lib.Tokenizer(model)
    steps = [lib.normalizers.Prepend("▁")] if file.get("tokenizer.ggml.add_space_prefix", True) else []
    inner.normalizer = lib.normalizers.Sequence([*steps, lib.normalizers.Replace(" ", "▁")])
    strip = [lib.decoders.Strip(" ", 1, 0)] if steps else []
    inner.decoder = lib.decoders.Sequence(
        [lib.decoders.Replace("▁", " "), lib.decoders.ByteFallback(), lib.decoders.Fuse(), *strip]
    )
    return inner


def tokenizer_from_gguf(file: GgufFile) -> Tokenizer:
    """The tokenizer with its begin token and chat template."""
    kind = file.require("tokenizer.ggml.model")
    tokens: list[str] = file.require("tokenizer.ggml.tokens")
    if kind not in ("gpt2", "llama"):
        raise HwgenError(
            "tokenizer", f"{file.path}: tokenizer model {kind!r} is not supported; supported: 'gpt2', 'llama'",
            "convert the model to Hugging Face layout, with its tokenizer.json",
        )
    inner = _byte_level(file, tokens) if kind == "gpt2" else _sentence_piece(file, tokens)
    lib = _library()
    types = file.get("tokenizer.ggml.token_type", [])
    added = lib.AddedToken
    inner.add_special_tokens(
        [added(t, normalized=False, special=True) for t, y in zip(tokens, types, strict=False) if y == _CONTROL]
    )
    inner.add_tokens([added(t, normalized=False) for t, y in zip(tokens, types, strict=False) if y == _USER_DEFINED])
    llama3 = file.get("tokenizer.ggml.pre") in ("llama-bpe", "llama3", "llama-v3")
    begins = file.get("tokenizer.ggml.add_bos_token", kind == "llama" or llama3)
    begin = file.get("tokenizer.ggml.bos_token_id") if begins else None
    end = file.get("tokenizer.ggml.eos_token_id")
    return Tokenizer(
        inner,
        begin=None if begin is None else int(begin),
        chat_template=file.get("tokenizer.chat_template"),
        end=None if end is None else int(end),
    )


def stop_tokens(file: GgufFile) -> tuple[int, ...]:
    """Token ids that end a generation."""
    named = (file.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    found = {int(token) for token in named if token is not None}
    tokens, types = file.get("tokenizer.ggml.tokens", []), file.get("tokenizer.ggml.token_type", [])
    found |= {i for i, (t, y) in enumerate(zip(tokens, types, strict=False)) if y == _CONTROL and t in _ENDS}
    return tuple(sorted(found))
