"""Timing arcs of one mapped module: from input to output of its cells, the net in front included, in ns by the table of delays.

Registers, memories and DSP slices cut the arcs by how they are configured: what reaches them ends there, what leaves them starts.
Yosys leaves the registers beside a multiplier or memory outside of it, where Vivado may take them in: so it does with those behind
an UltraRAM matrix of several rows, of which Yosys knows nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import HwgenError
from ...rounding import ceil_div
from . import delays

__all__ = ["OTHER", "THROUGH_CARRY", "THROUGH_LUT", "TimingModule", "compact_netlist", "read_module"]

#: What an arc goes through, for the counts of a path.
OTHER, THROUGH_LUT, THROUGH_CARRY = range(3)

_LUT = re.compile(r"LUT[1-6]|INV")
_CARRY = re.compile(r"CARRY[48]")
_REGISTER = re.compile(r"FD[RSCP]E")
_LUT_RAM = re.compile(r"RAM\d+\w*")
_SHIFT_REGISTER = re.compile(r"SRL\w+")
#: Cells that no path goes through.
_STATIC = re.compile(r"GND|VCC|I?O?BUFG?|\$scopeinfo")
_CLOCK = re.compile(r"W?CLK\w*")
#: Parameters that say which registers a cell has.
_REGISTERS = re.compile(r"DO[AB]_REG|OREG_[AB]|(?:[ABCDMP]|AD)REG")
#: The module that is one DSP slice (`hwgen.hw.multiply_add`).
_MULTIPLY_ADD = re.compile(r".*multiply_add.*")


def compact_netlist(netlist: dict[str, Any]) -> dict[str, Any]:
    """What `longest_paths` needs of what Yosys writes with ``write_json``: ``{module: {ports, cells, names}}``. A ``rows`` may be
    added to a module, by memory: of its UltraRAM matrix."""
    return {
        name: {
            "ports": {port: of["bits"] for port, of in module["ports"].items()},
            "cells": {
                cell: [
                    of["type"],
                    {k: v == "TRUE" or "1" in v for k, v in of.get("parameters", {}).items() if _REGISTERS.fullmatch(k)},
                    of["connections"],
                ]
                for cell, of in module["cells"].items()
            },
            "names": {net.lstrip("\\"): of["bits"] for net, of in module["netnames"].items() if not of["hide_name"]},
        }
        for name, module in netlist["modules"].items()
    }


def _quality(name: str) -> tuple[bool, bool, int, str]:
    """The best name of a net first: one that was written, not generated, and not that of a port by its number; the shorter one."""
    return "$" in name, name.startswith("port_"), len(name), name


@dataclass
class TimingModule:
    """Arcs of one module; bits are numbered from 0, constants left out."""

    bits: int = 0
    ports: dict[str, list[int]] = field(default_factory=dict)
    #: ``(from bit, to bit, ns, kind)``
    arcs: list[tuple[int, int, float, int]] = field(default_factory=list)
    #: ``(bit, ns, name)``: clock to output of a register or memory; data to its clock.
    starts: list[tuple[int, float, str]] = field(default_factory=list)
    ends: list[tuple[int, float, str]] = field(default_factory=list)
    #: ``(ns, name)``: from register to register inside one cell.
    inside: list[tuple[float, str]] = field(default_factory=list)
    #: ``(instance, module, connections)``
    children: list[tuple[str, str, dict[str, list[int]]]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)


Pins = dict[str, list[int]]


class ModuleReader:
    """Makes a `TimingModule` of a module of the netlist."""

    def __init__(self, module: dict[str, Any], modules: dict[str, Any]) -> None:
        self.found = TimingModule()
        self._number: dict[int, int] = {}
        self.found.ports = {port: self._bits(bits) for port, bits in module["ports"].items()}
        cells = [(name, kind, of, {port: self._bits(bits) for port, bits in pins.items()})
                 for name, (kind, of, pins) in module["cells"].items()]
        for net, bits in sorted(module["names"].items(), key=lambda item: _quality(item[0])):
            for i, bit in enumerate(self._bits(bits)):
                self.found.names.setdefault(bit, f"{net}[{i}]" if len(bits) > 1 else net)
        self.found.bits = len(self._number)
        self._look_around([(kind, pins) for _, kind, _, pins in cells])
        self._rows: dict[str, int] = module.get("rows", {})
        for name, kind, of, pins in cells:
            self._name = name if not name.startswith("$") else self._output_name(pins) or name
            if _MULTIPLY_ADD.fullmatch(kind):
                own = not pins.keys().isdisjoint({"arrive", "first"})
                ports = {"a": "A", "b": "B", "addend": "C", "result": "P", "arrive": "CEB1", "take": "CEB2", "first": "OPMODE",
                         "d": "D", "subtract": "INMODE", "enable": "CEAD"}
                self._dsp({"AREG": own, "BREG": own, "ADREG": "d" in pins, "MREG": True, "PREG": True, "OPMODEREG": True},
                          {ports[port]: bits for port, bits in pins.items() if port in ports})
            elif kind in modules:
                self.found.children.append((name, kind, pins))
            else:
                self._cell(kind, of, pins)

    def _bits(self, bits: Sequence[int | str]) -> list[int]:
        return [-1 if isinstance(bit, str) else self._number.setdefault(bit, len(self._number)) for bit in bits]

    def _look_around(self, cells: list[tuple[str, Pins]]) -> None:
        """Which bits have a short way: from a look-up table into its carry chain, along a chain, from a chain into a register."""
        def bits_of(pattern: re.Pattern[str], port: str) -> Iterator[int]:
            for kind, pins in cells:
                if pattern.fullmatch(kind):
                    yield from pins.get(port, ())

        into_carry = Counter(bits_of(_CARRY, "S"))
        self._lut_to_carry = {bit for bit in bits_of(_LUT, "O") if into_carry[bit] == 1}
        self._carry_out = set(bits_of(_CARRY, "CO"))
        into_register = Counter(bits_of(_REGISTER, "D"))
        self._sum_to_register = {bit for bit in bits_of(_CARRY, "O") if into_register[bit] == 1}
        self._cascade = set(bits_of(_MULTIPLY_ADD, "result"))
        self._next: dict[int, list[int]] = {}  # bits that follow through logic
        self._held: dict[int, list[int]] = {}  # and through a register
        read = Counter(bit for _, pins in cells for port, bits in pins.items() if port not in ("O", "Q") for bit in bits)
        read.update(bit for bits in self.found.ports.values() for bit in bits)
        self._read = read
        for kind, pins in cells:
            if _LUT.fullmatch(kind):
                for bit in (bit for port, bits in pins.items() if port != "O" for bit in bits):
                    self._next.setdefault(bit, []).extend(pins["O"])
            elif _REGISTER.fullmatch(kind):
                self._held.setdefault(pins["D"][0], []).extend(pins["Q"])

    def _output_name(self, pins: Pins) -> str | None:
        for port in ("Q", "P", "O", "DOUTADOUT", "DOUTBDOUT", "DOUT_A", "DOUT_B", "DOA"):
            for bit in pins.get(port, ()):
                if bit in self.found.names:
                    return self.found.names[bit]
        return None

    def _arcs(self, sources: Sequence[int], outputs: Sequence[int], ns: float, kind: int = OTHER) -> None:
        self.found.arcs += [(a, b, ns, kind) for a in sources if a >= 0 for b in outputs if b >= 0]

    def _starts(self, outputs: Sequence[int], ns: float) -> None:
        self.found.starts += [(bit, ns, self._name) for bit in outputs if bit >= 0]

    def _ends(self, inputs: Sequence[int], ns: float) -> None:
        self.found.ends += [(bit, ns, self._name) for bit in inputs if bit >= 0]

    def _cell(self, kind: str, of: dict[str, bool], pins: Pins) -> None:
        clocked = {port: bits for port, bits in pins.items() if not _CLOCK.fullmatch(port)}
        if _LUT.fullmatch(kind):
            self._logic(clocked, delays.LUT, THROUGH_LUT)
        elif re.fullmatch(r"MUXF[789]", kind):
            self._logic(clocked, delays.WIDE_MUX, OTHER)
        elif _REGISTER.fullmatch(kind):
            self._register(clocked)
        elif _CARRY.fullmatch(kind):
            self._carry(clocked)
        elif _SHIFT_REGISTER.fullmatch(kind):
            self._lut_memory(clocked, {"Q": "A", "Q31": "-"})
        elif kind.startswith("RAMB"):
            self._memory(clocked, of, ("DOA_REG", "DOB_REG"), r"DOU?T?P?([AB])\w*",
                         (delays.BLOCK_RAM_OUT, delays.BLOCK_RAM_OUT_REGISTERED))
        elif kind == "URAM288":
            self._memory(clocked, of, ("OREG_A", "OREG_B"), r"\w*OUT_([AB])",
                         (delays.ULTRA_RAM_OUT, delays.ULTRA_RAM_OUT_REGISTERED))
            self._matrix([bit for port, bits in clocked.items() if "OUT_" in port for bit in bits if bit >= 0])
        elif kind == "DSP48E2":
            self._dsp(of, clocked)
        elif _LUT_RAM.fullmatch(kind):
            self._lut_memory(clocked, {"O": "A", "SPO": "A", "DPO": "DPRA", **{f"DO{x}": f"ADDR{x}" for x in "ABCDEFGH"}})
        elif not _STATIC.fullmatch(kind):
            raise HwgenError("tool", f"the table of delays has no cell of kind {kind} ({self._name})",
                             "add it to sw/analysis/delays.py and arcs.py, or look at what it comes from")

    def _logic(self, pins: Pins, ns: float, kind: int) -> None:
        for port, bits in pins.items():
            if port != "O":
                self._arcs(bits, pins["O"], delays.NET + ns, kind)

    def _register(self, pins: Pins) -> None:
        self._starts(pins["Q"], delays.REGISTER_OUT)
        for port, bits in pins.items():
            if port not in ("C", "Q"):  # C is the clock
                near = port == "D" and bits[0] in self._sum_to_register
                self._ends(bits, delays.CARRY_TO_REGISTER if near else delays.NET)

    def _carry(self, pins: Pins) -> None:
        sums, carries = pins.get("O", []), pins.get("CO", [])
        for first in pins.get("CYINIT", []):
            self._arcs([first], sums, delays.NET + delays.CARRY_SUM, THROUGH_CARRY)
            self._arcs([first], carries, delays.NET + delays.CARRY_IN, THROUGH_CARRY)
        for first in pins.get("CI", []):
            chained = first in self._carry_out
            self._arcs([first], sums, delays.CARRY_OUT if chained else delays.NET + delays.CARRY_SUM, THROUGH_CARRY)
            self._arcs([first], carries, delays.CARRY_THROUGH if chained else delays.NET + delays.CARRY_IN, THROUGH_CARRY)
        for port in ("S", "DI"):
            for i, bit in enumerate(pins[port]):
                if bit in self._lut_to_carry and port == "S":
                    net = delays.LUT_TO_CARRY
                else:  # only a look-up table drives S: the bit passes through one
                    net = delays.NET + (delays.LUT + delays.LUT_TO_CARRY if port == "S" else 0)
                self._arcs([bit], sums[i if port == "S" else i + 1 :], net + delays.CARRY_SUM, THROUGH_CARRY)
                self._arcs([bit], carries[i:], net + delays.CARRY_IN, THROUGH_CARRY)

    def _lut_memory(self, pins: Pins, address_of: dict[str, str]) -> None:
        written = max((port for port in pins if port.startswith("ADDR")), default="")
        for port, bits in pins.items():
            if port in address_of:
                self._starts(bits, delays.LUT_RAM_OUT)
                for other, sources in pins.items():
                    if re.fullmatch(rf"{address_of[port]}\d*", other):
                        self._arcs(sources, bits, delays.NET + delays.LUT_RAM_READ)
            elif not port.startswith(("DPRA", "ADDR")) or port == written:
                self._ends(bits, delays.NET + delays.LUT_RAM_SETUP)

    def _memory(self, pins: Pins, of: dict[str, bool], registers: tuple[str, str], output: str, ns: tuple[float, float]) -> None:
        for port, bits in pins.items():
            match = re.fullmatch(output, port)
            if match:
                self._starts(bits, ns[of.get(registers["AB".index(match[1])], False)])
            else:
                self._ends(bits, delays.NET + delays.MEMORY_SETUP)

    def _matrix(self, outputs: Iterable[int]) -> None:
        """An UltraRAM matrix of several rows: from register to register in it, those that follow it shared out among its rows."""
        rows = self._rows.get(self._name.split(".")[0], 1)
        if rows > 1:
            unregistered = ceil_div(rows, max(1, self._registers_behind(outputs)))
            ns = delays.ULTRA_RAM_OUT + (unregistered - 1) * delays.ULTRA_RAM_CASCADE + delays.NET
            self.found.inside.append((ns, self._name))

    def _registers_behind(self, outputs: Iterable[int]) -> int:
        """Registers in a row behind ``outputs`` and the look-up tables that choose among them, none but the last read elsewhere."""
        reached, fresh = set(outputs), list(outputs)
        for bit in fresh:  # grows while it is walked
            for following in self._next.get(bit, ()):
                if following not in reached:
                    reached.add(following)
                    fresh.append(following)
        count = 0
        while True:
            held = [b for bit in reached for b in self._held.get(bit, ())]
            if not held:
                return count
            count += 1
            if any(self._read[bit] > len(self._held.get(bit, ())) for bit in held):
                return count
            reached = set(held)

    def _dsp(self, of: dict[str, bool], pins: Pins) -> None:
        for port, bits in pins.items():
            if port in ("P", "PCOUT"):
                continue
            if port.startswith(("CE", "RST")) or (port == "OPMODE" and of.get("OPMODEREG", False)):
                self._ends(bits, delays.NET + delays.DSP_SETUP)
                continue
            first = port != "PCIN" and of.get(f"{port.removesuffix('CIN')}REG", False)
            operand = port in ("A", "B", "D", "ACIN", "BCIN", "INMODE")
            for bit in bits:
                cascaded = port in ("PCIN", "ACIN", "BCIN") or bit in self._cascade
                net = delays.DSP_CASCADE if cascaded else delays.NET + (0 if first else delays.DSP_INPUT)
                self._dsp_stages(bit, net, first, port if operand else "", of, pins.get("P", []) + pins.get("PCOUT", []))

    def _dsp_stages(self, bit: int, net: float, first: bool, operand: str, of: dict[str, bool], outputs: list[int]) -> None:
        """From one input through adder in front, multiplier and adder, as far as the registers on the way let it. ``operand``: the
        port, if it is one of what is multiplied.
        """
        stages = []
        if operand:
            added = of.get("ADREG", False) and not operand.startswith("B")
            stages = [(delays.DSP_PREADD, added), (delays.DSP_MULTIPLY, of.get("MREG", False))]
        stages.append((delays.DSP_ADD + (delays.DSP_M if operand and not of.get("MREG", False) else 0), of.get("PREG", False)))
        ns, inside = net, False
        if first:
            self._ends([bit], net + delays.DSP_SETUP)
            ns, inside = delays.DSP_REGISTER_OUT, True
        for delay, register in stages:
            ns += delay
            if register:
                if inside:
                    self.found.inside.append((ns, self._name))
                else:
                    self._ends([bit], ns)
                ns, inside = delays.DSP_REGISTER_OUT, True
        if not of.get("PREG", False):
            ns += delays.DSP_OUTPUT
        if inside:
            self._starts(outputs, ns)
        else:
            self._arcs([bit], outputs, ns)


def read_module(module: dict[str, Any], modules: dict[str, Any]) -> TimingModule:
    """Arcs of one of ``modules`` as `compact_netlist` makes them. A cell that the table of delays does not have is an error."""
    return ModuleReader(module, modules).found
