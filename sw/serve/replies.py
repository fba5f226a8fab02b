"""Answers as JSON values of the protocol: whole, or as the chunks of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..runtime.answers import best_answers, mean_logprob
from ..runtime.logprobs import TokenLogprobs
from ..runtime.phase import Phase
from .completion import Choice, Completion, Piece

__all__ = ["Reply", "likeliest", "timings", "usage"]

#: A token as text, by its id.
Spelling = Callable[[int], str]


#: A token and its probabilities; the first token of a prompt has none.
Entry = tuple[int, "TokenLogprobs | None"]


def likeliest(choices: Sequence[Choice], n: int, written: int) -> list[Choice]:
    """The ``n`` likeliest a token of the ``written`` answers to each prompt, best first; all in their order where no more are
    written.
    """
    if written == n:
        return list(choices)
    groups = [choices[first : first + written] for first in range(0, len(choices), written)]
    return [group[i] for group in groups for i in best_answers([mean_logprob(c.logprob, c.tokens) for c in group], n)]


def usage(choices: Sequence[Choice], per_prompt: int) -> dict[str, Any]:
    """Token counts of a request with ``per_prompt`` answers to each prompt."""
    generations = [choice.generation for choice in choices]
    prompt = sum(len(generation.prompt) for generation in generations[::per_prompt])
    completion = sum(choice.tokens for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(generation.reused for generation in generations[::per_prompt])},
    }


def timings(completion: Completion, clock_mhz: float, simulated: bool) -> dict[str, Any]:
    """What the passes of a request took. ``time``: ``simulated`` cycles at the clock of the build, ``measured`` cycles at it, or
    ``wall`` where no cycles are counted, as on the golden device, which says nothing of hardware.
    """
    generations = [choice.generation for choice in completion.choices]
    counted = any(g.prefill.cycles or g.decode.cycles for g in generations)
    out: dict[str, Any] = {"time": ("simulated" if simulated else "measured") if counted else "wall", "clock_mhz": clock_mhz}
    phases = (("prompt", [g.prefill for g in generations]), ("answer", [g.decode for g in generations]))
    for name, parts in phases:
        total = Phase(*(sum(getattr(part, field) for part in parts) for field in ("tokens", "cycles", "stream_beats", "wall_s")))
        seconds = total.seconds(clock_mhz) if counted else total.wall_s
        out[name] = {
            "tokens": total.tokens,
            "seconds": seconds or 0.0,
            "tokens_per_second": total.tokens / seconds if seconds else None,
            "port_utilisation": total.port_utilisation if counted else None,
        }
    return out


def _chat_logprobs(entries: Sequence[Entry], spell: Spelling) -> dict[str, Any]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = spell(token)
        return {"token": text, "logprob": logprob, "bytes": None if text.startswith("token_id:") else list(text.encode())}

    content = [
        {**entry(t, values.logprob), "top_logprobs": [entry(*pair) for pair in values.top]} for t, values in entries if values
    ]
    return {"content": content, "refusal": None}


def _text_logprobs(entries: Sequence[Entry], spell: Spelling, offset: int) -> dict[str, Any]:
    tokens = [spell(token) for token, _ in entries]
    offsets = [offset + sum(map(len, tokens[:i])) for i in range(len(tokens))]
    top = [values and {spell(token): logprob for token, logprob in values.top} for _, values in entries]
    logprobs = [values and values.logprob for _, values in entries]
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets}


class Reply:
    """The answer to one request. ``shows_logprobs``: whether probabilities were asked for."""

    def __init__(self, model: str, chat: bool, spell: Spelling, shows_logprobs: bool) -> None:
        self._chat, self._spell, self._shows_logprobs = chat, spell, shows_logprobs
        prefix, kind = ("chatcmpl", "chat.completion") if chat else ("cmpl", "text_completion")
        self._base = {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}
        self._chunk_base = {**self._base, "object": "chat.completion.chunk"} if chat else self._base
        #: Characters of each answer that were sent.
        self._sent: dict[int, int] = {}

    def _logprobs(self, entries: Sequence[Entry], offset: int) -> dict[str, Any] | None:
        if not self._shows_logprobs:
            return None
        return _chat_logprobs(entries, self._spell) if self._chat else _text_logprobs(entries, self._spell, offset)

    def whole(
        self, answers: Sequence[Choice], pieces: Sequence[Piece], tokens: dict[str, Any], times: dict[str, Any]
    ) -> dict[str, Any]:
        """Answers at once, from the pieces of all that were written; they are numbered as they come here."""
        choices = []
        for number, choice in enumerate(answers):
            own = [piece for piece in pieces if piece.index == choice.index]
            text, calls = "".join(piece.text for piece in own), own[-1].calls
            content: dict[str, Any] = {"text": choice.echo + text}
            if self._chat:
                message = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
                content = {"message": {**message, "tool_calls": calls} if calls else message}
            entries: list[Entry] = [entry for piece in own for entry in piece.logprobs]
            scored, offset = choice.generation.prompt_scores, len(choice.echo)
            if choice.generation.prompt_logprobs is not None:
                entries, offset = [*zip(choice.generation.prompt, [None, *scored], strict=True), *entries], 0
            logprobs = self._logprobs(entries, offset)
            choices.append({"index": number, **content, "logprobs": logprobs, "finish_reason": own[-1].finish_reason})
        return {**self._base, "choices": choices, "usage": tokens, "timings": times}

    def _chunk(self, index: int, content: dict[str, Any], piece: Piece | None, finish_reason: str | None = None) -> dict[str, Any]:
        entries, offset = (piece.logprobs, self._sent.get(index, 0)) if piece is not None else ([], 0)
        logprobs = self._logprobs(entries, offset) if entries else None
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._chunk_base, "choices": [choice]}

    def first(self, choice: Choice) -> dict[str, Any]:
        """The chunk that begins an answer."""
        self._sent[choice.index] = len(choice.echo)
        content = {"delta": {"role": "assistant", "content": ""}} if self._chat else {"text": choice.echo}
        return self._chunk(choice.index, content, None)

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """The chunks of a piece."""
        out = []
        if piece.text or piece.logprobs:
            content = {"delta": {"content": piece.text}} if self._chat else {"text": piece.text}
            out.append(self._chunk(piece.index, content, piece))
            self._sent[piece.index] += len(piece.text)
        for number, call in enumerate(piece.calls):
            out.append(self._chunk(piece.index, {"delta": {"tool_calls": [{"index": number, **call}]}}, None))
        if piece.finish_reason is not None:
            out.append(self._chunk(piece.index, {"delta": {}} if self._chat else {"text": ""}, None, piece.finish_reason))
        return out

    def last(self, tokens: dict[str, Any] | None, times: dict[str, Any]) -> dict[str, Any]:
        """The chunk behind the answers, where the request asked for its token counts."""
        return {**self._chunk_base, "choices": [], "usage": tokens, "timings": times}
