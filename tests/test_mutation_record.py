"""The record of planted faults: what is found of its survivors, and of what was not tried, in later runs."""

from __future__ import annotations

from typing import Any

import pytest

from hwgen.sim.mutants import Mutant
from tools.mutation_record import Fate, new_record, open_mutants, unit_of, updated

PLACES = (("stop$1", 3), ("loop", 7), ("loop", 9))
MUTANTS = [Mutant(f"\\top.design.{unit}", line, "operator", "a + b", "a - b") for unit, line in PLACES]
LATE, LOST = "changes when things happen, not what", "what it changes does not come out"


def record() -> dict[str, Any]:
    """Of twenty, three have survived."""
    return {
        "command": "tools/mutate.py", "mutants": 20, "killed": 15, "equivalent": 2, "survived": 3, "percent": 83.3,
        "survivors_by_kind": {LOST: 1, LATE: 2}, "kinds": {"operator": 20}, "by_case": {"0": 11}, "by_unit_test": {"tests/a.py": 4},
        "units": [{"unit": "loop", "killed": 5, "equivalent": 0, "survived": 2},
                  {"unit": "stop", "killed": 10, "equivalent": 2, "survived": 1}],
        "survivors": [
            {"module": mutant.module, "kind": "operator", "mutant": str(mutant), "line": "a + b", "text_line": mutant.line,
             "why": LOST if mutant.line == 3 else LATE, **({"cycles": [8, 9]} if mutant.line == 9 else {})}
            for mutant in MUTANTS
        ],
        "untried": [],
    }


def test_what_is_found_later_counts() -> None:
    stop, first, second = open_mutants(record(), [Mutant("\\top", 1, "stuck", "c", "d"), *MUTANTS])
    assert [stop, first, second] == MUTANTS
    found = updated(record(), {stop: Fate("tests/b.py"), second: Fate(4, "stands still"), first: Fate(None)}, {first}, {})
    assert found == {
        **record(), "killed": 17, "equivalent": 3, "survived": 0, "percent": 100.0,
        "by_case": {"0": 11, "4": 1}, "by_unit_test": {"tests/a.py": 4, "tests/b.py": 1}, "survivors_by_kind": {},
        "units": [{"unit": "loop", "killed": 6, "equivalent": 1, "survived": 0},
                  {"unit": "stop", "killed": 11, "equivalent": 2, "survived": 0}],
        "survivors": [],
    }


def test_what_is_left_stays() -> None:
    opened = open_mutants(record(), MUTANTS)
    assert [fate.cycles for fate in opened.values()] == [(), (), (8, 9)]
    assert updated(record(), {}, set(), {}) == updated(record(), opened, set(), {}) == record()
    one = updated(record(), {MUTANTS[1]: Fate("tests/b.py"), MUTANTS[2]: Fate(None, cycles=(8, 9, 7))}, set(), {MUTANTS[2]: LOST})
    assert [(entry["text_line"], entry["why"], entry.get("cycles")) for entry in one["survivors"]] == [
        (3, LOST, None), (9, LOST, [8, 9, 7])
    ]
    assert (one["mutants"], one["killed"], one["survived"], one["percent"]) == (20, 16, 2, 88.9)
    assert one["survivors_by_kind"] == {LOST: 2}


def test_a_new_record_has_what_was_tried() -> None:
    new = new_record(MUTANTS)
    assert open_mutants(new, MUTANTS) == dict.fromkeys(MUTANTS, Fate(None))
    some = updated(new, {MUTANTS[0]: Fate(None, cycles=(5,)), MUTANTS[2]: Fate(0, "wrong")}, set(), {MUTANTS[0]: LATE})
    assert (some["mutants"], some["killed"], some["survived"], some["percent"]) == (2, 1, 1, 50.0)
    assert some["kinds"] == {"operator": 2} and some["survivors_by_kind"] == {LATE: 1} and some["untried"] == [7]
    assert open_mutants(some, MUTANTS) == {MUTANTS[0]: Fate(None, cycles=(5,)), MUTANTS[1]: Fate(None)}
    rest = updated(some, {MUTANTS[1]: Fate("tests/a.py")}, set(), {})
    assert (rest["mutants"], rest["killed"], rest["untried"]) == (3, 2, [])


def test_units_are_without_numbers() -> None:
    assert [unit_of(mutant) for mutant in MUTANTS] == ["stop", "loop", "loop"]
    assert unit_of(Mutant("\\top.design", 1, "stuck", "c", "d")) == "design"


def test_a_record_of_another_machine_is_refused() -> None:
    other = [Mutant(mutant.module, mutant.line, mutant.kind, "a + c", "a - c") for mutant in MUTANTS]
    for mutants in (other, MUTANTS[:1]):
        with pytest.raises(ValueError, match="the record is of another machine, or of other mutants"):
            open_mutants(record(), mutants)
