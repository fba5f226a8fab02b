"""The accelerator: every unit, the memories between them, and the ports of the top module."""

from __future__ import annotations

import re
from typing import Any

from amaranth.back import verilog
from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, ValueLike
from amaranth.hdl._ir import PortDirection
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import Flow, In, Out, connect, flipped

from ..config import BuildConfig
from ..descriptors import Format
from ..operators import Unit
from ..registers import COUNTERS, ENGINE_COUNTERS
from .attention.item import delayed
from .attention.store import KvStore
from .attention.unit import AttentionUnit
from .attention.writer import KvWriter
from .axi.signature import Axi4, Axi4Lite, flat_ports
from .control.activity import EngineActivity
from .control.counters import Counters
from .control.errors import ErrorLatch
from .control.registers import RegisterFile
from .control.sequencer import Sequencer
from .control.stop import StopControl
from .control.trace import TraceMemory
from .interfaces import SCRATCH_LATENCY, MemoryRead, MemoryWrite
from .linear.pair import linear_engine
from .memory.beats import RowToBeats
from .memory.system import MemorySystem
from .observe import Observer, ProbeOutputs
from .reset import ResetTree
from .vector.loader import RingLoader
from .vector.unit import VectorUnit
from .vocabulary import connect_ranking, connect_shortlist

__all__ = ["TOP", "Accelerator", "generate"]

#: Name of the top module.
TOP = "hwgen_accelerator"


#: Rows of the widest block RAM, and of one distributed RAM.
BLOCK_RAM_DEPTH = 512
LUT_RAM_DEPTH = 64


