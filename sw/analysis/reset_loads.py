"""The reset net with the most loads, over the whole hierarchy of a mapped design."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

__all__ = ["widest_reset"]

_REGISTER = re.compile(r"FD[RSCP]E")
_RESETS = ("R", "S", "CLR", "PRE")
#: Pins of registers and look-up tables that load a net; the clock is no data.
_LOADS = re.compile(r"R|S|CLR|PRE|CE|D|I\d?")


class _Loads:
    """Loads of every net of a module: of its own cells and of the instances below. ``(on resets of registers, all)``."""

    def __init__(self, netlists: dict[str, Any]) -> None:
        self._netlists = netlists
        #: By module, then by bit.
        self.known: dict[str, dict[Any, tuple[int, int]]] = {}

    def of(self, name: str) -> dict[Any, tuple[int, int]]:
        if name not in self.known:
            resets: Counter[Any] = Counter()
            loads: Counter[Any] = Counter()
            for kind, _, pins in self._netlists[name]["cells"].values():
                if kind in self._netlists:
                    below, ports = self.of(kind), self._netlists[kind]["ports"]
                    for port, bits in pins.items():
                        for outside, inside in zip(bits, ports.get(port, ()), strict=False):
                            more = below.get(inside, (0, 0))
                            resets[outside] += more[0]
                            loads[outside] += more[1]
                    continue
                for port, bits in pins.items():
                    if _LOADS.fullmatch(port):
                        loads.update(bits)
                        if port in _RESETS and _REGISTER.fullmatch(kind):
                            resets.update(bits)
            # constants are strings
            self.known[name] = {bit: (resets[bit], count) for bit, count in loads.items() if count and isinstance(bit, int)}
        return self.known[name]


def widest_reset(netlists: dict[str, Any], top: str) -> dict[str, Any]:
    """``{"loads": pins of registers and look-up tables, "module": where its driver is, "net": its name}`` of the net with the most
    loads among those that reset a register, for netlists as `compact_netlist` has them; 0 loads without a reset."""
    loads = _Loads(netlists)
    loads.of(top)
    best: dict[str, Any] = {"loads": 0, "module": "", "net": ""}
    for name, known in loads.known.items():
        # what goes through a port is counted above
        ports = {bit for bits in netlists[name]["ports"].values() for bit in bits} if name != top else set()
        for bit, (resets, count) in known.items():
            if resets and count > best["loads"] and bit not in ports:
                names = sorted((len(net), net) for net, bits in netlists[name]["names"].items() if bit in bits)
                best = {"loads": count, "module": name, "net": names[0][1] if names else ""}
    return best
