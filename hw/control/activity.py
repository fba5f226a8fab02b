"""What the linear engine does in every cycle of a pass, and if nothing, why."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...operators import Unit
from ...registers import ENGINE_COUNTERS

__all__ = ["EngineActivity"]


class EngineActivity(wiring.Component):
    """Attributes each cycle of a pass to exactly one of `hwgen.registers.ENGINE_COUNTERS`, the first that applies in their order,
    ``groups`` cycles after it: only when a row is taken is it known that the cycles before were spent on its beats.

    Members
    -------
    busy : In(1)
        A pass is running.
    running : In, one bit a `Unit`
    row : In(1)
        The engine takes a ring row. With ``gang`` it works on it in this cycle, else in this one and the ``groups - 1`` before.
    gang : In(1)
    waits_for_tables : In(1)
        The engine waits for its tables.
    waits_for_row : In(1)
        The engine was ready for a row in the cycle before, and there was none.
    causes : Out, one bit a counter of `ENGINE_COUNTERS`, in their order
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "busy": In(1),
            "running": In(len(Unit)),
            "row": In(1),
            "gang": In(1),
            "waits_for_tables": In(1),
            "waits_for_row": In(1),
            "causes": Out(len(ENGINE_COUNTERS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        groups = self.config.groups
        late: dict[str, Value] = {}
        for name, value in (("busy", self.busy), ("running", self.running), ("tables", self.waits_for_tables),
                            ("no_row", self.waits_for_row), ("gang_row", self.row & self.gang)):
            for stage in range(groups - (name == "no_row")):
                later = Signal(len(value), name=f"{name}_{stage}")
                m.d.sync += later.eq(value)
                value = later
            late[name] = value
        left = Signal(range(groups + 1))
        with m.If(self.row & ~self.gang):
            m.d.sync += left.eq(groups)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        running = late["running"]
        linear = running[Unit.LINEAR]
        applies = {
            "engine_busy": late["gang_row"] | (left != 0),
            "engine_tables": linear & late["tables"],
            "engine_rows": linear & late["no_row"],
            "engine_pipeline": linear,
            "engine_idle_vector": running[Unit.VECTOR],
            "engine_idle_attention": running[Unit.ATTENTION],
            "engine_idle_loader": running[Unit.LOADER],
        }
        earlier = ~late["busy"]
        for bit, (name, _) in enumerate(ENGINE_COUNTERS):
            applying = applies.get(name, 1)  # the last one takes what is left
            m.d.comb += self.causes[bit].eq(~earlier & applying)
            earlier = earlier | applying
        return m
