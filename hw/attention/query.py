"""Query memory: query heads of 8-bit codes and their scales, one bank a query lane."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..data_register import data_register
from ..float.e4m3 import e4m3_integer
from ..interfaces import QueryScaleWrite, QueryWrite, index_bits
from .item import AttentionSizes
from .memory import BlockMemory

__all__ = ["QueryMemory"]


class QueryMemory(wiring.Component):
    """Slot ``s`` of a key/value head lies in bank ``s % query_lanes``, row ``(s // query_lanes) * kv_heads + kv_head``; vector
    ``v`` of a row is word ``row * head_vectors + v``.

    Members
    -------
    write : In(QueryWrite), write_scale : In(QueryScaleWrite)
        Seen by reads five cycles later.
    addr, part : In
        Word, and which ``key_bytes`` elements of it.
    e4m3 : In(1)
        With ``config.fp8_query`` only: the codes are e4m3, not int8. Does not change while elements are on their way.
    data : Out per lane
        Those elements as integers of ``query_bits``, ``query_latency`` cycles later.
    scale_addr, scale_read : In
        Row, and strobe.
    scale : Out per lane
        The scales, from the cycle after the strobe on until the next one.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.sizes = AttentionSizes(config)
        super().__init__({
            "write": In(QueryWrite(config)),
            "write_scale": In(QueryScaleWrite(config)),
            "addr": In(index_bits(self.sizes.query_words)),
            "part": In(max(1, self.sizes.part_bits)),
            "data": Out(self.sizes.query_bits * config.key_bytes).array(config.query_lanes),
            "scale_addr": In(index_bits(self.sizes.query_rows)),
            "scale_read": In(1),
            "scale": Out(32).array(config.query_lanes),
            **({"e4m3": In(1)} if config.fp8_query else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, sizes = self.config, self.sizes
        write, write_scale = self.write, self.write_scale
        lane_bits = sizes.lane_bits

        # 1: as it comes; 2: words of the slots before this lane's, and of the heads; 3: word
        addr, round_words = Signal(len(self.addr)), Signal(len(self.addr))
        of_slot, of_head = Signal(len(self.addr)), Signal(len(self.addr))
        slot, kv_head = Signal(len(write.slot)), Signal(len(write.kv_head))
        lane = [Signal(max(1, lane_bits), name=f"lane_{i}") for i in range(3)]
        vector = [Signal(len(write.vector), name=f"vector_{i}") for i in range(2)]
        data = [Signal(len(write.data), name=f"data_{i}", reset_less=True) for i in range(3)]
        valid = [Signal(name=f"valid_{i}") for i in range(3)]
        m.d.sync += [
            slot.eq(write.slot),
            kv_head.eq(write.kv_head),
            round_words.eq(write.kv_heads * write.head_vectors),  # of the operator
            of_slot.eq((slot >> lane_bits) * round_words),
            of_head.eq(kv_head * write.head_vectors),
            addr.eq(of_slot + of_head + vector[-1]),
        ]
        for line, source in ((lane, write.slot[:lane_bits]), (vector, write.vector), (data, write.data), (valid, write.valid)):
            m.d.sync += [after.eq(before) for after, before in zip(line, [source, *line], strict=False)]
        # 1: row of the slot; 2: of the head
        slot_row, scale_row = Signal(len(self.scale_addr)), Signal(len(self.scale_addr))
        scale_head = Signal(len(write_scale.kv_head))
        scale_lane = [Signal(max(1, lane_bits), name=f"scale_lane_{i}") for i in range(2)]
        scale = [Signal(32, name=f"scale_{i}") for i in range(2)]
        scale_valid = [Signal(name=f"scale_valid_{i}") for i in range(2)]
        m.d.sync += [
            slot_row.eq((write_scale.slot >> lane_bits) * write_scale.kv_heads),
            scale_head.eq(write_scale.kv_head),
            scale_row.eq(slot_row + scale_head),
        ]
        for line, source in (
            (scale_lane, write_scale.slot[:lane_bits]), (scale, write_scale.scale), (scale_valid, write_scale.valid),
        ):
            m.d.sync += [after.eq(before) for after, before in zip(line, [source, *line], strict=False)]

        part = Signal(len(self.part))
        m.d.sync += part.eq(self.part)
        for i in range(config.query_lanes):
            m.submodules[f"bank_{i}"] = bank = BlockMemory(8 * config.width, sizes.query_words)
            m.submodules[f"scales_{i}"] = scales = memory.Memory(shape=32, depth=sizes.query_rows, init=[])
            put_scale, get_scale = scales.write_port(), scales.read_port()
            m.d.comb += [
                bank.write_en.eq(valid[-1] & (lane[-1] == i)),
                bank.write_addr.eq(addr),
                bank.write_data.eq(data[-1]),
                bank.addr.eq(self.addr),
                put_scale.en.eq(scale_valid[-1] & (scale_lane[-1] == i)),
                put_scale.addr.eq(scale_row),
                put_scale.data.eq(scale[-1]),
                get_scale.addr.eq(self.scale_addr),
                get_scale.en.eq(self.scale_read),
                self.scale[i].eq(get_scale.data),
            ]
            codes = bank.data.word_select(part, 8 * config.key_bytes)
            if config.fp8_query:
                codes = self._integers(m, i, codes)
            m.d.sync += data_register(m, self.data[i]).eq(codes)
        return m

    def _integers(self, m: Module, lane: int, codes: Value) -> Value:
        """Elements of a lane as integers, a cycle later."""
        fetched = Signal(len(codes), name=f"codes_{lane}", reset_less=True)
        m.d.sync += fetched.eq(codes)
        elements = []
        for i in range(self.config.key_bytes):
            code = fetched.word_select(i, 8)
            element = Signal(signed(self.sizes.query_bits), name=f"element_{lane}_{i}")
            m.d.comb += element.eq(Mux(self.e4m3, e4m3_integer(code), code.as_signed()))
            elements.append(element)
        return Cat(*elements)
