"""Activity and stall counters."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Opcode
from ...operators import OPERATORS, Unit
from ...registers import COUNTERS

__all__ = ["Counters", "counter_total"]


def counter_total(config: BuildConfig) -> int:
    """Number of counter registers."""
    return len(COUNTERS) + len(Opcode) + 2 * config.ports


class Counters(wiring.Component):
    """32-bit counters in the order of their registers: those of `hwgen.registers.COUNTERS`, cycles by opcode, words by port,
    stalls by port. An event is counted two cycles after it.

    Members
    -------
    clear : In(1)
        Strobe: all counters become 0.
    events : In, one bit a counter of `COUNTERS`, in their order
    running : In, one bit a `Unit`
        Units that execute an operator.
    opcodes : In(8) per `Unit`
        Which one.
    port_busy, port_stall : In, one bit a port
    values : Out(32) per counter
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "clear": In(1),
            "events": In(len(COUNTERS)),
            "running": In(len(Unit)),
            "opcodes": In(8).array(len(Unit)),
            "port_busy": In(config.ports),
            "port_stall": In(config.ports),
            "values": Out(32).array(counter_total(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ports = self.config.ports
        event = Signal(counter_total(self.config))
        first_opcode = len(COUNTERS)
        first_port = first_opcode + len(Opcode)
        m.d.sync += event[:first_opcode].eq(self.events)
        for opcode, row in OPERATORS.items():
            m.d.sync += event[first_opcode + opcode].eq(self.running[row.unit] & (self.opcodes[row.unit] == opcode))
        m.d.sync += event[first_port : first_port + ports].eq(self.port_busy)
        m.d.sync += event[first_port + ports :].eq(self.port_stall)
        for index, value in enumerate(self.values):
            with m.If(event[index]):
                m.d.sync += value.eq(value + 1)
            with m.If(self.clear):
                m.d.sync += value.eq(0)
        return m
