"""What every planted fault is run through: cases of the fuzzer on one small machine with both engines and every format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from hwgen.decoder import BITNET, LLAMA, QWEN2, QWEN3
from hwgen.draw import GREEDY, Draw, draw_scale
from hwgen.shape import ModelShape
from hwgen.sim.dram import IDEAL, KV260, RANDOM
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.devices.device import Device
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.running_loop import RunningLoop
from hwgen.sw.verification.case import MEMORY_BYTES, Case, CaseResult, Step
from hwgen.sw.verification.interrupted import Fault, Interruption
from hwgen.sw.verification.random_case import random_cases
from hwgen.weights import random_weights
from tools.mutant_config import CONFIG

__all__ = ["CONFIG", "cases", "run_loops"]

SHAPE = ModelShape(
    hidden=30, layers=1, heads=4, kv_heads=2, head_dim=8, ffn=45, vocab=41, activation="silu", max_context=32, tied=False
)
#: Addresses of the memory that are each other's complement, below what the page table can say.
BASES = (0x5_A5A5_A000, 0xA_5A5A_5000)
#: How the runs of a loop choose their tokens, by head: from all candidates and from some, evenly and not.
DRAWS = {"exact": (Draw(CONFIG.topk, draw_scale(0.9) or 0, 1), GREEDY), "shortlist": (GREEDY, Draw(3, draw_scale(20.0) or 0, 2))}


@cache
def cases() -> list[Case]:
    """From the quickest to the slowest."""
    plain = tuple(Step(parts) for parts in (((0, 5, 1),), ((0, 1, 0), (1, 3, 2)), ((1, 1, 1), (0, 6 - 1, 1))))
    busy = (
        Step(((0, 4, 1),)),
        Step(((0, 2, 0), (1, 3, 2)), interruption=Interruption(stop=900)),
        Step(((2, 1, 1), (0, 1, 1)), shared=(1, 2), interruption=Interruption(fault=Fault(0, False, 300, 2))),
        Step(((1, 5, 1),), parked=(0,), interruption=Interruption(fault=Fault(0, True, 0, 3))),
        Step(((0, 6, 1),), interruption=Interruption(stop=2500)),
        Step(((0, 6, 6),), interruption=Interruption(fault=Fault(1, False, 99, 3))),
    )
    cut = tuple(
        Step(((i % 2, 2 + i % 3, 1),), interruption=what, ports=i % 3) for i, what in enumerate((
            *(Interruption(reset=cycles) for cycles in (40, 901, 2500, 3401, 5000)),
            *(Interruption(damaged=bit) for bit in (7, 31_117, 9_003, 50_020)),
            *(Interruption(fault=Fault(port, write, after, response)) for port, write, after, response in
              ((0, False, 0, 2), (1, False, 40, 3), (1, False, 230, 2), (0, True, 1, 2), (0, False, 777, 3))),
            *(Interruption(stop=cycles) for cycles in (0, 35, 700, 1900, 4000)),
        ))
    )
    even = replace(SHAPE, hidden=32, ffn=48)
    int4 = {"group": 16, "symmetric": False, "kv": "k4v4", "query": "e4m3"}
    return [
        Case(CONFIG, SHAPE, IDEAL, plain, 1, "shortlist", BITNET, base=BASES[0]),
        Case(CONFIG, even, IDEAL, plain, 2, "exact", QWEN3, int4, base=BASES[1]),
        Case(CONFIG, SHAPE, KV260, cut, 5, "exact", BITNET, base=BASES[1]),
        Case(CONFIG, replace(SHAPE, activation="relu2", layers=2), RANDOM(3), busy, 3, "exact", QWEN2),
        Case(CONFIG, even, RANDOM(6), busy, 4, "exact", LLAMA, {"group": 32, "symmetric": True, "kv": "k8v8", "query": "int8"}),
        *random_cases(5, 3, CONFIG),
        *random_cases(5, 3, CONFIG, first=4),
    ]


def run_loops(open_device: Callable[[], Device]) -> CaseResult:
    """Loops of passes on a device, and on the golden one: what is chosen pass by pass, drawn in one run and the best in the other,
    to a stop token and to the end of a context, and what they leave.
    """
    for head, draws in DRAWS.items():
        image = with_cache_tokens(compile_model(CONFIG, random_weights(SHAPE, 7, BITNET), head=head), 2 * CONFIG.max_context)
        golden = _loops(Engine(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES), image), draws, ())
        stop = golden[0][2][0]  # chosen behind the third pass: a loop of its own ends there
        expected = _loops(Engine(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES), image), draws, (stop,))
        found = _loops(Engine(open_device(), image), draws, (stop,))
        for name, a, b in zip(("chosen tokens", "tokens of sequences", "cache", "candidates"), found, expected, strict=True):
            if a != b:
                return CaseResult(wrong=f"loop with the {head} head: other {name}")
    return CaseResult(cycles=0)


def _loops(engine: Engine, draws: Sequence[Draw], stops: Sequence[int]) -> list[Any]:
    sessions = [Session(), Session()]
    for session, prompt in zip(sessions, ([5, 40, 7], [3, 8, 1, 30, 2]), strict=True):
        engine.forward(session, prompt, logits=False)
    chosen: list[list[int]] = []
    candidates: list[Any] = []
    tokens = [12, 6]
    for passes in (5, 2, 1, 15):
        runs = [Run(session, [token], 1, draw=draw) for session, token, draw in zip(sessions, tokens, draws, strict=True)]
        loop = RunningLoop(engine, runs, passes, stops)
        chosen += [list(tokens) for tokens in loop]
        assert loop.result is not None
        tokens, candidates = chosen[-1], [run.candidates for run in loop.result.runs]
    cache = [engine.pages.read(session.pages).tobytes() for session in sessions]
    return [chosen, [session.tokens for session in sessions], cache, candidates]
