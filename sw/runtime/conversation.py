"""A conversation: messages, and the session that has read them."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from ...errors import HwgenError
from .generation import Generation
from .llm import LLM, Answer
from .pages import Session
from .sampler import Sampler
from .sampling import Sampling

__all__ = ["Conversation"]


class Conversation:
    """Turns of a user and a model, at most ``max_new_tokens`` tokens an answer, each with a budget of ``kv_budget`` blocks.

    A turn computes the tokens that follow those of the turns before, in passes of their own: its answer has the bits of one
    session that is given the same tokens in the same pieces. Where the template makes other tokens of what was said (an answer
    that is spelled in another way), the conversation is read anew.
    """

    def __init__(
        self, llm: LLM, sampling: Sampling | None = None, *, max_new_tokens: int = 256, kv_budget: int = 0
    ) -> None:
        self._llm, self._limit, self._budget = llm, max_new_tokens, kv_budget
        self._sampler = Sampler(sampling or Sampling())
        #: What was said, as ``role`` ("user" or "assistant") and ``content``.
        self.messages: list[dict[str, str]] = []
        #: Tokens that were read.
        self.session = Session()
        #: The last answer: tokens of its prompt that were not read before, its own tokens, phases, why it ended.
        self.generation: Generation | None = None

    def reset(self) -> None:
        """Start again. Random draws go on."""
        self.messages.clear()
        self._close()

    def _close(self) -> None:
        self._llm.close_session(self.session)
        self._sampler.begin_anew()

    def _encode(self) -> list[int]:
        """Tokens of all messages."""
        tokenizer = self._llm.model.tokenizer
        if tokenizer.has_chat_template:
            return tokenizer.encode_messages(self.messages)
        return tokenizer.encode("".join(message["content"] for message in self.messages))  # a model that continues text

    def _unread(self, tokens: Sequence[int]) -> list[int]:
        """What is left to compute of the tokens of all messages; a session that has read others is closed."""
        read = self.session.tokens
        if len(tokens) <= len(read) or list(tokens[: len(read)]) != read:
            self._close()
        self.session.pending = []  # the end of the last answer is one of the tokens
        return list(tokens[self.session.position :])

    def say(self, text: str) -> Generator[str, None, None]:
        """Add a message and stream the answer. One that does not fit into the context is refused, and not added."""
        self.messages.append({"role": "user", "content": text})
        tokens, context = self._encode(), self._llm.image.context
        if len(tokens) >= context:
            self.messages.pop()
            raise HwgenError("context", f"the conversation is longer than the context of {context} tokens", "type /reset")
        self.generation = self._llm.generation(
            self._unread(tokens), self._limit, self._sampler, session=self.session, kv_budget=self._budget
        )
        answer = Answer(self._llm.model, self.generation, keep_session=True)
        said = ""
        try:
            for piece in answer:
                said += piece
                yield piece
        finally:  # interrupted as well: the answer is what was said of it
            self.generation.interrupt()
            self.messages.append({"role": "assistant", "content": said})
