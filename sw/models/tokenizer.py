"""Text to token ids and back: a ``tokenizer.json`` with the begin token and chat template of its model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ...packages import needs

__all__ = ["TextStream", "Tokenizer"]


class Tokenizer:
    """The tokenizer of a model. ``begin`` is put before every prompt that does not start with it."""

    def __init__(
        self, inner: Any, *, begin: int | None = None, chat_template: str | None = None, end: int | None = None
    ) -> None:
        self._inner = inner
        self.begin = begin
        #: Token that ends a document or an answer, where the model has one.
        self.end = end
        self._chat_template = chat_template

    @classmethod
    def load(cls, directory: Path, begin: int | None = None, end: int | None = None) -> Tokenizer:
        """From ``tokenizer.json`` (and ``tokenizer_config.json`` where there is one)."""
        path = directory / "tokenizer.json"
        if not path.exists():
            raise HwgenError("tokenizer", f"{path} is missing", "copy tokenizer.json of the model beside config.json")
        with needs("a tokenizer", "tokenizers"):
            from tokenizers import Tokenizer as Inner
        try:
            inner = Inner.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise HwgenError("tokenizer", f"{path} cannot be read: {error}", "download the file again") from error
        options_file = directory / "tokenizer_config.json"
        try:
            options = json.loads(options_file.read_text(encoding="utf-8")) if options_file.exists() else {}
        except ValueError as error:
            raise HwgenError("tokenizer", f"{options_file} is not valid JSON", "download the file again") from error
        if options.get("add_bos_token") is False:
            begin = None
        template = options.get("chat_template")
        template_file = directory / "chat_template.jinja"  # where newer checkpoints have it
        if template is None and template_file.exists():
            template = template_file.read_text(encoding="utf-8")
        return cls(inner, begin=begin, chat_template=template if isinstance(template, str) else None, end=end)

    @classmethod
    def from_json(cls, text: str, begin: int | None, end: int | None, chat_template: str | None) -> Tokenizer:
        """From the text of a ``tokenizer.json``."""
        with needs("a tokenizer", "tokenizers"):
            from tokenizers import Tokenizer as Inner
        return cls(Inner.from_str(text), begin=begin, chat_template=chat_template, end=end)

    def to_json(self) -> str:
        """The text of its ``tokenizer.json``."""
        return str(self._inner.to_str())

    @property
    def chat_template(self) -> str | None:
        """The model's chat template."""
        return self._chat_template

    @property
    def size(self) -> int:
        """Tokens of the vocabulary."""
        return int(self._inner.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, the begin token first where the model has one."""
        ids = list(self._inner.encode(text).ids)
        if self.begin is not None and ids[:1] != [self.begin]:
            ids.insert(0, self.begin)
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Token ids of the text alone."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    @property
    def has_chat_template(self) -> bool:
        """Whether :meth:`encode_messages` works."""
        return self._chat_template is not None

    def encode_chat(self, text: str) -> list[int]:
        """Token ids of one user message in the model's chat template, ready for the answer."""
        return self.encode_messages([{"role": "user", "content": text}])

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        self._inner.save(str(path))

    def settings(self) -> dict[str, Any]:
        """What ``tokenizer_config.json`` holds beside it."""
        token = {} if self._chat_template is None else {"chat_template": self._chat_template}
        return {"add_bos_token": self.begin is not None, **token}

    def encode_messages(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation (``role``, ``content``) in the model's chat template, ready for the answer."""
        if self._chat_template is None:
            raise HwgenError("tokenizer", "this model has no chat template", "run without --chat")
        with needs("a chat template", "hwgen[chat]"):
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment

        def raise_exception(message: str) -> None:  # templates call it for roles that they do not know
            raise TemplateError(message)

        begin, end = ("" if t is None else self._inner.id_to_token(t) for t in (self.begin, self.end))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        try:
            template = environment.from_string(self._chat_template)
            prompt = template.render(
                messages=messages,
                add_generation_prompt=True,
                bos_token=begin,
                eos_token=end,
                raise_exception=raise_exception,
            )
        except TemplateError as error:
            raise HwgenError(
                "tokenizer", f"the chat template refuses the messages: {error}", "change roles or order of the messages"
            ) from error
        ids = self.encode_text(prompt)
        return ids if self.begin is None or ids[:1] == [self.begin] else [self.begin, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self._inner.decode(list(ids), skip_special_tokens=True))


class TextStream:
    """Turns token ids into text piece by piece; bytes of an unfinished character are held back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._text = ""

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
