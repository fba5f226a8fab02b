"""Faults planted in the host's code: how many do its tests find?

    python tools/mutate_host.py --mutants 200 --seed 1 --out build/verify/host-mutation.json

Faults (another operator, a number off by one, a condition the other way round, a loop that is never entered, ...) are drawn evenly
over the modules. First every file of tests runs once without a fault, to learn which lines each test reaches; this is kept in
build/verify/host-reach.json for the next time. Then each fault is written into a copy of the tree, and tests that reach its line
run until one fails: those of the module's own file, and as many others as the time allows, the quickest first. If none does, the
nearest of their files run whole: one test may leave behind what another looks at. Tests that need a simulator take no part.

    python tools/mutate_host.py --modules sw/runtime/penalties.py --mutants 50
    python tools/mutate_host.py --again build/verify/host-mutation.json --out build/verify/host-mutation.json

The first looks at one module. The second runs what survived in a record once more, behind new tests; drawn by the same seed.
What is known to be harmless stands in tools/harmless_host_faults.toml, each with its reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing.connection
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import tomllib

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # before numpy; processes are enough
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.host_mutants import HostMutant, draw  # noqa: E402  # found through sys.path, changed above
from tools.host_runs import Run, copy_tree, fault_run, sound_run, warm  # noqa: E402  # likewise

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("sw/runtime/*.py", "sw/compiler/*.py", "sw/devices/*.py", "sw/models/*.py", "hwgen/*.py")
TESTS = ("tests/sw/runtime/test_*.py", "tests/sw/compiler/test_*.py", "tests/sw/devices/test_*.py", "tests/sw/models/test_*.py",
         "tests/golden/test_*.py", "tests/test_*.py", "tests/sw/cli/test_model.py", "tests/sw/serve/test_several_models.py",
         "tests/sw/serve/test_documents.py")
#: Read the texts of the sources, or build things: what they find is no fault.
NO_TESTS = ("tests/test_mutate_host.py", "tests/test_layers.py", "tests/test_packaging.py", "tests/test_cocotb_runner.py",
            "tests/test_equivalence.py")
#: Drives simulators: no test that takes part can reach it.
NO_MODULES = ("sw/devices/verilator.py",)
HARMLESS = ROOT / "tools" / "harmless_host_faults.toml"
#: Drawn, if nothing is said.
MUTANTS = 200
#: Of the clock, for a file of tests without a fault.
SOUND_SECONDS = 400


@dataclass(frozen=True)
class Reach:
    """Of a file of tests, what is known from its run without a fault."""

    file: str
    nodes: list[str]
    seconds: list[float]
    #: Before its first test.
    start: float
    #: Tests that fail, or need what is not there.
    wrong: list[str]
    #: Of each module, the lines that are reached, and by which tests; -1: by the file, at import or in a fixture.
    lines: dict[str, dict[str, list[int]]]

    def of(self, mutant: HostMutant) -> Choice | None:
        """Its tests that reach the statement."""
        lines = self.lines.get(mutant.file, {})
        first, last = mutant.lines
        reached = {number for line in range(first, last + 1) for number in lines.get(str(line), ())}
        if not reached:
            return None
        numbers = range(len(self.nodes)) if -1 in reached else sorted(reached)
        return Choice(self, [self.nodes[i] for i in numbers], self.start + sum(self.seconds[i] for i in numbers), -1 in reached)

    def whole(self) -> Choice:
        return Choice(self, self.nodes, self.start + sum(self.seconds), True)


@dataclass(frozen=True)
class Choice:
    """Tests of a file."""

    reach: Reach
    nodes: list[str]
    seconds: float
    is_whole: bool


@dataclass(frozen=True)
class Fate:
    """What became of a fault."""

    #: What found it; None: nothing did.
    test: str | None
    #: Files whose tests ran.
    tests: tuple[str, ...]


def files_of(tree: Path, patterns: Sequence[str], without: Sequence[str] = ()) -> list[str]:
    names = sorted({str(path.relative_to(tree)) for pattern in patterns for path in tree.glob(pattern)})
    return [name for name in names if not any(fnmatch(name, other) for other in without)]


def learn(tree: Path, folder: Path, modules: Sequence[str], tests: Sequence[str], kept: Path) -> list[Reach]:
    """Every file of tests without a fault. What ``kept`` has of the same sources and the same file is taken from there."""
    sources = [path for path in sorted(tree.rglob("*.py")) if path.relative_to(tree).parts[0] not in (".site", "tools")]
    common = hashlib.sha256(b"".join(p.read_bytes() for p in sources if not p.name.startswith("test_"))).hexdigest()[:16]
    known: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else {}
    folders = sorted({str(Path(module).parent) for module in modules})
    found = []
    for number, file in enumerate(tests, 1):
        key = common + hashlib.sha256((tree / file).read_bytes()).hexdigest()[:16]
        row = known.get(file, {})
        if row.get("key") != key:
            begun = time.monotonic()
            result = Run(sound_run, tree, file, folders, answer=folder / "sound.json", seconds=SOUND_SECONDS).result()
            row = {"key": key, **(result or {"nodes": [], "seconds": [], "start": 0, "wrong": [], "lines": {}, "imported": []})}
            said = f"{len(row['nodes'])} tests, {len(row['wrong'])} take no part" if result else "did not end, takes no part"
            say(f"{number}/{len(tests)} {file}: {said}, {time.monotonic() - begun:.0f} s")
            known[file] = row
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(known))
        warm(row["imported"])
        found.append(Reach(file, row["nodes"], row["seconds"], row["start"], row["wrong"], row["lines"]))
    return found


def nearness(module: str, test: str, tree: Path) -> int:
    """0: the module's own tests; 1: tests that import it; 2: of its folder; 3: others."""
    path, name = Path(module), Path(test).stem.removeprefix("test_")
    if name == path.stem or (len(path.stem) > 4 and name.startswith(path.stem)):
        return 0
    dotted = ".".join(path.with_suffix("").parts)
    if f"{dotted} import" in (tree / test).read_text() or f"hwgen.{path.stem} import" in (tree / test).read_text():
        return 1
    return 2 if Path(test).parent == Path("tests") / path.parent else 3


