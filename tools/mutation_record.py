"""The record of planted faults: what became of them, run by run, and the survivors, with which the next run goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from hwgen.sim.mutants import Mutant

__all__ = ["Fate", "new_record", "open_mutants", "unit_of", "updated"]


@dataclass(frozen=True)
class Fate:
    """What became of a mutant."""

    #: Index of the case that found it, or name of the unit's test; None where none did.
    case: int | str | None
    #: What was wrong.
    wrong: str = ""
    #: Of every case, where none found it.
    cycles: tuple[int, ...] = ()


def unit_of(mutant: Mutant) -> str:
    """Place in the machine without the numbers of what there is several times."""
    path = mutant.module.split(".")[2:4]
    return ".".join(part.rstrip("0123456789_$") for part in path) or "design"


def new_record(mutants: Sequence[Mutant]) -> dict[str, Any]:
    """Of mutants none of which has been tried."""
    return {
        "mutants": 0, "killed": 0, "equivalent": 0, "survived": 0, "percent": 0.0, "survivors_by_kind": {}, "kinds": {},
        "by_case": {}, "by_unit_test": {}, "units": [], "survivors": [], "untried": [mutant.line for mutant in mutants],
    }


def open_mutants(record: Mapping[str, Any], mutants: Sequence[Mutant]) -> dict[Mutant, Fate]:
    """Those that have survived, with the cycles of the cases that they ran, and those that were not tried."""
    by_line = {mutant.line: mutant for mutant in mutants}
    found = {}
    for entry in record["survivors"]:
        mutant = by_line.get(entry["text_line"])
        if str(mutant) != entry["mutant"] or mutant is None:
            raise ValueError("the record is of another machine, or of other mutants")
        found[mutant] = Fate(None, cycles=tuple(entry.get("cycles", ())))
    return found | {by_line[line]: Fate(None) for line in record.get("untried", ())}


def updated(
    record: Mapping[str, Any], fates: Mapping[Mutant, Fate], harmless: Set[Mutant], why: Mapping[Mutant, str]
) -> dict[str, Any]:
    """The record with what became of some of its open mutants: found, ``harmless`` as was proven, or left; ``why``: the kind of a
    survivor, where that is known anew.
    """
    before = {entry["text_line"]: entry for entry in record["survivors"]}
    units = {entry["unit"]: Counter({kind: entry[kind] for kind in entry if kind != "unit"}) for entry in record["units"]}
    counts = {name: Counter(record[name]) for name in ("kinds", "by_case", "by_unit_test")}
    left = dict(before)
    for mutant, fate in fates.items():
        unit = units.setdefault(unit_of(mutant), Counter())
        if mutant.line in before:
            unit["survived"] -= 1
        else:
            counts["kinds"][mutant.kind] += 1
        left.pop(mutant.line, None)
        if fate.case is not None:
            unit["killed"] += 1
            counts["by_case" if isinstance(fate.case, int) else "by_unit_test"][str(fate.case)] += 1
        elif mutant in harmless:
            unit["equivalent"] += 1
        else:
            unit["survived"] += 1
            earlier = before.get(mutant.line, {}).get("why", "not looked into")
            left[mutant.line] = _survivor(mutant, fate, why.get(mutant, earlier))
    killed, equivalent, survived = (sum(unit[kind] for unit in units.values()) for kind in ("killed", "equivalent", "survived"))
    untried = sorted({*record.get("untried", ())} - {mutant.line for mutant in fates})
    return {
        **record, "mutants": killed + equivalent + survived, "killed": killed, "equivalent": equivalent, "survived": survived,
        "percent": round(100 * killed / max(1, killed + survived), 1),
        "survivors_by_kind": dict(Counter(entry["why"] for entry in left.values())),
        **{name: dict(sorted(count.items())) for name, count in counts.items()},
        "units": [{"unit": name, **{kind: unit[kind] for kind in ("killed", "equivalent", "survived")}}
                  for name, unit in sorted(units.items())],
        "survivors": [left[line] for line in sorted(left)], "untried": untried,
    }


def _survivor(mutant: Mutant, fate: Fate, why: str) -> dict[str, Any]:
    entry = {"module": mutant.module, "kind": mutant.kind, "mutant": str(mutant), "line": mutant.before, "text_line": mutant.line}
    return {**entry, "why": why, **({"cycles": list(fate.cycles)} if fate.cycles else {})}
