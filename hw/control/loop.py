"""The loop: what was chosen behind a pass is what the next pass computes."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ...registers import CHOSEN_TOKENS, LOOP_PASSES, STOP_TOKENS
from ..attention.candidates import INDEX_BITS
from ..interfaces import TableRead, index_bits

__all__ = ["LoopControl"]


class LoopControl(wiring.Component):
    """Behind a pass of a loop, takes the candidate of every run that `DrawUnit` names, one run after the other, as its next token,
    and begins another pass, or ends the loop: behind a stop token, behind the pass that was the last one, and where the memory has
    failed.

    ::

        IDLE - READ - POSITION - DRAW ... - TOKEN - COMPARE (`STOP_TOKENS` + 1 cycles) -> READ of the next run, or DECIDE - IDLE

    Members
    -------
    start : In(1)
        Strobe: the doorbell.
    ended : In(1)
        Strobe: a pass has ended by itself.
    stop : In(1)
        Strobe: STOP. No pass begins from the next cycle on. Whoever stops the pass that runs, or one that would have begun in
        this cycle, tells the host; a pass that ends all the same is the last one.
    spoiled : In(1)
        Level: a memory error was reported since the doorbell.
    limit : In
        LOOP.
    runs : In
    choosing : Out(1)
        From the cycle after ``ended`` until the next pass begins, or none.
    run : Out
        Number of the run.
    ask : Out(1), drawn : In(1), candidate : In
        Level: the token of ``run`` is asked for, until it is ``drawn``: it is ``candidate``. ``run`` was there two cycles before.
    write : Out(1), of_token : Out(1), token : Out
        Strobe: the position of ``run`` is one more, or with ``of_token`` its token is ``token``. The position comes first.
    stops : Out(TableRead)
    begin : Out(1)
        Strobe: the next pass begins.
    finished : Out(1)
        Strobe: no pass begins.
    count : Out
        Tokens chosen since the doorbell.
    index : In, chosen : Out
        ``chosen`` is the token that was chosen as number ``index`` of the cycle before.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1),
            "ended": In(1),
            "stop": In(1),
            "spoiled": In(1),
            "limit": In(LOOP_PASSES.width),
            "runs": In(bits_for(config.chunk)),
            "choosing": Out(1),
            "run": Out(index_bits(config.chunk)),
            "ask": Out(1),
            "drawn": In(1),
            "candidate": In(INDEX_BITS),
            "write": Out(1),
            "of_token": Out(1),
            "token": Out(INDEX_BITS),
            "stops": Out(TableRead(STOP_TOKENS)),
            "begin": Out(1),
            "finished": Out(1),
            "count": Out(bits_for(CHOSEN_TOKENS)),
            "index": In(index_bits(CHOSEN_TOKENS)),
            "chosen": Out(INDEX_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.log = log = memory.Memory(shape=INDEX_BITS, depth=CHOSEN_TOKENS, init=[], attrs={"ram_style": "block"})
        put, get = log.write_port(), log.read_port()
        #: The pass, from 1 on; whether a stop token was chosen in it, and whether STOP came since the doorbell.
        number, stopping, left, last = Signal(LOOP_PASSES.width, init=1), Signal(), Signal(), Signal()
        compared, comparing = Signal(range(STOP_TOKENS + 1)), Signal()
        m.d.comb += [
            get.addr.eq(self.index), self.chosen.eq(get.data), put.addr.eq(self.count), put.data.eq(self.token),
            self.stops.index.eq(compared),
        ]
        with m.FSM() as states:
            m.d.comb += self.choosing.eq(~states.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.sync += [self.run.eq(0), stopping.eq(0)]
                with m.If(self.ended):
                    with m.If((self.limit == 0) | self.spoiled | left | self.stop):
                        m.d.comb += self.finished.eq(1)
                    with m.Else():
                        m.next = "READ"
            with m.State("READ"):
                m.next = "POSITION"
                self._leave(m)
            with m.State("POSITION"):
                m.d.comb += self.write.eq(1)
                m.next = "DRAW"
                self._leave(m)
            with m.State("DRAW"):
                m.d.comb += self.ask.eq(1)
                m.d.sync += self.token.eq(self.candidate)
                with m.If(self.drawn):
                    m.next = "TOKEN"
                self._leave(m)
            with m.State("TOKEN"):
                m.d.comb += [self.write.eq(1), self.of_token.eq(1), put.en.eq(1)]
                m.d.sync += [self.count.eq(self.count + 1), compared.eq(0), comparing.eq(0)]
                m.next = "COMPARE"
                self._leave(m)
            with m.State("COMPARE"):
                m.d.sync += [compared.eq(compared + 1), comparing.eq(1)]
                with m.If(comparing & (self.stops.number == self.token)):
                    m.d.sync += stopping.eq(1)
                with m.If(compared == STOP_TOKENS):
                    m.d.sync += self.run.eq(self.run + 1)
                    m.next = "READ"
                    with m.If(self.run + 1 == self.runs):
                        m.next = "DECIDE"
                self._leave(m)
            with m.State("DECIDE"):
                m.d.sync += number.eq(number + 1)
                m.next = "IDLE"
                # One that is asked to stop now is ended by what stops passes.
                with m.If(stopping | last):
                    m.d.comb += self.finished.eq(~self.stop)
                with m.Else():
                    m.d.comb += self.begin.eq(~self.stop)
        m.d.sync += last.eq(number >= self.limit)
        with m.If(self.stop):
            m.d.sync += left.eq(1)
        with m.If(self.start):
            m.d.sync += [left.eq(0), self.count.eq(0), number.eq(1)]
        return m

    def _leave(self, m: Module) -> None:
        """STOP: what stops passes ends the loop."""
        with m.If(self.stop):
            m.next = "IDLE"
