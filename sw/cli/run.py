"""``hwgen run``: an answer to one prompt, and what it took."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...boards import Board
from ...errors import HwgenError
from ..devices.power import EnergyMeter, sensor_of, why_no_energy
from ..runtime.generation import Generation
from ..runtime.llm import LLM
from ..runtime.pages import Session
from ..runtime.sampling import Sampling
from ..runtime.session_file import check_place
from .kv_budget import add_kv_budget, answer_budget_of
from .kv_cache import add_kv
from .options import (
    MODEL_HELP,
    add_board,
    add_device,
    add_draft,
    add_head,
    add_sampling,
    add_waves,
    at_least,
    device_options,
    opened_model,
    sampling_of,
    waves_of,
)
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = 'hwgen run stories "Once upon a time"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", default="stories", metavar="MODEL", help=MODEL_HELP
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help="text to continue, behind the model")
    parser.add_argument("--prompt", help="text to continue, without a model before it")
    parser.add_argument("--chat", action="store_true", help="put the prompt in the model's chat template")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="longest answer")
    parser.add_argument("--n", type=int, default=1, metavar="N", help="answers, each from a seed of its own; they share passes")
    parser.add_argument("--logprobs", type=int, metavar="K", help="in the JSON, of every token and the K likeliest: logarithms of "
                        "their probabilities")
    parser.add_argument("--best-of", type=int, metavar="K", help="write K answers and show the likeliest N")
    parser.add_argument("--first-finish", action="store_true", help="of N answers, show the first that ends and stop the others")
    add_device(parser, "verilator")
    add_sampling(parser)
    add_draft(parser)
    add_head(parser, None)
    add_kv(parser)
    add_kv_budget(parser)
    parser.add_argument(
        "--session", type=Path, metavar="FILE", help="continue the session in FILE if it exists, and save it there"
    )
    parser.add_argument(
        "--kv-bits", type=int, choices=(8, 4), default=8, help="of saved keys and values: exact, or half the space"
    )
    add_waves(parser)
    add_board(parser, None)


def prompt_of(options: argparse.Namespace) -> str:
    """The text to continue, from one of its two places."""
    if (options.text is None) == (options.prompt is None):
        what = "no text to continue" if options.text is None else "the text is given twice, as TEXT and as --prompt"
        raise HwgenError("usage", what, 'write `hwgen run stories "Once upon a time"`, or --prompt for the default model')
    return str(options.prompt if options.text is None else options.text)


def is_several(options: argparse.Namespace) -> bool:
    """Whether several answers are asked for; what cannot be had with them is refused."""
    several = at_least(options, "n", 1) > 1 or options.best_of is not None
    if options.logprobs is not None:
        at_least(options, "logprobs", 0)
    for name in ("session", "logprobs"):
        if several and getattr(options, name) is not None:
            raise HwgenError("usage", f"--{name} is of one answer", f"leave --{name} out, or --n and --best-of")
    return several


def logprobs_json(generation: Generation) -> list[dict[str, Any]]:
    """Logarithms of the probabilities of the answer's tokens, and of the likeliest in their places."""
    return [
        {"token": token, "logprob": score.logprob, "top": [list(pair) for pair in score.top]}
        for token, score in zip(generation.tokens, generation.scores, strict=True)
    ]


def run(options: argparse.Namespace, output: Output) -> Result:
    new_tokens, sampling, prompt = at_least(options, "max-new-tokens", 1), sampling_of(options), prompt_of(options)
    several = is_several(options)
    if options.session is not None:
        check_place(options.session)
    model, board = opened_model(options, output)
    budget, places, waves = answer_budget_of(options, board.config), device_options(options, board), waves_of(options)
    if waves is not None:
        if options.device != "verilator":
            raise HwgenError("usage", "waves are of the simulator", "add --device verilator, or leave --waves out")
        places["waves"] = waves
    llm = LLM(
        model, options.device, board.config, output.progress, head=options.head, draft=options.draft,
        draft_model=options.draft_model, device_options=places,
    )
    if several:
        return run_several(options, output, llm, sampling, board)
    session = None
    if options.session is not None:
        session = llm.load_session(options.session) if options.session.exists() else Session()

    def save() -> None:
        if session is not None:
            llm.save_session(session, options.session, kv_bits=options.kv_bits)

    answer = llm.generate(
        prompt, max_new_tokens=new_tokens, **asdict(sampling), chat=options.chat, session=session,
        logprobs=options.logprobs, kv_budget=budget,
    )
    output.show("" if options.chat else prompt, end="")
    sensor = sensor_of(llm.device)
    with EnergyMeter(sensor) as meter:
        try:
            for piece in answer:
                output.show(piece, end="")
        except KeyboardInterrupt:
            answer.generation.interrupt()
            save()
            raise
    save()
    result = {
        "model": llm.model.name,
        "device": options.device,
        "board": board.name,
        "text": answer.text,
        "simulated": llm.device.simulated,
        "energy": meter.to_dict(len(answer.generation.tokens)),
        "no_energy": None if sensor else why_no_energy(llm.device),
        **({} if options.logprobs is None else {"logprobs": logprobs_json(answer.generation)}),
        **generation_json(answer.generation, board.config.clock_mhz, getattr(llm.device, "build_seconds", 0.0)),
    }
    output.show("\n")
    for line in describe_run(result):
        output.show(line)
    return 0, result


