"""Faults in the host's code: where none are planted, what a test finds, what it does not, and what is then said."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("cosmic_ray")

from tools.host_mutants import draw, find_sites, make, operators, statement_lines
from tools.mutate_host import ROOT, Choice, Reach, nearness, summary, within

MODULE = '''"""Sums: 1 + 1."""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    LIMIT = 1 + 2

__all__ = ["total" + "s"]
Number = int | float


def total(a: int | None, b: "int | str") -> int | None:
    assert a != 3
    print(a + 1)
    if b == 0:
        raise ValueError(f"{a + 1} and more")
    return a + b


def rest(
    a: int, b: int
) -> int:
    """1 % 1"""
    return list(zip([a % b], [1], strict=True))[0][0]
'''


def test_what_is_not_for_a_test_to_find_stays() -> None:
    sites = find_sites(MODULE, operators())
    assert {site.span[0][0] for site in sites} == {14, 16, 23}
    assert {site.kind for site in sites} >= {"ReplaceBinaryOperator", "ReplaceComparisonOperator", "NumberReplacer", "AddNot"}
    assert not any("True" in site.operator for site in sites)


def test_each_change_is_where_it_is_said_to_be() -> None:
    """Also behind places that are left out: they count as places of the operators."""
    known, lines = operators(), MODULE.splitlines()
    for site in find_sites(MODULE, known):
        mutant = make("a.py", MODULE, site, known)
        if mutant is not None:  # else it is no Python
            changed = [i for i, (old, new) in enumerate(zip(lines, mutant.text.splitlines(), strict=True), 1) if old != new]
            assert changed == [site.span[0][0]], mutant


def test_a_draw_is_even_and_the_same_for_a_seed() -> None:
    sources = {"a.py": MODULE, "b.py": "x = 1\ny = 2\n"}
    mutants = draw(sources, 4, seed=1)
    assert mutants == draw(sources, 4, seed=1) != draw(sources, 4, seed=2)
    assert sorted(mutant.file for mutant in mutants) == ["a.py", "a.py", "b.py", "b.py"]
    for mutant in mutants:
        changed = [number for number, (old, new) in
                   enumerate(zip(sources[mutant.file].splitlines(), mutant.text.splitlines(), strict=True), 1) if old != new]
        assert changed == [mutant.line]
        assert mutant.before != mutant.after and compile(mutant.text, mutant.file, "exec")
    assert len(draw(sources, 100, seed=1)) == 5, "one of a line"


def test_lines_of_a_statement_are_those_of_its_head() -> None:
    lines = statement_lines(MODULE)
    assert lines[14] == (14, 14) and lines[15] == (15, 15)
    assert lines[20] == (19, 21)


def test_nearness() -> None:
    def near(module: str, test: str) -> int:
        return nearness(module, f"tests/sw/runtime/{test}.py", ROOT)

    assert near("sw/runtime/drafts.py", "test_drafts") == 0
    assert near("sw/runtime/drafts.py", "test_draft_model") == 1
    assert near("sw/runtime/drafts.py", "test_ranking") == 2
    assert near("sw/models/hub.py", "test_ranking") == 3


def test_as_many_tests_as_the_time_allows() -> None:
    reach = Reach("tests/test_x.py", [], [], 0.0, [], {})
    choices = [Choice(reach, [], seconds, False) for seconds in (9.0, 3.0, 4.0, 2.0)]
    assert [choice.seconds for choice in within(choices, 5)] == [2.0, 3.0, 9.0], "the first, and what the time allows"
    assert [choice.seconds for choice in within(choices, 14)] == [2.0, 3.0, 9.0]
    assert [choice.seconds for choice in within(choices, 8)] == [3.0, 4.0, 9.0]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a small module with a test that finds what is in one function, and one that never looks at the other's answer."""
    tree = tmp_path_factory.mktemp("tree")
    (tree / "tests").mkdir()
    (tree / "tiny.py").write_text(
        "def total(a, b):\n    return a + b\n\n\ndef rest(a, b):\n    return a % b\n\n\ndef never(a):\n    return a - 1\n"
        "\n\ndef wait(a):\n    while a > 0:\n        a = a - 1\n"
    )
    (tree / "tests" / "test_tiny.py").write_text(
        "import tiny\n\n\ndef test_total():\n    assert tiny.total(3, 2) == 5\n\n\ndef test_rest():\n    tiny.rest(4, 3)\n\n\n"
        "def test_broken():\n    assert tiny.rest(4, 3) == 7\n"
    )
    command = [sys.executable, str(ROOT / "tools" / "mutate_host.py"), "--root", str(tree), "--modules", "tiny.py", "--tests",
               "tests/test_*.py", "--jobs", "1", "--out", str(tree / "record.json")]
    before = (tree / "tiny.py").read_text()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tree / "tiny.py").read_text() == before
    assert "1 take no part" in done.stderr
    found: dict[str, Any] = json.loads((tree / "record.json").read_text())
    return found


def test_what_a_test_finds(record: dict[str, Any]) -> None:
    assert record["mutants"] == record["found"] + record["survived"]
    assert not {row["line"] for row in record["survivors"]} & {2}


def test_what_no_test_finds(record: dict[str, Any]) -> None:
    rows = {row["line"]: row for row in record["survivors"]}
    assert rows[6]["before"] == "return a % b" != rows[6]["after"] and rows[6]["tests"] == ["tests/test_tiny.py"]
    assert rows[10]["tests"] == ["tests/test_tiny.py"], "no test reaches it: its own are tried"


def test_harmless_ones_are_counted_apart() -> None:
    from tools.mutate_host import Fate

    first, second = draw({"b.py": "x = 1\ny = 2\n"}, 2, seed=1)
    key = (first.file, first.before, first.after)
    found = summary({first: Fate(None, ()), second: Fate("t", ("t",))}, {key: "because"})
    assert (found["found"], found["harmless"], found["survived"], found["percent"]) == (1, 1, 0, 100.0)
    assert found["known_harmless"][0]["why"] == "because" and found["survivors"] == []
