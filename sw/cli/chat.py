"""``hwgen chat``: a conversation in the terminal, on whatever can run the model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ..models.model import Model
from ..models.open import open_model
from ..models.tokenizer import TextStream, Tokenizer
from ..runtime.sampling import Sampler, Sampling

if TYPE_CHECKING:
    from ...boards import Board
    from .output import Output

__all__ = ["Conversation", "add_arguments", "open_runner", "run"]


class Runner(Protocol):
    """A model that takes tokens one after the other."""

    #: Longest sequence.
    context: int

    @property
    def tokens(self) -> list[int]:
        """Tokens it has taken."""

    def feed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after the last of ``tokens``."""

    def reset(self) -> None:
        """Forget every token."""


class EngineRunner:
    """A model on a device."""

    def __init__(self, model: Model, device: str, board: Board, output: Output) -> None:
        from ..runtime.llm import LLM
        from ..runtime.pages import Session

        self._engine = LLM(model, device, board.config, output.progress).engine
        self._session = Session()
        self.context = self._engine.image.context

    @property
    def tokens(self) -> list[int]:
        return self._session.tokens

    def feed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        self._engine.prefill(self._session, tokens, write_logits=True)
        return self._engine.logits()

    def reset(self) -> None:
        self._engine.pages.close(self._session)


class LlamaRunner:
    """A llama model on the golden model of whole layers: the bits of the golden device, without programs."""

    def __init__(self, model: Model, board: Board) -> None:
        try:
            from ...golden.decoder import GoldenModel, GoldenSession
        except ImportError as error:
            raise HwgenError(
                "tool", f"the golden model needs a Python package that is missing: {error.name}", 'pip install "hwgen[sim]"'
            ) from error
        if not model.weights.is_quantized:
            raise HwgenError(
                "architecture",
                f"{model.name} has float matrices; the machine takes 4-bit ones",
                f"hwgen quantize {model.path} --out DIR",
            )
        self._model, self._new = GoldenModel(model.weights, board.config), GoldenSession
        self._session = GoldenSession()
        self.context = model.weights.shape.max_context

    @property
    def tokens(self) -> list[int]:
        return self._session.tokens

    def feed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = self._model.forward(self._session, tokens).numpy()
        return logits

    def reset(self) -> None:
        self._session = self._new()


def open_runner(model: Model, device: str, board: Board, output: Output) -> Runner:
    """What runs the model on the device."""
    if model.weights.engine == "int4" and device == "golden":
        return LlamaRunner(model, board)
    return EngineRunner(model, device, board, output)


class Conversation:
    """Messages, and the runner that has read them."""

    def __init__(self, runner: Runner, tokenizer: Tokenizer, stop: Sequence[int], sampling: Sampling, limit: int) -> None:
        self.runner, self.tokenizer = runner, tokenizer
        self._stop, self._sampler, self._limit = stop, Sampler(sampling), limit
        self.messages: list[dict[str, str]] = []
        #: Tokens of the last answer, and why it ended.
        self.answer: list[int] = []
        self.stop_reason = ""

    def reset(self) -> None:
        """Start again."""
        self.messages.clear()
        self.runner.reset()

    def _prompt(self) -> list[int]:
        """Tokens of all messages that the runner has not read."""
        if self.tokenizer.has_chat_template:
            ids = self.tokenizer.encode_messages(self.messages)
        else:  # a model that continues text
            ids = self.tokenizer.encode("".join(message["content"] for message in self.messages))
        read = self.runner.tokens
        if read and ids[: len(read)] == read and len(ids) > len(read):
            return ids[len(read) :]
        self.runner.reset()
        return ids

    def say(self, text: str) -> Iterator[str]:
        """Add a message and stream the answer."""
        self.messages.append({"role": "user", "content": text})
        prompt = self._prompt()
        if len(self.runner.tokens) + len(prompt) >= self.runner.context:
            self.messages.pop()
            raise HwgenError(
                "context", f"the conversation is longer than the context of {self.runner.context} tokens", "type /reset"
            )
        self.answer, self.stop_reason = [], "length"
        stream, pieces = TextStream(self.tokenizer), []
        logits = self.runner.feed(prompt)
        while True:
            token = self._sampler.choose(logits, self.runner.tokens)
            if token in self._stop:
                self.stop_reason = "stop"
                break
            self.answer.append(token)
            pieces.append(stream.add(token))
            yield pieces[-1]
            if len(self.answer) == self._limit:
                break
            if len(self.runner.tokens) + 1 >= self.runner.context:
                self.stop_reason = "context"
                break
            logits = self.runner.feed([token])
        pieces.append(stream.finish())
        yield pieces[-1]
        self.messages.append({"role": "assistant", "content": "".join(pieces)})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        default="stories",
        metavar="MODEL",
        help="shipped or added name, directory in Hugging Face layout or GGUF file",
    )
    parser.add_argument("--prompt", help="one message in place of a conversation; the command ends after the answer")
    parser.add_argument("--device", default="golden", help="golden or verilator")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="longest answer")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K best tokens; 0 is all")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from the best tokens of total probability P")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="1 is none")
    parser.add_argument("--seed", type=int, default=0, help="of the random draw")


def run(options: argparse.Namespace, output: Output) -> tuple[int, dict[str, Any]]:
    from .output import configured_board

    if options.max_new_tokens < 1:
        raise HwgenError("usage", f"--max-new-tokens must be at least 1, not {options.max_new_tokens}", "give 1 or more")
    sampling = Sampling(
        temperature=options.temperature, top_k=options.top_k, top_p=options.top_p,
        repetition_penalty=options.repetition_penalty, seed=options.seed,
    )
    model = open_model(options.model, output.progress)
    board = configured_board(options, model.weights.engine)
    runner = open_runner(model, options.device, board, output)
    conversation = Conversation(runner, model.tokenizer, model.stop_tokens, sampling, options.max_new_tokens)
    result: dict[str, Any] = {"model": model.name, "device": options.device, "board": board.name, "turns": []}

    def turn(text: str) -> None:
        before = len(runner.tokens)
        for piece in conversation.say(text):
            output.show(piece, end="")
        output.show()
        read = runner.tokens
        prompt = len(read) - max(len(conversation.answer) - (conversation.stop_reason != "stop"), 0)
        kept = min(before, prompt)
        message = conversation.messages[-1]["content"]
        result["turns"].append(
            {
                "prompt_tokens": read[kept:prompt],
                "tokens": conversation.answer,
                "text": message,
                "stop_reason": conversation.stop_reason,
            }
        )

    if options.prompt is not None:
        turn(options.prompt)
        return 0, result
    output.progress(f"{model.name} on {options.device}; /reset starts again, /quit ends")
    while (line := _read_line(output)) is not None:
        if line == "/quit":
            break
        if line == "/reset":
            conversation.reset()
            output.progress("conversation forgotten")
        elif line.startswith("/"):
            output.progress(f"{line.split()[0]} is not a command; there are /reset and /quit")
        elif line:
            try:
                turn(line)
            except HwgenError as error:
                if error.kind != "context":
                    raise
                output.progress(str(error))
    return 0, result


def _read_line(output: Output) -> str | None:
    """A line of the user, or None at the end of the input."""
    if sys.stdin.isatty() and not output.as_json:
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None
