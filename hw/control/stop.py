"""Ends passes: before their program does, or with what is left of one that lost its end."""

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

    A pass that ends by itself is flushed too where the memory has failed in it: a program that was cut short leaves rows in the
    ring that a later operator would have read.

    Members
    -------
    request : In(1)
        Strobe, while a pass is running: stop it. Ignored from then until the pass has ended.
    finished : In(1)
        Strobe: the program has come to its end.
    spoiled : In(1)
        Level: a memory error was reported in this pass.
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
    ended : Out(1)
        Strobe: the pass has ended by itself. With ``finished``, or two cycles later, behind ``flush``, where it is spoiled.
    """

    def __init__(self) -> None:
        super().__init__({
            "request": In(1),
            "finished": In(1),
            "spoiled": In(1),
            "running": In(len(Unit)),
            "drained": In(1),
            "pause": Out(1),
            "halt": Out(1),
            "flush": Out(1),
            "stopped": Out(1),
            "ended": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        drained_cycles = Signal(range(DRAINED_CYCLES))
        m.d.sync += [self.flush.eq(0), drained_cycles.eq(0)]
        with m.FSM():
            with m.State("RUN"):
                with m.If(self.finished):
                    self._end(m)
                with m.Elif(self.request):
                    m.next = "FINISH"
            with m.State("FINISH"):
                m.d.comb += self.pause.eq(1)
                with m.If(self.finished):
                    self._end(m)
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
            with m.State("SPOILED"):
                m.next = "ENDED"
            with m.State("ENDED"):
                m.d.comb += self.ended.eq(1)
                m.next = "RUN"
        return m

    def _end(self, m: Module) -> None:
        """The program has come to its end: nothing is in flight."""
        with m.If(self.spoiled):
            m.d.sync += self.flush.eq(1)
            m.next = "SPOILED"
        with m.Else():
            m.d.comb += self.ended.eq(1)
            m.next = "RUN"
