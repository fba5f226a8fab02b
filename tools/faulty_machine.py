"""Planted faults in a whole machine: the lock step with the golden machine, case by case, each in a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import multiprocessing
import multiprocessing.connection
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from hwgen.hw.accelerator import TOP
from hwgen.sim.mutants import ACTIVE, Mutant, plant, watch
from hwgen.sw.devices import verilator
from hwgen.sw.devices.verilator import VerilatorDevice
from hwgen.sw.verification.case import MEMORY_BYTES, Case, CaseResult
from hwgen.sw.verification.fuzz import run_safely

from .mutant_cases import cases, run_loops
from .mutation_record import Fate

__all__ = ["FaultyMachine"]

#: Of the processor, that a mutant may take.
SECONDS = 240
#: Cases that find nearly all of what any finds.
QUICK = 3


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


class FaultyMachine:
    """One simulator with all these mutants in it; ``verilog``: without any."""

    def __init__(self, verilog: str, mutants: Sequence[Mutant]) -> None:
        self.verilog, self.mutants = verilog, mutants
        self._numbers = {mutant: number for number, mutant in enumerate(mutants, 1)}
        self._planted = plant(verilog, mutants, TOP)
        verilator.IDLE_LIMIT, verilator.OPERATOR_LIMIT = 5000, 400_000
        open_mutant(cases()[0], self._planted, 0)  # builds the simulator
        sound = run_sound(self._planted)
        if sound.case is not None:
            raise RuntimeError(f"without a mutant: case {sound.case}: {sound.wrong}")
        #: Of the cases without a mutant.
        self.cycles = sound.cycles

    def run(self, earlier: Mapping[Mutant, Fate], seconds: float, jobs: int) -> dict[Mutant, Fate]:
        """What becomes of these, behind the cases that they have run: all on what is quick, then case by case. None is begun after
        so many seconds, and those that were not are not in the answer.
        """
        begin, found = time.monotonic(), dict[Mutant, Fate]()

        def run_some(mutants: Iterable[Mutant], which: slice) -> None:
            in_time = takewhile(lambda mutant: time.monotonic() - begin < seconds, mutants)
            numbers = (self._numbers[mutant] for mutant in in_time)
            for number, fate in attempts(self._planted, numbers, which, jobs):
                mutant = self.mutants[number - 1]
                found[mutant] = replace(fate, cycles=found.get(mutant, earlier[mutant]).cycles + fate.cycles)
                said = "survived" if fate.case is None else f"case {fate.case}"
                print(f"{len(found)}/{len(earlier)} {said}: {mutant} {fate.wrong[:100]}", file=sys.stderr, flush=True)

        run_some([mutant for mutant, fate in earlier.items() if not fate.cycles], slice(QUICK))
        for done in range(QUICK, len(self.cycles)):
            now = {mutant: found.get(mutant, fate) for mutant, fate in earlier.items()}
            here = [mutant for mutant, fate in now.items() if fate.case is None and len(fate.cycles) == done]
            run_some(here, slice(done, done + 1))
        return found

    def kinds(self, survivors: Mapping[Mutant, Fate]) -> dict[Mutant, str]:
        """What is known of each that no case has found."""
        differ = reached(self.verilog, list(survivors))
        return {
            mutant: "never makes a difference in its place" if mutant not in differ
            else "changes when things happen, not what" if fate.cycles != self.cycles[: len(fate.cycles)]
            else "what it changes does not come out"
            for mutant, fate in survivors.items()
        }
