"""Ends a pass before its program does."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...operators import Unit

__all__ = ["DRAINED_CYCLES", "StopControl"]

#: Cycles that the memory system must be drained before it is reset: more than any pipeline between `halt` and a request.
DRAINED_CYCLES = 16


class StopControl(wiring.Component):
    """Stops a pass at the next operator boundary, in four steps:

    finish
        No operator starts. Those that run get what they read and may write: everything they need was asked for, or will be, by
        descriptors that the sequencer has taken already, in the order of the program. A fetch that waits for an operator that
        does not start (a short list) belongs to none of them.
    drain
        No read or write burst is requested; what is in flight comes back. Rows and words that no operator will use are in the
        memory system by now, descriptors too.
    flush
        One cycle: whatever holds a part of the streams is reset.
    stopped
        One cycle: the pass has ended. The units are idle as after any operator, and their memories keep their contents.

    A pass whose end comes in the cycle of the request or in the next one ends by itself, without ``stopped``.

    Members
    -------
    request : In(1)
        Strobe, while a pass is running: stop it. Ignored from then until the pass has ended.
    finished : In(1)
        Strobe: the pass has ended by itself.
    running : In, one bit a `Unit`
        From the start of an operator until it has retired.
    drained : In(1)
        Nothing is in flight to or from memory.
    pause : Out(1)
        No operator starts, and the program does not end. From the cycle after the request.
    halt : Out(1)
        No burst is requested. Falls in the cycle of ``stopped``.
    flush : Out(1)
        Strobe, from a register.
    stopped : Out(1)
        Strobe, the cycle after ``flush``.
    """

    def __init__(self) -> None:
        super().__init__({
            "request": In(1),
            "finished": In(1),
            "running": In(len(Unit)),
            "drained": In(1),
            "pause": Out(1),
            "halt": Out(1),
            "flush": Out(1),
            "stopped": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        drained_cycles = Signal(range(DRAINED_CYCLES))
        m.d.sync += [self.flush.eq(0), drained_cycles.eq(0)]
        with m.FSM():
            with m.State("RUN"), m.If(self.request & ~self.finished):
                m.next = "FINISH"
            with m.State("FINISH"):
                m.d.comb += self.pause.eq(1)
                with m.If(self.finished):
                    m.next = "RUN"
                with m.Elif(~self.running.any()):
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += [self.pause.eq(1), self.halt.eq(1)]
                with m.If(self.drained):
                    m.d.sync += drained_cycles.eq(drained_cycles + 1)
                    with m.If(drained_cycles == DRAINED_CYCLES - 1):
                        m.d.sync += self.flush.eq(1)
                        m.next = "FLUSH"
            with m.State("FLUSH"):
                m.d.comb += [self.pause.eq(1), self.halt.eq(1)]
                m.next = "STOPPED"
            with m.State("STOPPED"):
                m.d.comb += [self.pause.eq(1), self.stopped.eq(1)]
                m.next = "RUN"
        return m
