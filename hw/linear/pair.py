"""Both linear engines behind the ports of one."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Format
from ..interfaces import AccumulatorRead, ActivationWrite, Operator, RowStream
from .engine import LinearEngine
from .int4_engine import Int4Engine
from .panel import connect_inputs

__all__ = ["EnginePair", "linear_engine"]


class EnginePair(wiring.Component):
    """Ternary and INT4 engine, each with its own activations and accumulators: the members of `LinearEngine`.

    LINEAR goes to the INT4 engine with `Format.FP8`. Activations are written to both.

    Members
    -------
    (those of `LinearEngine`)
    fp8_read : In(1)
        Whose accumulators are read; stable from a request to its data.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "done": Out(1),
            "rows": In(RowStream(config)),
            "activation": In(ActivationWrite(config)),
            "accumulator": In(AccumulatorRead(config)),
            "fp8_read": In(1),
            "busy": Out(1),
            "waiting_tables": Out(1),
            "waiting_row": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.ternary_engine = ternary = LinearEngine(self.config)
        m.submodules.int4_engine = int4 = Int4Engine(self.config)
        fp8 = Signal()
        m.d.comb += fp8.eq((self.op.descriptor.format & Format.FP8).any())
        engines: tuple[tuple[Any, Any], ...] = ((ternary, ~fp8), (int4, fp8))
        for engine, mine in engines:
            wiring.connect(m, wiring.flipped(self.op), engine.op)
            connect_inputs(m, engine.activation, self.activation)
            for name in ("half", "gang", "token", "vector"):
                m.d.comb += getattr(engine.accumulator, name).eq(getattr(self.accumulator, name))
            m.d.comb += [
                engine.start.eq(self.start & mine),
                engine.rows.valid.eq(self.rows.valid),
                engine.rows.payload.eq(self.rows.payload),
            ]
        m.d.comb += [
            self.rows.ready.eq(ternary.rows.ready | int4.rows.ready),  # an idle engine is never ready
            self.done.eq(ternary.done | int4.done),
            self.busy.eq(ternary.busy | int4.busy),
            self.waiting_tables.eq(ternary.waiting_tables | int4.waiting_tables),
            self.waiting_row.eq(ternary.waiting_row | int4.waiting_row),
            self.accumulator.data.eq(Mux(self.fp8_read, int4.accumulator.data, ternary.accumulator.data)),
        ]
        return m


def linear_engine(config: BuildConfig) -> LinearEngine | Int4Engine | EnginePair:
    """The linear engines of a build."""
    if config.engine == "both":
        return EnginePair(config)
    return Int4Engine(config) if config.engine == "int4" else LinearEngine(config)
