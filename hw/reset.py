"""The reset of the accelerator: registered on its way in, then once more for every unit."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Fragment, Module, Signal

__all__ = ["ResetTree"]


class ResetTree(Elaboratable):
    """``design`` with a reset register for each of its units, so that no net of the reset has the loads of two, and in simulation
    no logic that depends on the reset input.

    ::

        rst --> root --+--> leaf of the first unit   --> its registers
                       +--> leaf of the second unit  --> its registers
                       ...

    All units enter and leave the reset in the same cycle, `LATENCY` cycles after ``rst``. ``design`` itself has no registers
    outside its units.

    Members
    -------
    clk, rst : In(1)
        Clock, and a reset that is synchronous to it.
    """

    #: Cycles from ``rst`` to the reset of the units.
    LATENCY = 2

    def __init__(self, design: Any) -> None:
        self.design = design
        self.clk = Signal()
        self.rst = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.root = ClockDomain(reset_less=True)
        root = Signal(name="reset_root", init=1)
        m.d.comb += ClockSignal("root").eq(self.clk)
        m.d.root += root.eq(self.rst)
        fragment = Fragment.get(self.design, platform)
        for unit, _, _ in fragment.subfragments:
            self._add_leaf(unit, root)
        m.submodules.design = fragment
        return m

    def _add_leaf(self, unit: Fragment, root: Signal) -> None:
        """Give ``unit`` a clock domain of its own, whose reset is a register behind ``root``."""
        sync = ClockDomain("sync", local=True)
        sync.clk = self.clk
        # Equal registers are not to be merged into one.
        sync.rst = Signal(name="rst", init=1, reset_less=True, attrs={"keep": "true", "dont_touch": "true"})
        unit.add_domains(sync)
        unit.add_statements("sync", sync.rst.eq(root))
