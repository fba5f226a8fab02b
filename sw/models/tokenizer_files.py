"""The tokenizer of a directory in Hugging Face layout, with the ids that ``AutoTokenizer`` gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ...packages import needs
from .sentence_piece import build_tokenizer, read_pieces
from .tokenizer import Tokenizer, put_ends

__all__ = ["load_tokenizer"]

_AGAIN = "download the file again"

#: Special tokens that have a name in every tokenizer.
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

#: A token id as the name of a field.
_IS_ID = re.compile("[0-9]{1,9}")

#: Flags of a token that the library takes.
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file, empty where there is none."""
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HwgenError("tokenizer", f"{path} is not valid JSON", _AGAIN) from error
    if not isinstance(values, dict):
        raise HwgenError("tokenizer", f"{path} is not a JSON object", _AGAIN)
    return values


def _content(token: Any) -> str | None:
    """The text of a token, which files have as text or as an object."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None


def _open_library_file(path: Path) -> Any:
    if not path.exists():
        beside = [name for name in ("vocab.json", "tekken.json") if path.with_name(name).exists()]
        fix = "copy tokenizer.json of the model beside config.json"
        if beside:
            fix = f"{beside[0]} alone is not read: let transformers write tokenizer.json (AutoTokenizer, save_pretrained)"
        raise HwgenError("tokenizer", f"{path} is missing", fix)
    with needs("a tokenizer", "tokenizers"):
        from tokenizers import Tokenizer as Inner
    try:
        inner: Any = Inner.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise HwgenError("tokenizer", f"{path} cannot be read: {error}", _AGAIN) from error
    inner.no_truncation()  # what the file says about batches for training is no part of a text
    inner.no_padding()
    return inner


#: Classes of transformers that put a begin token before every text where ``add_bos_token`` is absent. BitnetTokenizer is that of
#: bitnet_b1_58-large, a copy of LlamaTokenizer.
_BEGINNING = ("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "BitnetTokenizer")


def _open_sentence_piece(path: Path, options: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """The tokenizer of ``tokenizer.model`` with its begin and end tokens, and their names. What ``tokenizer_config.json`` must say
    beside it is asked for.
    """
    said, kind = read_pieces(path), options.get("tokenizer_class")
    begins = options.get("add_bos_token", True if kind in _BEGINNING else None)
    if not isinstance(begins, bool):
        raise HwgenError(
            "tokenizer", f"{path.with_name('tokenizer_config.json')} does not say add_bos_token, and tokenizer_class is {kind!r}",
            "add it, as the model was trained; or let transformers write tokenizer.json (AutoTokenizer, save_pretrained)",
        )
    if options.get("add_prefix_space") is False:
        said.prefix = False
    try:
        inner = build_tokenizer(said, first_only=options.get("legacy") is False)
    except Exception as error:  # the library raises plain Exception
        raise HwgenError("tokenizer", f"{path}: {error}", _AGAIN) from error
    ids = {"bos_token": said.begin, "eos_token": said.end, "unk_token": said.unknown}
    names = {name: said.pieces[number].text for name, number in ids.items() if 0 <= number < len(said.pieces)}
    names |= {name: text for name, text in _special_names(options).items() if name in ids}
    ends = {"bos_token": begins, "eos_token": bool(options.get("add_eos_token", False))}
    known = {name: text for name, text in names.items() if inner.token_to_id(text) is not None}
    put_ends(inner, *(
        (known[name], inner.token_to_id(known[name])) if wanted and name in known else None for name, wanted in ends.items()
    ))
    return inner, names


def _add_tokens(inner: Any, options: dict[str, Any], directory: Path) -> None:
    """Tokens that other files than ``tokenizer.json`` know, at the ids that they say."""
    from tokenizers import AddedToken

    wanted: list[tuple[int, Any]] = []
    if "added_tokens_decoder" in options:
        where = "tokenizer_config.json"
        for number, token in options["added_tokens_decoder"].items():
            flags = {name: bool(token[name]) for name in _FLAGS if name in token}
            wanted.append((int(number), AddedToken(str(_content(token)), **flags)))
    else:
        where = "added_tokens.json"
        special = {_content(options.get(name)) for name in _NAMES}
        special |= {_content(token) for token in _extra(options)}
        for text, number in _read_json(directory / where).items():
            if type(number) is not int:
                raise HwgenError("tokenizer", f"{directory / where}: the id of {text!r} is {number!r}", _AGAIN)
            wanted.append((number, AddedToken(text, normalized=text not in special, special=text in special)))
    known = inner.get_added_tokens_decoder()
    for number, token in sorted(wanted, key=lambda item: item[0]):
        if number in known and known[number].content == token.content and _same(known[number], token):
            continue
        (inner.add_special_tokens if token.special else inner.add_tokens)([token])
        found = inner.token_to_id(token.content)
        if found != number:
            raise HwgenError(
                "tokenizer", f"{directory / where}: token {token.content!r} is to be {number}, but tokenizer.json makes it {found}",
                "take both files of the same checkpoint",
            )


def _same(a: Any, b: Any) -> bool:
    return all(getattr(a, name) == getattr(b, name) for name in _FLAGS)


def _extra(options: dict[str, Any]) -> list[Any]:
    extra = options.get("extra_special_tokens") or options.get("additional_special_tokens") or []
    if not isinstance(extra, (dict, list)):
        raise HwgenError("tokenizer", f"tokenizer_config.json: extra_special_tokens is {extra!r}; a list is expected", _AGAIN)
    return list(extra.values()) if isinstance(extra, dict) else extra


def _special_names(options: dict[str, Any]) -> dict[str, str]:
    """Special tokens by name."""
    own = [name for name in options if name.endswith("_token") and not name.startswith("add_")]
    found = {name: _content(options[name]) for name in (*_NAMES, *own) if name in options}
    return {name: text for name, text in found.items() if text is not None}


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HwgenError("tokenizer", f"{path} cannot be read as UTF-8 text", _AGAIN) from error


def _chat_template(options: dict[str, Any], directory: Path) -> str | None:
    """The template for conversations: that of its own file goes before the one in ``tokenizer_config.json``; of several the
    one named ``default``.
    """
    named: dict[str, str] = {}
    if (directory / "chat_template.jinja").exists():
        named["default"] = _read_template(directory / "chat_template.jinja")
    more = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    if not named and not more:
        stored = options.get("chat_template")
        if isinstance(stored, list):
            try:
                named = {row["name"]: row["template"] for row in stored}
            except (KeyError, TypeError) as error:
                raise HwgenError(
                    "tokenizer", f"{directory / 'tokenizer_config.json'}: chat_template is no list of names and templates", _AGAIN
                ) from error
        elif isinstance(stored, dict):
            named = stored
        elif stored is not None:
            named = {"default": stored}
    named |= {path.stem: "" for path in more}
    if named and not isinstance(named.get("default"), str):
        what = f"the chat template {named['default']!r}, no text" if "default" in named else (
            f"the chat templates {', '.join(sorted(map(str, named)))}, but none named 'default'"
        )
        raise HwgenError("tokenizer", f"{directory} has {what}", "write the one to be used to chat_template.jinja")
    return named.get("default")


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of ``tokenizer.json``, or of ``tokenizer.model`` where that is all there is, with what
    ``tokenizer_config.json``, ``special_tokens_map.json``, ``added_tokens.json`` and the files of chat templates add to it.
    """
    options = _read_json(directory / "tokenizer_config.json")
    own: dict[str, str] = {}
    if not (directory / "tokenizer.json").exists() and (directory / "tokenizer.model").exists():
        inner, own = _open_sentence_piece(directory / "tokenizer.model", options)
    else:
        inner = _open_library_file(directory / "tokenizer.json")
    decoder = options.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict) or not all(_IS_ID.fullmatch(k) and _content(v) is not None for k, v in decoder.items()):
        raise HwgenError(
            "tokenizer", f"{directory / 'tokenizer_config.json'}: added_tokens_decoder is no table of tokens", _AGAIN
        )
    if "added_tokens_decoder" not in options:  # an old checkpoint: the map of special tokens counts
        options |= _read_json(directory / "special_tokens_map.json")
    if options.get("clean_up_tokenization_spaces") and type(inner.model).__name__ != "BPE":
        raise HwgenError(
            "tokenizer", f"{directory / 'tokenizer_config.json'}: clean_up_tokenization_spaces of a tokenizer that is no BPE",
            "set it to false where the model was trained without it",
        )
    _add_tokens(inner, options, directory)
    names = own | _special_names(options)
    from tokenizers import AddedToken

    known = {token.content for token in inner.get_added_tokens_decoder().values()}
    missing = [text for text in (*names.values(), *filter(None, map(_content, _extra(options)))) if text not in known]
    inner.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in dict.fromkeys(missing)])
    return Tokenizer(inner, chat_template=_chat_template(options, directory), names=names)
