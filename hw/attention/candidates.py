"""The best candidates of the LM head."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import fifo, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from .topk import INDEX_BITS, ordered

__all__ = ["CandidateList"]

#: Logit of an entry that no candidate reached: the smallest number.
_EMPTY = 0xFF7F_FFFF


class CandidateList(wiring.Component):
    """Sorted list of the ``size`` largest candidates; of equal ones the earlier comes first. For candidates that come seldom on
    average: :class:`TopK` takes one a cycle, and is several times as large.

    Candidates come one a cycle, in bursts that are reserved ahead, and wait in a queue. One that is not better than the last entry
    leaves the queue in one cycle; another climbs the list from its end, an entry a cycle. That is rare: of n candidates in
    random order about ``size * ln(n / size)`` enter the list.

    Members
    -------
    clear : In(1)
        Strobe: forget everything.
    room : Out(1), begin : In(1)
        Whether another burst of ``burst`` candidates may come, and the strobe that reserves the place for it.
    valid : In(1), index : In, logit : In(32)
        A candidate.
    busy : Out(1)
        A candidate waits or is on its way through the list.
    best_index, best_logit : Out(32) per entry
        Entries that are empty have index 0 and the smallest float32.
    """

    def __init__(self, size: int, burst: int) -> None:
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be at least 1, not {size!r}")
        self.size = size
        self.burst = burst
        super().__init__({
            "clear": In(1),
            "room": Out(1),
            "begin": In(1),
            "valid": In(1),
            "index": In(INDEX_BITS),
            "logit": In(32),
            "busy": Out(1),
            "best_index": Out(32, init=0).array(size),
            "best_logit": Out(32, init=_EMPTY).array(size),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        size, depth = self.size, 2 * self.burst
        m.submodules.queue = queue = fifo.SyncFIFO(width=32 + INDEX_BITS, depth=depth)
        m.submodules.entries = entries = memory.Memory(shape=32 + INDEX_BITS, depth=1 << max(1, (size - 1).bit_length()), init=[])
        put, get = entries.write_port(), entries.read_port(domain="comb")

        #: The candidate at work, logit first.
        candidate = Signal(32 + INDEX_BITS, name="logit_in")
        filled, place = Signal(range(size + 1)), Signal(bits_for(size))
        climbing, better = Signal(), Signal()
        reserved = Signal(range(depth + 1))
        full, pop = Signal(), Signal()
        #: The entry before ``place``: read while the candidate comes, or climbs to the place behind it.
        above = Signal(32 + INDEX_BITS, reset_less=True)
        m.d.sync += above.eq(get.data)
        m.d.comb += [
            queue.w_en.eq(self.valid),
            queue.w_data.eq(Cat(self.logit, self.index)),
            pop.eq(queue.r_rdy & ~climbing),
            queue.r_en.eq(pop),
            self.room.eq(reserved <= depth - self.burst),
            self.busy.eq(queue.r_rdy | climbing),
            full.eq(filled == size),
            get.addr.eq(Mux(climbing, place - 2, Mux(full, size - 2, filled - 1))),
            better.eq((place != 0) & (ordered(candidate[:32]) > ordered(above[:32]))),
            put.en.eq(climbing),
            put.addr.eq(place),
            put.data.eq(Mux(better, above, candidate)),
        ]
        m.d.sync += reserved.eq(reserved + Mux(self.begin, self.burst, 0) - pop)
        with m.If(climbing):
            m.d.sync += [place.eq(place - 1), climbing.eq(better)]
        with m.Elif(pop):
            m.d.sync += candidate.eq(queue.r_data)
            with m.If(~full):
                m.d.sync += [filled.eq(filled + 1), place.eq(filled), climbing.eq(1)]
            with m.Elif(ordered(queue.r_data[:32]) > ordered(self.best_logit[-1])):
                m.d.sync += [place.eq(size - 1), climbing.eq(1)]
        for i in range(size):
            with m.If(climbing & (place == i)):
                m.d.sync += [self.best_logit[i].eq(put.data[:32]), self.best_index[i].eq(put.data[32:])]
            with m.If(self.clear):
                m.d.sync += [self.best_logit[i].eq(_EMPTY), self.best_index[i].eq(0)]
        with m.If(self.clear):
            m.d.sync += [filled.eq(0), reserved.eq(0), climbing.eq(0)]
        return m
