"""The first memory error of a pass."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import index_bits
from ..memory.port import ErrorReport

__all__ = ["ErrorLatch"]


class ErrorLatch(wiring.Component):
    """Keeps the first error that any source reports after ``clear``; of simultaneous ones, that of the lowest source.

    Members
    -------
    sources : In(ErrorReport) per source
    clear : In(1)
        Strobe.
    operator : In(16)
        Index of the operator that started last.
    valid : Out(1)
    resp : Out(2)
    source : Out
        Index of the source.
    at : Out(16)
        ``operator`` when the error was reported.
    """

    def __init__(self, sources: int) -> None:
        if sources < 1:
            raise ValueError(f"sources must be at least 1, not {sources!r}")
        super().__init__({
            "sources": In(ErrorReport()).array(sources),
            "clear": In(1),
            "operator": In(16),
            "valid": Out(1),
            "resp": Out(2),
            "source": Out(index_bits(sources)),
            "at": Out(16),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(~self.valid):
            for index, report in reversed(list(enumerate(self.sources))):
                with m.If(report.valid):
                    m.d.sync += [self.valid.eq(1), self.resp.eq(report.resp), self.source.eq(index), self.at.eq(self.operator)]
        with m.If(self.clear):
            m.d.sync += self.valid.eq(0)
        return m
