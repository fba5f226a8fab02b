"""On-chip store of the keys and values of the present pass."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In

from ...config import BuildConfig
from ...rounding import ceil_div
from ..interfaces import KvRead, KvScaleWrite, KvWrite
from .item import delayed

__all__ = ["KvStore"]


def _selected(sources: dict[int, Value], select: Value, bit: int) -> Value:
    """``sources[select]``, or any of them where there is none; the sources differ in bits up to ``bit``."""
    halves = [{n: source for n, source in sources.items() if n >> bit & 1 == half} for half in (0, 1)]
    chosen = [_selected(half, select, bit - 1) if len(half) > 1 else next(iter(half.values())) for half in halves if half]
    return Mux(select[bit], chosen[1], chosen[0]) if len(chosen) == 2 else chosen[0]


class KvStore(wiring.Component):
    """One bank a token of the chunk: int8 keys and values of every head; and one memory of their bf16 scales.

    Two tokens share two banks: the lower half of a vector lies in its token's own bank, the upper half in the neighbour's. A
    read, which wants the same half of every token, still finds each bank once, and a vector is written at once although a
    bank takes half a vector a cycle: block RAM is narrow and deep.

    A read of elements reaches all banks at once and turns what they hold, one of scales reaches a single bank; a request every
    cycle. A write is seen by requests of the next cycle on.

    Members
    -------
    kv : In(KvWrite)
    kv_scale : In(KvScaleWrite)
    read : In(KvRead)
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({"kv": In(KvWrite(config)), "kv_scale": In(KvScaleWrite(config)), "read": In(KvRead(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._scales(m)
        config, kv, read = self.config, self.kv, self.read
        parts = config.width // config.key_bytes
        part_bits = (parts - 1).bit_length()
        halves = 2 if config.chunk > 1 and parts > 1 else 1
        word = 8 * config.width // halves

        # Whole powers of two a head and a kind, so that no address needs a multiplier.
        vector = len(kv.vector)
        write_addr, read_addr = Signal(vector + len(kv.head) + 1), Signal(vector + len(kv.head) + 1)
        bank, valid = Signal(len(kv.bank)), Signal()
        #: What even banks take, and odd ones: the halves change places for odd tokens.
        data = [Signal(word, name=f"data_{i}", reset_less=True) for i in range(halves)]
        part = [Signal(max(1, part_bits), name=f"part_{i}") for i in range(2)]
        m.d.sync += [
            write_addr.eq(Cat(kv.vector, kv.head, kv.value)),
            bank.eq(kv.bank),
            valid.eq(kv.valid),
            *(
                mine.eq(Mux(kv.bank[0] ^ i, kv.data[word:], kv.data[:word]) if halves == 2 else kv.data)
                for i, mine in enumerate(data)
            ),
            read_addr.eq(Cat((read.dim >> part_bits)[:vector], read.head, read.value)),
            part[0].eq(read.dim[:part_bits]),
            *(after.eq(before) for before, after in zip(part, part[1:], strict=False)),
        ]
        select = part[1]
        upper = read_half = Signal()
        if halves == 2:
            # The half of the read, with `read_addr` and with the data.
            upper, read_half, select = part[0][-1], part[1][-1], part[1][:-1]

        bits = 8 * config.key_bytes
        fetched = [Signal(word, name=f"fetched_{i}") for i in range(config.chunk)]
        answers: list[Signal] = []
        for i in range(config.chunk):
            m.submodules[f"bank_{i}"] = elements = memory.Memory(shape=word, depth=halves << len(write_addr), init=[])
            write, fetch = elements.write_port(), elements.read_port()
            m.d.comb += [write.data.eq(data[i % halves]), fetched[i].eq(fetch.data)]
            if halves == 2:
                neighbour = bank == i ^ 1
                m.d.comb += [
                    write.en.eq(valid & ((bank == i) | neighbour)),
                    write.addr.eq(Cat(write_addr, neighbour)),
                    fetch.addr.eq(Cat(read_addr, upper)),
                ]
            else:
                m.d.comb += [write.en.eq(valid & (bank == i)), write.addr.eq(write_addr), fetch.addr.eq(read_addr)]
            own = Mux(read_half, fetched[i ^ 1], fetched[i]) if halves == 2 else fetched[i]
            answer = Signal(bits, name=f"answer_{i}", reset_less=True)
            m.d.sync += answer.eq(own.word_select(select, bits))
            answers.append(answer)
        m.d.comb += read.data.eq(Cat(self._turned(m, answers)))
        return m

    def _turned(self, m: Module, answers: list[Signal]) -> list[Value]:
        """The slots of a beat: answer t at slot ``(t + turn) % kv_block``, in a register for every two bits of the turn, the upper
        ones first: slots that no answer reaches need no multiplexer."""
        block, turn_bits = self.config.kv_block, (self.config.kv_block - 1).bit_length()
        turns = delayed(m, self.read.turn, 2 + ceil_div(turn_bits, 2), "turn", reset_less=True)[3:]
        slots: list[Value | None] = [*answers, *[None] * (block - len(answers))]
        high = turn_bits
        for stage, turn in enumerate(turns):
            low = (high - 1) // 2 * 2
            select, step = turn[low:high], 1 << low
            turned: list[Value | None] = []
            for slot in range(block):
                sources = {n: source for n in range(1 << len(select)) if (source := slots[(slot - n * step) % block]) is not None}
                register = None
                if sources:
                    register = Signal(len(answers[0]), name=f"turned_{stage}_{slot}", reset_less=True)
                    m.d.sync += register.eq(_selected(sources, select, len(select) - 1))
                turned.append(register)
            slots, high = turned, low
        return [slot for slot in slots if slot is not None]

    def _scales(self, m: Module) -> None:
        scale, read = self.kv_scale, self.read
        m.submodules.scales = scales = memory.Memory(shape=32, depth=1 << len(Cat(read.bank, read.head)), init=[])
        write, fetch = scales.write_port(granularity=16), scales.read_port()
        address = Signal(len(fetch.addr))
        m.d.sync += [address.eq(Cat(read.bank, read.head)), read.scales.eq(fetch.data)]
        m.d.comb += [
            write.en.eq(Cat(scale.valid & ~scale.value, scale.valid & scale.value)),
            write.addr.eq(Cat(scale.bank, scale.head)),
            write.data.eq(Cat(scale.scale, scale.scale)),
            fetch.addr.eq(address),
        ]