def choose(mutant: HostMutant, reaches: Sequence[Reach], tree: Path, limit: float) -> tuple[list[Choice], list[Choice]]:
    """Tests that reach the fault, the nearest and the quickest first, within a time; and the nearest files, whole."""
    reached = [choice for reach in reaches if (choice := reach.of(mutant)) is not None and choice.nodes]
    if not reached:  # perhaps by a process that a test starts
        reached = [reach.whole() for reach in reaches if reach.nodes and nearness(mutant.file, reach.file, tree) < 2]
    near = {choice.reach.file: nearness(mutant.file, choice.reach.file, tree) for choice in reached}
    order = sorted(reached, key=lambda choice: (near[choice.reach.file], choice.seconds))
    parts = [choice for choice in order if near[choice.reach.file] < 2 and not choice.is_whole]
    return within(order, limit), within([choice.reach.whole() for choice in parts], limit)


def within(choices: Sequence[Choice], limit: float) -> list[Choice]:
    """As many as the time allows, the quickest first; the first of the choices in any case, which leaves the others their time."""
    chosen: list[Choice] = []
    for choice in choices:
        if choice.seconds <= limit:
            chosen.append(choice)
            limit -= choice.seconds
        elif not chosen:
            chosen.append(choice)
    return sorted(chosen, key=lambda choice: choice.seconds)