class VectorMemory(wiring.Component):
    """Memory of float32 vectors: one write port, one read port with `SCRATCH_LATENCY`. A read of the cycle after a write
    sees it; of a write of the next cycles it may see the old or the new word.

    UltraRAM has all its registers behind it, each with an enable of its own, as UG901's templates have them: so they fit into
    the matrix, and into no shift registers. Before any other memory the address waits, for it is narrower.

    Members
    -------
    write : In(MemoryWrite)
    read : In(MemoryRead)
    """

    def __init__(self, depth: int, width: int, ram_style: str) -> None:
        self.depth, self.width, self.ram_style = depth, width, ram_style
        super().__init__({"write": In(MemoryWrite(depth, width)), "read": In(MemoryRead(depth, width))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # A few words beyond a block RAM's depth are cheaper in look-up tables than as a second row of block RAMs.
        tail = self.depth % BLOCK_RAM_DEPTH if self.ram_style == "block" and self.depth > BLOCK_RAM_DEPTH else 0
        tail = tail if tail <= LUT_RAM_DEPTH else 0
        body = self.depth - tail
        in_tail = Signal()
        data: Any = None
        ultra = self.ram_style == "ultra"
        stages = SCRATCH_LATENCY - 1 if ultra else 1
        address = self.read.addr
        if not ultra:
            address = delayed(m, address, SCRATCH_LATENCY - 2, "address", reset_less=True)[-1]
        # `body` is a multiple of the block RAM's depth, so that the tail's addresses are low bits of the whole.
        for name, base, depth, style in (("words", 0, body, self.ram_style), ("tail", body, tail, "distributed")):
            if not depth:
                continue
            m.submodules[name] = words = memory.Memory(shape=self.width, depth=depth, init=[], attrs={"ram_style": style})
            write, read = words.write_port(), words.read_port()
            m.d.comb += [
                write.en.eq(self.write.valid & (((self.write.addr >= body) == (base != 0)) if tail else 1)),
                write.addr.eq(self.write.addr),
                write.data.eq(self.write.data),
                read.addr.eq(address),
                read.en.eq(self.read.en if ultra else 1),
            ]
            data = Mux(in_tail, read.data, data) if base else read.data
        if tail:
            m.d.sync += in_tail.eq(address >= body)
        # The memory's own output register is the first cycle of the latency.
        enables = delayed(m, self.read.en, stages, "en") if ultra else [1] * (stages + 1)
        for stage in range(stages):
            register = Signal(self.width, name=f"data{stage}", reset_less=True)
            with m.If(enables[stage + 1]):
                m.d.sync += register.eq(data)
            data = register
        m.d.comb += self.read.data.eq(data)
        return m


class Accelerator(wiring.Component):
    """The whole machine (see docs/machine.md).

    Members
    -------
    s_axi : In(Axi4Lite)
        Registers of `hwgen.registers`.
    m_axi : Out(Axi4) per port
    irq : Out(1)
        1 while a pass has ended, is not acknowledged, and the interrupt is enabled.
    probe : Out(ProbeOutputs), retire_valid : Out(1), retire_index : Out(32)
        With ``config.probe`` only. The probes of an operator come before its ``retire_valid``.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        members: dict[str, Any] = {
            "s_axi": In(Axi4Lite()),
            "m_axi": Out(Axi4(config.port_bits)).array(config.ports),
            "irq": Out(1),
        }
        if config.probe:
            members |= {"probe": Out(ProbeOutputs(config)), "retire_valid": Out(1), "retire_index": Out(32)}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.registers = registers = RegisterFile(config)
        m.submodules.stop = stop = StopControl()
        mem = MemorySystem(config)
        m.submodules.memory = ResetInserter(stop.flush)(mem)
        m.submodules.sequencer = Sequencer(config)
        m.submodules.loader = RingLoader(config)
        m.submodules.vector = VectorUnit(config)
        m.submodules.linear = linear_engine(config)
        m.submodules.attention = AttentionUnit(config)
        m.submodules.store = KvStore(config)
        m.submodules.kv_writer = KvWriter(config)
        self._connect_control(m)
        self._connect_stop(m)
        self._connect_units(m)
        stream_ready = self._connect_ring(m)
        self._connect_vector_memories(m)
        connect_ranking(m, config)
        if config.has_ternary:  # whose scores are those of a ternary head
            connect_shortlist(m, config)
        self._connect_operands(m)
        self._connect_memory_writes(m)
        for number, axi in enumerate(self.m_axi):
            connect(m, mem.axi[number], flipped(axi))
        self._connect_errors(m, mem, registers)
        self._connect_activity(m)
        self._connect_counters(m, stream_ready)
        self._connect_trace(m)
        if config.probe:
            self._connect_observer(m)
        return m

    def _connect_control(self, m: Module) -> None:
        """Registers start the pass and say what it is; sequencer, memory and KV writer ask them."""
        registers, mem, sequencer = m.submodules.registers, m.submodules.memory, m.submodules.sequencer
        attention, kv_writer, vector = m.submodules.attention, m.submodules.kv_writer, m.submodules.vector
        connect(m, flipped(self.s_axi), registers.bus)
        connect(m, registers.current, mem.current)
        connect(m, mem.tokens, registers.tokens)
        connect(m, vector.want, registers.want)
        connect(m, mem.pages, registers.pages[0])
        connect(m, kv_writer.pages, registers.pages[1])
        for runs, table in zip((mem.runs, kv_writer.runs, *attention.runs), registers.runs, strict=True):
            connect(m, runs, table)
        if self.config.kv_budget:
            connect(m, mem.choice, attention.chosen)
            m.d.comb += [mem.choice_done.eq(attention.choice_done), sequencer.current.chooses.eq(registers.current.chooses)]
        connect(m, mem.descriptors, sequencer.descriptors)
        m.d.comb += [
            self.irq.eq(registers.irq),
            mem.start.eq(registers.begin),
            mem.program.eq(registers.program),
            mem.port_enable.eq(registers.port_enable),
            sequencer.current.tokens.eq(registers.current.tokens),
            sequencer.current.runs.eq(registers.current.runs),
            sequencer.current.wanted.eq(registers.current.wanted),
            sequencer.write_logits.eq(registers.write_logits),
            sequencer.logits.eq(registers.logits),
            sequencer.quiet.eq(mem.quiet),
            registers.unasked.eq(mem.unasked),
            registers.current_operator.eq(sequencer.tag),
            mem.hold.eq(sequencer.hold),
            mem.rewind.eq(sequencer.rewind),
        ]

    def _connect_stop(self, m: Module) -> None:
        """STOP: the sequencer pauses, the memory system halts, and both forget what they hold of the program."""
        stop, registers, mem, sequencer = m.submodules.stop, m.submodules.registers, m.submodules.memory, m.submodules.sequencer
        m.d.comb += [
            stop.request.eq(registers.stop),
            stop.finished.eq(sequencer.finished),
            stop.spoiled.eq(registers.error),
            registers.finished.eq(stop.ended),
            stop.running.eq(sequencer.running),
            stop.drained.eq(mem.drained),
            sequencer.pause.eq(stop.pause),
            sequencer.flush.eq(stop.flush),
            mem.halt.eq(stop.halt),
            registers.stopped.eq(stop.stopped),
        ]

    def _connect_units(self, m: Module) -> None:
        """The sequencer starts the units and hears when they are done."""
        sequencer, parts = m.submodules.sequencer, m.submodules
        units: dict[Unit, Any] = {
            Unit.LOADER: parts.loader, Unit.VECTOR: parts.vector, Unit.LINEAR: parts.linear, Unit.ATTENTION: parts.attention,
            Unit.KV_WRITER: parts.kv_writer,
        }
        for bit, unit in units.items():
            connect(m, sequencer.ops[bit], unit.op)
            m.d.comb += [unit.start.eq(sequencer.starts[bit]), sequencer.dones[bit].eq(unit.done)]

    def _connect_ring(self, m: Module) -> Signal:
        """Rows and beats of the ring to its readers; returns whether one is ready. Units that are idle are never ready, so that
        all of them may see what is offered."""
        linear, loader, attention = m.submodules.linear, m.submodules.loader, m.submodules.attention
        readers = (loader.beats, attention.beats)
        beats = RowToBeats(self.config, len(readers))
        m.submodules.beats = ResetInserter(m.submodules.stop.flush)(beats)
        connect(m, m.submodules.memory.rows, beats.rows)
        connect(m, beats.whole, linear.rows)
        for ours, theirs in zip(beats.beats, readers, strict=True):
            connect(m, ours, theirs)
        stream_ready = Signal()
        m.d.comb += stream_ready.eq(loader.beats.ready | attention.beats.ready)
        return stream_ready

    def _connect_vector_memories(self, m: Module) -> None:
        """Scratch and parameters. Writers never meet: of loader, vector and attention unit one runs at a time (`OPERATORS`)."""
        config, vector, loader, attention = self.config, m.submodules.vector, m.submodules.loader, m.submodules.attention
        vector_bits = 32 * config.width
        m.submodules.scratch = scratch = VectorMemory(config.scratch_vectors, vector_bits, config.scratch_memory)
        m.submodules.param = param = VectorMemory(config.param_vectors, vector_bits, "block")
        connect(m, vector.scratch_read, scratch.read)
        connect(m, vector.param_read, param.read)
        connect(m, loader.param_write, param.write)
        m.d.comb += scratch.write.valid.eq(vector.scratch_write.valid | loader.scratch_write.valid | attention.scratch_write.valid)
        for name in ("addr", "data"):
            m.d.comb += getattr(scratch.write, name).eq(
                Mux(loader.scratch_write.valid, getattr(loader.scratch_write, name),
                    Mux(attention.scratch_write.valid, getattr(attention.scratch_write, name), getattr(vector.scratch_write, name)))
            )

    def _connect_operands(self, m: Module) -> None:
        """Activations, accumulators, queries, keys and values. The KV writer and the attention unit never run together."""
        sequencer, vector, linear = m.submodules.sequencer, m.submodules.vector, m.submodules.linear
        attention, store, kv_writer = m.submodules.attention, m.submodules.store, m.submodules.kv_writer
        connect(m, vector.activation, linear.activation)
        connect(m, vector.accumulator, linear.accumulator)
        if self.config.engine == "both":
            m.d.comb += linear.fp8_read.eq((sequencer.ops[Unit.VECTOR].descriptor.format & Format.FP8).any())
        connect(m, vector.query, attention.query)
        connect(m, vector.query_scale, attention.query_scale)
        connect(m, vector.kv, store.kv)
        connect(m, vector.kv_scale, store.kv_scale)
        writing_kv = sequencer.running[Unit.KV_WRITER]
        for name in ("value", "head", "head_vectors", "dim", "bank", "turn"):
            of_writer, of_unit = getattr(kv_writer.store, name), getattr(attention.store, name)
            m.d.comb += getattr(store.read, name).eq(Mux(writing_kv, of_writer, of_unit))
        for reader in (kv_writer, attention):
            m.d.comb += [reader.store.data.eq(store.read.data), reader.store.scales.eq(store.read.scales)]

    def _connect_memory_writes(self, m: Module) -> None:
        """Segments and beats of the KV writer while it runs, else logits: it never begins while DRAIN runs, which waits for it."""
        mem, ranking, kv_writer = m.submodules.memory, m.submodules.ranking, m.submodules.kv_writer
        writing_kv = m.submodules.sequencer.running[Unit.KV_WRITER]
        for stream, of_kv, of_logits in (
            (mem.segments, kv_writer.segment, ranking.segment), (mem.beats, kv_writer.beats, ranking.beats),
        ):
            m.d.comb += [
                stream.valid.eq(Mux(writing_kv, of_kv.valid, of_logits.valid)),
                stream.p.eq(Mux(writing_kv, of_kv.p, of_logits.p)),
                of_kv.ready.eq(stream.ready & writing_kv),
                of_logits.ready.eq(stream.ready & ~writing_kv),
            ]

    def _connect_activity(self, m: Module) -> None:
        """What the linear engine does in every cycle."""
        registers, sequencer, linear = m.submodules.registers, m.submodules.sequencer, m.submodules.linear
        m.submodules.activity = activity = EngineActivity(self.config)
        m.d.comb += [
            activity.busy.eq(registers.busy),
            activity.running.eq(sequencer.running),
            activity.row.eq(linear.rows.valid & linear.rows.ready),
            activity.gang.eq(sequencer.ops[Unit.LINEAR].gang),
            activity.waits_for_tables.eq(linear.waiting_tables),
            activity.waits_for_row.eq(linear.waiting_row),
        ]

    def _connect_counters(self, m: Module, stream_ready: Signal) -> None:
        registers, mem, sequencer = m.submodules.registers, m.submodules.memory, m.submodules.sequencer
        m.submodules.counters = counters = Counters(self.config)
        events: dict[str, ValueLike] = {
            "cycles": registers.busy,
            "stream_beats": mem.ring_beat,
            "ring_full": mem.ring_full,
            "ring_empty": m.submodules.linear.waiting_row | (stream_ready & ~mem.rows.valid),
            "write_beats": mem.write_beat,
            "operators": sequencer.retire,
            **{name: m.submodules.activity.causes[bit] for bit, (name, _) in enumerate(ENGINE_COUNTERS)},
        }
        m.d.comb += [
            counters.clear.eq(registers.start),
            counters.events.eq(Cat(events[name] for name, _ in COUNTERS)),
            counters.running.eq(sequencer.running),
            *(opcode.eq(op.descriptor.opcode) for opcode, op in zip(counters.opcodes, sequencer.ops, strict=True)),
            counters.port_busy.eq(mem.read_word),
            counters.port_stall.eq(mem.read_stall),
            *(registers.counters[i].eq(value) for i, value in enumerate(counters.values)),
        ]

    def _connect_trace(self, m: Module) -> None:
        registers, mem, sequencer = m.submodules.registers, m.submodules.memory, m.submodules.sequencer
        m.submodules.trace = trace = TraceMemory(self.config)
        connect(m, sequencer.retired, trace.retired)
        m.d.comb += [
            trace.clear.eq(registers.start),
            trace.starts.eq(sequencer.starts),
            trace.retire.eq(sequencer.retire),
            trace.level.eq(mem.ring_level),
            trace.index.eq(registers.trace_index),
            registers.trace_count.eq(trace.count),
            registers.trace_word.eq(trace.word),
        ]

    def _connect_observer(self, m: Module) -> None:
        """What the operators read and write, for co-simulation."""
        sequencer, vector = m.submodules.sequencer, m.submodules.vector
        m.submodules.observer = observer = Observer(self.config)
        watched = {
            "scratch": m.submodules.scratch.write, "param": m.submodules.param.write, "activation": vector.activation,
            "query": vector.query,
            "query_scale": vector.query_scale, "kv": vector.kv, "kv_scale": vector.kv_scale, "accumulator": vector.accumulator,
        }
        for name, bus in watched.items():
            target = getattr(observer, name)
            m.d.comb += [getattr(target, member).eq(getattr(bus, member)) for member in target.signature.members]
        m.d.comb += [
            observer.accumulator_data.eq(vector.accumulator.data),
            observer.running.eq(sequencer.running[Unit.VECTOR]),
            observer.opcode.eq(sequencer.ops[Unit.VECTOR].descriptor.opcode),
            self.retire_valid.eq(sequencer.retire),
            self.retire_index.eq(sequencer.retired.tag),
        ]
        connect(m, observer.probe, flipped(self.probe))

    def _connect_errors(self, m: Module, mem: MemorySystem, registers: RegisterFile) -> None:
        ports = self.config.ports
        m.submodules.errors = errors = ErrorLatch(ports + 2)
        for source, report in zip(errors.sources, [*mem.read_errors, mem.program_error, mem.write_error], strict=True):
            m.d.comb += [source.valid.eq(report.valid), source.resp.eq(report.resp)]
        m.d.comb += [
            errors.clear.eq(registers.start),
            registers.error.eq(errors.valid),
            registers.error_response.eq(errors.resp),
            # Sources: read of every port, program and write (both on port 0).
            registers.error_write.eq(errors.source == ports + 1),
            registers.error_port.eq(Mux(errors.source >= ports, 0, errors.source)),
            errors.operator.eq(registers.current_operator),
            registers.error_operator.eq(errors.at),
        ]

    def ports(self) -> dict[str, tuple[Any, Flow]]:
        """Flat port names of the top module."""
        result = flat_ports("s", self.s_axi)
        for number, axi in enumerate(self.m_axi):
            result |= flat_ports(f"m{number:02d}", axi)
        result["irq"] = (self.irq, Out)
        if self.config.probe:
            signature: Any = self.probe.signature
            for path, member, value in signature.flatten(self.probe):
                result["_".join(("probe", *map(str, path)))] = (value, member.flow)
            result |= {"probe_retire_valid": (self.retire_valid, Out), "probe_retire_index": (self.retire_index, Out)}
        return result


#: Source locations, which would make the text depend on where code stands, and the rows of all-zero initial contents.
_NOISE = re.compile(
    r'^\s*\(\* (?:src|generator) = ".*" \*\)\n|^/\* .* \*/\n|^ *initial begin\n(?: *\S+ ?\[\d+\] = \d+\'[dh]0+;\n)+ *end\n',
    re.MULTILINE,
)


def generate(config: BuildConfig) -> str:
    """Verilog of the accelerator: module `TOP` with clock ``clk``, synchronous reset ``rst``, and the ports of
    `Accelerator.ports`. The same configuration gives the same text."""
    accelerator = Accelerator(config)
    direction = {In: PortDirection.Input, Out: PortDirection.Output}
    tree = ResetTree(accelerator)
    ports = {name: (value, direction[flow]) for name, (value, flow) in accelerator.ports().items()}
    ports |= {"clk": (tree.clk, PortDirection.Input), "rst": (tree.rst, PortDirection.Input)}
    text = verilog.convert(tree, name=TOP, ports=ports, emit_src=False)
    return _NOISE.sub("", text)
