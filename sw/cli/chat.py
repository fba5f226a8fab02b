"""``hwgen chat``: a conversation in the terminal, on whatever can run the model."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from typing import Any

from ...errors import HwgenError
from ..runtime.conversation import Conversation
from ..runtime.llm import LLM
from .chat_input import line_reader
from .kv_budget import add_kv_budget, answer_budget_of
from .options import MODEL_HELP, add_board, add_device, add_draft, add_sampling, at_least, device_options, opened_model, sampling_of
from .output import Output, Result
from .run import drafts_json

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen chat smollm2 --temperature 0.7"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        default="stories",
        metavar="MODEL",
        help=MODEL_HELP,
    )
    parser.add_argument("--prompt", help="one message in place of a conversation; the command ends after the answer")
    add_device(parser, "golden")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="longest answer")
    add_sampling(parser)
    add_draft(parser)
    add_kv_budget(parser)
    add_board(parser, None)


def run(options: argparse.Namespace, output: Output) -> Result:
    new_tokens, sampling = at_least(options, "max-new-tokens", 1), sampling_of(options)
    model, board = opened_model(options, output)
    budget = answer_budget_of(options, board.config)
    llm = LLM(
        model, options.device, board.config, output.progress, draft=options.draft,
        draft_model=options.draft_model, device_options=device_options(options, board),
    )
    talk = Conversation(llm, sampling, max_new_tokens=new_tokens, kv_budget=budget)
    turns: list[dict[str, Any]] = []
    result = {"model": model.name, "device": options.device, "board": board.name, "turns": turns}
    if options.prompt is not None:
        turns.append(show_turn(talk, options.prompt, output))
        return 0, result
    output.progress(f"{model.name} on {options.device}; Ctrl-C ends an answer, /reset starts again, /quit ends")
    read = line_reader(sys.stdin.isatty() and not output.as_json)
    while (line := read_line(read, output)) is not None:
        if line == "/quit":
            break
        if line == "/reset":
            talk.reset()
            output.progress("conversation forgotten")
        elif line.startswith("/"):
            output.progress(f"{line.split()[0]} is not a command; there are /reset and /quit")
        elif line:
            try:
                turns.append(show_turn(talk, line, output))
            except KeyboardInterrupt:
                output.show()
                output.progress("answer ended")
            except HwgenError as error:
                if error.kind != "context":
                    raise
                output.progress(str(error))
    return 0, result


def show_turn(talk: Conversation, text: str, output: Output) -> dict[str, Any]:
    """Say something and print the answer as it comes; the turn for ``--json``."""
    with contextlib.closing(talk.say(text)) as pieces:
        for piece in pieces:
            output.show(piece, end="")
    output.show()
    generation = talk.generation
    assert generation is not None
    return {
        "prompt_tokens": list(generation.prompt),
        "tokens": generation.tokens,
        "text": talk.messages[-1]["content"],
        "stop_reason": generation.stop_reason,
        "drafts": drafts_json(generation),
    }


def read_line(read: Callable[[], str | None], output: Output) -> str | None:
    """The next line. Ctrl-C clears the one that is being typed; where there is none, it says how to leave."""
    while True:
        try:
            return read()
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            output.progress("/quit or Ctrl-D ends the conversation")
