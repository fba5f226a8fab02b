"""Sorted lists of the best of many."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import fifo, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ..interfaces import index_bits

__all__ = ["INDEX_BITS", "CandidateList", "ordered", "restored"]

#: Bits of a token id.
INDEX_BITS = 24


def ordered(number: Value) -> Value:
    """Bits of a float32 so that unsigned comparison orders the numbers."""
    return Mux(number[31], ~number, Cat(number[:31], 1))


def restored(key: Value) -> Value:
    """The float32 of which `ordered` made this."""
    return Mux(key[31], Cat(key[:31], 0), ~key)


class CandidateList(wiring.Component):
    """Sorted lists of the ``size`` largest candidates, ``lists`` of them in one memory; of equal candidates the earlier comes
    first. One list at a time takes candidates.

    Candidates come one a cycle, in bursts that are reserved ahead, and wait in a queue. One that is not better than the last entry
    is dropped in one cycle; another climbs the list from its end, an entry a cycle and three cycles more. That is rare: of n
    candidates in random order about ``size * ln(n / size)`` enter the list.

    ::

        cycle after the queue    1       2       3       4
        address                  p - 1   p - 2   p - 3   p - 4     from the last place p on
        above                            -       p - 1   p - 2
        written                  -       -       p       p - 1     the candidate where it is not better than above

    Of a candidate its key counts, an unsigned integer: of a number its `ordered`.

    Members
    -------
    clear, resume : In(1), list : In
        Strobes, while nothing waits: list ``list`` begins anew, or goes on from where it was left, and takes the candidates from
        the next cycle on.
    free : Out, reserve : In
        Places that are not reserved, and how many are reserved in this cycle, for candidates to come.
    valid : In(1), index : In(bits), key : In(32)
        A candidate.
    busy : Out(1)
        A candidate waits or is on its way through the list.
    entry : In;  index_of_entry, key_of_entry : Out
        Of all lists one behind the other, the entry of the cycle before; only while not ``busy``. Entries of a list that no
        candidate reached have no meaning.
    """

    def __init__(self, size: int, lists: int, *, depth: int, bits: int = INDEX_BITS) -> None:
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be at least 1, not {size!r}")
        self.size = size
        self.lists = lists
        self.depth = depth
        self.bits = bits
        super().__init__({
            "clear": In(1),
            "resume": In(1),
            "list": In(index_bits(lists)),
            "free": Out(bits_for(depth)),
            "reserve": In(bits_for(depth)),
            "valid": In(1),
            "index": In(bits),
            "key": In(32),
            "busy": Out(1),
            "entry": In(index_bits(lists * size)),
            "index_of_entry": Out(bits),
            "key_of_entry": Out(32),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        size, depth = self.size, self.depth
        m.submodules.queue = queue = fifo.SyncFIFO(width=32 + self.bits, depth=depth)
        m.submodules.entries = entries = memory.Memory(shape=32 + self.bits, depth=self.lists * size, init=[])
        put, get = entries.write_port(), entries.read_port()
        #: Where the list begins; the key of its last entry.
        base, worst = Signal(len(self.entry)), Signal(32)
        #: The candidate at work, key first, where one is ``held``, and its place; the entry before that, once it is ``known``.
        candidate, above = (Signal(32 + self.bits, reset_less=True, name=name) for name in ("candidate", "above"))
        filled, place = Signal(range(size + 1)), Signal(bits_for(size))
        held, climbing, known, better = Signal(), Signal(), Signal(), Signal()
        #: The entry before the place that the next candidate comes to; the one to be read for this one.
        last, reader = Signal.like(base, name="last"), Signal.like(base, name="reader")
        reserved = Signal(range(depth + 1))
        full, deciding, enters, pop = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            queue.w_en.eq(self.valid),
            queue.w_data.eq(Cat(self.key, self.index)),
            deciding.eq(held & ~climbing),
            enters.eq(~full | (candidate[:32] > worst)),
            pop.eq(queue.r_rdy & (~held | (~climbing & ~enters))),
            queue.r_en.eq(pop),
            self.free.eq(depth - reserved),
            self.busy.eq(queue.r_rdy | held),
            full.eq(filled == size),
            get.addr.eq(Mux(climbing, reader, Mux(held, last, self.entry))),
            self.key_of_entry.eq(get.data[:32]),
            self.index_of_entry.eq(get.data[32:]),
            better.eq((place != 0) & (candidate[:32] > above[:32])),
            put.en.eq(climbing & known),
            put.addr.eq(base + place),
            put.data.eq(Mux(better, above, candidate)),
        ]
        m.d.sync += [
            reserved.eq(reserved + self.reserve - pop),
            # Right when a candidate is looked at: two cycles after the list was opened, or the one before found its place.
            last.eq(base + Mux(full, size - 2, filled - 1)),
            reader.eq(Mux(climbing, reader, last) - 1),
            above.eq(get.data),
            known.eq(climbing & (~known | better)),
        ]
        with m.If(climbing & known):
            m.d.sync += [place.eq(place - 1), climbing.eq(better), held.eq(better)]
            with m.If(place == size - 1):
                m.d.sync += worst.eq(put.data[:32])
        with m.If(deciding):
            m.d.sync += [place.eq(Mux(full, size - 1, filled)), climbing.eq(enters), held.eq(enters)]
            with m.If(~full):
                m.d.sync += filled.eq(filled + 1)
        with m.If(pop):
            m.d.sync += [candidate.eq(queue.r_data), held.eq(1)]
        with m.If(self.clear | self.resume):
            m.d.sync += [base.eq(self.list * size), reserved.eq(0), climbing.eq(0), held.eq(0)]
        self._remember(m, filled, worst)
        return m

    def _remember(self, m: Module, filled: Signal, worst: Signal) -> None:
        """How far every list is."""
        m.submodules.states = states = memory.Memory(shape=len(filled) + 32, depth=self.lists, init=[])
        keep, recall = states.write_port(), states.read_port(domain="comb")
        opening, current = self.clear | self.resume, Signal(len(self.list))
        m.d.comb += [
            keep.en.eq(~opening), keep.addr.eq(current), keep.data.eq(Cat(worst, filled)), recall.addr.eq(self.list),
        ]
        with m.If(opening):
            m.d.sync += current.eq(self.list)
        with m.If(self.clear):
            m.d.sync += filled.eq(0)
        with m.Elif(self.resume):
            m.d.sync += Cat(worst, filled).eq(recall.data)
