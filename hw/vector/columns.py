"""Sum of squares in the order of the numerics contract, with the adders of the lanes."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig, ConfigError, nearest_power_of_two
from ...numerics import SUM_COLUMNS
from ..float.add import FloatAdd
from .lane import Addend

__all__ = ["ColumnSum"]

#: Cycles from operands on ``left`` and ``right`` to their sum on ``totals``.
ADD = 1 + FloatAdd.latency


class ColumnSum(wiring.Component):
    """``column_sum(x^2) / n + eps`` of a token; the lanes add, this unit remembers and decides what is added next.

    The 128 columns are ways x lanes. A way is the row of one vector; it comes round every ``ways`` cycles at the
    earliest, which must not be before its last sum was written::

        cycle  0          1         ADD          ADD + 1
               read way   operands  sum, write   may be read

    Then way ``c`` is added way ``c + s`` for s = ways / 2, ..., 1, where that one was written (the others count as 0).
    The right operand is read a cycle before the left: one read port is enough. Last, lanes of way 0 are added likewise.

    Members
    -------
    valid, last : In(1)
        The squares of one vector are on the lanes' second product; they are the token's last.
    inverse_n, epsilon : In(32)
        Sampled with ``last``.
    addend : Out(Addend), left, right : Out
        Operands of the lanes' adders in every cycle in which no other step adds; none may add from ``last`` until the variance is
        there.
    totals : In
        Sums of all lanes.
    mean_valid : Out(1), sum, inverse_n_held : Out(32)
        Strobe: multiply ``sum`` by ``inverse_n_held``.
    product_valid : In(1), product : In(32)
        The answer, some cycles later.
    variance_valid : Out(1), variance : Out(32), variance_ready : In(1)
        The result, until ``variance_ready``.
    busy : Out(1)
        From the first vector until the result was taken.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.width = config.width
        self.ways = self.ways_of(config)
        super().__init__({
            "valid": In(1),
            "last": In(1),
            "inverse_n": In(32),
            "epsilon": In(32),
            "addend": Out(Addend),
            "left": Out(32 * self.width),
            "right": Out(32 * self.width),
            "totals": In(32 * self.width),
            "mean_valid": Out(1),
            "sum": Out(32),
            "inverse_n_held": Out(32),
            "product_valid": In(1),
            "product": In(32),
            "variance_valid": Out(1),
            "variance": Out(32),
            "variance_ready": In(1),
            "busy": Out(1),
        })

    @staticmethod
    def ways_of(config: BuildConfig) -> int:
        """Vectors that the columns are: refuses a ``config`` with so wide ones that a way returns too early."""
        ways: int = SUM_COLUMNS // config.width
        if ways >= ADD + 1:
            return ways
        widest = nearest_power_of_two(SUM_COLUMNS // (ADD + 1))
        raise ConfigError(
            f"beat_bytes must be small enough for vectors of {widest} elements, or a sum comes round before the adder "
            f"has it, not {config.beat_bytes!r}; the nearest legal value is {4 * widest * config.beat_vectors!r}"
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.columns = columns = memory.Memory(
            shape=32 * self.width, depth=self.ways, init=[], attrs={"ram_style": "distributed"}
        )
        write, read = columns.write_port(), columns.read_port(domain="comb")

        way = Signal(range(self.ways))
        filled = Signal(range(self.ways + 1))  # ways that hold a sum of this token, from 0 on
        stride = Signal(range(self.ways))  # distance of the ways added next, a power of two; else 0
        right_held = Signal()  # the right operand is in place
        fold = Signal(range(self.width))  # distance of the lanes added next, a power of two; else 0
        wait = Signal(range(ADD))
        epsilon = Signal(32, reset_less=True)
        mean_added = Signal()
        begun = Signal()

        issue = Signal()  # the operands' sum is written to `way`
        for_column, full = Signal(), Signal()
        m.d.comb += [
            for_column.eq(self.valid | issue),
            full.eq(filled[-1]),
            read.addr.eq(way | Mux(right_held, 0, stride)),
            self.sum.eq(read.data[:32]),
        ]

        self._write_sums(m, write, way, for_column)

        m.d.comb += [self.left.eq(read.data), self.right.eq(read.data), self.busy.eq(1)]
        for bit in range(len(fold)):
            with m.If(fold[bit]):
                m.d.comb += self.right[: 32 << bit].eq(read.data[32 << bit :])
        with m.FSM(name="state"):
            with m.State("ACCUMULATE"):
                m.d.comb += [self.busy.eq(begun), self.addend.eq(Mux(full, Addend.SQUARE, Addend.FIRST_SQUARE))]
                with m.If(self.valid):
                    m.d.sync += [way.eq(way + 1), filled.eq(Mux(full, filled, filled + 1)), begun.eq(1)]
                with m.If(self.valid & self.last):
                    m.d.sync += [
                        way.eq(0),
                        stride.eq(self.ways // 2),
                        mean_added.eq(0),
                        self.inverse_n_held.eq(self.inverse_n),
                        epsilon.eq(self.epsilon),
                    ]
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.d.sync += wait.eq(wait + 1)
                with m.If(wait == ADD - 1):
                    m.d.sync += wait.eq(0)
                    with m.If(mean_added):
                        m.d.sync += self.variance.eq(self.totals[:32])
                        m.next = "OFFER"
                    with m.Elif(stride.any()):
                        m.next = "WAYS"
                    with m.Elif(fold.any()):
                        m.next = "LANES"
                    with m.Else():
                        m.next = "MEAN"
            with m.State("WAYS"):
                self._add_ways(m, way, filled, stride, right_held, fold, issue)
            with m.State("LANES"):
                m.d.comb += issue.eq(1)
                m.d.sync += fold.eq(fold >> 1)
                m.next = "SETTLE"
            with m.State("MEAN"):
                m.d.comb += self.mean_valid.eq(1)
                m.next = "EPSILON"
            with m.State("EPSILON"):
                m.d.comb += [self.left[:32].eq(self.product), self.right[:32].eq(epsilon)]
                with m.If(self.product_valid):
                    m.d.sync += mean_added.eq(1)
                    m.next = "SETTLE"
            with m.State("OFFER"):
                m.d.comb += self.variance_valid.eq(1)
                with m.If(self.variance_ready):
                    m.d.sync += [filled.eq(0), begun.eq(0)]
                    m.next = "ACCUMULATE"
        return m

    def _add_ways(
        self, m: Module, way: Signal, filled: Signal, stride: Signal, right_held: Signal, fold: Signal, issue: Signal
    ) -> None:
        """State that adds to every way the one at distance ``stride``, in two cycles: its right operand, its left."""
        last_way = way + stride + 1 == filled
        with m.If(filled > stride):
            m.d.sync += right_held.eq(~right_held)
            with m.If(right_held):
                m.d.comb += [issue.eq(1), self.addend.eq(Addend.COLUMNS_HELD)]
                m.d.sync += way.eq(Mux(last_way, 0, way + 1))
                with m.If(last_way):
                    m.d.sync += filled.eq(stride)
                    m.next = "SETTLE"
        with m.Elif(stride == 1):  # nothing to add at this distance
            m.next = "LANES"
        with m.If((filled <= stride) | (right_held & last_way)):
            m.d.sync += stride.eq(stride >> 1)
            with m.If(stride == 1):
                m.d.sync += fold.eq(self.width // 2)

    def _write_sums(self, m: Module, write: memory.WritePort, way: Signal, for_column: Signal) -> None:
        """A sum goes back to its way when it leaves the adder."""
        written = Signal(ADD)
        target = Signal(ADD * len(way), reset_less=True)
        m.d.sync += [written.eq(Cat(for_column, written)), target.eq(Cat(way, target))]
        m.d.comb += [write.en.eq(written[-1]), write.addr.eq(target[-len(way) :]), write.data.eq(self.totals)]
