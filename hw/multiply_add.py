"""A multiplier with an adder behind it, and one in front: what one DSP48E2 slice computes (AMD UG579, chapter 2).

`hwgen report` takes a module for one slice by the ``multiply_add`` in its name.
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["A_BITS", "MultiplyAccumulate", "MultiplyAdd", "PreAddMultiplyAdd"]

A_BITS = 27
B_BITS = 18
RESULT_BITS = 48


def _multiply_and_add(m: Module, unit: MultiplyAdd | PreAddMultiplyAdd, a: Value, b: Value) -> None:
    """Cycles 1 and 2: the product of ``a`` and ``b``, or 0, in its register, and its sum with the addend in that of the result."""
    product = Signal(signed(A_BITS + B_BITS), reset_less=True)
    m.d.sync += [product.eq(a * b), unit.result.eq(product + unit.addend)]
    with m.If(unit.clear):
        m.d.sync += product.eq(0)


class MultiplyAdd(wiring.Component):
    """``result = a * b + addend``, a product a cycle; all registers have their place in the DSP slice.

    ::

        cycle   0           1           2           3
                (operands)  multiply    add         result

    Members
    -------
    a, b : In
        Signed, in cycle 1. With ``operand_registers``, ``a`` is in cycle 0, and ``b`` passes two registers.
    clear : In(1)
        In cycle 1: the product is 0 (the reset of its register).
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
            "clear": In(1),
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
        _multiply_and_add(m, self, a, b)
        return m


class PreAddMultiplyAdd(wiring.Component):
    """``result = (d + a) * b + addend``, or ``(d - a) * b + addend``; all registers have their place in the DSP slice. No reset.

    ::

        cycle   0           1           2           3
                d +- a      multiply    add         result

    Members
    -------
    d, a : In
        Signed, in cycle 0; their sum, or difference, has the bits of one of them.
    subtract : In(1)
        In cycle 0: ``a`` is subtracted.
    enable : In(1)
        In cycle 0: the register of the sum takes a new one.
    b, clear, addend, result
        As of `MultiplyAdd`.
    """

    def __init__(self) -> None:
        super().__init__({
            "d": In(signed(A_BITS)),
            "a": In(signed(A_BITS)),
            "subtract": In(1),
            "enable": In(1),
            "b": In(signed(B_BITS)),
            "clear": In(1),
            "addend": In(signed(RESULT_BITS)),
            "result": Out(signed(RESULT_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total = Signal(signed(A_BITS), reset_less=True)
        with m.If(self.enable):
            with m.If(self.subtract):
                m.d.sync += total.eq(self.d - self.a)
            with m.Else():
                m.d.sync += total.eq(self.d + self.a)
        _multiply_and_add(m, self, total, self.b)
        return m


class MultiplyAccumulate(wiring.Component):
    """``result = result + a * b``, or ``a * b``, a product a cycle; all registers have their place in the DSP slice. No reset.

    ::

        cycle   0           1           2           3
                (operands)  multiply    add         result

    Members
    -------
    a, b : In
        Signed, in cycle 0.
    first : In(1)
        In cycle 1: their product is not added to the result before it.
    result : Out
        In cycle 3.
    """

    def __init__(self) -> None:
        super().__init__({
            "a": In(signed(A_BITS)), "b": In(signed(B_BITS)), "first": In(1), "result": Out(signed(RESULT_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = (Signal.like(port, name=f"{port.name}_register", reset_less=True) for port in (self.a, self.b))
        first, product = Signal(reset_less=True), Signal(signed(A_BITS + B_BITS), reset_less=True)
        m.d.sync += [
            a.eq(self.a), b.eq(self.b), first.eq(self.first), product.eq(a * b),
            self.result.eq(product + Mux(first, 0, self.result)),
        ]
        return m
