"""Components with their environments, and what is proven of each. Sizes are the smallest that have every corner."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cat, Cover, Module, Mux, Signal, Value

from hwgen.config import BuildConfig
from hwgen.hw.axi.burst import BurstSplitter, Interleave
from hwgen.hw.axi.merge import ReadMerge
from hwgen.hw.axi.signature import BOUNDARY
from hwgen.hw.control.registers import RegisterFile
from hwgen.hw.memory.beats import RowToBeats
from hwgen.hw.memory.port import PortReader
from hwgen.hw.memory.program import IN_FLIGHT, ProgramReader
from hwgen.hw.memory.turns import Turns
from hwgen.hw.memory.writer import StreamWriter

from .prover import Bench, free, keeps_still

CONFIG = replace(
    BuildConfig(), ports=1, port_bits=64, beat_bytes=16, groups=2, lanes=1, rows=4, kv_block=8, chunk=4, builders=7, burst=4,
    ring_beats=16, outstanding=2, descriptor_queue=2, max_context=32, page_entries=4, topk=1, trace_entries=1,
)


def address_of(channel: Any) -> Value:
    """What stands still on an address channel while it is not taken."""
    return Cat(channel.addr, channel.len, channel.size, channel.burst, channel.id)


def one_page(channel: Any) -> Value:
    """The burst on an address channel lies in one page."""
    return ((channel.addr & (BOUNDARY - 1)) + ((channel.len + 1) << channel.size)) <= BOUNDARY


def answered(m: Module, asked: Value, answer: Value, most: int, what: Any) -> Signal:
    """Counts what was asked and is not answered; never more than ``most``, and no answer to nothing."""
    owed = Signal(range(most + 2))
    m.d.sync += owed.eq(owed + asked - answer)
    m.d.comb += what((owed <= most) & ~(answer & (owed == 0) & ~asked))
    return owed


class Merge(Bench):
    """Requests of two masters: none is lost, changed or made up, in any order of readiness; answers go where they belong."""

    def environment(self, m: Module) -> None:
        m.submodules.dut = dut = ReadMerge(8)
        for master in (dut.low, dut.high):
            for name in ("valid", "addr", "len", "size", "burst", "id"):
                free(m, getattr(master.ar, name))
            free(m, master.r.ready)
            keeps_still(m, master.ar.valid, master.ar.ready, address_of(master.ar), Assume)
        free(m, dut.port.ar.ready)
        for name in ("valid", "id", "data", "resp", "last"):
            free(m, getattr(dut.port.r, name))
        port, held, before = dut.port.ar, Signal(), Signal(40)
        keeps_still(m, port.valid, port.ready, address_of(port))
        taken = Mux(dut.high.ar.valid & dut.high.ar.ready, dut.high.ar.addr, dut.low.ar.addr)
        any_taken = (dut.high.ar.valid & dut.high.ar.ready) | (dut.low.ar.valid & dut.low.ar.ready)
        both = dut.high.ar.valid & dut.high.ar.ready & dut.low.ar.valid & dut.low.ar.ready
        m.d.sync += held.eq(any_taken | (held & ~port.ready))
        with m.If(any_taken):
            m.d.sync += before.eq(taken)
        m.d.comb += [
            Assert(~both), Assert(port.valid == held), Assert(~held | (port.addr == before)),
            Assert(~(any_taken & held & ~port.ready)),
            Assert(dut.low.r.valid == (dut.port.r.valid & ~dut.port.r.id)),
            Assert(dut.high.r.valid == (dut.port.r.valid & dut.port.r.id)),
            Cover(port.valid & port.ready & port.id & any_taken), Cover(held & dut.low.ar.valid & ~dut.low.ar.ready),
        ]


class Splitter(Bench):
    """Segments in bursts: a burst stands still until it is taken and lies in one aligned unit; those of a segment are its beats,
    once each and, without interleaving, in order."""

    BYTES, BURST = 16, 4

    def __init__(self, streams: int = 1, stretch: int = 1) -> None:
        self.order = Interleave(streams, stretch)

    def environment(self, m: Module) -> None:
        m.submodules.dut = dut = BurstSplitter(beat_bytes=self.BYTES, burst=self.BURST, order=self.order)
        segment, burst = dut.segments, dut.bursts
        for signal in (segment.valid, segment.p.address, segment.p.beats, burst.ready):
            free(m, signal)
        keeps_still(m, segment.valid, segment.ready, Cat(segment.p.address, segment.p.beats), Assume)
        keeps_still(m, burst.valid, burst.ready, burst.p)
        beat_bits, unit_bits = self.BYTES.bit_length() - 1, self.BURST.bit_length() - 1
        place = burst.p.address[beat_bits : beat_bits + unit_bits]
        m.d.comb += [
            Assume(segment.p.address[:beat_bits] == 0), Assume(segment.p.beats <= 20), Assume(segment.p.address[16:] == 0),
            Assume(~segment.valid | dut.idle),
            Assert(~burst.valid | ((burst.p.beats >= 1) & (place + burst.p.beats <= self.BURST))),
            Assert(~burst.valid | (burst.p.address[:beat_bits] == 0)),
        ]
        left, upcoming = Signal(8), Signal(40)
        with m.If(segment.valid & segment.ready):
            m.d.sync += [left.eq(segment.p.beats), upcoming.eq(segment.p.address)]
        with m.Elif(burst.valid & burst.ready):
            m.d.sync += [left.eq(left - burst.p.beats), upcoming.eq(upcoming + (burst.p.beats << beat_bits))]
        with m.If(burst.valid):
            m.d.comb += Assert(burst.p.beats <= left)
            if self.order.bursts == 1:
                m.d.comb += Assert(burst.p.address == upcoming)
        with m.If(dut.idle):
            m.d.comb += Assert(left == 0)
        bursts = Signal(4)
        m.d.sync += bursts.eq(bursts + (burst.valid & burst.ready))
        whole = burst.valid & burst.ready & (burst.p.beats == self.BURST)
        m.d.comb += [Cover((bursts == 3) & dut.idle), Cover(whole & (bursts == 1))]
        if self.order.bursts > 1:
            m.d.comb += Cover(burst.valid & burst.p.defer)


class Reader(Bench):
    """A read port: the address channel keeps its rules, the port never has more bursts in flight than its credit, and the words of
    the beats that it offers are those that came, in order, none twice and none lost, however late and in whatever bursts. Words
    that were asked for before a reset come while nothing is asked for; they are dropped."""

    def environment(self, m: Module) -> None:
        c = CONFIG
        m.submodules.dut = dut = PortReader(c)
        request, ar, r, offer = dut.request, dut.axi.ar, dut.axi.r, dut.offer
        for signal in (request.valid, request.address, request.beats, request.slot, request.tag, ar.ready, r.valid, r.data, r.resp,
                       r.last, offer.start):
            free(m, signal)
        owed = answered(m, request.valid, r.valid & r.ready & r.last & self.asked(m, request, r), c.outstanding, Assert)
        keeps_still(m, ar.valid, ar.ready, address_of(ar))
        keeps_still(m, r.valid, r.ready, Cat(r.data, r.last, r.resp), Assume)
        unit = c.burst * c.port_bytes
        m.d.comb += [
            Assume(~request.valid | dut.free), Assume(request.beats != 0),
            Assume((request.address & (unit - 1)) + request.beats * c.beat_bytes <= unit),
            Assume(request.address[: c.beat_bytes.bit_length() - 1] == 0),
            Assert(~ar.valid | one_page(ar)), Assert(~ar.valid | (ar.len + 1 <= c.burst)),
        ]
        self.words_are_kept(m, dut, owed)

    def asked(self, m: Module, request: Any, r: Any) -> Signal:
        """The environment's own account: lengths of the bursts that it owes; ``last`` comes with the last word of each. A word of
        before comes only while none is owed and none is being asked for.
        """
        c = CONFIG
        lengths = [Signal(range(c.burst + 1), name=f"length{i}") for i in range(c.outstanding + 1)]
        words = request.beats * c.beat_words
        owes, ended = Signal(), Signal()
        m.d.comb += [owes.eq(lengths[0] != 0), ended.eq(r.valid & r.ready & owes & (lengths[0] == 1))]
        after = [Mux(ended, following, here) for here, following in zip(lengths, [*lengths[1:], 0], strict=True)]
        after[0] = Mux(r.valid & r.ready & owes & ~ended, lengths[0] - 1, after[0])
        put = request.valid
        for length, value in zip(lengths, after, strict=True):
            m.d.sync += length.eq(Mux(put & (value == 0), words, value))
            put = put & (value != 0)
        m.d.comb += [Assume(~r.valid | ~owes | (r.last == (lengths[0] == 1))), Assume(~(r.valid & request.valid & ~owes))]
        return owes

    def words_are_kept(self, m: Module, dut: PortReader, owed: Signal) -> None:
        c, r, offer = CONFIG, dut.axi.r, dut.offer
        which, came, went = AnyConst(4), Signal(4), Signal(4)
        kept, sending = Signal(c.port_bits), Signal(range(c.beat_words + 1))
        m.d.comb += Assume(~offer.start | (offer.valid & (sending <= 1)))
        with m.If(r.valid & r.ready & (owed != 0)):
            m.d.sync += came.eq(came + 1)
            m.d.comb += Assume(came != 15)
            with m.If(came == which):
                m.d.sync += kept.eq(r.data)
        with m.If(sending != 0):
            m.d.sync += [went.eq(went + 1), sending.eq(sending - 1)]
            m.d.comb += Assert(went < came)
            with m.If(went == which):
                m.d.comb += Assert(offer.word == kept)
        with m.If(offer.start):
            m.d.sync += sending.eq(c.beat_words)
        m.d.comb += [Cover((went == 4) & (owed == 0)), Cover(dut.unasked), Cover(owed == c.outstanding)]


class Writer(Bench):
    """The write port: both channels keep their rules, bursts lie in one page, every burst has as many words as its address said,
    with WLAST on the last, no word goes ahead of its burst's address, credit is kept, and words are the beats', in order."""

    def environment(self, m: Module) -> None:
        c = CONFIG
        m.submodules.dut = dut = StreamWriter(c)
        segment, beats, aw, w, b = dut.segments, dut.beats, dut.axi.aw, dut.axi.w, dut.axi.b
        for signal in (segment.valid, segment.p.address, segment.p.beats, beats.valid, beats.p.data, beats.p.strobe, dut.halt,
                       aw.ready, w.ready, b.valid, b.resp):
            free(m, signal)
        keeps_still(m, segment.valid, segment.ready, segment.p, Assume)
        keeps_still(m, beats.valid, beats.ready, beats.p, Assume)
        keeps_still(m, aw.valid, aw.ready, address_of(aw))
        keeps_still(m, w.valid, w.ready, Cat(w.data, w.strb, w.last))
        m.d.comb += [
            Assume(segment.p.address[:4] == 0), Assume(segment.p.beats <= 6), Assume(segment.p.beats != 0),
            Assert(~aw.valid | one_page(aw)),
        ]
        # A burst is there when its address is offered first.
        waiting, begun = Signal(), Signal()
        m.d.sync += waiting.eq(aw.valid & ~aw.ready)
        m.d.comb += begun.eq(aw.valid & ~waiting)
        answer = Signal()
        owed = answered(m, begun, answer, c.outstanding, Assert)
        m.d.comb += answer.eq(b.valid & (owed != 0))
        # The memory answers what it has: address and last word. What it owed before a reset comes while nothing is owed or begun.
        addresses, lasts = Signal(3), Signal(3)
        m.d.sync += [
            addresses.eq(addresses + (aw.valid & aw.ready) - answer), lasts.eq(lasts + (w.valid & w.ready & w.last) - answer),
        ]
        m.d.comb += Assume(~b.valid | Mux(owed == 0, ~begun, (addresses != 0) & (lasts != 0)))
        self.lengths_are_kept(m, begun, aw, w)
        self.words_are_kept(m, beats, w)
        m.d.comb += [Cover(owed == c.outstanding), Cover(w.valid & w.last & w.ready & (owed == 1) & aw.valid), Cover(dut.unasked)]

    @staticmethod
    def lengths_are_kept(m: Module, begun: Signal, aw: Any, w: Any) -> None:
        lengths = [Signal(9, name=f"length{i}") for i in range(CONFIG.outstanding + 2)]
        sent, ended = Signal(9), Signal()
        moved = w.valid & w.ready
        m.d.comb += [
            ended.eq(moved & w.last),
            Assert(~w.valid | (lengths[0] != 0)), Assert(~w.valid | (w.last == (sent + 1 == lengths[0]))),
        ]
        m.d.sync += sent.eq(Mux(ended, 0, sent + moved))
        after = [Mux(ended, following, here) for here, following in zip(lengths, [*lengths[1:], 0], strict=True)]
        put = begun
        for length, value in zip(lengths, after, strict=True):
            m.d.sync += length.eq(Mux(put & (value == 0), aw.len + 1, value))
            put = put & (value != 0)
        m.d.comb += Assert(~put)

    @staticmethod
    def words_are_kept(m: Module, beats: Any, w: Any) -> None:
        which, came, went = AnyConst(4), Signal(4), Signal(4)
        kept = Signal(len(w.data))
        with m.If(beats.valid & beats.ready):
            m.d.sync += came.eq(came + CONFIG.beat_words)
            m.d.comb += Assume(came < 12)
            for i in range(CONFIG.beat_words):
                with m.If(came + i == which):
                    m.d.sync += kept.eq(beats.p.data.word_select(i, len(w.data)))
        with m.If(w.valid & w.ready):
            m.d.sync += went.eq(went + 1)
            m.d.comb += Assert(went < came)
            with m.If(went == which):
                m.d.comb += Assert(w.data == kept)


class Program(Bench):
    """The program reader: its address channel keeps its rules, no more descriptors are in flight than its credit, both readers are
    shown the same descriptors in the same order, each until it is taken."""

    def environment(self, m: Module) -> None:
        c = replace(CONFIG, port_bits=128, ring_beats=32)
        m.submodules.dut = dut = ProgramReader(c)
        ar, r = dut.axi.ar, dut.axi.r
        readers = list(dut.descriptors)
        for signal in (dut.start, dut.address, dut.halt, ar.ready, r.valid, r.data, r.resp, *(reader.ready for reader in readers)):
            free(m, signal)
        words = 64 // c.port_bytes
        owed, word = Signal(range(IN_FLIGHT + 2)), Signal(range(words))
        taken = r.valid & r.ready
        m.d.comb += [
            r.last.eq(word == words - 1), Assume(~dut.start | dut.idle), Assume(dut.address[:6] == 0),
            Assume(~r.valid | (owed != 0)),
        ]
        keeps_still(m, r.valid, r.ready, Cat(r.data, r.resp), Assume)
        m.d.sync += owed.eq(owed + (ar.valid & ar.ready) - (taken & r.last))
        with m.If(taken):
            m.d.sync += word.eq(Mux(r.last, 0, word + 1))
        keeps_still(m, ar.valid, ar.ready, address_of(ar))
        m.d.comb += [Assert(~ar.valid | one_page(ar)), Assert(owed <= IN_FLIGHT)]
        which, counts = AnyConst(3), [Signal(3, name=f"taken{i}") for i in range(2)]
        seen, kept = [Signal(name=f"seen{i}") for i in range(2)], [Signal(512, name=f"kept{i}") for i in range(2)]
        for reader, count, saw, what in zip(readers, counts, seen, kept, strict=True):
            payload = Value.cast(reader.p)
            keeps_still(m, reader.valid, reader.ready, payload)
            with m.If(reader.valid & reader.ready):
                m.d.sync += count.eq(count + 1)
                m.d.comb += Assume(count != 7)
                with m.If(count == which):
                    m.d.sync += [saw.eq(1), what.eq(payload)]
        m.d.comb += [Assert(~(seen[0] & seen[1]) | (kept[0] == kept[1])), Cover(counts[0] == 2), Cover(dut.idle & (counts[1] == 1))]


class Registers(Bench):
    """The AXI4-Lite port: every access is answered once, an answer stands still until it is taken, and none comes unasked."""

    def environment(self, m: Module) -> None:
        m.submodules.dut = dut = RegisterFile(CONFIG)
        aw, w, b, ar, r = dut.bus.aw, dut.bus.w, dut.bus.b, dut.bus.ar, dut.bus.r
        for signal in (aw.valid, aw.addr, w.valid, w.data, w.strb, b.ready, ar.valid, ar.addr, r.ready, dut.finished, dut.error,
                       dut.trace_word, dut.candidate_word):
            free(m, signal)
        for channel in (aw, w, ar):
            payload = [getattr(channel, name) for name in channel.signature.members if name not in ("valid", "ready")]
            keeps_still(m, channel.valid, channel.ready, Cat(payload), Assume)
        keeps_still(m, b.valid, b.ready, b.resp)
        keeps_still(m, r.valid, r.ready, Cat(r.data, r.resp))
        writes = answered(m, aw.valid & aw.ready, b.valid & b.ready, 1, Assert)
        reads = answered(m, ar.valid & ar.ready, r.valid & r.ready, 1, Assert)
        m.d.comb += [
            Assert((aw.valid & aw.ready) == (w.valid & w.ready)), Assert(~b.valid | (writes != 0)), Assert(~r.valid | (reads != 0)),
            Cover(b.valid & b.ready & aw.valid & aw.ready), Cover(r.valid & r.ready & (r.data != 0)),
        ]


class Beats(Bench):
    """Rows to beats: every beat of a row once and in order, each until it is taken; no row is taken before its last beat is."""

    def environment(self, m: Module) -> None:
        m.submodules.dut = dut = RowToBeats(CONFIG, 1)
        rows, beats, bits = dut.rows, dut.beats[0], 8 * CONFIG.beat_bytes
        for signal in (rows.valid, rows.payload, beats.ready):
            free(m, signal)
        keeps_still(m, rows.valid, rows.ready, rows.payload, Assume)
        keeps_still(m, beats.valid, beats.ready, beats.payload)
        place = Signal(range(CONFIG.groups))
        moved, last = beats.valid & beats.ready, place == CONFIG.groups - 1
        with m.If(moved):
            m.d.sync += place.eq(Mux(last, 0, place + 1))
        m.d.comb += [
            Assert(~beats.valid | (beats.payload == Value.cast(rows.payload).word_select(place, bits))),
            Assert((rows.valid & rows.ready) == (moved & last)), Cover(moved & last),
        ]


class Fair(Bench):
    """Turns: exactly one of those that ask is chosen, and who asks on waits for no more turns than there are others."""

    COUNT = 4

    def environment(self, m: Module) -> None:
        m.submodules.dut = dut = Turns(self.COUNT)
        free(m, dut.asks)
        free(m, dut.take)
        chosen = dut.chosen
        m.d.comb += [
            Assert((chosen & ~dut.asks) == 0), Assert((chosen & (chosen - 1)) == 0), Assert(chosen.any() == dut.asks.any()),
            Cover(dut.take & chosen[3] & dut.asks[0]),
        ]
        waited = Signal(range(self.COUNT + 1))
        who = AnyConst(2)
        mine, asks = chosen.bit_select(who, 1), dut.asks.bit_select(who, 1)
        m.d.sync += waited.eq(Mux(asks & ~mine, waited + (dut.take & chosen.any()), 0))
        m.d.comb += Assert(waited < self.COUNT)