def run_several(options: argparse.Namespace, output: Output, llm: LLM, sampling: Sampling, board: Board) -> Result:
    """Several answers to the prompt."""
    prompt = prompt_of(options)
    answers = llm.answers(
        prompt, sampling, n=options.n, best_of=options.best_of, first_finish=options.first_finish,
        max_new_tokens=options.max_new_tokens, chat=options.chat, kv_budget=options.kv_budget,
    )
    first = answers[0]
    result = {
        "model": llm.model.name,
        "device": options.device,
        "board": board.name,
        "text": first.text,
        "simulated": llm.device.simulated,
        "answers": [
            {"tokens": a.generation.tokens, "text": a.text, "stop_reason": a.generation.stop_reason} for a in answers
        ],
        **generation_json(first.generation, board.config.clock_mhz, getattr(llm.device, "build_seconds", 0.0)),
    }
    for number, answer in enumerate(answers, 1):
        output.show(f"--- answer {number} of {len(answers)}, ended by {answer.generation.stop_reason}")
        output.show(("" if options.chat else prompt) + answer.text)
    return 0, result


def drafts_json(generation: Generation) -> dict[str, Any] | None:
    """What drafts gave; None where nobody made any."""
    drafter = generation.drafter
    if drafter is None:
        return None
    return {"proposed": drafter.proposed, "accepted": drafter.accepted, "tokens_per_pass": drafter.tokens_per_pass}


def generation_json(generation: Generation, clock_mhz: float, build_seconds: float) -> dict[str, Any]:
    """The part of the answer that speaks of tokens and time (keys as documented for ``hwgen run --json``)."""
    prefill, decode = generation.prefill, generation.decode
    busy = decode if decode.tokens else prefill
    wall_rate = decode.tokens / decode.wall_s if decode.wall_s else None
    return {
        "prompt_tokens": list(generation.prompt),
        "tokens": generation.tokens,
        "stop_reason": generation.stop_reason,
        "clock_mhz": clock_mhz,
        "prefill": {"tokens": prefill.tokens, "cycles": prefill.cycles, "ttft_s": prefill.seconds(clock_mhz)},
        "decode": {"tokens": decode.tokens, "cycles": decode.cycles, "tok_s": decode.rate(clock_mhz)},
        "port_utilisation": busy.port_utilisation,
        "drafts": drafts_json(generation),
        "wall": {
            "build_s": build_seconds,
            "prefill_s": prefill.wall_s,
            "decode_s": decode.wall_s,
            "decode_tok_s": wall_rate,
        },
    }


def describe_run(result: dict[str, Any]) -> list[str]:
    """The statistics of a run for people."""
    prefill, decode, wall = result["prefill"], result["decode"], result["wall"]
    lines = [
        f"{len(result['tokens'])} tokens (stopped by {result['stop_reason']}), model {result['model']}, "
        f"device {result['device']}, board {result['board']}"
    ]
    where = f"simulated at {result['clock_mhz']:g} MHz" if result["simulated"] else f"at {result['clock_mhz']:g} MHz"
    if prefill["cycles"]:
        lines.append(
            f"prefill  {prefill['tokens']} tokens, {prefill['cycles']:,} cycles, {1e3 * prefill['ttft_s']:.3f} ms ({where})"
        )
    if decode["cycles"]:
        lines.append(
            f"decode   {decode['tokens']} tokens, {decode['cycles']:,} cycles, {decode['cycles'] // decode['tokens']:,} "
            f"cycles a token, {decode['tok_s']:,.0f} tokens/s ({where})"
        )
        lines.append(f"ports    {result['port_utilisation']:.1%} of the cycles carry a beat")
    rate = f", {wall['decode_tok_s']:.1f} tokens/s" if wall["decode_tok_s"] else ""
    lines.append(
        f"wall     build {wall['build_s']:.1f} s, prefill {wall['prefill_s']:.1f} s, decode {wall['decode_s']:.1f} s{rate}"
    )
    drafts = result["drafts"]
    if drafts and drafts["proposed"]:
        lines.append(
            f"drafts   {drafts['accepted']} of {drafts['proposed']} tokens right, {drafts['tokens_per_pass']:.2f} tokens a pass"
        )
    energy = result["energy"]
    if energy and energy["joules_per_token"]:
        lines.append(
            f"energy   {energy['joules']:.2f} J in {energy['seconds']:.1f} s, {energy['joules_per_token']:.3f} J a new token, "
            f"prompt included ({energy['sensor']}: {energy['measures']})"
        )
    elif not result["simulated"]:
        lines.append(f"energy   not measured: {result['no_energy'] or 'the sensor did not answer'}")
    return lines
