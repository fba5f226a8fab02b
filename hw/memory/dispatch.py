"""Bursts to ports, and their completion in order."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...config import BuildConfig
from ..axi.burst import BurstSplitter, Interleave
from ..interfaces import Segment, index_bits
from .following import wrapped
from .port import Request, tag_bits
from .turns import Turns

__all__ = ["Dispatcher"]


class Dispatcher(wiring.Component):
    """Cuts segments into aligned bursts, gives each to the next port that may take one, with its place in the ring, and tells
    when beats are complete: they and all before them are in the ring.

    A burst is given away every two cycles at most, and only while the ring has room for the longest one, or for a whole block (see
    `BurstSplitter`): the ring starts with room for ``ring_beats`` beats and gets ``groups`` back with every ``freed``. Blocks are
    read from ``read_streams`` banks of the memory in turn, so that one bank that another master closes does not hold up all
    ports. Beats are complete two cycles after ``done`` of the last of their burst at the earliest.

    Members
    -------
    segments : In(Segment)
    enabled : In, one bit a port
        Ports that may be used, at least one.
    halt : In(1)
        Level: no burst is given away.
    freed : In(1)
        Strobe: the ring freed one row.
    requests : Out(Request) per port
    free : In, one bit a port
        See `PortReader`.
    done, done_tag : In
        Strobe: all beats of burst ``done_tag`` are in the ring.
    complete : Out
        Beats that became complete: in this cycle alone.
    waiting : Out(1)
        A burst waits for room in the ring.
    idle : Out(1)
        No segment or burst is held. Bursts may be in flight.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        order = Interleave(config.read_streams, config.bank_bursts)
        self.splitter = BurstSplitter(beat_bytes=config.beat_bytes, burst=config.burst_beats, order=order)
        super().__init__({
            "segments": In(Segment()),
            "enabled": In(config.ports),
            "halt": In(1),
            "freed": In(1),
            "requests": Out(Request(config)).array(config.ports),
            "free": In(config.ports),
            "done": In(1),
            "done_tag": In(tag_bits(config)),
            "complete": Out(range(config.block_beats + 1)),
            "waiting": Out(1),
            "idle": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.splitter = splitter = self.splitter
        m.submodules.turns = turns = Turns(config.ports)
        connect(m, flipped(self.segments), splitter.segments)
        burst = splitter.bursts

        # The next burst, with its place in the ring.
        held = Signal()
        next_burst = Signal.like(burst.p, reset_less=True)
        base, slot = Signal(index_bits(config.ring_beats)), Signal(index_bits(config.ring_beats))
        issue = Signal()
        m.d.comb += [burst.ready.eq(~held), self.idle.eq(splitter.idle & ~held)]
        with m.If(issue):
            m.d.sync += held.eq(0)
        with m.Elif(burst.valid & burst.ready):
            m.d.sync += [
                held.eq(1),
                next_burst.eq(burst.p),
                slot.eq(wrapped(base + burst.p.position, config.ring_beats)),
                base.eq(wrapped(base + burst.p.advance, config.ring_beats)),
            ]

        # The port that gets it is chosen in the cycle before.
        chosen, usable = Signal(config.ports), Signal()
        m.d.comb += [turns.asks.eq(self.free & self.enabled), turns.take.eq(~usable), usable.eq((chosen & self.enabled).any())]
        with m.If(issue):
            m.d.sync += chosen.eq(0)
        with m.Elif(~usable):
            m.d.sync += chosen.eq(turns.chosen)

        room = Signal(range(config.ring_beats + 1), init=config.ring_beats)
        fits = self._has_room(m, room, next_burst)
        tag, tags_left = self._complete(m, issue, next_burst)
        m.d.comb += [
            issue.eq(held & usable & fits & tags_left & ~self.halt),
            self.waiting.eq(held & ~fits),
        ]
        m.d.sync += room.eq(room - next_burst.beats * issue + config.groups * self.freed)
        for request, of_port in zip(self.requests, chosen, strict=True):
            m.d.comb += [
                request.valid.eq(issue & of_port),
                request.address.eq(next_burst.address),
                request.beats.eq(next_burst.beats),
                request.slot.eq(slot),
                request.tag.eq(tag),
            ]
        return m

    def _has_room(self, m: Module, room: Signal, burst: Signal) -> Signal:
        """Room of the cycle before, in which no burst was given away: none was chosen for a port then."""
        for_burst, for_block, fits = Signal(), Signal(), Signal()
        longest = self.config.burst_beats.bit_length() - 1
        block = self.config.block_beats.bit_length() - 1
        m.d.sync += [for_burst.eq(room[longest:] != 0), for_block.eq(room[block:] != 0)]
        m.d.comb += fits.eq(for_burst & (for_block | ~burst.opens))
        return fits

    def _complete(self, m: Module, issue: Signal, burst: Signal) -> tuple[Signal, Signal]:
        """The bursts that are not complete, in order; returns the tag of the next one and whether it is free.

        A burst is done when its bits in two memories are equal. They are made different when it is given away, so that nothing has
        to be cleared, and each memory has one writer.
        """
        width = tag_bits(self.config)
        depth = 1 << width
        wanted = memory.Memory(shape=1, depth=depth, init=[], attrs={"ram_style": "distributed"})
        reached = memory.Memory(shape=1, depth=depth, init=[], attrs={"ram_style": "distributed"})
        kinds = memory.Memory(shape=len(burst.beats) + 2, depth=depth, init=[], attrs={"ram_style": "distributed"})
        m.submodules.wanted, m.submodules.reached, m.submodules.kinds = wanted, reached, kinds
        tag, oldest, count = Signal(width), Signal(width), Signal(width + 1)
        finished, tags_left = Signal(), Signal()

        writes = [of.write_port() for of in (wanted, reached, kinds)]
        at_tag, at_done = reached.read_port(domain="comb"), wanted.read_port(domain="comb")
        oldest_wanted, oldest_reached, kind = (of.read_port(domain="comb") for of in (wanted, reached, kinds))
        m.d.comb += [
            at_tag.addr.eq(tag),
            writes[0].addr.eq(tag), writes[0].en.eq(issue), writes[0].data.eq(~at_tag.data),
            at_done.addr.eq(self.done_tag),
            writes[1].addr.eq(self.done_tag), writes[1].en.eq(self.done), writes[1].data.eq(at_done.data),
            writes[2].addr.eq(tag), writes[2].en.eq(issue),
            writes[2].data.eq(Cat(burst.beats, burst.defer, burst.advance != 0)),
            oldest_wanted.addr.eq(oldest), oldest_reached.addr.eq(oldest), kind.addr.eq(oldest),
            finished.eq((count != 0) & (oldest_wanted.data == oldest_reached.data)),
            tags_left.eq(~count[width]),
        ]
        m.d.sync += [count.eq(count + issue - finished), tag.eq(tag + issue), oldest.eq(oldest + finished)]

        # Beats of a block that wait for its last burst.
        deferred = Signal(len(self.complete))
        beats, defer, ends = kind.data[: len(burst.beats)], kind.data[len(burst.beats)], kind.data[len(burst.beats) + 1]
        m.d.sync += self.complete.eq(0)
        with m.If(finished):
            with m.If(defer):
                m.d.sync += deferred.eq(deferred + beats)
            with m.Elif(ends):
                m.d.sync += [self.complete.eq(deferred + beats), deferred.eq(0)]
            with m.Else():
                m.d.sync += self.complete.eq(beats)
        return tag, tags_left
