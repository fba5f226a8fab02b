"""A multiplier with an adder behind it: what one DSP48E2 slice computes."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["MultiplyAdd"]

A_BITS = 27
B_BITS = 18
RESULT_BITS = 48


class MultiplyAdd(wiring.Component):
    """``result = a * b + addend``, a product a cycle; all registers have their place in the DSP slice.

    ::

        cycle   0           1           2           3
                (operands)  multiply    add         result

    Members
    -------
    a, b : In
        Signed, in cycle 1. With ``operand_registers``, ``a`` is in cycle 0, and ``b`` passes two registers.
    addend : In
        Signed, in cycle 2 (``result`` of another slice: its cascade).
    result : Out
        In cycle 3.
    arrive, take : In(1)
        With ``operand_registers`` only: the first register takes ``b`` while ``arrive``, the second takes the first while ``take``,
        in cycle 0 at the latest.
    """

    def __init__(self, *, operand_registers: bool) -> None:
        self.operand_registers = operand_registers
        enables = {"arrive": In(1), "take": In(1)} if operand_registers else {}
        super().__init__({
            "a": In(signed(A_BITS)),
            "b": In(signed(B_BITS)),
            **enables,
            "addend": In(signed(RESULT_BITS)),
            "result": Out(signed(RESULT_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = self.a, self.b
        if self.operand_registers:
            a = Signal.like(self.a, name="a_register", reset_less=True)
            first, b = (Signal.like(self.b, name=name, reset_less=True) for name in ("b_first", "b_second"))
            m.d.sync += a.eq(self.a)
            with m.If(self.arrive):
                m.d.sync += first.eq(self.b)
            with m.If(self.take):
                m.d.sync += b.eq(first)
        product = Signal(signed(A_BITS + B_BITS), reset_less=True)
        m.d.sync += [product.eq(a * b), self.result.eq(product + self.addend)]
        return m
