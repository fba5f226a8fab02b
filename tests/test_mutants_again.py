"""A record of planted faults and what is found of its survivors later."""

from __future__ import annotations

from typing import Any

import pytest

from hwgen.sim.mutants import Mutant
from tools.mutants_again import survivors_of, updated

PLACES = (("stop$1", 3), ("loop", 7), ("loop", 9))
MUTANTS = [Mutant(f"\\top.design.{unit}", line, "operator", "a + b", "a - b") for unit, line in PLACES]


def record() -> dict[str, Any]:
    """Of twenty, three have survived."""
    return {
        "mutants": 20, "killed": 15, "equivalent": 2, "survived": 3, "percent": 83.3, "by_unit_test": {"tests/a.py": 4},
        "survivors_by_kind": {"late": 2, "lost": 1}, "command": "tools/mutate.py",
        "units": [{"unit": "loop", "killed": 5, "equivalent": 0, "survived": 2},
                  {"unit": "stop", "killed": 10, "equivalent": 2, "survived": 1}],
        "survivors": [{"text_line": mutant.line, "mutant": str(mutant), "why": "lost" if mutant.line == 3 else "late"}
                      for mutant in MUTANTS],
    }


def test_what_is_found_later_counts() -> None:
    survivors = survivors_of(record(), [Mutant("\\top", 1, "stuck", "c", "d"), *MUTANTS])
    assert survivors == {mutant.line: mutant for mutant in MUTANTS}
    found = updated(record(), survivors, {3: "tests/b.py", 9: "tests/a.py"}, {7})
    assert found == {
        "mutants": 20, "killed": 17, "equivalent": 3, "survived": 0, "percent": 100.0,
        "by_unit_test": {"tests/a.py": 5, "tests/b.py": 1}, "survivors_by_kind": {}, "command": "tools/mutate.py",
        "units": [{"unit": "loop", "killed": 6, "equivalent": 1, "survived": 0},
                  {"unit": "stop", "killed": 11, "equivalent": 2, "survived": 0}],
        "survivors": [],
    }


def test_what_is_left_stays() -> None:
    survivors = survivors_of(record(), MUTANTS)
    assert updated(record(), survivors, {}, set()) == record()
    one = updated(record(), survivors, {7: "tests/b.py"}, set())
    assert [entry["text_line"] for entry in one["survivors"]] == [3, 9]
    assert (one["killed"], one["survived"], one["percent"]) == (16, 2, 88.9)
    assert one["survivors_by_kind"] == {"late": 1, "lost": 1}


def test_a_record_of_another_machine_is_refused() -> None:
    other = [Mutant(mutant.module, mutant.line, mutant.kind, "a + c", "a - c") for mutant in MUTANTS]
    with pytest.raises(ValueError, match="the record is of another machine"):
        survivors_of(record(), other)
