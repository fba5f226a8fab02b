"""What lies between ports and operators, with an environment: the ring, and the gatherer that fills it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from amaranth.asserts import AnyConst
from amaranth.hdl import Array, Assert, Assume, Cat, Cover, Module, Mux, Signal, Value

from hwgen.config import BuildConfig
from hwgen.hw.memory.gather import Gatherer
from hwgen.hw.memory.ring import UramRing

from .prover import Bench, free

__all__ = ["Gather", "Ring"]


class Ring(Bench):
    """Beats are written in order into what is free and completed later. A row is shown once all its beats are complete; it stands
    still until it is taken; it has the beats that were written; none is left out, shown twice or ahead of its turn; none is freed
    before it was taken, nor while rows are kept; behind a rewind those come again that were not freed.
    """

    #: Rows, beats a row, and bits a beat: three rows are the fewest whose count is no power of two.
    ROWS, GROUPS, BITS = 3, 2, 8

    def environment(self, m: Module) -> None:
        config = SimpleNamespace(
            ring_beats=self.ROWS * self.GROUPS, groups=self.GROUPS, block_beats=2, beat_bytes=self.BITS // 8, ring_memory="block"
        )
        m.submodules.dut = self.dut = dut = UramRing(cast(BuildConfig, config))
        for signal in (dut.write.valid, dut.write.data, dut.complete, dut.rows.ready, dut.hold, dut.rewind):
            free(m, signal)
        #: Beats written and complete, rows taken and freed; the proof is shorter than they are long.
        written, complete, taken, freed = (Signal(6, name=name) for name in ("written", "complete", "taken", "freed"))
        slot, took, rewound = Signal(range(config.ring_beats)), Signal(), Signal()
        m.d.comb += [
            took.eq(dut.rows.valid & dut.rows.ready), dut.write.slot.eq(slot),
            Assume(~dut.write.valid | (written < (freed + self.ROWS) * self.GROUPS)),
            Assume(complete + dut.complete <= written),
            Assume(~(dut.rewind & dut.hold)), Assume(~((dut.rewind | rewound) & took)), Assume(~(dut.rewind & rewound)),
        ]
        m.d.sync += [
            rewound.eq(dut.rewind), complete.eq(complete + dut.complete), freed.eq(freed + dut.freed),
            taken.eq(Mux(rewound, freed + dut.freed, taken + took)),
        ]
        with m.If(dut.write.valid):
            m.d.sync += [written.eq(written + 1), slot.eq(Mux(slot == config.ring_beats - 1, 0, slot + 1))]
        self._check_rows(m, took, rewound, written, taken)
        shown = dut.rows.valid & ~rewound
        most, held = Signal(6), Signal(2)
        m.d.sync += [most.eq(Mux(taken + took > most, taken + took, most)), held.eq(Cat(dut.hold, held))]
        m.d.comb += [
            Assert(~shown | ((taken + 1) * self.GROUPS <= complete)), Assert(dut.level <= self.ROWS),
            Assert(rewound | (freed + dut.freed <= taken + took)), Assert(~(held.all() & dut.freed)),
            Cover(took & (taken == self.ROWS)), Cover(took & (taken + 1 < most) & (freed > 0)),
            Cover(held[0] & (dut.level == self.ROWS)),
        ]

    def _check_rows(self, m: Module, took: Value, rewound: Value, written: Value, taken: Value) -> None:
        """One beat, any: its row has it when it is shown, and stands still."""
        rows = self.dut.rows
        number, data = AnyConst(5), Signal(self.BITS)
        with m.If(self.dut.write.valid & (written == number)):
            m.d.sync += data.eq(self.dut.write.data)
        mine = (taken == number // self.GROUPS) & rows.valid & ~rewound & ~self.dut.rewind
        beat = Value.cast(rows.payload).word_select(number % self.GROUPS, self.BITS)
        waiting, before = Signal(), Signal(self.BITS * self.GROUPS)
        m.d.sync += [waiting.eq(rows.valid & ~took & ~self.dut.rewind & ~rewound), before.eq(Value.cast(rows.payload))]
        m.d.comb += [
            Assert(~mine | (beat == data)),
            Assert(~(waiting & ~rewound) | (rows.valid & (Value.cast(rows.payload) == before))),
        ]


class Gather(Bench):
    """Ports offer beats whenever they may: each that is started is written as many cycles later as is promised, whole, with its
    slot and tag, and nothing else is; one a cycle, of a port that asked.
    """

    PORTS, WORDS, BITS = 3, 4, 2

    def environment(self, m: Module) -> None:
        config = SimpleNamespace(
            ports=self.PORTS, beat_words=self.WORDS, port_bits=self.BITS, beat_bytes=self.WORDS * self.BITS // 8, ring_beats=8,
            outstanding=1,
        )
        m.submodules.dut = dut = Gatherer(cast(BuildConfig, config))
        offers = dut.offers
        for offer in offers:
            for signal in (offer.valid, offer.slot, offer.tag, offer.last, offer.word):
                free(m, signal)
        start, asks = Cat(offer.start for offer in offers), Cat(offer.valid for offer in offers)
        # Delayed by 1, 2, ... cycles.
        starts = self._delayed(m, start, self.WORDS + 1, "start")
        words = [self._delayed(m, offer.word, self.WORDS, f"word{port}") for port, offer in enumerate(offers)]
        about = [
            self._delayed(m, Cat(offer.last, offer.tag, offer.slot), self.WORDS, f"about{port}")
            for port, offer in enumerate(offers)
        ]
        for port, offer in enumerate(offers):
            busy = Cat(earlier[port] for earlier in starts[: self.WORDS - 1]).any()
            m.d.comb += Assume(~(busy & offer.valid))
        of = Signal(range(self.PORTS))
        for port in range(self.PORTS):
            with m.If(starts[-1][port]):
                m.d.comb += of.eq(port)
        beat = Array(Cat(reversed(of_port)) for of_port in words)[of]
        m.d.comb += [
            Assert((start & ~asks) == 0), Assert((start & (start - 1)) == 0), Assert(start.any() == asks.any()),
            Assert(dut.write.valid == starts[-1].any()),
            Assert(~dut.write.valid | (dut.write.data == beat)),
            Assert(~dut.write.valid | (Cat(dut.done, dut.done_tag, dut.write.slot) == Array(o[-1] for o in about)[of])),
            Assert(dut.write.valid | ~dut.done),
            Cover(dut.write.valid & starts[0].any() & starts[1].any() & (starts[0] != starts[1])),
        ]

    @staticmethod
    def _delayed(m: Module, value: Value, cycles: int, name: str) -> list[Signal]:
        later: list[Signal] = []
        for i in range(cycles):
            later.append(Signal(len(value), name=f"{name}_{i}"))
            m.d.sync += later[i].eq(later[i - 1] if i else value)
        return later
