"""Words of the ports to beats."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..interfaces import index_bits
from .port import BeatOffer, tag_bits
from .turns import Turns

__all__ = ["BeatWrite", "Gatherer"]


def BeatWrite(config: BuildConfig) -> wiring.Signature:
    """Strobe ``valid``: beat ``slot`` of the ring becomes ``data``."""
    return wiring.Signature({"valid": Out(1), "slot": Out(index_bits(config.ring_beats)), "data": Out(8 * config.beat_bytes)})


class Gatherer(wiring.Component):
    """Puts the words of each beat together: one beat a cycle, of any port.

    One port starts a beat a cycle, in turns. Word w of a beat is taken w cycles after the first one, so that each place in the
    beat chooses among the ports one cycle after the place before it chose the same: any number of ports keep the ring busy, with
    one multiplexer of a word a place, and never meet. The earlier words wait, and the beat is written whole::

        cycle     t        t+1      t+2      t+3      t+4
        word 0    port 1   port 0   port 2   port 1            chosen at the port's start
        word 1             port 1   port 0   port 2   port 1
        word 2                      port 1   port 0   port 2
        word 3                               port 1   port 0
        write                                         port 1

    A beat is written ``beat_words`` + 1 cycles after its offer was taken.

    Members
    -------
    offers : In(BeatOffer) per port
    write : Out(BeatWrite)
    done, done_tag : Out
        Strobe with the write of the last beat of burst ``done_tag``.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "offers": In(BeatOffer(config)).array(config.ports),
            "write": Out(BeatWrite(config)),
            "done": Out(1),
            "done_tag": Out(tag_bits(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, offers, words = self.config, self.offers, self.config.beat_words
        m.submodules.turns = turns = Turns(config.ports)
        m.d.comb += [turns.asks.eq(Cat(offer.valid for offer in offers)), turns.take.eq(1)]
        port = Signal(bits_for(config.ports - 1))
        for number, offer in enumerate(offers):
            m.d.comb += offer.start.eq(turns.chosen[number])
            with m.If(turns.chosen[number]):
                m.d.comb += port.eq(number)

        valid, known, kept = turns.chosen.any(), Cat(), []
        for place in range(words):
            of_beat, there = Signal(len(port), name=f"port{place}", reset_less=True), Signal(name=f"valid{place}")
            m.d.sync += [of_beat.eq(port), there.eq(valid)]
            port, valid = of_beat, there
            if place == 0:
                # What is known of the beat comes with its first word.
                known = Cat(Array(getattr(offer, name) for offer in offers)[port] for name in ("last", "tag", "slot"))
            else:
                later = Signal(len(known), name=f"beat{place}", reset_less=True)
                m.d.sync += later.eq(known)
                known = later
            word = Signal(config.port_bits, name=f"word{place}", reset_less=True)
            m.d.sync += word.eq(Array(offer.word for offer in offers)[port])
            for age in range(place + 1, words):
                later = Signal(config.port_bits, name=f"word{place}_{age}", reset_less=True)
                m.d.sync += later.eq(word)
                word = later
            kept.append(word)
        rest = Signal(len(known), reset_less=True)
        m.d.sync += [rest.eq(known), self.write.valid.eq(valid)]
        m.d.comb += [
            Cat(last_of_burst := Signal(), self.done_tag, self.write.slot).eq(rest),
            self.done.eq(self.write.valid & last_of_burst),
            self.write.data.eq(Cat(*kept)),
        ]
        return m
