"""Text to token ids and back, with the chat template of a model."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ...packages import needs
from .chat_template import render_chat

__all__ = ["TextStream", "Tokenizer", "put_ends"]

#: Around a control token in a message, so that it is found again in the rendered text: two characters of the private use area.
_OPEN, _CLOSE = "\U0010FFFC", "\U0010FFFD"

#: Characters from which on a text is encoded as a batch, which lets other threads run meanwhile.
_LONG = 4096

#: Tokens before an answer that :class:`TextStream` looks at.
_BEFORE = 8


def _ids(inner: Any, text: str, *, add_special_tokens: bool) -> list[int]:
    try:
        if len(text) < _LONG:
            return list(inner.encode(text, add_special_tokens=add_special_tokens).ids)
        return list(inner.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids)
    except Exception as error:  # the library raises plain Exception
        what = "it is no valid Unicode text" if any("\ud800" <= c <= "\udfff" for c in text) else str(error)
        raise HwgenError("tokenizer", f"a text cannot be made tokens: {what}", "give another text") from error


def put_ends(inner: Any, before: tuple[str, int] | None, behind: tuple[str, int] | None) -> None:
    """Lets a tokenizer of the library put a token (text and id) before and behind every text."""
    from tokenizers.processors import TemplateProcessing

    # named by their places: the library takes a colon or a dollar in a text for its own
    ends: list[Any] = [
        {"id": place, "ids": [token[1]], "tokens": [token[0]]} for place, token in (("begin", before), ("end", behind)) if token
    ]
    if ends:
        single = [*(["begin"] if before else []), "$A", *(["end"] if behind else [])]
        inner.post_processor = TemplateProcessing(single=single, special_tokens=ends)


class Tokenizer:
    """The tokenizer of a model: a tokenizer of the library ``tokenizers``, whose post-processor says which tokens stand before
    and behind every text.
    """

    def __init__(self, inner: Any, *, chat_template: str | None = None, names: Mapping[str, str] | None = None) -> None:
        self._inner = inner
        self._chat_template = chat_template
        #: Special tokens by name, such as ``bos_token``.
        self.names = dict(names or {})
        whole, own = self.encode("a"), self.encode_text("a")
        before = next((i for i in range(len(whole)) if own and whole[i : i + len(own)] == own), 0)
        #: Token before every prompt, or None.
        self.begin = int(whole[0]) if before else None
        added = inner.get_added_tokens_decoder().values()
        self._control = sorted((t.content for t in added if t.special and t.content), key=len, reverse=True)

    @classmethod
    def from_json(cls, text: str, names: Mapping[str, str], chat_template: str | None) -> Tokenizer:
        """From the text of a ``tokenizer.json``."""
        with needs("a tokenizer", "tokenizers"):
            from tokenizers import Tokenizer as Inner
        return cls(Inner.from_str(text), chat_template=chat_template, names=names)

    def to_json(self) -> str:
        """The text of its ``tokenizer.json``."""
        return str(self._inner.to_str())

    def has_tokens_of(self, other: Tokenizer) -> bool:
        """Whether every token of the other is one of this, under the same number."""
        mine: dict[str, int] = self._inner.get_vocab()
        return all(mine.get(text) == number for text, number in other._inner.get_vocab().items())

    @property
    def chat_template(self) -> str | None:
        """The model's chat template."""
        return self._chat_template

    @property
    def size(self) -> int:
        """Tokens of the vocabulary."""
        return int(self._inner.get_vocab_size())

    @property
    def largest(self) -> int:
        """The largest token id."""
        return max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1)

    def token(self, number: int) -> str | None:
        """A token as the vocabulary has it."""
        token: str | None = self._inner.id_to_token(number)
        return token

    def encode(self, text: str, whole: Sequence[str] = ()) -> list[int]:
        """Token ids of a prompt, with the tokens that the model wants before and behind it. ``whole``: as of :meth:`encode_text`; a
        prompt with such texts has the begin token alone.
        """
        if any(part in text for part in whole):
            return [*([] if self.begin is None else [self.begin]), *self.encode_text(text, whole)]
        return _ids(self._inner, text, add_special_tokens=True)

    def encode_text(self, text: str, whole: Sequence[str] = ()) -> list[int]:
        """Token ids of the text alone. Texts of ``whole`` are made tokens by themselves wherever they stand, the first that fits
        first, so that their tokens do not depend on what is around them.
        """
        parts = re.split(f"({'|'.join(map(re.escape, whole))})", text) if whole else [text]
        return [token for part in parts if part for token in _ids(self._inner, part, add_special_tokens=False)]

    @property
    def has_chat_template(self) -> bool:
        """Whether :meth:`encode_messages` works."""
        return self._chat_template is not None

    def encode_chat(self, text: str, whole: Sequence[str] = ()) -> list[int]:
        """Token ids of one user message in the model's chat template, ready for the answer."""
        return self.encode_messages([{"role": "user", "content": text}], whole=whole)

    @cached_property
    def usual_beginning(self) -> list[int]:
        """What stands in front of a prompt: of a message of a user in the chat template, or the begin token, if there is one."""
        if not self.has_chat_template:
            return [] if self.begin is None else [self.begin]
        first, second = self.encode_chat("a"), self.encode_chat("1")
        return first[: next((i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y), 0)]

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        self._inner.save(str(path))

    def settings(self) -> dict[str, Any]:
        """What ``tokenizer_config.json`` holds beside it."""
        template = {} if self._chat_template is None else {"chat_template": self._chat_template}
        return {"tokenizer_class": "PreTrainedTokenizerFast", **self.names, **template}

    def _marked(self, content: Any) -> Any:
        """A value with the control tokens in its texts marked."""
        if isinstance(content, Mapping):
            return {self._marked(name): self._marked(value) for name, value in content.items()}
        if isinstance(content, list):
            return [self._marked(value) for value in content]
        if not isinstance(content, str) or not self._control:
            return content
        pattern = "|".join(map(re.escape, self._control))
        return re.sub(pattern, lambda found: f"{_OPEN}{found[0]}{_CLOSE}", content.replace(_OPEN, "").replace(_CLOSE, ""))

    def encode_messages(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), whole: Sequence[str] = ()
    ) -> list[int]:
        """Token ids of a conversation (``role``, ``content``, and what else the template knows) in the model's chat template,
        ready for the answer. The template says where control tokens stand; one that somebody typed into a message or a
        description of ``tools`` is text. ``whole``: as of :meth:`encode_text`.
        """
        if self._chat_template is None:
            raise HwgenError("tokenizer", "this model has no chat template", "run without --chat")
        marked = [{name: self._marked(value) if name != "role" else value for name, value in m.items()} for m in messages]
        prompt = render_chat(self._chat_template, marked, self.names, [self._marked(tool) for tool in tools])
        ids: list[int] = []
        for number, piece in enumerate(re.split(f"{_OPEN}(.*?){_CLOSE}", prompt, flags=re.DOTALL)):
            ids += _ids(self._plain, piece, add_special_tokens=False) if number % 2 else self.encode_text(piece, whole)
        return ids

    @cached_property
    def _plain(self) -> Any:
        """The tokenizer without control tokens: their names are text."""
        plain = copy.deepcopy(self._inner)
        if type(plain.model).__name__ == "Unigram":  # would take a name that is in its vocabulary for one token, whatever it costs
            state = json.loads(plain.to_str())
            vocabulary, control = state["model"]["vocab"], set(self._control)
            state["model"]["vocab"] = [[f"{_OPEN}{text}" if text in control else text, score] for text, score in vocabulary]
            state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in control]
            state["post_processor"] = None
            plain = type(plain).from_str(json.dumps(state))
        plain.encode_special_tokens = True
        return plain

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self._inner.decode(list(ids), skip_special_tokens=True))


class TextStream:
    """Turns token ids into text piece by piece; bytes of an unfinished character are held back. ``after``: the tokens before
    them, whose text decides whether the first one begins with a space.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(after[-_BEFORE:])
        self._text = tokenizer.decode(self._ids) if self._ids else ""
        if self._text.endswith("\N{REPLACEMENT CHARACTER}"):  # the prompt ends within a character
            self._ids, self._text = [], ""

    def add(self, token: int) -> str:
        """Text that became certain with ``token``."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        new, self._text = text[len(self._text) :], text
        return new

    def finish(self) -> str:
        """What was still held back."""
        text = self._tokenizer.decode(self._ids)
        return text[len(self._text) :]
