"""Block memories without waste in their last column."""

from __future__ import annotations

from amaranth.hdl import Cat, Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ...attention_memory import last_column
from ..interfaces import index_bits

__all__ = ["BlockMemory"]


class BlockMemory(wiring.Component):
    """Memory of one write and one read port in block RAM. Bits that do not fill the last block RAM lie in one of their own, which
    may be a half, or in distributed memory if they are few.

    With ``granularity`` so many bits (a multiple of 8) are written or not by themselves: by the byte enables of block RAM, whose
    ninth bits are left.

    Members
    -------
    write_en : In(1) or, with ``granularity``, In(width // granularity), write_addr : In, write_data : In
    addr : In;  data : Out
        One cycle later; what is written in the same cycle is not seen.
    """

    def __init__(self, width: int, depth: int, granularity: int | None = None) -> None:
        self.width = width
        self.depth = depth
        self.granularity = granularity
        super().__init__({
            "write_en": In(1 if granularity is None else width // granularity),
            "write_addr": In(index_bits(depth)),
            "write_data": In(width),
            "addr": In(index_bits(depth)),
            "data": Out(width),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rest, rest_style = last_column(self.width, self.depth) if self.granularity is None else (0, "")
        parts = []
        for name, bits, style in (("columns", self.width - rest, "block"), ("rest", rest, rest_style)):
            if bits:
                m.submodules[name] = part = memory.Memory(shape=bits, depth=self.depth, init=[], attrs={"ram_style": style})
                put, get = part.write_port(granularity=self.granularity), part.read_port()
                start = 0 if name == "columns" else self.width - rest
                m.d.comb += [
                    put.en.eq(self.write_en),
                    put.addr.eq(self.write_addr),
                    put.data.eq(self.write_data[start : start + bits]),
                    get.addr.eq(self.addr),
                ]
                parts.append(get.data)
        m.d.comb += self.data.eq(Cat(parts))
        return m
