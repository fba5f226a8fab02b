"""Survivors of a record of planted faults, once more through the tests of their units: which of them do tests find that are new?

    python tools/mutants_again.py docs/data/mutation.json --seconds 900 --out build/verify/mutation.json

The machine must be that of the record. What is left may be given to the prover again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hwgen.hw.verilog import cached_verilog
from hwgen.sim.mutants import Mutant

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.equivalence import is_harmless  # noqa: E402  # found through sys.path, changed above
from tools.mutant_config import CONFIG  # noqa: E402  # likewise
from tools.mutate import commit, draw, in_time, unit_of  # noqa: E402  # likewise
from tools.unit_mutants import finding_test_of, unit_tests  # noqa: E402  # likewise

__all__ = ["survivors_of", "updated"]


def survivors_of(record: Mapping[str, Any], mutants: Sequence[Mutant]) -> dict[int, Mutant]:
    """Mutants that have survived, by line."""
    by_line = {mutant.line: mutant for mutant in mutants}
    found = {entry["text_line"]: by_line[entry["text_line"]] for entry in record["survivors"]}
    if any(str(found[entry["text_line"]]) != entry["mutant"] for entry in record["survivors"]):
        raise ValueError("the record is of another machine")
    return found


def updated(
    record: Mapping[str, Any], survivors: Mapping[int, Mutant], tests: Mapping[int, str], harmless: Set[int]
) -> dict[str, Any]:
    """The record with what was found of its survivors, by line: names of the tests that found them, and what is proven harmless."""
    left = [entry for entry in record["survivors"] if entry["text_line"] not in {*tests, *harmless}]
    killed, equivalent = record["killed"] + len(tests), record["equivalent"] + len(harmless)
    units = {entry["unit"]: dict(entry) for entry in record["units"]}
    for kind, lines in (("killed", tests), ("equivalent", harmless)):
        for line in lines:
            unit = units[unit_of(survivors[line])]
            unit[kind] += 1
            unit["survived"] -= 1
    by_unit_test = Counter(record["by_unit_test"])
    by_unit_test.update(tests.values())
    return {
        **record, "killed": killed, "equivalent": equivalent, "survived": len(left),
        "percent": round(100 * killed / max(1, killed + len(left)), 1),
        "survivors_by_kind": dict(Counter(entry["why"] for entry in left)), "by_unit_test": dict(sorted(by_unit_test.items())),
        "units": list(units.values()), "survivors": left,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--mutants", type=int, default=400, help="as many as the record is of")
    parser.add_argument("--seed", type=int, default=1, help="that of the record")
    parser.add_argument("--tests", nargs="+", help="files of tests of units; all that simulate Verilog if not given")
    parser.add_argument("--lines", nargs="+", type=int, help="survivors by their text_line; all if not given")
    parser.add_argument("--seconds", type=float, default=3600, help="no survivor is given to tests after that")
    parser.add_argument("--prove-seconds", type=float, default=0, help="no survivor is tried for equivalence after that")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at the same time")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    record = json.loads(options.record.read_text())
    begin = time.monotonic()
    verilog = cached_verilog(CONFIG)
    survivors = survivors_of(record, draw(verilog, options.mutants, options.seed))
    chosen = [line for line in survivors if options.lines is None or line in options.lines]
    tests = unit_tests(options.tests, jobs=options.jobs)
    tried = in_time(lambda line: finding_test_of(verilog, survivors[line], tests), chosen, options.seconds, options.jobs)
    found = {line: test for line, test in tried.items() if test is not None}
    left = [line for line in chosen if line not in found]
    proven = in_time(lambda line: is_harmless(verilog, survivors[line]), left, options.prove_seconds, options.jobs)
    harmless = {line for line, is_proven in proven.items() if is_proven}
    again = {
        "command": " ".join(["tools/mutants_again.py", *sys.argv[1:]]), "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "seconds": round(time.monotonic() - begin),
        "tried_by_unit_tests": len(tried), "found": len(found), "tried_for_equivalence": len(proven), "equivalent": len(harmless),
    }
    result = {**updated(record, survivors, found, harmless), "again": [*record.get("again", []), again]}
    print(json.dumps({**again, **{key: result[key] for key in ("killed", "equivalent", "survived", "percent")}}))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
