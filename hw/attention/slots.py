"""Table of the query slots of an operator: how far each sees, and where its output goes."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..interfaces import Operator, index_bits
from .item import AttentionSizes

__all__ = ["SlotTable"]


class SlotTable(wiring.Component):
    """Slot ``token * group + g`` is lane ``slot % query_lanes`` of round ``slot // query_lanes``.

    The table is filled once an operator, one slot a cycle, so that nothing later divides or multiplies.

    Members
    -------
    op : In(Operator), start : In(1)
    ready : Out(1)
        From when the table is complete until the next start.
    last_round : Out
    group_vectors : Out
        Vectors of one token's output of one key/value head: ``group * head_vectors``.
    reach_round, reach_read : In;  reach : Out per lane
        Position of the token of each lane's slot in round ``reach_round``, counted from the beginning of the block of token 0; held
        from the cycle after the strobe on.
    output_round, output_read : In;  output, active : Out per lane
        Scratch address of each lane's output of key/value head 0, and whether the lane has a slot; held likewise.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.sizes = AttentionSizes(config)
        rounds, lanes = index_bits(self.sizes.rounds), config.query_lanes
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "ready": Out(1),
            "last_round": Out(rounds),
            "group_vectors": Out(16),
            "reach_round": In(rounds),
            "reach_read": In(1),
            "reach": Out(self.sizes.reach_bits).array(lanes),
            "output_round": In(rounds),
            "output_read": In(1),
            "output": Out(index_bits(config.scratch_vectors)).array(lanes),
            "active": Out(1).array(lanes),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, command = self.config, self.op.descriptor
        heads_left, last_member = Signal(8), Signal(8)
        token, member = Signal(bits_for(config.chunk)), Signal(8)
        reach = Signal(self.sizes.reach_bits)
        base, address = Signal(len(self.output[0])), Signal(len(self.output[0]))
        lane = Signal(max(1, self.sizes.lane_bits))
        active, write = Signal(), Signal()
        m.d.comb += active.eq(token < self.op.count)

        with m.FSM():
            with m.State("READY"), m.If(self.start):
                m.d.sync += [heads_left.eq(command.heads), last_member.eq(-1), self.group_vectors.eq(0), self.ready.eq(0)]
                m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.sync += [
                    heads_left.eq(heads_left - command.kv_heads),
                    last_member.eq(last_member + 1),
                    self.group_vectors.eq(self.group_vectors + command.head_vectors),
                    token.eq(0),
                    reach.eq(self.op.position[: self.sizes.reach_bits - 1]),
                    member.eq(0),
                    lane.eq(0),
                    self.last_round.eq(0),
                    base.eq(command.dst),
                    address.eq(command.dst),
                ]
                with m.If(heads_left <= command.kv_heads):
                    m.next = "SCAN"
            with m.State("SCAN"):
                m.d.comb += write.eq(1)
                next_token = Signal(len(token))
                m.d.comb += next_token.eq(token)
                with m.If(active):
                    m.d.sync += [member.eq(member + 1), address.eq(address + command.head_vectors)]
                    with m.If(member == last_member):
                        m.d.comb += next_token.eq(token + 1)
                        m.d.sync += [member.eq(0), reach.eq(reach + 1)]
                        m.d.sync += [base.eq(base + command.dst_stride), address.eq(base + command.dst_stride)]
                m.d.sync += [token.eq(next_token), lane.eq(lane + 1)]
                with m.If(lane == config.query_lanes - 1):
                    m.d.sync += lane.eq(0)
                    with m.If(next_token == self.op.count):
                        m.d.sync += self.ready.eq(1)
                        m.next = "READY"
                    with m.Else():
                        m.d.sync += self.last_round.eq(self.last_round + 1)

        for i in range(config.query_lanes):
            reaches = memory.Memory(shape=len(reach), depth=self.sizes.rounds, init=[])
            outputs = memory.Memory(shape=1 + len(address), depth=self.sizes.rounds, init=[])
            m.submodules[f"reaches_{i}"], m.submodules[f"outputs_{i}"] = reaches, outputs
            put_reach, get_reach = reaches.write_port(), reaches.read_port()
            put_output, get_output = outputs.write_port(), outputs.read_port()
            m.d.comb += [
                put_reach.en.eq(write & (lane == i)),
                put_reach.addr.eq(self.last_round),
                put_reach.data.eq(reach),
                get_reach.addr.eq(self.reach_round),
                get_reach.en.eq(self.reach_read),
                self.reach[i].eq(get_reach.data),
                put_output.en.eq(put_reach.en),
                put_output.addr.eq(self.last_round),
                put_output.data.eq(Cat(active, address)),
                get_output.addr.eq(self.output_round),
                get_output.en.eq(self.output_read),
                Cat(self.active[i], self.output[i]).eq(get_output.data),
            ]
        return m
