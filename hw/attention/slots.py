"""Table of the query slots of an operator: how far each sees, and where its output goes."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..choice import seen_position
from ..interfaces import Operator, RunRead, index_bits
from .item import AttentionSizes

__all__ = ["RunRounds", "SlotTable"]


def RunRounds(config: BuildConfig) -> data.StructLayout:
    """What a run is for the walk over items: ``first`` and ``last`` round with a slot of it; ``later`` blocks of keys behind its
    first one; ``crossing``: its own tokens reach into a second block."""
    rounds = index_bits(AttentionSizes(config).rounds)
    return data.StructLayout({"first": rounds, "last": rounds, "later": bits_for(config.max_pages), "crossing": 1})


class SlotTable(wiring.Component):
    """Slot ``token * group + g`` is lane ``slot % query_lanes`` of round ``slot // query_lanes``.

    The table is filled once an operator, run by run and one slot a cycle, so that nothing later divides or multiplies.

    Members
    -------
    op : In(Operator), start : In(1), choosing : In(1)
        ``choosing`` in builds with a budget: ATTENTION has CHOOSE.
    runs : Out(RunRead)
    group_vectors : Out
        Vectors of one token's output of one key/value head: ``group * head_vectors``.
    run_index : In;  known : Out(1), run : Out(RunRounds)
        Whether the run was filled in, and what it is, both as of the cycle before.
    reach_round, reach_read : In;  reach : Out per lane
        Position of the token of each lane's slot in round ``reach_round``, counted from the beginning of the block of its run's
        first token; held from the cycle after the strobe on.
    output_round, output_run, output_read : In;  output, active : Out per lane
        Scratch address of each lane's output of key/value head 0, and whether the lane has a slot of run ``output_run``; held
        likewise.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.sizes = AttentionSizes(config)
        rounds, lanes, run = index_bits(self.sizes.rounds), config.query_lanes, index_bits(config.chunk)
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            **({"choosing": In(1)} if config.kv_budget else {}),
            "runs": Out(RunRead(config)),
            "group_vectors": Out(16),
            "run_index": In(run),
            "known": Out(1),
            "run": Out(RunRounds(config)),
            "reach_round": In(rounds),
            "reach_read": In(1),
            "reach": Out(self.sizes.reach_bits).array(lanes),
            "output_round": In(rounds),
            "output_run": In(run),
            "output_read": In(1),
            "output": Out(index_bits(config.scratch_vectors)).array(lanes),
            "active": Out(1).array(lanes),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, command, runs = self.config, self.op.descriptor, self.runs
        block_bits = self.sizes.reach_bits - 1
        heads_left, last_member, member = Signal(8), Signal(8), Signal(8)
        run, filled = Signal.like(runs.index), Signal(bits_for(config.chunk))
        tokens_left, reach = Signal.like(runs.tokens), Signal(self.sizes.reach_bits)
        base, address = Signal(len(self.output[0])), Signal(len(self.output[0]))
        lane, round_ = Signal(max(1, self.sizes.lane_bits)), Signal(len(self.reach_round), name="round")
        active, write, last_lane = Signal(), Signal(), Signal()
        present = Signal(RunRounds(config))
        m.d.comb += [runs.index.eq(run), last_lane.eq(lane == config.query_lanes - 1)]

        position, look = runs.position, "BEGIN"
        if config.kv_budget:
            position, look = Signal.like(runs.position, name="seen"), "SEEN"
            m.d.sync += position.eq(seen_position(config, runs, self.choosing))
        with m.FSM():
            with m.State("READY"), m.If(self.start):
                m.d.sync += [heads_left.eq(command.heads), last_member.eq(-1), self.group_vectors.eq(0), filled.eq(0), run.eq(0)]
                m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.sync += [
                    heads_left.eq(heads_left - command.kv_heads),
                    last_member.eq(last_member + 1),
                    self.group_vectors.eq(self.group_vectors + command.head_vectors),
                    member.eq(0),
                    lane.eq(0),
                    round_.eq(0),
                    base.eq(command.dst),
                    address.eq(command.dst),
                ]
                with m.If(heads_left <= command.kv_heads):
                    m.next = look
            with m.State("RUN"):
                m.next = look
            if config.kv_budget:
                with m.State("SEEN"):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.sync += [
                    tokens_left.eq(runs.tokens),
                    reach.eq(position[:block_bits]),
                    present.first.eq(round_),
                    present.later.eq((position + runs.tokens - 1) >> block_bits),
                    present.crossing.eq((position[:block_bits] + runs.tokens - 1)[block_bits]),
                ]
                m.next = "SCAN"
            with m.State("SCAN"):
                m.d.comb += [write.eq(1), active.eq(1)]
                m.d.sync += [member.eq(member + 1), address.eq(address + command.head_vectors)]
                with m.If(member == last_member):
                    m.d.sync += [member.eq(0), reach.eq(reach + 1), tokens_left.eq(tokens_left - 1)]
                    m.d.sync += [base.eq(base + command.dst_stride), address.eq(base + command.dst_stride)]
                    with m.If(tokens_left == 1):
                        m.d.sync += [run.eq(run + 1), filled.eq(filled + 1)]
                        m.next = "RUN"
                        with m.If(filled + 1 == self.op.runs):
                            m.next = "READY" if config.query_lanes == 1 else "PAD"
                            with m.If(last_lane):
                                m.next = "READY"
            with m.State("PAD"):
                m.d.comb += write.eq(1)
                with m.If(last_lane):
                    m.next = "READY"
        with m.If(write):
            m.d.sync += lane.eq(lane + 1)
            with m.If(last_lane):
                m.d.sync += [lane.eq(0), round_.eq(round_ + 1)]

        self._keep_runs(m, write & active, run, Cat(present.first, round_, present.later, present.crossing), filled)
        self._keep_slots(m, lane, write, round_, reach, Cat(active, run, address))
        return m

    def _keep_runs(self, m: Module, write: Value, run: Signal, present: Value, filled: Signal) -> None:
        """What is known of every run: what its last slot leaves."""
        m.submodules.rounds = kept = memory.Memory(
            shape=len(present), depth=self.config.chunk, init=[], attrs={"ram_style": "distributed"}
        )
        put, get = kept.write_port(), kept.read_port()
        m.d.sync += self.known.eq((self.run_index < filled) & ~self.start)
        m.d.comb += [
            put.en.eq(write),
            put.addr.eq(run),
            put.data.eq(present),
            get.addr.eq(self.run_index),
            self.run.eq(get.data),
        ]

    def _keep_slots(self, m: Module, lane: Signal, write: Signal, round_: Signal, reach: Signal, output: Value) -> None:
        """What is known of every slot, a memory a lane."""
        run_bits = len(self.output_run)
        for i in range(self.config.query_lanes):
            reaches = memory.Memory(shape=len(reach), depth=self.sizes.rounds, init=[])
            outputs = memory.Memory(shape=len(output), depth=self.sizes.rounds, init=[])
            m.submodules[f"reaches_{i}"], m.submodules[f"outputs_{i}"] = reaches, outputs
            put_reach, get_reach = reaches.write_port(), reaches.read_port()
            put_output, get_output = outputs.write_port(), outputs.read_port()
            m.d.comb += [
                put_reach.en.eq(write & (lane == i)),
                put_reach.addr.eq(round_),
                put_reach.data.eq(reach),
                get_reach.addr.eq(self.reach_round),
                get_reach.en.eq(self.reach_read),
                self.reach[i].eq(get_reach.data),
                put_output.en.eq(put_reach.en),
                put_output.addr.eq(round_),
                put_output.data.eq(output),
                get_output.addr.eq(self.output_round),
                get_output.en.eq(self.output_read),
                self.active[i].eq(get_output.data[0] & (get_output.data[1 : 1 + run_bits] == self.output_run)),
                self.output[i].eq(get_output.data[1 + run_bits :]),
            ]