class Attempt:
    """A fault in a copy of the tree, and the tests on it."""

    def __init__(self, mutant: HostMutant, tree: Path, rounds: Sequence[list[Choice]], stamp: int) -> None:
        self.mutant, self.tree = mutant, tree
        self._rounds, self._file = [choices for choices in rounds if choices], tree / mutant.file
        self._before, self._stat = self._file.read_bytes(), self._file.stat()
        self._file.write_text(mutant.text, encoding="utf-8")
        os.utime(self._file, (stamp, stamp))  # no compiled file is of that time
        self.run: Run | None = None
        self._ran: list[str] = []

    def begin(self) -> bool:
        """Begin the next round; whether there was one."""
        if not self._rounds:
            return False
        choices = self._rounds.pop(0)
        seconds = sum(choice.seconds for choice in choices)
        files = [choice.reach.file for choice in choices]
        only = [node for choice in choices for node in choice.nodes]
        wrong = [node for choice in choices for node in choice.reach.wrong]
        self._ran += [file for file in files if file not in self._ran]
        self.run = Run(fault_run, self.tree, files, only, wrong, int(20 + 4 * seconds),
                       answer=self.tree.with_suffix(".json"), seconds=60 + 10 * seconds)
        return True

    def found_by(self) -> str | None:
        """Of the round that was begun; waits for its end."""
        result = self.run.result() if self.run is not None else None
        if result is None:
            return "does not end, or ends everything"
        if result["failed"]:
            return str(result["failed"][0])
        return None if result["code"] in (0, 5) else "does not load"  # 5: no test is left

    def end(self, test: str | None) -> Fate:
        """Put the file back."""
        self._file.write_bytes(self._before)
        os.utime(self._file, ns=(self._stat.st_atime_ns, self._stat.st_mtime_ns))
        return Fate(test, tuple(self._ran))


def attempts(
    mutants: Sequence[HostMutant], trees: Sequence[Path], reaches: Sequence[Reach], limit: float, seconds: float
) -> Iterator[tuple[HostMutant, Fate]]:
    """What becomes of each fault that is begun in time; as many at once as there are trees."""
    waiting, free, running = list(reversed(mutants)), list(trees), list[Attempt]()
    ends = time.monotonic() + seconds
    while waiting or running:
        while waiting and free and time.monotonic() < ends:
            mutant = waiting.pop()
            tree = free.pop()
            attempt = Attempt(mutant, tree, choose(mutant, reaches, tree, limit), 10**9 + len(waiting))
            if attempt.begin():
                running.append(attempt)
            else:
                free.append(tree)
                yield mutant, attempt.end(None)
        if not running:
            return
        runs = [attempt.run for attempt in running if attempt.run is not None]
        first = min(run.ends for run in runs)
        ended = multiprocessing.connection.wait([run.sentinel for run in runs], max(0.0, first - time.monotonic()))
        for attempt in list(running):
            if attempt.run is not None and (attempt.run.sentinel in ended or attempt.run.ends <= time.monotonic()):
                test = attempt.found_by()
                if test is not None or not attempt.begin():
                    running.remove(attempt)
                    free.append(attempt.tree)
                    yield attempt.mutant, attempt.end(test)


def reasons(file: Path) -> dict[tuple[str, str, str], str]:
    """Why faults are harmless, by module, line before and line after."""
    rows = tomllib.loads(file.read_text())["fault"] if file.is_file() else []
    return {(row["file"], row["before"], row["after"]): row["why"] for row in rows}


