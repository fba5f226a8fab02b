"""Probe outputs for co-simulation (``config.probe``)."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import BuildConfig
from ..descriptors import Opcode
from ..probes import probes
from .interfaces import (
    ACCUMULATOR_LATENCY,
    AccumulatorRead,
    ActivationWrite,
    KvScaleWrite,
    KvWrite,
    MemoryWrite,
    QueryScaleWrite,
    QueryWrite,
    index_bits,
)

__all__ = ["Observer", "ProbeOutputs"]


def ProbeOutputs(config: BuildConfig) -> wiring.Signature:
    """One member a probe of `hwgen.probes.probes`."""
    return wiring.Signature({
        probe.name: Out(wiring.Signature({
            "valid": Out(probe.lanes), "addr": Out(index_bits(probe.depth)), "data": Out(probe.lanes * probe.word_bits),
        }))
        for probe in probes(config)
    })


class Observer(wiring.Component):
    """Watches the write buses of the units and shows them as probes, without delay. Accumulators appear when DRAIN reads
    them, ``ACCUMULATOR_LATENCY`` cycles after the request.

    Members
    -------
    scratch, param, activation, query, query_scale, kv, kv_scale : In
        The buses.
    accumulator : In(AccumulatorRead), flipped data
        Requests and answers of the vector unit.
    running, opcode : In
        The vector unit executes an operator, and which.
    probe : Out(ProbeOutputs)
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        vector_bits = 32 * config.width
        request = {name: member for name, member in AccumulatorRead(config).members.items() if name != "data"}
        super().__init__({
            "scratch": In(MemoryWrite(config.scratch_vectors, vector_bits)),
            "param": In(MemoryWrite(config.param_vectors, vector_bits)),
            "activation": In(ActivationWrite(config)),
            "query": In(QueryWrite(config)),
            "query_scale": In(QueryScaleWrite(config)),
            "kv": In(KvWrite(config)),
            "kv_scale": In(KvScaleWrite(config)),
            "accumulator": In(wiring.Signature(request)),
            "accumulator_data": In(config.width * config.acc_bits),
            "running": In(1),
            "opcode": In(8),
            "probe": Out(ProbeOutputs(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        head_vectors = config.max_head_dim // config.width

        def show(name: str, valid: ValueLike, addr: ValueLike, data: ValueLike) -> None:
            output = getattr(self.probe, name)
            m.d.comb += [output.valid.eq(Mux(valid, -1, 0)), output.addr.eq(addr), output.data.eq(data)]

        for name in ("scratch", "param"):
            bus = getattr(self, name)
            show(name, bus.valid, bus.addr, bus.data)

        # Both halves of a memory, all token lanes of a half, all vectors of a token.
        activation = self.activation
        token = activation.half * config.tokens + activation.token
        show("act", activation.valid, token * (config.max_inputs // config.width) + activation.addr, activation.data)

        request = self.accumulator
        # Behind the last vector, and the last token, stands a request that nobody waits for.
        there = (request.vector < config.panel_vectors) & (request.token < config.tokens)
        valid = self.running & (self.opcode == Opcode.DRAIN) & there
        addr = (request.half * config.tokens + request.token) * config.panel_vectors + request.vector
        for stage in range(ACCUMULATOR_LATENCY):
            later_valid, later_addr = Signal(name=f"valid{stage}"), Signal(len(addr), name=f"addr{stage}")
            m.d.sync += [later_valid.eq(valid), later_addr.eq(addr)]
            valid, addr = later_valid, later_addr
        show("acc", valid, addr, self.accumulator_data)

        query, scale = self.query, self.query_scale
        show("query", query.valid, (query.slot * query.kv_heads + query.kv_head) * query.head_vectors + query.vector, query.data)
        show("query_scale", scale.valid, scale.slot * scale.kv_heads + scale.kv_head, scale.scale)
        kv, kv_scale = self.kv, self.kv_scale
        place = (kv.bank * 2 + kv.value) * config.max_kv_heads + kv.head
        show("kv", kv.valid, place * head_vectors + kv.vector, kv.data)
        show("kv_scale", kv_scale.valid, (kv_scale.bank * 2 + kv_scale.value) * config.max_kv_heads + kv_scale.head, kv_scale.scale)
        return m
