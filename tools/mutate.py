"""Faults planted in the Verilog of a small machine with both engines: how many does the lock step with the golden machine find?

    python tools/mutate.py --mutants 400 --seed 1 --out build/verify/mutation.json
    python tools/mutate.py --go-on docs/data/mutation.json --seconds 0 --tests tests/hw/linear --out build/verify/mutation.json

Mutants are drawn evenly over the units. All are compiled into one simulator; each runs in a process of its own until something is
wrong. What is left goes through the tests of the units in which it has a place, and then to a prover: what survives and cannot be
proven harmless is listed.

With an earlier record it begins with what is open there: survivors, which go through the cases that they have not run and then
through the tests of units, and mutants for which there was no time. No stage begins a mutant behind its seconds; with 0 it is left
out. Needs pyosys, the wheel of Yosys and ABC.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from hwgen.hw.verilog import cached_verilog
from hwgen.sim.mutants import Mutant, find_mutants

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.equivalence import is_harmless  # noqa: E402  # found through sys.path, changed above
from tools.faulty_machine import FaultyMachine  # noqa: E402  # likewise
from tools.mutant_config import CONFIG  # noqa: E402  # likewise
from tools.mutation_record import Fate, new_record, open_mutants, unit_of, updated  # noqa: E402  # likewise
from tools.unit_mutants import finding_test_of, unit_tests  # noqa: E402  # likewise

Found = TypeVar("Found")

#: Probes, which are no part of the machine that boards have.
WITHOUT = ("observer",)


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


def in_time(act: Callable[[Mutant], Found], mutants: Sequence[Mutant], seconds: float, jobs: int) -> dict[Mutant, Found]:
    """What comes of each mutant that is begun within so many seconds, so many at the same time."""
    begun, found = time.monotonic(), dict[Mutant, Found]()

    def begin(mutant: Mutant) -> None:
        if time.monotonic() - begun < seconds:
            found[mutant] = act(mutant)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(begin, mutants))
    return found


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=400, help="with --go-on as many as the record is of")
    parser.add_argument("--seed", type=int, default=1, help="with --go-on that of the record")
    parser.add_argument("--go-on", type=Path, metavar="RECORD", help="an earlier record; what it found is kept")
    parser.add_argument("--lines", nargs="+", type=int, help="of what is open only these, by their text_line")
    parser.add_argument("--tests", nargs="+", help="files of tests of units; all that simulate Verilog if not given")
    parser.add_argument("--seconds", type=float, default=3600, help="of the machine's cases")
    parser.add_argument("--unit-seconds", type=float, default=3600, help="of the tests of units")
    parser.add_argument("--prove-seconds", type=float, default=3600, help="of the prover")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at the same time")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def run_stages(
    verilog: str, opened: Mapping[Mutant, Fate], untried: Set[Mutant], options: argparse.Namespace
) -> tuple[dict[Mutant, Fate], set[Mutant], dict[Mutant, str], dict[str, int]]:
    """What became of the open mutants that a stage was begun with; those that are proven harmless; kinds of survivors; and what the
    stages did. Those that were never tried are not for tests of units before they have run some cases.
    """
    fates, kinds, jobs = dict[Mutant, Fate](), dict[Mutant, str](), options.jobs
    if options.seconds:
        begin = time.monotonic()
        machine = FaultyMachine(verilog, list(opened))
        print(f"built and checked in {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        fates |= machine.run(opened, options.seconds, jobs)
        kinds = machine.kinds({mutant: fate for mutant, fate in fates.items() if fate.case is None})
    left = [mutant for mutant in opened if mutant not in untried or mutant in fates]
    left = [mutant for mutant in left if mutant not in fates or fates[mutant].case is None]
    tests = unit_tests(options.tests, jobs=jobs) if left and options.unit_seconds else []
    tried = in_time(lambda mutant: finding_test_of(verilog, mutant, tests), left, options.unit_seconds, jobs)
    fates |= {mutant: replace(fates.get(mutant, opened[mutant]), case=test) for mutant, test in tried.items()}
    left = [mutant for mutant in left if mutant not in fates or fates[mutant].case is None]
    proven = in_time(lambda mutant: is_harmless(verilog, mutant), left, options.prove_seconds, jobs)
    fates |= {mutant: fates.get(mutant, opened[mutant]) for mutant in proven}
    harmless = {mutant for mutant, is_proven in proven.items() if is_proven}
    did = {
        "tried_by_unit_tests": len(tried), "found": sum(fate.case is not None for fate in fates.values()),
        "tried_for_equivalence": len(proven), "proven": len(harmless),
    }
    return fates, harmless, kinds, did


def main() -> int:
    options = parsed()
    verilog = cached_verilog(CONFIG)
    mutants = draw(verilog, options.mutants, options.seed)
    record: dict[str, Any] = json.loads(options.go_on.read_text()) if options.go_on else new_record(mutants)
    opened = list(open_mutants(record, mutants).items())
    random.Random(options.seed).shuffle(opened)  # where the time ends says nothing of the units
    chosen = {mutant: fate for mutant, fate in opened if options.lines is None or mutant.line in options.lines}
    begin = time.monotonic()
    untried = {mutant for mutant in chosen if mutant.line in record.get("untried", ())}
    fates, harmless, kinds, did = run_stages(verilog, chosen, untried, options)
    run = {
        "command": " ".join(["tools/mutate.py", *sys.argv[1:]]), "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "seconds": round(time.monotonic() - begin), **did,
    }
    result = updated(record, fates, harmless, kinds)
    result = {**result, "again": [*record.get("again", []), run]} if options.go_on else {**run, **result}
    totals = {key: result[key] for key in ("mutants", "killed", "equivalent", "survived", "percent")}
    print(json.dumps({**run, **totals, "untried": len(result["untried"])}))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["percent"] >= 95 else 1


if __name__ == "__main__":
    raise SystemExit(main())
