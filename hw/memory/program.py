"""Reads the program from memory and queues its descriptors."""

from __future__ import annotations

from functools import reduce
from operator import xor

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import CHECK_SUM, DESCRIPTOR_BYTES, PROGRAM_PADDING, Opcode
from ..axi.signature import BURST_INCR, RESPONSE_OKAY, Axi4Read
from ..data_register import data_register
from ..interfaces import ADDRESS_BITS, DescriptorLayout, index_bits
from .following import following
from .port import ErrorReport

__all__ = ["ProgramReader"]

#: Descriptors in flight; the padding of a program covers what is read beyond its end.
IN_FLIGHT = 4
assert IN_FLIGHT < PROGRAM_PADDING


class ProgramReader(wiring.Component):
    """Fetches the 64-byte descriptors from ``address`` on, one burst each, until the END descriptor has come, and shows them
    in order to two readers that take them independently. What was read beyond END is dropped.

    Members
    -------
    start : In(1)
        Strobe: read the program at ``address`` (64-byte aligned). Only while ``idle``.
    address : In
    halt : In(1)
        Level: nothing is requested.
    axi : Out(Axi4Read)
    descriptors : Out(stream of DescriptorLayout) per reader
        END is delivered last.
    error : Out(ErrorReport)
        A word came with an error response, or a descriptor whose check word is wrong (``resp`` is OKAY then); the descriptor is
        replaced by END, so that the pass ends.
    unasked : Out(1)
        Strobe: a word came that was not asked for. It was dropped.
    idle : Out(1)
        No program is being read and nothing is in flight (descriptors may still be queued).
    in_flight : Out(1)
        Something is requested or in flight.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1),
            "address": In(ADDRESS_BITS),
            "halt": In(1),
            "axi": Out(Axi4Read(config.port_bits)),
            "descriptors": Out(stream.Signature(DescriptorLayout())).array(2),
            "error": Out(ErrorReport()),
            "unasked": Out(1),
            "idle": Out(1),
            "in_flight": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        ar, r = self.axi.ar, self.axi.r
        depth = config.descriptor_queue
        words = DESCRIPTOR_BYTES // config.port_bytes

        running, in_flight = Signal(), Signal(range(IN_FLIGHT + 1))
        fits, requested, taken, received, store = Signal(), Signal(), Signal(), Signal(), Signal()

        # Request side: a descriptor is asked for when both readers will have room for it. What a reader takes is counted a cycle
        # later, since `ready` comes from far away.
        used = [Signal(range(depth + 1), name=f"used{i}") for i in range(2)]
        m.d.comb += [
            ar.size.eq(config.port_bytes.bit_length() - 1),
            ar.burst.eq(BURST_INCR),
            ar.len.eq(words - 1),
            fits.eq((in_flight != IN_FLIGHT) & Cat(count + in_flight < depth for count in used).all()),
            requested.eq(running & fits & ~ar.valid & ~self.halt),
            taken.eq(r.valid & (in_flight != 0)),
            received.eq(taken & r.last),
            r.ready.eq(1),
            self.idle.eq(~running & (in_flight == 0)),
            self.in_flight.eq(in_flight != 0),
        ]
        m.d.sync += in_flight.eq(in_flight + requested - store)
        upcoming = Signal(ADDRESS_BITS)
        with m.If(ar.ready):
            m.d.sync += ar.valid.eq(0)
        with m.If(requested):
            m.d.sync += [ar.valid.eq(1), ar.addr.eq(upcoming), upcoming.eq(upcoming + DESCRIPTOR_BYTES)]

        # Response side: words are gathered into a descriptor.
        failed, damaged, check = Signal(), Signal(), Signal(16)
        gathered = Signal(DescriptorLayout(), reset_less=True)
        m.d.sync += [
            self.error.valid.eq((taken & (r.resp != RESPONSE_OKAY)) | damaged),
            self.error.resp.eq(Mux(damaged, RESPONSE_OKAY, r.resp)),
            self.unasked.eq(r.valid & (in_flight == 0)),
            store.eq(received),
        ]
        with m.If(taken):
            m.d.sync += [
                gathered.as_value().eq(Cat(gathered.as_value(), r.data)[config.port_bits :]),
                failed.eq((failed & ~store) | (r.resp != RESPONSE_OKAY)),
                check.eq(reduce(xor, (r.data.word_select(i, 16) for i in range(config.port_bits // 16)), Mux(store, 0, check))),
            ]
        with m.Elif(store):
            m.d.sync += [failed.eq(0), check.eq(0)]
        m.d.comb += damaged.eq(store & running & ~failed & (check != CHECK_SUM))

        m.submodules.queue = queue = memory.Memory(shape=DescriptorLayout(), depth=depth, init=[])
        write = queue.write_port()
        entry = Signal(DescriptorLayout())
        m.d.comb += entry.eq(gathered)
        with m.If(failed | damaged):
            m.d.comb += entry.opcode.eq(Opcode.END)
            m.d.comb += entry.flags.eq(0)
            m.d.comb += entry.token_start.eq(0)
        m.d.comb += [write.data.eq(entry), write.en.eq(store & running)]
        with m.If(write.en):
            m.d.sync += write.addr.eq(following(write.addr, depth))
            with m.If(entry.opcode == Opcode.END):
                m.d.sync += running.eq(0)
        with m.If(self.start):
            m.d.sync += [running.eq(1), upcoming.eq(self.address)]

        for number, output in enumerate(self.descriptors):
            read = queue.read_port(domain="comb")
            position = Signal(index_bits(depth), name=f"position{number}")
            load, loaded = Signal(name=f"load{number}"), Signal(name=f"loaded{number}")
            count = used[number]
            payload = data_register(m, output.p)
            m.d.comb += [read.addr.eq(position), load.eq((count > loaded) & (~output.valid | output.ready))]
            m.d.sync += [loaded.eq(load), count.eq(count + write.en - loaded)]
            with m.If(load):
                m.d.sync += [output.valid.eq(1), payload.eq(read.data), position.eq(following(position, depth))]
            with m.Elif(output.ready):
                m.d.sync += output.valid.eq(0)
        return m
