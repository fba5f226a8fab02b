"""Longest paths of a mapped design from register to register, in ns by the table of `hwgen.sw.analysis.delays`.

The arcs of its modules (`hwgen.sw.analysis.arcs`) are put together bit by bit as the design instantiates them, so that a path
through any number of ports is seen whole, and one walk in topological order gives the latest arrival everywhere. Constants, clocks
and the ports of the design carry no path. What belongs to a unit alone is kept apart from what has crossed into another unit.

Yosys maps every module by itself, so that logic does not merge across ports: a path has up to one look-up table more at a boundary
than with a tool that flattens. Its mapper does not see through carry chains and saves area wherever a cone is not the deepest of
its module, so that a flattened netlist shows longer paths, not shorter ones: a lane of the vector unit 5.1 ns instead of 3.9.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ...files import cache_directory, write_whole
from . import arcs, delays
from .arcs import OTHER, THROUGH_CARRY, THROUGH_LUT, TimingModule, read_module

__all__ = ["cached_paths", "describe_paths", "longest_paths"]


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
        self._modules = {name: read_module(of, netlists) for name, of in netlists.items()}
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
        waiting = self._waiting
        before = {b: a for a, outgoing in enumerate(self._outgoing) if waiting[a] for b, *_ in outgoing if waiting[b]}
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
    for unit, (ns, place, name) in inside.items():
        if ns >= worst.get((unit, unit, False), (0.0,))[0]:
            cell = place.named(name)
            found.append({"unit": design.units[unit], "ns": round(ns, 3), "luts": 0, "carries": 0, "from": cell, "to": cell})
    return sorted(found, key=lambda path: (-path["ns"], path["unit"]))


def cached_paths(netlists: dict[str, Any], top: str, outer: Sequence[str], *, fresh: bool = False) -> list[dict[str, Any]]:
    """As `longest_paths`, from the cache where netlist, table of delays and this walk are the same."""
    rules = "".join(Path(file).read_text(encoding="utf-8") for file in (delays.__file__, arcs.__file__, __file__))
    key = hashlib.sha256(json.dumps([rules, netlists, top, *outer]).encode()).hexdigest()[:24]
    path = cache_directory() / f"paths-{key}.json"
    if fresh or not path.exists():
        write_whole(path, json.dumps(longest_paths(netlists, top, outer)))
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
        f"~ by the delay table, not a timing closure; at 250 MHz a path has {delays.BUDGET} ns, and {delays.TARGET} ns are safe",
    ]
