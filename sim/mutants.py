"""Verilog with planted faults, one of which is active at a time: one simulator serves hundreds.

Amaranth writes one operation a line, so a mutant is one line with another operation, constant, condition or bit in it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["ACTIVE", "MODULE", "Mutant", "find_mutants", "mutate", "mutated_line", "plant", "watch"]

#: The register of the top module that holds the number of the active mutant, from 1; 0: none.
ACTIVE = "active_mutant"

#: A module of the Verilog as a whole; its name is the first group.
MODULE = re.compile(r"^module (\\\S+|\w+).*?^endmodule$", re.MULTILINE | re.DOTALL)

#: What takes the place of an operator.
_OTHER = {
    "+": "-", "-": "+", "*": "+", "&": "|", "|": "&", "^": "|", "==": "!=", "!=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">",
    "<<": ">>", ">>": "<<", ">>>": "<<", "&&": "||", "||": "&&",
}
_NAME = r"(?:\$signed\()?(?:\\\S+ |\w+)(?: ?\[\d+(?::\d+)?\])?\)?"
_CONSTANT = r"(?P<width>\d+)'(?P<base>[hbd])(?P<digits>[0-9a-f]+)"
_OPERAND = rf"(?:{_NAME}|(?:\$signed\()?\d+'s?[hbd][0-9a-f]+\)?|\{{[^{{}}]*\}}) ?"
_BINARY = re.compile(rf"^  assign (?P<to>.+?) = (?P<a>{_OPERAND}) (?P<operator>[-+*&|^<>=!]+) (?P<b>{_OPERAND});$")
_UNARY = re.compile(rf"^  assign (?P<to>.+?) = (?P<operator>[~!|&^]) (?P<a>{_OPERAND});$")
_CHOICE = re.compile(rf"^  assign (?P<to>.+?) = (?P<c>{_OPERAND}) \? (?P<a>{_OPERAND}) : (?P<b>{_OPERAND});$")
_NEXT = re.compile(rf"^    (?P<to>{_NAME} ?) <= (?P<a>{_OPERAND});$")
_IF = re.compile(r"^(?P<lead> +(?:end else )?if) \((?P<c>.+)\) begin$")
_MODULE = re.compile(r"^module (\\\S+|\w+)")
_TARGET = re.compile(rf"^ +(?:assign )?(?P<to>{_NAME} ?|\{{[^{{}}]*\}} ?)(?:<=|=) ")
_PART = re.compile(r"^(?:\\\S+ |\w+) ?\[(?P<high>\d+)(?::(?P<low>\d+))?\] ?$")
_NAMES = re.compile(r"\\\S+|[A-Za-z_]\w*")
_DECLARED = re.compile(r"^  (?:reg|wire|inout) ")
_REGISTER = re.compile(r"^  (?:reg|wire) (?:\[(\d+):0\] )?(\\\S+|\w+)")


@dataclass(frozen=True)
class Mutant:
    """One line that is wrong."""

    module: str
    #: Index of the line in the Verilog.
    line: int
    #: Of which kind: operator, constant, choice, negation, condition, stuck.
    kind: str
    before: str
    #: The expression that stands in its place; of a condition: what is in the parentheses.
    after: str
    #: Bits of what is assigned; 1 of a condition.
    width: int = 1

    def __str__(self) -> str:
        return f"{self.module.rpartition('.')[2]}: {self.before.strip()} -> {self.after.strip()}"


def _off_by_one(text: str, rng: random.Random) -> str | None:
    match = re.fullmatch(_CONSTANT, text.strip())
    if not match:
        return None
    width = int(match["width"])
    value = int(match["digits"], {"h": 16, "b": 2, "d": 10}[match["base"]])
    return f"{width}'h{(value + rng.choice((1, -1))) % (1 << width):x} "


def _width(target: str, widths: dict[str, int]) -> int:
    """Bits of what is assigned, a name or a slice of it; 1024, as many as any has, where several are joined."""
    if m := _PART.match(target):
        return int(m["high"]) - int(m["low"] or m["high"]) + 1
    return widths.get(target.strip(), 1024)


def _of_line(line: str, widths: dict[str, int], rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Kind, expression before and after, of everything that may go wrong in a line."""
    if m := _BINARY.match(line):
        before = f"{m['a']} {m['operator']} {m['b']}"
        if m["operator"] in _OTHER:
            yield "operator", before, f"{m['a']} {_OTHER[m['operator']]} {m['b']}"
        if (other := _off_by_one(m["b"], rng)) is not None:
            yield "constant", before, f"{m['a']} {m['operator']} {other}"
    elif m := _UNARY.match(line):
        before = f"{m['operator']} {m['a']}"
        after = {"~": m["a"], "!": f"| {m['a']}", "|": f"& {m['a']}", "&": f"| {m['a']}", "^": f"| {m['a']}"}[m["operator"]]
        yield "negation", before, after
    elif m := _CHOICE.match(line):
        yield "choice", f"{m['c']} ? {m['a']} : {m['b']}", f"{m['c']} ? {m['b']} : {m['a']}"
    elif m := _NEXT.match(line):
        name = m["to"].strip()
        width = widths.get(name, 0)
        if width:
            bit = rng.randrange(width)
            mask = f"{width}'h{1 << bit:x}"
            yield "stuck", m["a"], rng.choice((f"{m['a']} | {mask}", f"{m['a']} & ~{mask}"))
    elif (m := _IF.match(line)) and m["c"].strip() not in ("rst", "flush") and "dump_module" not in m["c"]:
        yield "condition", m["c"], rng.choice(("1'h1", "1'h0", f"!({m['c']} )"))


