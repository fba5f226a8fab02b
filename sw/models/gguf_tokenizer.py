"""The tokenizer inside a GGUF file, rebuilt with the ``tokenizers`` library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import HwgenError
from ...packages import needs
from .gguf_file import GgufFile
from .sentence_piece import CONTROL, USER_DEFINED, Piece, SentencePieces, build_tokenizer
from .tokenizer import Tokenizer, put_ends

__all__ = ["stop_tokens", "tokenizer_from_gguf"]

_AGAIN = "convert the model again"

#: Tokens that end an answer wherever they exist as control tokens.
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "<|end|>", "<end_of_turn>")

#: How a text is cut into words that no merge crosses, the digits of a number by ``{}``.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class _Words:
    """A word splitting of the format (``tokenizer.ggml.pre``)."""

    #: Pattern of a word; None: that of GPT-2.
    pattern: str | None = None
    #: Every digit is a word of its own, before the pattern.
    digits: bool = False
    #: A word that is a token is that token, whatever the merges make.
    whole_words: bool = False
    #: A begin token comes first where the file does not say.
    begins: bool = False


_LLAMA3 = _Words(_WORDS.format(r"\p{N}{1,3}"), whole_words=True, begins=True)

#: Source of names and options: llama.cpp, llama-vocab.cpp. Its "default" is a pattern of its own that no model was trained with.
_PRE = {
    "gpt-2": _Words(), "smollm": _Words(digits=True), "qwen2": _Words(_WORDS.format(r"\p{N}")),
    "llama-bpe": _LLAMA3, "llama3": _LLAMA3, "llama-v3": _LLAMA3, "falcon3": _LLAMA3,
}


def _library() -> Any:
    with needs("a tokenizer", "tokenizers"):
        import tokenizers
    return tokenizers


def _words(file: GgufFile) -> _Words:
    kind = file.get("tokenizer.ggml.pre")
    if isinstance(kind, str) and kind in _PRE:
        return _PRE[kind]
    what = "it does not say how text is cut into words (tokenizer.ggml.pre)" if kind is None else f"the word splitting {kind!r}"
    raise HwgenError(
        "tokenizer", f"{file.path}: {what}{'' if kind is None else ' is not supported'}; supported: {', '.join(_PRE)}",
        "name the one of the model: `gguf-new-metadata --pre-tokenizer llama-bpe FILE NEW`, or take its safetensors",
    )


def _byte_level(file: GgufFile, tokens: list[str]) -> Any:
    """Byte-level BPE of the GPT-2 kind, cut into words as the field ``pre`` says."""
    lib = _library()
    pre, words = lib.pre_tokenizers, _words(file)
    if file.get("tokenizer.ggml.add_space_prefix"):
        raise HwgenError(
            "tokenizer", f"{file.path}: a space before every text (add_space_prefix) of a byte-level tokenizer is not supported",
            "convert the model to Hugging Face layout, with its tokenizer.json",
        )
    if words.pattern is None:
        steps = [pre.ByteLevel(add_prefix_space=False)]
    else:
        split = pre.Split(lib.Regex(words.pattern), "isolated")
        steps = [split, pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    if words.digits:
        steps.insert(0, pre.Digits(individual_digits=True))
    merges = [tuple(merge.split(" ", 1)) for merge in file.listed("tokenizer.ggml.merges", str)]
    single = next((merge for merge in merges if len(merge) != 2), None)
    if single is not None:
        raise HwgenError("tokenizer", f"{file.path}: tokenizer.ggml.merges has {single[0]!r}, no two tokens", _AGAIN)
    try:
        model = lib.models.BPE({token: i for i, token in enumerate(tokens)}, merges, ignore_merges=words.whole_words)
    except Exception as error:  # the library raises plain Exception
        raise HwgenError("tokenizer", f"{file.path}: tokenizer.ggml.merges: {error}", _AGAIN) from error
    inner = lib.Tokenizer(model)
    inner.pre_tokenizer, inner.decoder = pre.Sequence(steps), lib.decoders.ByteLevel()
    return inner


def _sentence_piece(file: GgufFile, tokens: list[str]) -> Any:
    """SentencePiece BPE: the merges follow from the scores, better ones first."""
    scores, unknown_id = file.listed("tokenizer.ggml.scores", float), file.token_id("tokenizer.ggml.unknown_token_id") or 0
    if len(scores) != len(tokens) or unknown_id >= len(tokens):
        what = f"{len(scores)} scores and the unknown token {unknown_id} for {len(tokens)} tokens"
        raise HwgenError("tokenizer", f"{file.path}: {what}", _AGAIN)
    pieces = [Piece(token, score) for token, score in zip(tokens, scores, strict=True)]
    prefix = bool(file.get("tokenizer.ggml.add_space_prefix", True))
    return build_tokenizer(
        SentencePieces(pieces, unigram=False, byte_fallback=True, unknown=unknown_id, prefix=prefix, trim=False)
    )


def _add_ends(file: GgufFile, inner: Any, tokens: list[str], begins: bool) -> dict[str, str]:
    """Let the tokenizer put the tokens before and behind a text that the file says; the special tokens by name."""
    names = {}
    for name in ("bos", "eos"):
        number = file.token_id(f"tokenizer.ggml.{name}_token_id")
        if number is None:
            continue
        if number >= len(tokens):
            raise HwgenError(
                "tokenizer", f"{file.path}: tokenizer.ggml.{name}_token_id is {number}, there are {len(tokens)} tokens",
                _AGAIN,
            )
        names[f"{name}_token"] = tokens[number]
    put = {"bos": file.get("tokenizer.ggml.add_bos_token", begins), "eos": file.get("tokenizer.ggml.add_eos_token", False)}
    if file.get("tokenizer.ggml.add_sep_token"):
        raise HwgenError("tokenizer", f"{file.path}: a separator behind every text (add_sep_token)", "take another file")
    used = {name: names[f"{name}_token"] for name, wanted in put.items() if wanted and f"{name}_token" in names}
    put_ends(inner, *((used[name], tokens.index(used[name])) if name in used else None for name in put))
    return names


def tokenizer_from_gguf(file: GgufFile) -> Tokenizer:
    """The tokenizer with its begin token and chat template."""
    kind = file.require("tokenizer.ggml.model")
    tokens: list[str] = file.listed("tokenizer.ggml.tokens", str)
    if kind not in ("gpt2", "llama"):
        raise HwgenError(
            "tokenizer", f"{file.path}: tokenizer model {kind!r} is not supported; supported: 'gpt2', 'llama'",
            "convert the model to Hugging Face layout, with its tokenizer.json",
        )
    inner = _byte_level(file, tokens) if kind == "gpt2" else _sentence_piece(file, tokens)
    begins = kind == "llama" or _words(file).begins
    lib = _library()
    types = file.listed("tokenizer.ggml.token_type", int, [])
    if len(types) not in (0, len(tokens)):
        raise HwgenError("tokenizer", f"{file.path}: {len(types)} token types for {len(tokens)} tokens", _AGAIN)
    added = lib.AddedToken
    inner.add_special_tokens(
        [added(t, normalized=False, special=True) for t, y in zip(tokens, types, strict=False) if y == CONTROL]
    )
    inner.add_tokens([added(t, normalized=False) for t, y in zip(tokens, types, strict=False) if y == USER_DEFINED])
    template = file.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise HwgenError("tokenizer", f"{file.path}: tokenizer.chat_template is {template!r}, no text", _AGAIN)
    return Tokenizer(inner, chat_template=template, names=_add_ends(file, inner, tokens, begins))


def stop_tokens(file: GgufFile) -> tuple[int, ...]:
    """Token ids that end a generation."""
    named = (file.token_id(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    found = {token for token in named if token is not None}
    tokens, types = file.listed("tokenizer.ggml.tokens", str, []), file.listed("tokenizer.ggml.token_type", int, [])
    found |= {i for i, (t, y) in enumerate(zip(tokens, types, strict=False)) if y == CONTROL and t in _ENDS}
    return tuple(sorted(found))
