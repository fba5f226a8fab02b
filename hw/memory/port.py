"""One AXI4 read port of the stream."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import fifo, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..axi.signature import BURST_INCR, RESPONSE_OKAY, Axi4Read
from ..interfaces import ADDRESS_BITS, index_bits
from .following import following

__all__ = ["BeatOffer", "ErrorReport", "PortReader", "Request", "tag_bits"]

#: Words that may still come after ``r.ready`` was taken back.
SLACK = 4


def ErrorReport() -> wiring.Signature:
    """Strobe ``valid`` with the AXI response ``resp`` of a transaction that failed."""
    return wiring.Signature({"valid": Out(1), "resp": Out(2)})


def tag_bits(config: BuildConfig) -> int:
    """Bits of the number of a burst among those that are not complete: more than the ports may have in flight."""
    return int(bits_for(config.ports * config.outstanding))


def Request(config: BuildConfig) -> wiring.Signature:
    """Strobe ``valid``: read ``beats`` beats at ``address`` for the ring's beats from ``slot`` on; ``tag`` numbers the burst."""
    return wiring.Signature({
        "valid": Out(1),
        "address": Out(ADDRESS_BITS),
        "beats": Out(bits_for(config.burst_beats)),
        "slot": Out(index_bits(config.ring_beats)),
        "tag": Out(tag_bits(config)),
    })


def BeatOffer(config: BuildConfig) -> wiring.Signature:
    """A whole beat waits while ``valid``. After the strobe ``start`` its words appear on ``word``, one a cycle from the next cycle
    on; with the first one ``slot``, ``tag`` and whether it is the ``last`` of its burst. The next beat may start when its last word
    appears.
    """
    return wiring.Signature({
        "valid": Out(1),
        "start": In(1),
        "slot": Out(index_bits(config.ring_beats)),
        "tag": Out(tag_bits(config)),
        "last": Out(1),
        "word": Out(config.port_bits),
    })


class PortReader(wiring.Component):
    """Reads bursts through one AXI4 port, in order, and offers their beats one by one.

    Words wait in a queue of ``port_queue`` words; ``axi.r.ready`` falls when it is nearly full, which only happens while the ports
    deliver more than a beat a cycle between them. At most ``outstanding`` bursts are in flight. A beat may be offered three cycles
    after its last word was on the bus.

    Members
    -------
    request : In(Request)
        Only while ``free``.
    free : Out(1)
        A burst may be asked for, once.
    axi : Out(Axi4Read)
    offer : Out(BeatOffer)
    error : Out(ErrorReport)
        One cycle after a word came with an error response; the word is delivered all the same.
    unasked : Out(1)
        Strobe: a word came that was not asked for. It was dropped.
    idle : Out(1)
        Nothing is requested or in flight on the port.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "request": In(Request(config)),
            "free": Out(1),
            "axi": Out(Axi4Read(config.port_bits)),
            "offer": Out(BeatOffer(config)),
            "error": Out(ErrorReport()),
            "unasked": Out(1),
            "idle": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        ar, r, request = self.axi.ar, self.axi.r, self.request
        word_bits = config.beat_words.bit_length() - 1

        in_flight = Signal(range(config.outstanding + 1))
        taken, ended = Signal(), Signal()
        m.d.comb += [
            taken.eq(r.valid & r.ready & (in_flight != 0)),
            ended.eq(taken & r.last),
            ar.size.eq(config.port_bytes.bit_length() - 1),
            ar.burst.eq(BURST_INCR),
            self.idle.eq(~ar.valid & (in_flight == 0)),
        ]
        m.d.sync += [
            in_flight.eq(in_flight + request.valid - ended),
            self.unasked.eq(r.valid & r.ready & (in_flight == 0)),
            self.error.valid.eq(taken & (r.resp != RESPONSE_OKAY)),
            self.error.resp.eq(r.resp),
        ]
        with m.If(request.valid):
            beats_less_one = Signal(8 - word_bits)
            m.d.comb += beats_less_one.eq(request.beats - 1)
            words_less_one = Cat(Const(config.beat_words - 1, word_bits), beats_less_one)
            m.d.sync += [ar.valid.eq(1), ar.addr.eq(request.address), ar.len.eq(words_less_one)]
        with m.Elif(ar.ready):
            m.d.sync += ar.valid.eq(0)

        room, known = self._take_bursts(m)
        m.d.sync += self.free.eq(~ar.valid & (in_flight != config.outstanding) & room & ~request.valid)
        self._queue_words(m, taken, known)
        return m

    def _take_bursts(self, m: Module) -> tuple[Value, Value]:
        """Which slots of the ring the beats fill; returns whether another burst can be noted, and whether the next beat's slot is
        known: not in the cycle behind the last beat of a burst."""
        config, request, offer = self.config, self.request, self.offer
        # Also holds bursts whose words are all here.
        depth = 1 << bits_for(config.outstanding)
        note = Cat(request.slot, request.tag, request.beats)
        slot, tag = Signal.like(request.slot), Signal.like(request.tag)
        m.submodules.bursts = bursts = fifo.SyncFIFO(width=len(note), depth=depth)
        left, known = Signal(range(config.burst_beats + 1)), Signal()
        m.d.comb += [
            bursts.w_data.eq(note),
            bursts.w_en.eq(request.valid),
            bursts.r_en.eq(~known),
        ]
        m.d.sync += known.eq(Mux(known, ~(offer.start & (left == 1)), bursts.r_rdy))
        with m.If(offer.start):
            m.d.sync += [left.eq(left - 1), slot.eq(following(slot, config.ring_beats))]
            m.d.sync += [offer.slot.eq(slot), offer.tag.eq(tag), offer.last.eq(left == 1)]
        with m.If(bursts.r_en):
            m.d.sync += Cat(slot, tag).eq(bursts.r_data)
            with m.If(bursts.r_rdy):
                m.d.sync += left.eq(bursts.r_data[len(request.slot) + len(request.tag) :])
        return bursts.w_rdy, known

    def _queue_words(self, m: Module, taken: Signal, known: Value) -> None:
        """From the bus through a register into the queue, and out of it."""
        config, r, offer = self.config, self.axi.r, self.offer
        words, depth = config.beat_words, config.port_queue
        m.submodules.words = queue = memory.Memory(
            shape=config.port_bits, depth=depth, init=[], attrs={"ram_style": "distributed"}
        )
        write, read = queue.write_port(), queue.read_port(domain="comb")
        arrived = Signal(config.port_bits, reset_less=True)
        held, beats = Signal(range(depth + 1)), Signal(range(depth // words + 1))
        sending, whole, any_beats = Signal(range(words + 1)), Signal(), Signal()
        m.d.comb += [
            write.data.eq(arrived),
            offer.word.eq(read.data),
            offer.valid.eq(any_beats & (sending <= 1) & known),
        ]
        m.d.sync += [
            arrived.eq(r.data),
            write.en.eq(taken),
            r.ready.eq(held <= depth - SLACK),
            held.eq(held + write.en - (sending != 0)),
            beats.eq(beats + whole - offer.start),
            any_beats.eq(whole | (beats > 1) | ((beats == 1) & ~offer.start)),  # ``beats`` as it becomes is not 0
        ]
        with m.If(write.en):
            m.d.sync += write.addr.eq(write.addr + 1)
        m.d.comb += whole.eq(write.en & (write.addr[: words.bit_length() - 1] == words - 1))
        with m.If(sending != 0):
            m.d.sync += [sending.eq(sending - 1), read.addr.eq(read.addr + 1)]
        with m.If(offer.start):
            m.d.sync += sending.eq(words)