def find_mutants(verilog: str, rng: random.Random, without: Sequence[str] = ()) -> list[Mutant]:
    """Every mutant, in the order of the text. Modules whose names have one of ``without`` in them have none; conditions of resets
    are left alone, since registers begin with the same values, and so is what nobody reads.
    """
    found: list[Mutant] = []
    lines = verilog.split("\n")
    module, read = "", set[str]()
    widths: dict[str, int] = {}
    for number, line in enumerate(lines):
        if m := _MODULE.match(line):
            module, widths, read = m[1], {}, _read_names(lines, number)
        elif m := _REGISTER.match(line):
            widths[m[2]] = int(m[1] or 0) + 1
        elif line.startswith(" ") and not any(word in module for word in without):
            target = m["to"] if (m := _TARGET.match(line)) else ""
            if target and not any(name in read for name in _NAMES.findall(target)):
                continue
            width = _width(target, widths) if target else 1
            found += [Mutant(module, number, *change, width) for change in _of_line(line, widths, rng)]
    return found


def _read_names(lines: Sequence[str], start: int) -> set[str]:
    """Names that something in a module reads, and its ports."""
    read = set[str]()
    for line in lines[start:]:
        if line.startswith("endmodule"):
            break
        if not _DECLARED.match(line):
            target = _TARGET.match(line)
            read.update(_NAMES.findall(line[target.end() :] if target else line))
    return read


def watch(verilog: str, mutants: Sequence[Mutant], top: str) -> str:
    """The Verilog without a fault, that prints ``mutant NUMBER differs`` at the first rising edge of the clock before which mutant
    number i + 1 would make a difference in its place. One that never does changes nothing in that run.
    """
    lines = verilog.split("\n")
    by_module: dict[str, list[str]] = {}
    for number, mutant in enumerate(mutants, 1):
        values = (f"{'!' if mutant.kind == 'condition' else ''}({expression} )" for expression in (mutant.before, mutant.after))
        size = f"[{mutant.width - 1}:0] "
        by_module.setdefault(mutant.module, []).extend([
            *(f"  wire {size}{side}_mutant_{number} = {value};" for side, value in zip(("without", "with"), values, strict=True)),
            f"  reg seen_mutant_{number} = 1'h0;",
            f"  always @(posedge {top}.clk)",
            f"    if (!seen_mutant_{number} && without_mutant_{number} != with_mutant_{number}) begin",
            f"      seen_mutant_{number} <= 1'h1; $display(\"mutant {number} differs\");",
            "    end",
        ])
    module = ""
    for i, line in enumerate(lines):
        if m := _MODULE.match(line):
            module = m[1]
        elif line.startswith("endmodule") and module in by_module:
            lines[i] = "\n".join([*by_module[module], line])
    return "\n".join(lines)


def mutate(verilog: str, mutant: Mutant) -> str:
    """The Verilog with one mutant in place of what is there."""
    lines = verilog.split("\n")
    lines[mutant.line] = mutated_line(lines[mutant.line], mutant)
    return "\n".join(lines)


def mutated_line(line: str, mutant: Mutant) -> str:
    """The line of a mutant with it in place of what is there."""
    return _with(line, mutant, f"({mutant.after} )")


def _with(line: str, mutant: Mutant, expression: str) -> str:
    """A line with an expression in place of that of the mutant, the last of its kind: what is assigned stands before it."""
    before, found, behind = line.rpartition(mutant.before)
    assert found, mutant
    return f"{before}{expression}{behind}"


def plant(verilog: str, mutants: Sequence[Mutant], top: str) -> str:
    """The Verilog with all mutants, number i + 1 active while register `ACTIVE` of the module ``top`` has that value. No two may be
    of one line.
    """
    lines = verilog.split("\n")
    for number, mutant in enumerate(mutants, 1):
        choice = f"(({top}.{ACTIVE} == 16'd{number}) ? ({mutant.after} ) : ({mutant.before} ))"
        lines[mutant.line] = _with(lines[mutant.line], mutant, choice)
    declared = False
    for i, line in enumerate(lines):
        if line.startswith(f"module {top}("):
            end = next(j for j in range(i, len(lines)) if lines[j].rstrip().endswith(");"))
            lines[end] += f"\n  reg [15:0] {ACTIVE} = 16'd0;"
            declared = True
            break
    assert declared, f"no module {top}"
    return "\n".join(lines)
