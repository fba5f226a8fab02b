"""Registers that hold data: without a reset, so that the reset reaches what decides only."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, Value

__all__ = ["data_register"]


def data_register(m: Module, output: Any) -> Any:
    """The register behind ``output``, an output of a component that holds data: it has no reset, and whoever takes the output asks
    a valid bit first. (A member of a signature that is assigned at the clock itself has one.) Assign the register."""
    register = Signal(output.shape(), name=f"{Value.cast(output).name}_register", reset_less=True)
    m.d.comb += output.eq(register)
    return register
