"""Verilog in which nothing is owed to luck: memories and registers begin with noise, and a read that meets a write returns noise.

An FPGA starts with what the bitstream says, a reset in the middle of the work does not restore it, and a block RAM that is read and
written at the same address in the same cycle returns whatever the vendor's primitive returns in the mode that the tool chose.
A design that gives the same results here depends on none of that.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from ..rounding import ceil_div

__all__ = ["NoiseError", "add_noise"]

#: A memory: last bit, name, last word.
_MEMORY = re.compile(r"^  reg \[(\d+):0\] (\\\S+ |\w+) ?\[\d+:0\];$", re.MULTILINE)
#: A register with its first value.
_REGISTER = re.compile(r"^(  reg (?:\[\d+:0\] )?(?:\\\S+ |\w+)) ?= \d+'[bdh][0-9a-f]+;$", re.MULTILINE)
#: A process that writes memories or registers at the clock.
_PROCESS = re.compile(r"^  always @\(posedge [^)]+\)(?: begin\n.*?^  end$|\n.*?;$)", re.MULTILINE | re.DOTALL)
#: What is in one: an assignment, maybe under a condition.
_STATEMENT = re.compile(r"^ +(?:if \((?P<enable>.*)\)\n +)?(?P<target>\S.*?) <= (?P<source>.*?);$", re.MULTILINE)
#: Contents that are all zero: what Amaranth writes for a memory without any.
_ZERO = re.compile(r"^ *initial begin\n(?: *\S+ ?\[\d+\] = \d+'[dh]0+;\n)+ *end\n", re.MULTILINE)
_INITIAL = re.compile(r"^  initial begin\n.*?^  end\n", re.MULTILINE | re.DOTALL)


class NoiseError(ValueError):
    """A memory is used in a way that nothing is known about."""


def add_noise(verilog: str) -> str:
    """Verilog as Amaranth writes it, with

    * no first values of registers, and of memories those only that are not all zero (tables): whoever simulates it chooses them;
    * noise from a clocked read (`$urandom`) of a word that is written in the same cycle, even in part. Where the design asks for
      the word being written ("transparent"), the statement that takes it comes after the read and stays.

    A read without a clock is that of look-up tables, which return the old word until the clock: it stays. Raises `NoiseError` for
    a use of a memory that is none of these.
    """
    return "".join(_add_to_module(part) for part in re.split(r"(?<=^endmodule\n)", verilog, flags=re.MULTILINE))


def _add_to_module(text: str) -> str:
    text = _ZERO.sub("", text)
    memories = {name.strip(): int(bits) + 1 for bits, name in _MEMORY.findall(text)}
    written: dict[str, list[tuple[str, str]]] = defaultdict(list)
    uses = dict.fromkeys(memories, 0)
    for process in _PROCESS.finditer(text):
        for statement in _STATEMENT.finditer(process[0]):
            name, address, _ = _access(statement["target"])
            if name in memories:
                written[name].append((statement["enable"] or "1'b1", address))
                uses[name] += 1

    def poison(statement: re.Match[str]) -> str:
        name, address, rest = _access(statement["source"])
        if name not in memories:
            return statement[0]
        if rest:
            raise NoiseError(f"part of a word of memory {name} is read: {statement[0].strip()}")
        uses[name] += 1
        # a blank ends an escaped name
        meets = [f"(({enable} ) && ({there} ) == ({address} ))" for enable, there in written[name]]
        if not meets:
            return statement[0]
        noise = ", ".join(["$urandom"] * ceil_div(memories[name], 32))
        begin, end = statement.start("source") - statement.start(), statement.end("source") - statement.start()
        return f"{statement[0][:begin]}({' || '.join(meets)}) ? {{{noise}}} : {statement['source']}{statement[0][end:]}"

    text = _PROCESS.sub(lambda process: _STATEMENT.sub(poison, process[0]), text)
    for name in _unclocked_reads(text):
        if name in memories:
            uses[name] += 1
    _check_uses(text, uses)
    return _REGISTER.sub(r"\1;", text)


def _access(expression: str) -> tuple[str, str, str]:
    """Name, address and part of the word, of ``name[address][part]``; empty strings for anything else."""
    head = re.match(r"(\\\S+ |\w+) ?\[", expression)
    if not head:
        return "", "", ""
    depth = 1
    for position in range(head.end(), len(expression)):
        depth += {"[": 1, "]": -1}.get(expression[position], 0)
        if not depth:
            return head[1].strip(), expression[head.end() : position].strip(), expression[position + 1 :].strip()
    return "", "", ""


def _unclocked_reads(text: str) -> Iterator[str]:
    for source in re.findall(r"^  assign .*? = (.*?);$", text, re.MULTILINE):
        name, _, rest = _access(source)
        if not rest:
            yield name


def _check_uses(text: str, uses: dict[str, int]) -> None:
    """Every mention of a memory but its declaration and its contents is one that was understood."""
    plain = _MEMORY.sub("", _INITIAL.sub("", text))
    for name, known in uses.items():
        # the addresses of its own writes stand in a poisoned read, the memory does not
        found = len(re.findall(rf"(?<![\w\\$]){re.escape(name)} ?\[", plain))
        if found != known:
            raise NoiseError(f"memory {name} is used {found} times, of which {known} are reads and writes of whole words")
