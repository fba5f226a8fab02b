"""Reads one head of the KV store in the order of a cache block."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..interfaces import KV_LATENCY, BeatStream, KvRead, index_bits

__all__ = ["StoreReader"]

#: Beats between the store and the reader of ``beats``: the requests under way and some slack.
_QUEUE = 8


class StoreReader(wiring.Component):
    """Streams one head of the KV store as the beats of one cache block (:class:`hwgen.layout.KvBlockLayout` without padding).

    Key slot ``s`` of the block is bank ``s % chunk``. Sustains one beat a cycle; the first beat is valid about six cycles
    after ``start``.

    Members
    -------
    start : In(1)
        Strobe: send head ``head``. Ignored while the beats of the previous start are not all requested.
    head, head_vectors : In
        Head, and its size; stable until the last beat was taken.
    store : Out(KvRead)
    beats : Out(BeatStream)
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1),
            "head": In(index_bits(config.max_kv_heads)),
            "head_vectors": In(bits_for(config.max_head_dim // config.width)),
            "store": Out(KvRead(config)),
            "beats": Out(BeatStream(config)),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        repeat = config.kv_block // config.chunk
        part_bits = (config.width // config.key_bytes - 1).bit_length()
        # Two header requests at least, one for the scales of each kind.
        header = max(2, 4 // config.key_bytes)
        m.submodules.queue = queue = fifo.SyncFIFO(width=8 * config.beat_bytes, depth=_QUEUE)

        running, value, in_header = Signal(), Signal(), Signal()
        step = Signal(max(len(self.store.dim), bits_for(header - 1)))
        last_dim = Signal(len(self.store.dim))
        room = Signal(range(_QUEUE + 1), init=_QUEUE)
        request = Signal()
        pushes = Signal()
        m.d.comb += [
            last_dim.eq((self.head_vectors << part_bits) - 1),
            request.eq(running & (room != 0)),
            # Beats of four elements a key hold both halves of the header: the first request only fetches scales.
            pushes.eq(~(in_header & (step == 0)) if config.key_bytes == 4 else 1),
            self.store.head.eq(self.head),
            self.store.head_vectors.eq(self.head_vectors),
            self.store.dim.eq(Mux(in_header, 0, step)),
            self.store.value.eq(Mux(in_header, step >= header // 2, value)),
        ]
        with m.If(request):
            m.d.sync += step.eq(step + 1)
            with m.If(in_header), m.If(step == header - 1):
                m.d.sync += [in_header.eq(0), step.eq(0)]
            with m.Elif(step == last_dim):
                m.d.sync += [step.eq(0), value.eq(1), running.eq(~value)]
        with m.Elif(self.start & ~running):
            m.d.sync += [running.eq(1), in_header.eq(1), step.eq(0), value.eq(0)]

        arriving = self._delay(m, request & pushes, "arriving")
        scales_arrive = self._delay(m, request & in_header, "scales_arrive")
        upper_half = self._delay(m, step[0], "upper_half")
        scales: Value = Cat(self.store.scales for _ in range(repeat))
        if config.key_bytes == 4:
            first = Signal(16 * config.kv_block)
            with m.If(scales_arrive):
                m.d.sync += first.eq(scales)
            scales = Cat(first, scales)
        elif config.key_bytes == 1:
            scales = scales.word_select(upper_half, 8 * config.beat_bytes)
        m.d.comb += [
            queue.w_en.eq(arriving),
            queue.w_data.eq(Mux(scales_arrive, scales, Cat(self.store.data for _ in range(repeat)))),
            self.beats.valid.eq(queue.r_rdy),
            self.beats.payload.eq(queue.r_data),
            queue.r_en.eq(self.beats.ready),
        ]
        m.d.sync += room.eq(room - (request & pushes) + (self.beats.valid & self.beats.ready))
        return m

    @staticmethod
    def _delay(m: Module, value: Value, name: str) -> Signal:
        for i in range(KV_LATENCY):
            after = Signal(name=f"{name}_{i}")
            m.d.sync += after.eq(value)
            value = after
        return after
