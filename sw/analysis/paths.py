"""Longest paths of a mapped design from register to register, in ns by the table of `hwgen.sw.analysis.delays`.

A module becomes arcs from input to output of its cells, with the net in front of each; registers, memories and DSP slices cut them by
how they are configured. The modules are then put together bit by bit as the design instantiates them, so that a path through any
number of ports is seen whole, and one walk in topological order gives the latest arrival everywhere. Constants, clocks and the ports
of the design carry no path. What belongs to a unit alone is kept apart from what has crossed from one unit into another.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from . import delays

__all__ = ["cached_paths", "compact_netlist", "describe_paths", "longest_paths"]

#: What an arc goes through, for the counts of a path.
OTHER, THROUGH_LUT, THROUGH_CARRY = range(3)

_LUT = re.compile(r"LUT[1-6]|INV")
_REGISTER = re.compile(r"FD[RSCP]E")
_LUT_RAM = re.compile(r"RAM\d+\w*")
_SHIFT_REGISTER = re.compile(r"SRL\w+")
#: Cells that no path goes through.
_STATIC = re.compile(r"GND|VCC|I?O?BUFG?|\$scopeinfo")
_CLOCK = re.compile(r"C|CLK\w*|WCLK|clk")
#: Parameters that say which registers a cell has.
_REGISTERS = re.compile(r"DO[AB]_REG|OREG_[AB]|(?:[ABCDMP]|AD)REG")
#: The module that is one DSP slice (`hwgen.hw.linear.multiply_add`).
_MULTIPLY_ADD = "multiply_add"


def compact_netlist(netlist: dict[str, Any]) -> dict[str, Any]:
    """What `longest_paths` needs of what Yosys writes with ``write_json``: ``{module: {ports, cells, names}}``."""
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
        for name, kind, of, pins in cells:
            self._name = name if not name.startswith("$") else self._output_name(pins) or name
            if _MULTIPLY_ADD in kind:
                own = "arrive" in pins
                ports = {"a": "A", "b": "B", "addend": "C", "result": "P", "arrive": "CEB", "take": "CEB"}
                self._dsp({"AREG": own, "BREG": own, "MREG": True, "PREG": True},
                          {ports[port]: bits for port, bits in pins.items() if port in ports})
            elif kind in modules:
                self.found.children.append((name, kind, pins))
            else:
                self._cell(kind, of, pins)

    def _bits(self, bits: Sequence[int | str]) -> list[int]:
        return [-1 if isinstance(bit, str) else self._number.setdefault(bit, len(self._number)) for bit in bits]

    def _look_around(self, cells: list[tuple[str, Pins]]) -> None:
        """Which bits have a short way: from a look-up table into its carry chain, along a chain, from a chain into a register."""
        def bits_of(what: Sequence[tuple[re.Pattern[str] | str, str]]) -> Iterator[int]:
            for kind, pins in cells:
                for pattern, port in what:
                    if re.fullmatch(pattern, kind):
                        yield from pins.get(port, ())

        carry = "CARRY[48]"
        into_carry = Counter(bits_of([(carry, "S")]))
        self._lut_to_carry = {bit for bit in bits_of([(_LUT, "O")]) if into_carry[bit] == 1}
        self._carry_out = set(bits_of([(carry, "CO")]))
        into_register = Counter(bits_of([(_REGISTER, "D")]))
        self._sum_to_register = {bit for bit in bits_of([(carry, "O")]) if into_register[bit] == 1}
        self._cascade = set(bits_of([(f".*{_MULTIPLY_ADD}.*", "result")]))

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
        elif kind in ("CARRY4", "CARRY8"):
            self._carry(clocked)
        elif _SHIFT_REGISTER.fullmatch(kind):
            self._lut_memory(clocked, {"Q": "A", "Q31": "-"})
        elif kind.startswith("RAMB"):
            self._memory(clocked, of, ("DOA_REG", "DOB_REG"), r"DOU?T?P?([AB])\w*",
                         (delays.BLOCK_RAM_OUT, delays.BLOCK_RAM_OUT_REGISTERED))
        elif kind == "URAM288":
            self._memory(clocked, of, ("OREG_A", "OREG_B"), r"\w*OUT_([AB])", (delays.ULTRA_RAM_OUT, delays.ULTRA_RAM_OUT_REGISTERED))
        elif kind == "DSP48E2":
            self._dsp(of, clocked)
        elif _LUT_RAM.fullmatch(kind):
            self._lut_memory(clocked, {"O": "A", "SPO": "A", "DPO": "DPRA", **{f"DO{x}": f"ADDR{x}" for x in "ABCDEFGH"}})
        elif not _STATIC.fullmatch(kind):
            raise HwgenError("tool", f"the table of delays has no cell of kind {kind} ({self._name})",
                             "add it to sw/analysis/delays.py and paths.py, or look at what it comes from")

    def _logic(self, pins: Pins, ns: float, kind: int) -> None:
        for port, bits in pins.items():
            if port != "O":
                self._arcs(bits, pins["O"], delays.NET + ns, kind)

    def _register(self, pins: Pins) -> None:
        self._starts(pins["Q"], delays.REGISTER_OUT)
        for port, bits in pins.items():
            if port != "Q":
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

    def _dsp(self, of: dict[str, bool], pins: Pins) -> None:
        for port, bits in pins.items():
            if port in ("P", "PCOUT"):
                continue
            if port.startswith(("CE", "RST")):
                self._ends(bits, delays.NET + delays.DSP_SETUP)
                continue
            first = of.get(f"{port.replace('CIN', '')}REG", False)
            operand = port in ("A", "B", "D", "ACIN", "BCIN")
            for bit in bits:
                cascaded = port in ("PCIN", "ACIN", "BCIN") or bit in self._cascade
                net = delays.DSP_CASCADE if cascaded else delays.NET + (0 if first else delays.DSP_INPUT)
                self._dsp_stages(bit, net, first, operand, of, pins.get("P", []) + pins.get("PCOUT", []))

    def _dsp_stages(self, bit: int, net: float, first: bool, operand: bool, of: dict[str, bool], outputs: list[int]) -> None:
        """From one input through multiplier and adder, as far as the registers on the way let it."""
        stages = [(delays.DSP_PREADD + delays.DSP_MULTIPLY, of.get("MREG", False))] if operand else []
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


@dataclass
class Place:
    """One instance of a module in the design: its bits are ``base`` and following."""

    path: tuple[str, ...]
    unit: int
    base: int
    module: TimingModule

    def named(self, name: str) -> str:
        return ".".join((*self.path, name))


class Design:
    """All instances below ``top``; the instances inside the last of ``outer`` are the units, the rest of ``outer`` is "top"."""

    def __init__(self, netlists: dict[str, Any], top: str, outer: Sequence[str]) -> None:
        self._modules = {name: ModuleReader(of, netlists).found for name, of in netlists.items()}
        self._outer = set(outer)
        self.units = ["top"]
        self.places: list[Place] = []
        self._parent: list[int] = []
        self._put(top, (), 0)
        self.net = [self._root(bit) for bit in range(len(self._parent))]

    def _put(self, name: str, path: tuple[str, ...], unit: int) -> Place:
        module = self._modules[name]
        place = Place(path, unit, len(self._parent), module)
        self._parent += range(place.base, place.base + module.bits)
        self.places.append(place)
        for instance, kind, pins in module.children:
            if name not in self._outer:
                child = self._put(kind, (*path, instance), unit)
            elif kind in self._outer:
                child = self._put(kind, path, unit)
            else:
                self.units.append(instance)
                child = self._put(kind, (*path, instance), len(self.units) - 1)
            for port, bits in pins.items():
                for outside, inside in zip(bits, child.module.ports.get(port, ()), strict=False):
                    if outside >= 0 and inside >= 0:
                        self._parent[self._root(child.base + inside)] = self._root(place.base + outside)
        return place

    def _root(self, bit: int) -> int:
        parent = self._parent
        while parent[bit] != bit:
            parent[bit] = parent[parent[bit]]
            bit = parent[bit]
        return bit

    def name_of(self, net: int) -> str:
        place = self.places[bisect_right(self.places, net, key=lambda p: p.base) - 1]
        return place.named(place.module.names.get(net - place.base, f"net {net - place.base}"))


#: Latest arrival at a net: ns, start, the net before and what lies between, and whether that one had crossed a boundary as well.
Arrival = tuple[float, int, int, int, bool]
_NEVER: Arrival = (-1.0, -1, -1, OTHER, False)


class Walk:
    """Latest arrivals of a design: from inside the unit of a net (`inner`), and across a boundary between units (`crossed`)."""

    def __init__(self, design: Design) -> None:
        self._design = design
        count = len(design.net)
        self.starts: list[tuple[Place, str]] = []
        self.inner: list[Arrival] = [_NEVER] * count
        self.crossed: list[Arrival] = [_NEVER] * count
        self.unit = [-1] * count
        self._outgoing: list[list[tuple[int, float, int, int]]] = [[] for _ in range(count)]
        self._waiting = [0] * count
        net = design.net
        for place in design.places:
            base, unit = place.base, place.unit
            for a, b, ns, kind in place.module.arcs:
                target = net[base + b]
                self._outgoing[net[base + a]].append((target, ns, kind, unit))
                self._waiting[target] += 1
                self.unit[target] = unit
            for bit, ns, name in place.module.starts:
                target = net[base + bit]
                self.unit[target] = unit
                if ns > self.inner[target][0]:
                    self.inner[target] = (ns, len(self.starts), -1, OTHER, False)
                    self.starts.append((place, name))
        self._run()

    def _run(self) -> None:
        inner, crossed, unit, waiting = self.inner, self.crossed, self.unit, self._waiting
        ready = [net for net, count in enumerate(waiting) if count == 0]
        for net in ready:  # grows while it is walked
            own, far = inner[net], crossed[net]
            for target, ns, kind, of in self._outgoing[net]:
                across = far
                if own[0] >= 0:
                    if of != unit[net]:
                        if own[0] > far[0]:
                            across = own
                    elif own[0] + ns > inner[target][0]:
                        inner[target] = (own[0] + ns, own[1], net, kind, False)
                if across[0] >= 0 and across[0] + ns > crossed[target][0]:
                    crossed[target] = (across[0] + ns, across[1], net, kind, across is far)
                waiting[target] -= 1
                if not waiting[target]:
                    ready.append(target)
        if len(ready) < len(waiting):
            self._refuse_loop()

    def _refuse_loop(self) -> None:
        before = {b: a for a, arcs in enumerate(self._outgoing) if self._waiting[a] for b, *_ in arcs if self._waiting[b]}
        net, seen = next(iter(before)), []
        while net not in seen:
            seen.append(net)
            net = before[net]
        names = sorted(self._design.name_of(n) for n in seen[seen.index(net) :])
        raise HwgenError("tool", f"a combinational loop through {', '.join(names[:4])}", "put a register into it")

    def path(self, arrival: Arrival, unit: str, ns: float, place: Place, name: str) -> dict[str, Any]:
        """One path as ``hwgen report --json`` shows it."""
        kinds, at = [], arrival
        while at[2] >= 0:
            kinds.append(at[3])
            at = (self.crossed if at[4] else self.inner)[at[2]]
        start, start_name = self.starts[arrival[1]]
        return {"unit": unit, "ns": round(ns, 3), "luts": kinds.count(THROUGH_LUT), "carries": kinds.count(THROUGH_CARRY),
                "from": start.named(start_name), "to": place.named(name)}


def longest_paths(netlists: dict[str, Any], top: str, outer: Sequence[str]) -> list[dict[str, Any]]:
    """The longest path inside every unit, and the longest from every unit into another one (``a -> b``), worst first.

    ``netlists`` as `compact_netlist` makes them, by module; ``outer`` is the top module, and the one inside that holds the units. A
    combinational loop is an error, and a cell that the table of delays does not have.
    """
    design = Design(netlists, top, outer)
    walk = Walk(design)
    worst: dict[tuple[int, int, bool], tuple[float, Arrival, Place, str]] = {}
    inside: dict[int, tuple[float, Place, str]] = {}

    def offer(arrival: Arrival, crossed: bool, setup: float, place: Place, name: str) -> None:
        ns, key = arrival[0] + setup, (walk.starts[arrival[1]][0].unit, place.unit, crossed)
        if key not in worst or ns > worst[key][0]:
            worst[key] = (ns, arrival, place, name)

    for place in design.places:
        for ns, name in place.module.inside:
            if place.unit not in inside or ns > inside[place.unit][0]:
                inside[place.unit] = (ns, place, name)
        for bit, setup, name in place.module.ends:
            net = design.net[place.base + bit]
            if walk.inner[net][0] >= 0:
                offer(walk.inner[net], walk.unit[net] != place.unit, setup, place, name)
            if walk.crossed[net][0] >= 0:
                offer(walk.crossed[net], True, setup, place, name)
    found = [
        walk.path(arrival, f"{design.units[a]} -> {design.units[b]}" if crossed else design.units[b], ns, place, name)
        for (a, b, crossed), (ns, arrival, place, name) in worst.items()
        if crossed or ns > inside.get(b, (0.0,))[0]
    ]
    found += [
        {"unit": design.units[unit], "ns": round(ns, 3), "luts": 0, "carries": 0, "from": place.named(name), "to": place.named(name)}
        for unit, (ns, place, name) in inside.items()
        if ns >= worst.get((unit, unit, False), (0.0,))[0]
    ]
    return sorted(found, key=lambda path: (-path["ns"], path["unit"]))


def cached_paths(netlists: dict[str, Any], top: str, outer: Sequence[str], *, fresh: bool = False) -> list[dict[str, Any]]:
    """As `longest_paths`, from the cache where netlist, table of delays and this walk are the same."""
    from ...sim.verilate import cache_directory

    rules = "".join(Path(file).read_text(encoding="utf-8") for file in (delays.__file__, __file__))
    key = hashlib.sha256(json.dumps([rules, netlists, top, *outer]).encode()).hexdigest()[:24]
    path = cache_directory() / f"paths-{key}.json"
    if fresh or not path.exists():
        found = longest_paths(netlists, top, outer)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.replace(path)
    known: list[dict[str, Any]] = json.loads(path.read_text())
    return known


def describe_paths(paths: Sequence[dict[str, Any]]) -> list[str]:
    """The longest path of every unit as a table; of those from one unit into another the ones above `delays.TARGET`."""
    shown = [path for path in paths if " -> " not in path["unit"] or path["ns"] > delays.TARGET]
    if not shown:
        return []
    return [
        f"{'longest path':28}{'ns':>10}{'lut':>10}{'carry':>10}",
        *(f"{p['unit']:28}{p['ns']:>10.2f}{p['luts']:>10}{p['carries']:>10}  {p['from']} to {p['to']}" for p in shown),
        f"~ by the delay table, not a timing closure; {delays.TARGET} ns leave {delays.MARGIN:.0%} of the budget of {delays.BUDGET} ns at 250 MHz",
    ]