def summary(fates: dict[HostMutant, Fate], harmless: dict[tuple[str, str, str], str]) -> dict[str, Any]:
    """The record's figures and rows."""
    packages: dict[str, Counter[str]] = {}
    survivors, known = [], []
    for mutant, fate in fates.items():
        why = harmless.get((mutant.file, mutant.before, mutant.after), "")
        kind = "found" if fate.test is not None else "harmless" if why else "survived"
        packages.setdefault(str(Path(mutant.file).parent), Counter())[kind] += 1
        row = {"file": mutant.file, "line": mutant.line, "before": mutant.before, "after": mutant.after}
        if kind == "harmless":
            known.append(row | {"why": why})
        elif kind == "survived":
            survivors.append(row | {"tests": list(fate.tests)})
    total = sum(packages.values(), Counter())
    return {
        "mutants": len(fates), "found": total["found"], "harmless": total["harmless"], "survived": total["survived"],
        "percent": round(100 * total["found"] / max(1, total["found"] + total["survived"]), 1),
        "kinds": dict(Counter(mutant.kind for mutant in fates)),
        "modules": len({mutant.file for mutant in fates}),
        "packages": [{"package": package, "found": of["found"], "harmless": of["harmless"], "survived": of["survived"]}
                     for package, of in sorted(packages.items())],
        "survivors": survivors, "known_harmless": known,
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def commit(root: Path) -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def still_open(record: dict[str, Any], mutants: Sequence[HostMutant]) -> set[HostMutant]:
    """Those that an earlier record does not say to be found. Raises ValueError where it is not of these faults."""
    rows = {(row["file"], row["line"], row["after"]) for row in record["survivors"] + record["known_harmless"]}
    found = {mutant for mutant in mutants if (mutant.file, mutant.line, mutant.after) in rows}
    if len(found) < len(rows) or len(mutants) != record["mutants"]:
        raise ValueError("the record is of other sources, modules or another seed")
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, help=f"default: {MUTANTS}; with --again those of the record, and it is not given")
    parser.add_argument("--seed", type=int, default=1, help="which are drawn, and in what order they run")
    parser.add_argument("--modules", nargs="+", metavar="GLOB", default=MODULES, help="where; default: %(default)s")
    parser.add_argument("--tests", nargs="+", metavar="GLOB", default=TESTS, help="what shall find them; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3600, help="no fault is begun after that; default: %(default)s")
    parser.add_argument("--each", type=float, default=15, help="seconds of tests a fault gets at most, twice; default: %(default)s")
    parser.add_argument("--jobs", type=int, default=2, help="faults at the same time; default: %(default)s")
    parser.add_argument("--again", type=Path, metavar="RECORD", help="only what survived there; the rest of it is kept")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree; default: this one")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the record")
    options = parser.parse_args()
    if options.again and options.mutants is not None:
        parser.error("--again has the faults of its record: leave --mutants out")
    return options


def main() -> int:
    options = parse_arguments()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        trees = [Path(folder).resolve() / f"tree{number}" for number in range(options.jobs)]
        for tree in trees:
            copy_tree(options.root, tree)
        modules = files_of(trees[0], options.modules, NO_MODULES)
        texts = {module: (trees[0] / module).read_text(encoding="utf-8") for module in modules}
        record = json.loads(options.again.read_text()) if options.again else None
        mutants = draw(texts, record["mutants"] if record else options.mutants or MUTANTS, options.seed)
        say(f"{len(mutants)} faults in {len(modules)} modules")
        if not mutants:
            say("error: no module in which a fault could be planted")
            return 2
        try:
            chosen = still_open(record, mutants) if record else set(mutants)
        except ValueError as error:
            say(f"error: {error}; run it without --again")
            return 2
        before = {mutant: Fate(None if mutant in chosen else "an earlier run", ()) for mutant in mutants}
        fates = before if record else {}
        tests = files_of(trees[0], options.tests, NO_TESTS)
        reaches = learn(trees[0], Path(folder), modules, tests, options.root / "build" / "verify" / "host-reach.json")
        todo = [mutant for mutant in mutants if mutant in chosen]
        for number, (mutant, fate) in enumerate(attempts(todo, trees, reaches, options.each, options.seconds), 1):
            fates[mutant] = fate
            said = fate.test or f"SURVIVED {len(fate.tests)} files of tests"
            say(f"{number}/{len(todo)}, {time.monotonic() - begun:.0f} s, {said}: {mutant}")
    found = {
        "command": " ".join(["tools/mutate_host.py", *sys.argv[1:]]), "commit": commit(options.root),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "seconds": round(time.monotonic() - begun),
        **summary(fates, reasons(HARMLESS)),
    }
    print(json.dumps({name: value for name, value in found.items() if not isinstance(value, list)}))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
