"""The register window: AXI4-Lite slave for `hwgen.registers`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...contract import CONTRACT_VERSION, contract_hash
from ...registers import LOOP_PASSES, MAGIC, NUMBER_BITS, RUN_BUDGET, RUN_PAGES, RUN_TOKENS, Field, Register, register, register_map
from ...rounding import align
from ..active import Pass
from ..axi.signature import LITE_ADDRESS_BITS, Axi4Lite
from ..interfaces import ADDRESS_BITS, RunRead, TableRead, index_bits
from .counters import counter_total
from .draw import DrawUnit
from .loop import LoopControl

__all__ = ["RegisterFile", "run_readers"]


def run_readers(config: BuildConfig) -> int:
    """Readers of the table of runs: prefetcher, KV writer, of the attention unit key blocks and query slots, and its choice of
    blocks in builds that have it."""
    return 5 if config.kv_budget else 4


class RegisterFile(wiring.Component):
    """AXI4-Lite slave with the registers of `hwgen.registers.register_map`. Other addresses read as 0 and ignore writes.

    A write takes effect two cycles after address and data were taken; read data comes three cycles after the address.
    Writes obey the byte strobes.

    Members
    -------
    bus : In(Axi4Lite)
    start : Out(1)
        Strobe: the doorbell, only while no pass is running.
    begin : Out(1)
        Strobe: a pass begins, by the doorbell or in a loop.
    stop : Out(1)
        Strobe: STOP, only while a pass is running, a cycle later than the doorbell would come.
    busy : Out(1)
        From ``start`` until the pass has ended, or the last one of a loop.
    finished, stopped : In(1)
        Strobe: the pass has ended, by itself or by STOP.
    unasked : In
        Answers of this cycle that nobody had asked for.
    irq : Out(1)
    program, logits : Out
        Addresses.
    current : Out(Pass)
    write_logits : Out(1)
    port_enable : Out(ports)
        PORT_ENABLE as it is now; the memory system takes it over with ``begin``.
    tokens, want : In(TableRead)
    pages : In(TableRead) of prefetcher and KV writer
    runs : In(RunRead) of each of `run_readers`
        The first is not answered between the passes of a loop.
    current_operator : In(32)
        Index shown in CURRENT.
    trace_count : In(32)
        Entries of the trace.
    trace_index, trace_word : Out, In(32)
        Word of the trace: ``trace_word`` is word ``trace_index`` of the cycle before.
    error, error_response, error_write, error_port, error_operator : In
        First error of the pass.
    counters : In(32) per counter register
    candidate, candidate_word : Out, In(32)
        Word of the candidates: ``candidate_word`` is word ``candidate`` of the cycle before. The host is not answered between the
        passes of a loop.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "bus": In(Axi4Lite()),
            "start": Out(1),
            "begin": Out(1),
            "stop": Out(1),
            "busy": Out(1),
            "finished": In(1),
            "stopped": In(1),
            "unasked": In(range(2 * config.ports + 2)),
            "irq": Out(1),
            "program": Out(ADDRESS_BITS),
            "logits": Out(ADDRESS_BITS),
            "current": Out(Pass(config)),
            "write_logits": Out(1),
            "port_enable": Out(config.ports),
            "tokens": In(TableRead(config.chunk)),
            "want": In(TableRead(config.chunk)),
            "pages": In(TableRead(config.page_entries)).array(2),
            "runs": In(RunRead(config)).array(run_readers(config)),
            "current_operator": In(32),
            "trace_count": In(32),
            "trace_index": Out(index_bits(register(config, "TRACE").count)),
            "trace_word": In(32),
            "error": In(1),
            "error_response": In(2),
            "error_write": In(1),
            "error_port": In(8),
            "error_operator": In(16),
            "counters": In(32).array(counter_total(config)),
            "candidate": Out(index_bits(register(config, "TOPK").count)),
            "candidate_word": In(32),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        rows = {row.name: row for row in register_map(config)}

        # One write at a time: taken, then decoded from registers.
        aw, w, b = self.bus.aw, self.bus.w, self.bus.b
        write, address = Signal(), Signal(LITE_ADDRESS_BITS)
        data, strobe = Signal(32), Signal(4)
        # Nothing is taken in reset, which ends later here than for the bus: such an access would be lost.
        awake = Signal()
        m.d.sync += awake.eq(1)
        m.submodules.loop = loop = LoopControl(config)
        m.submodules.draw = draw = DrawUnit(config)
        taken = Signal()
        m.d.comb += [
            taken.eq(aw.valid & w.valid & ~write & (~b.valid | b.ready) & awake & ~loop.write),
            aw.ready.eq(taken),
            w.ready.eq(taken),
        ]
        m.d.sync += write.eq(taken | loop.write)
        with m.If(b.ready):
            m.d.sync += b.valid.eq(0)
        with m.If(taken):
            m.d.sync += [address.eq(aw.addr), data.eq(w.data), strobe.eq(w.strb), b.valid.eq(1)]
        with m.If(loop.write):  # as a host would between two passes
            next_position = self.runs[0].position + 1
            place = Mux(loop.of_token, rows["TOKEN"].offset | loop.run << 2, rows["RUN"].offset | loop.run << 3)
            m.d.sync += [address.eq(place), data.eq(Mux(loop.of_token, loop.token, next_position)), strobe.eq(15)]

        stored = self._store(m, rows, write, address, data, strobe)
        m.d.comb += [
            self.program.eq(Cat(stored["PROGRAM_LOW"], stored["PROGRAM_HIGH"])),
            self.logits.eq(Cat(stored["LOGITS_LOW"], stored["LOGITS_HIGH"])),
            self.write_logits.eq(stored["PASS"][0]),
            self.port_enable.eq(stored["PORT_ENABLE"]),
            *([self.current.chooses.eq(stored["PASS"][1])] if config.kv_budget else []),
        ]
        # A doorbell comes two cycles after them at the earliest.
        for number, name in ((self.current.tokens, "COUNT"), (self.current.runs, "RUNS"), (self.current.wanted, "WANTED")):
            m.d.sync += number.eq(Mux(stored[name] > config.chunk, config.chunk, stored[name]))

        # Doorbell and completion.
        done, control, stopping, was_stopped = Signal(), Signal(), Signal(), Signal()
        m.d.sync += stopping.eq(control & data[2] & self.busy)
        m.d.comb += [
            control.eq(write & (address[2:] == rows["CONTROL"].offset // 4) & strobe[0]),
            self.start.eq(control & data[0] & ~self.busy),
            self.stop.eq(stopping & self.busy),
            loop.start.eq(self.start),
            loop.stop.eq(self.stop),
            loop.ended.eq(self.finished),
            loop.spoiled.eq(self.error),
            loop.limit.eq(stored["LOOP"]),
            loop.runs.eq(self.current.runs),
            loop.candidate.eq(self.candidate_word[: len(loop.candidate)]),
            loop.drawn.eq(draw.done),
            draw.ask.eq(loop.ask),
            draw.position.eq(self.runs[0].position),  # one more already
            draw.candidate.eq(self.candidate_word),
            self.begin.eq(self.start | loop.begin),
        ]
        m.d.sync += self.irq.eq(done & stored["INTERRUPT"][0])
        with m.If(control & data[1]):
            m.d.sync += done.eq(0)
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), done.eq(0), was_stopped.eq(0)]
        with m.Elif(loop.finished | self.stopped):
            m.d.sync += [self.busy.eq(0), done.eq(1), was_stopped.eq(self.stopped)]

        unasked, recent = Signal(32), Signal.like(self.unasked)
        more = Signal(33)
        m.d.comb += more.eq(unasked + recent)
        m.d.sync += [recent.eq(self.unasked), unasked.eq(more[:32] | more[32].replicate(32))]

        self._connect_tables(m, rows, write, address, data, strobe)

        states = {"STATUS": Cat(self.busy, done, self.error, was_stopped), "UNASKED": unasked, "CHOSEN_COUNT": loop.count}
        self._answer_reads(m, rows, stored | states, awake)
        return m

    def _store(
        self, m: Module, rows: dict[str, Register], write: Signal, address: Signal, data: Signal, strobe: Signal
    ) -> dict[str, Signal]:
        """Registers that the host writes."""
        stored: dict[str, Signal] = {}
        for row in rows.values():
            if row.access == "rw":
                stored[row.name] = register = Signal(32, name=row.name.lower())
                if row.name == "PORT_ENABLE":
                    stored[row.name] = register = Signal(self.config.ports, init=-1, name="port_enabled")
                if row.name == "LOOP":
                    stored[row.name] = register = Signal(LOOP_PASSES.width, name="loop_limit")
                with m.If(write & (address[2:] == row.offset // 4)):
                    for first in range(0, len(register), 8):
                        with m.If(strobe[first // 8]):
                            m.d.sync += register[first : first + 8].eq(data[first : first + 8])
        return stored

    def _connect_tables(
        self, m: Module, rows: dict[str, Register], write: Signal, address: Signal, data: Signal, strobe: Signal
    ) -> None:
        """Tables that the host writes and the machine reads. A table with several readers is stored once a reader."""
        loop, draw = m.submodules.loop, m.submodules.draw
        first = Mux(loop.choosing, loop.run, self.runs[0].index)
        number, word = Field("NUMBER", 0, NUMBER_BITS, ""), Field("WORD", 0, 32, "")
        # Name, words of an entry, and each reader's index, word and part of it, and answer.
        tables: list[tuple[str, int, list[tuple[Value, int, Field, Value]]]] = [
            ("TOKEN", 1, [(self.tokens.index, 0, number, self.tokens.number)]),
            ("WANT", 1, [(self.want.index, 0, number, self.want.number)]),
            ("STOP_TOKEN", 1, [(loop.stops.index, 0, number, loop.stops.number)]),
            ("DRAW", 2, [(loop.run, 0, word, draw.how), (loop.run, 1, word, draw.key)]),
            ("PAGE", 1, [(read.index, 0, number, read.number) for read in self.pages]),
            ("RUN", 2, [
                reader for place, read in zip((first, *(read.index for read in self.runs[1:])), self.runs, strict=True)
                for reader in (
                    (place, 0, number, read.position), (place, 1, RUN_TOKENS, read.tokens), (place, 1, RUN_PAGES, read.pages),
                    *([(place, 1, RUN_BUDGET, read.budget)] if self.config.kv_budget else []),
                )
            ]),
        ]
        for name, words, readers in tables:
            chosen, index = self._window(address, rows[name])
            word_bits = words - 1
            for number_of_reader, (place, word_of_entry, part, answer) in enumerate(readers):
                # Whole bytes that the reader needs.
                size = align(min(part.width, len(answer)), 8)
                m.submodules[f"table_{name.lower()}_{number_of_reader}"] = store = memory.Memory(
                    shape=size, depth=rows[name].count // words, init=[]
                )
                port, read = store.write_port(granularity=8), store.read_port()
                first = part.first // 8
                m.d.comb += [
                    port.addr.eq(index[word_bits:]),
                    port.data.eq(data[part.first : part.first + size]),
                    port.en.eq(Mux(write & chosen & (index[:word_bits] == word_of_entry), strobe[first : first + size // 8], 0)),
                    read.addr.eq(place),
                    answer.eq(read.data),
                ]

    def _answer_reads(
        self, m: Module, rows: dict[str, Register], stored: Mapping[str, Value], awake: Signal
    ) -> None:
        """The address is registered, then the word it selects, then that or the word of trace, candidates or chosen tokens."""
        ar, r = self.bus.ar, self.bus.r
        selected, fetched, read_address, word = Signal(), Signal(), Signal(LITE_ADDRESS_BITS), Signal(32)
        m.d.comb += ar.ready.eq(~selected & ~fetched & ~r.valid & awake)
        m.d.sync += [selected.eq(ar.valid & ar.ready), fetched.eq(selected)]
        with m.If(ar.ready):
            m.d.sync += read_address.eq(ar.addr)
        with m.Switch(read_address[2:]):
            for row, values in self._readable(rows, stored):
                for index, value in enumerate(values):
                    with m.Case((row.offset + index * row.step) // 4):
                        m.d.sync += word.eq(value)
            with m.Default():
                m.d.sync += word.eq(0)
        of_trace, index = self._window(read_address, rows["TRACE"])
        of_candidates, place = self._window(read_address, rows["TOPK"])
        loop, draw = m.submodules.loop, m.submodules.draw
        of_chosen, loop_index = self._window(read_address, rows["CHOSEN"])
        m.d.comb += [
            self.trace_index.eq(index), loop.index.eq(loop_index),
            self.candidate.eq(Mux(loop.choosing, loop.run * (2 * self.config.topk) + Cat(draw.of_logit, draw.entry), place)),
        ]
        with m.If(fetched):
            m.d.sync += [r.valid.eq(1), r.data.eq(word)]
            for chosen, source in ((of_trace, self.trace_word), (of_candidates, self.candidate_word), (of_chosen, loop.chosen)):
                with m.If(chosen):
                    m.d.sync += r.data.eq(source)
        with m.Elif(r.ready):
            m.d.sync += r.valid.eq(0)

    @staticmethod
    def _window(address: Signal, row: Register) -> tuple[Value, Value]:
        """``(hit, index)`` of a register of several words: a power of two of at least as many begins there."""
        bits = index_bits(row.count)
        index = address[2 : 2 + bits]
        assert row.offset % (4 << bits) == 0, row
        return (address[2 + bits :] == row.offset >> 2 + bits) & (index < row.count), index

    def _readable(
        self, rows: dict[str, Register], stored: Mapping[str, Value]
    ) -> Iterator[tuple[Register, list[ValueLike]]]:
        """Every readable register but TRACE, TOPK and CHOSEN with its words."""
        config = self.config
        digest = contract_hash(config)
        fixed: dict[str, list[ValueLike]] = {
            "MAGIC": [MAGIC],
            "VERSION": [CONTRACT_VERSION],
            "HASH_LOW": [digest & 0xFFFFFFFF],
            "HASH_HIGH": [digest >> 32],
            "CURRENT": [self.current_operator],
            "ERROR": [Mux(
                self.error, Cat(self.error_response, self.error_write, Const(0, 5), self.error_port, self.error_operator), 0
            )],
            "TRACE_COUNT": [self.trace_count],
        }
        counters: Iterator[ValueLike] = iter(self.counters)
        for name, row in rows.items():
            if name in stored:
                yield row, [stored[name]]
            elif name in fixed:
                yield row, fixed[name]
            elif name.startswith("COUNT_"):
                yield row, [next(counters) for _ in range(row.count)]
            elif row.access != "wo" and name not in ("TRACE", "TOPK", "CHOSEN"):
                raise AssertionError(f"register {name} has no source")
