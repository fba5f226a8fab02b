"""A fault of a whole machine, planted in the same place of one of its units, as the unit's own tests build it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .mutants import MODULE, Mutant, mutated_line

__all__ = ["KEEP_VERILOG", "PLANTED_FAULT", "UnitFault", "read_fault", "unit_fault"]

#: Of the environment of a unit's test: a file with a fault that is planted in its design.
PLANTED_FAULT = "HWGEN_PLANTED_FAULT"
#: Of the same: a folder in which its Verilog is left, with nothing simulated.
KEEP_VERILOG = "HWGEN_KEEP_VERILOG"

#: Of a module's lines, so many stand in a module that is the same unit: what is constant in one place is a port in another.
SIMILAR = 0.75

#: Lines that say nothing of what a module does, or have numbers that count through the whole text; first values of memories.
_OTHER = re.compile(r"dump_module|^ *\(\*|^module |^endmodule|^    \S+ ?\[\d+\] = ")


#: A name with the number that tells it from others of the same name in a design, and its field; and any name.
_NUMBERED = re.compile(r"\\(\$?[A-Za-z_]\w*)(?:\$\d+)*((?:\.\w+)*) ")
_NAME = re.compile(r"\\\S+ |[A-Za-z_$][\w$]*")


def _unnumbered(line: str) -> str:
    """A line as it is in whatever design: numbers behind names count through all of one."""
    return _NUMBERED.sub(r"\1\2", line)


def _body(text: str) -> list[str]:
    """Lines of a module that say what it does."""
    return [line for line in text.split("\n") if not _OTHER.search(line)]


@dataclass(frozen=True)
class UnitFault:
    """A line that is wrong in whatever module is the same unit."""

    #: Lines of the module.
    module: tuple[str, ...]
    #: Which of them is wrong.
    line: int
    #: What stands in its place.
    wrong: str

    def place(self, verilog: str) -> int | None:
        """Index of the line of this Verilog in which the fault is, in the first of the modules that are most alike; None if none is
        the same unit.
        """
        module = [_unnumbered(line) for line in self.module]
        right = module[self.line]
        of_same, all_same = module[: self.line].count(right), module.count(right)
        best, found = SIMILAR, None
        for match in MODULE.finditer(verilog):
            text = _unnumbered(match[0])
            places = [i for i, line in enumerate(text.split("\n")) if line == right]
            if len(places) != all_same:
                continue
            alike = _alike(module, _body(text))
            if alike > best or found is None and alike == best:
                best, found = alike, verilog.count("\n", 0, match.start()) + places[of_same]
        return found

    def plant(self, verilog: str) -> str | None:
        """The Verilog with the fault; None if it has no place there."""
        place = self.place(verilog)
        if place is None:
            return None
        lines = verilog.split("\n")
        here, there = _NAME.findall(self.module[self.line]), _NAME.findall(lines[place])
        names = dict(zip(here, there, strict=True))
        lines[place] = _NAME.sub(lambda name: names.get(name[0], name[0]), self.wrong)
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """For `read_fault`."""
        path.write_text(json.dumps(asdict(self)))


def _alike(lines: Sequence[str], others: Sequence[str]) -> float:
    """Share of the longer one's lines that both have."""
    both = Counter(lines) & Counter(others)
    return both.total() / max(len(lines), len(others), 1)


def unit_fault(verilog: str, mutant: Mutant) -> UnitFault:
    """A mutant of a machine, wherever its module stands."""
    lines = verilog.split("\n")
    start = next(i for i in range(mutant.line, -1, -1) if lines[i].startswith("module "))
    end = lines.index("endmodule", mutant.line)
    kept = [i for i in range(start, end) if not _OTHER.search(lines[i])]
    return UnitFault(tuple(lines[i] for i in kept), kept.index(mutant.line), mutated_line(lines[mutant.line], mutant))


def read_fault(path: Path) -> UnitFault:
    """What `UnitFault.write` wrote."""
    values = json.loads(path.read_text())
    return UnitFault(tuple(values["module"]), values["line"], values["wrong"])
