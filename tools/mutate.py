"""Faults planted in the Verilog of a small machine with both engines: how many does the lock step with the golden machine find?

    python tools/mutate.py --mutants 400 --seed 1 --out build/verify/mutation.json

Mutants are drawn evenly over the units. All are compiled into one simulator; each runs in a process of its own until something is
wrong. What is left goes through the tests of the units in which it has a place, and then to a prover: what survives and cannot be
proven harmless is listed. Needs pyosys, the wheel of Yosys and ABC.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from hwgen.hw.accelerator import TOP
from hwgen.hw.verilog import cached_verilog
from hwgen.sim.mutants import ACTIVE, Mutant, find_mutants, plant, watch
from hwgen.sw.devices import verilator
from hwgen.sw.devices.verilator import VerilatorDevice
from hwgen.sw.verification.case import MEMORY_BYTES, Case, CaseResult
from hwgen.sw.verification.fuzz import run_safely

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.equivalence import is_harmless  # noqa: E402  # found through sys.path, changed above
from tools.mutant_cases import CONFIG, cases, run_loops  # noqa: E402  # likewise
from tools.unit_mutants import finding_test_of, unit_tests  # noqa: E402  # likewise

Found = TypeVar("Found")

#: Probes, which are no part of the machine that boards have.
WITHOUT = ("observer",)
#: Of the processor, that a mutant may take.
SECONDS = 240
#: Cases that find nearly all of what any finds.
QUICK = 3


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


def open_mutant(case: Case, verilog: str, number: int | None) -> VerilatorDevice:
    """The machine with one of the mutants planted in it; None: there are none."""
    public = () if number is None else (ACTIVE,)
    device = VerilatorDevice(
        case.config, memory_bytes=MEMORY_BYTES, memory_base=case.base, timing=case.timing, public=public, verilog=verilog
    )
    for bit in range(16):
        if number and number >> bit & 1:
            device.accelerator.poke(ACTIVE, bit)
    device.accelerator.reset()
    device.accelerator.tick(1100)
    return device


@dataclass(frozen=True)
class Fate:
    """What became of a mutant."""

    #: Index of the case that found it, or name of the unit's test; None where none did.
    case: int | str | None
    #: What was wrong.
    wrong: str = ""
    #: Of every case, where none found it.
    cycles: tuple[int, ...] = ()


def run_cases(verilog: str, number: int | None, which: slice = slice(None)) -> Fate:
    """Some cases on a mutant, the quickest first, until something is wrong. Loops come behind the quick ones."""
    cycles = []
    for i, case in list(enumerate([*cases()[:QUICK], None, *cases()[QUICK:]]))[which]:
        try:
            if case is None:
                result = run_loops(lambda: open_mutant(cases()[0], verilog, number))
            else:
                result = run_safely(case, open_mutant(case, verilog, number))
        except Exception as error:  # whatever a broken machine makes of the host is a difference
            result = CaseResult(wrong=f"{type(error).__name__}: {error}".splitlines()[0])
        if result.wrong:
            return Fate(i, result.wrong)
        cycles.append(result.cycles)
    return Fate(None, cycles=tuple(cycles))


def run_mutant(verilog: str, number: int, which: slice, answers: Any, imported: Path | None) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    answers.put(run_cases(verilog, number, which))
    if imported is not None:
        imported.write_text("\n".join(sys.modules))


class Attempt:
    """Cases on a mutant, in a process of its own, until something is wrong. ``imported``: file for the modules that it used."""

    def __init__(self, verilog: str, number: int, which: slice, imported: Path | None = None) -> None:
        self.number = number
        self._answers: Any = multiprocessing.Queue()
        self._process = multiprocessing.Process(target=run_mutant, args=(verilog, number, which, self._answers, imported))
        self._process.start()
        self.sentinel = self._process.sentinel

    def fate(self) -> Fate:
        """What became of it; waits for its end."""
        self._process.join()
        if self._process.exitcode == 0:
            fate: Fate = self._answers.get()
            return fate
        return Fate(0, f"the simulator ended with {self._process.exitcode}, or did not end")


def run_sound(verilog: str) -> Fate:
    """The cases without a mutant. What they import is imported here then, so that it need not be in every process; nothing is
    computed here, since a process that has used torch cannot be forked.
    """
    with tempfile.TemporaryDirectory() as folder:
        imported = Path(folder) / "imported"
        fate = Attempt(verilog, 0, slice(None), imported).fate()
        for name in imported.read_text().split() if imported.is_file() else ():
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    return fate


def attempts(verilog: str, numbers: Iterable[int], which: slice, jobs: int) -> Iterator[tuple[int, Fate]]:
    """Each mutant and what became of it, so many at the same time; forked by one thread."""
    waiting, running = iter(numbers), list[Attempt]()
    while True:
        while len(running) < jobs and (number := next(waiting, None)) is not None:
            running.append(Attempt(verilog, number, which))
        if not running:
            return
        ended = multiprocessing.connection.wait([attempt.sentinel for attempt in running])
        for attempt in [attempt for attempt in running if attempt.sentinel in ended]:
            running.remove(attempt)
            yield attempt.number, attempt.fate()


def print_into(output: int, verilog: str) -> None:
    os.dup2(output, 1)
    run_cases(verilog, None)
    ctypes.CDLL(None).fflush(None)  # what the simulator has printed


def reached(verilog: str, mutants: Sequence[Mutant]) -> set[Mutant]:
    """Those that make a difference in their place in some case, whatever comes of it."""
    with tempfile.TemporaryFile("w+") as printed:
        process = multiprocessing.Process(target=print_into, args=(printed.fileno(), watch(verilog, mutants, TOP)))
        process.start()
        process.join()
        assert process.exitcode == 0
        printed.seek(0)
        return {mutants[int(number) - 1] for number in re.findall(r"mutant (\d+) differs", printed.read())}


def summary(
    mutants: Sequence[Mutant], results: dict[int, Fate], equivalent: set[int], differ: set[Mutant], usual: tuple[int, ...]
) -> dict[str, Any]:
    """The record; ``differ``: survivors that make a difference in their place; ``usual``: cycles of the cases without a mutant."""
    killed = [n for n, fate in results.items() if fate.case is not None]
    survivors = [n for n, fate in results.items() if fate.case is None and n not in equivalent]
    units: dict[str, Counter[str]] = defaultdict(Counter)
    for n, fate in results.items():
        kind = "killed" if fate.case is not None else "equivalent" if n in equivalent else "survived"
        units[unit_of(mutants[n - 1])][kind] += 1
    kinds = {n: kind_of_survivor(mutants[n - 1] in differ, results[n].cycles != usual[: len(results[n].cycles)]) for n in survivors}
    return {
        "mutants": len(results), "killed": len(killed), "equivalent": len(equivalent), "survived": len(survivors),
        "percent": round(100 * len(killed) / max(1, len(killed) + len(survivors)), 1),
        "on_all_cases": len(killed) + sum(len(fate.cycles) == len(usual) for fate in results.values()),
        "survivors_by_kind": dict(Counter(kinds.values())),
        "kinds": dict(Counter(mutants[n - 1].kind for n in results)),
        "by_case": dict(sorted(Counter(str(results[n].case) for n in killed if isinstance(results[n].case, int)).items())),
        "by_unit_test": dict(sorted(Counter(str(results[n].case) for n in killed if isinstance(results[n].case, str)).items())),
        "units": [{"unit": unit, "killed": of["killed"], "equivalent": of["equivalent"], "survived": of["survived"]}
                  for unit, of in sorted(units.items())],
        "survivors": [{"module": mutants[n - 1].module, "kind": mutants[n - 1].kind, "mutant": str(mutants[n - 1]),
                       "line": mutants[n - 1].before, "text_line": mutants[n - 1].line, "why": kinds[n]} for n in survivors],
    }


def kind_of_survivor(differs: bool, other_cycles: bool) -> str:
    if not differs:
        return "never makes a difference in its place"
    return "changes when things happen, not what" if other_cycles else "what it changes does not come out"


def in_time(act: Callable[[int], Found], numbers: Sequence[int], seconds: float, jobs: int) -> dict[int, Found]:
    """What comes of each mutant that is begun within so many seconds, so many at the same time."""
    begun, found = time.monotonic(), dict[int, Found]()

    def begin(number: int) -> None:
        if time.monotonic() - begun < seconds:
            found[number] = act(number)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(begin, numbers))
    return found


def read_fates(record: Path | None) -> dict[str, Any]:
    """Of a record: by mutant the case that found it, and the cycles of those that did not."""
    fates: dict[str, Any] = json.loads(record.read_text())["fates"] if record is not None else {}
    return fates


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=400)
    parser.add_argument("--run", type=int, help="so many of them; all if not given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600, help="no mutant is begun after that")
    parser.add_argument("--go-on", type=Path, help="an earlier record of the same mutants: what it found is kept")
    parser.add_argument("--unit-seconds", type=float, default=3600, help="no survivor is given to tests of units after that")
    parser.add_argument("--prove-seconds", type=float, default=3600, help="no survivor is tried for equivalence after that")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at the same time")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    verilog = cached_verilog(CONFIG)
    mutants = draw(verilog, options.mutants, options.seed)
    planted = plant(verilog, mutants, TOP)
    verilator.IDLE_LIMIT, verilator.OPERATOR_LIMIT = 5000, 400_000
    begin = time.monotonic()
    open_mutant(cases()[0], planted, 0)  # builds the simulator
    sound = run_sound(planted)
    if sound.case is not None:
        print(f"without a mutant: case {sound.case}: {sound.wrong}", file=sys.stderr)
        return 2
    print(f"built and checked in {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    begin = time.monotonic()
    order = list(range(1, len(mutants) + 1))
    random.Random(options.seed).shuffle(order)
    order = order[: options.run]
    results = {int(n): Fate(case, "", tuple(cycles)) for n, (case, cycles) in read_fates(options.go_on).items()}

    def run_all(numbers: Iterable[int], which: slice) -> None:
        in_time = takewhile(lambda number: time.monotonic() - begin < options.seconds, numbers)
        for number, fate in attempts(planted, in_time, which, options.jobs):
            earlier = results[number].cycles if number in results else ()
            results[number] = replace(fate, cycles=earlier + fate.cycles)
            said = "survived" if fate.case is None else f"case {fate.case}"
            print(f"{len(results)}/{len(mutants)} {said}: {mutants[number - 1]} {fate.wrong[:100]}", file=sys.stderr, flush=True)

    run_all([number for number in order if number not in results], slice(QUICK))  # all on what is quick, then case by case
    for done in range(QUICK, len(sound.cycles)):
        run_all([n for n, fate in results.items() if fate.case is None and len(fate.cycles) == done], slice(done, done + 1))
    left = [number for number, fate in results.items() if fate.case is None]
    tests = unit_tests(jobs=options.jobs) if left and options.unit_seconds else []

    of_units = in_time(
        lambda number: finding_test_of(verilog, mutants[number - 1], tests), left, options.unit_seconds, options.jobs
    )
    results.update({number: replace(results[number], case=test) for number, test in of_units.items()})
    survivors = [number for number in left if results[number].case is None]
    differ = reached(verilog, [mutants[number - 1] for number in survivors])
    proven = in_time(lambda number: is_harmless(verilog, mutants[number - 1]), survivors, options.prove_seconds, options.jobs)
    harmless = {number for number, is_proven in proven.items() if is_proven}
    found = {
        "command": " ".join(["tools/mutate.py", *sys.argv[1:]]), "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "seconds": round(time.monotonic() - begin),
        "tried_by_unit_tests": len(of_units), "tried_for_equivalence": len(proven),
        **summary(mutants, results, harmless, differ, sound.cycles),
        "fates": {n: (fate.case, fate.cycles) for n, fate in results.items()},
    }
    print(json.dumps({key: value for key, value in found.items() if key not in ("units", "survivors", "fates")}))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["percent"] >= 95 else 1


if __name__ == "__main__":
    raise SystemExit(main())
