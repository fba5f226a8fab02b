"""Third stage of attention: weighted sums of the values, their running float32 sums, and the output."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...numerics import F32_MAX_BITS, F32_MIN_EXPONENT
from ...rounding import ceil_div
from ..data_register import data_register
from ..float.add import FloatAdd
from ..float.convert import IntToFloat
from ..float.multiply import FloatMul
from ..interfaces import MemoryWrite, Operator, index_bits
from .item import AttentionSizes, ItemLayout, delayed

__all__ = ["ValueLane", "ValueStage"]


def tree_sum(m: Module, terms: Sequence[Value], enables: Sequence[Value], name: str) -> Value:
    """Sum of a power of two of signed terms, registered after every two levels; stage ``i`` moves with ``enables[i]``."""
    stage = 0
    while len(terms) > 1:
        fan = min(4, len(terms))
        sums = []
        for i in range(0, len(terms), fan):
            total = Signal(signed(len(terms[0]) + (fan - 1).bit_length()), name=f"{name}_{stage}_{i}", reset_less=True)
            with m.If(enables[stage]):
                m.d.sync += total.eq(sum(terms[i + 1 : i + fan], start=terms[i]))
            sums.append(total)
        terms = sums
        stage += 1
    return terms[0]


def scale_power(number: Value, exponent: Value) -> Value:
    """``fmul(number, 2^(exponent - 127))``, 0 for ``exponent`` 0; ``number`` is 0 or at least 1 in magnitude."""
    biased = number[23:31] + exponent - 127
    scaled = Mux(biased > 254, F32_MAX_BITS, Cat(number[:23], biased[:8]))
    nothing = (number[23:31] == 0) | (exponent == 0) | (biased < F32_MIN_EXPONENT)
    return Mux(nothing, 0, Cat(scaled[:31], number[31]))


class ValueLane(wiring.Component):
    """``o = fadd(fmul(o, factor), fmul(int_to_f32(sum W v), 2^(power - 127)))`` for ``key_bytes`` dimensions a cycle.

    Members
    -------
    value : In
        One value beat, ``key_bytes`` elements of every key.
    weights : In
        16 bits a key.
    valid : In(1)
        ``value`` and ``weights`` hold a beat.
    power : In(8)
        ``power_at`` cycles after ``valid``.
    word : In, factor : In(32)
        Word of ``o`` and its factor, ``factor_at`` cycles after ``valid`` (``word`` two cycles earlier).
    store : In(1), store_word : In
        Write the sum that left the adder, ``store_at`` cycles after ``valid``.
    product : Out
        ``fmul(o, factor)`` of every dimension, ``product_at`` cycles after ``valid``.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.sizes = AttentionSizes(config)
        self.levels = ceil_div((config.kv_block - 1).bit_length(), 2)
        self.power_at = 1 + self.levels + IntToFloat.latency
        self.product_at = self.power_at + 1
        self.factor_at = self.product_at - FloatMul.latency
        self.store_at = self.product_at + FloatAdd.latency
        word = index_bits(self.sizes.output_words)
        super().__init__({
            "value": In(8 * config.beat_bytes),
            "weights": In(16 * config.kv_block),
            "valid": In(1),
            "power": In(8),
            "word": In(word),
            "factor": In(32),
            "store": In(1),
            "store_word": In(word),
            "product": Out(32 * config.key_bytes),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        shape = 32 * config.key_bytes
        m.submodules.outputs = outputs = memory.Memory(
            shape=shape, depth=self.sizes.output_words, init=[], attrs={"ram_style": config.scratch_memory}
        )
        put, get = outputs.write_port(), outputs.read_port()
        old = Signal(shape, reset_less=True)
        m.d.sync += old.eq(get.data)
        m.d.comb += [get.addr.eq(self.word), put.en.eq(self.store), put.addr.eq(self.store_word)]
        valid = delayed(m, self.valid, self.levels, "valid")
        for i in range(config.key_bytes):
            products: list[Value] = []
            for key in range(config.kv_block):
                product = Signal(signed(24), name=f"product_{i}_{key}", reset_less=True)
                weight = self.weights.word_select(key, 16)
                with m.If(self.valid):
                    m.d.sync += product.eq(weight * self.value.word_select(key * config.key_bytes + i, 8).as_signed())
                products.append(product)
            total = tree_sum(m, products, valid[1:], f"sum_{i}")
            m.submodules[f"convert_{i}"] = convert = IntToFloat(len(total))
            m.submodules[f"multiply_{i}"] = multiply = FloatMul()
            m.submodules[f"add_{i}"] = add = FloatAdd()
            scaled = Signal(32, name=f"scaled_{i}", reset_less=True)
            m.d.sync += scaled.eq(scale_power(convert.o, self.power))
            m.d.comb += [
                convert.i.eq(total),
                multiply.a.eq(old[32 * i : 32 * (i + 1)]),
                multiply.b.eq(self.factor),
                self.product[32 * i : 32 * (i + 1)].eq(multiply.o),
                add.a.eq(multiply.o),
                add.b.eq(scaled),
                put.data[32 * i : 32 * (i + 1)].eq(add.o),
            ]
        return m


class Walk:
    """Where the stage is: the item, its power and factor of every lane, and the step."""

    def __init__(self, config: BuildConfig, sizes: AttentionSizes, depth: int, pause: int) -> None:
        lanes = config.query_lanes
        self.item = Signal(ItemLayout(config))
        self.power, self.factor = (
            [Signal(8 * n, name=f"{name}_{i}", reset_less=True) for i in range(lanes)] for name, n in (("power", 1), ("factor", 4))
        )
        self.dim, self.last_dim = Signal(index_bits(sizes.dims)), Signal(index_bits(sizes.dims), name="last_dim")
        #: Cycles since the pass over the dimensions began, at most the pipeline's depth; cycles to pause.
        self.age = Signal(range(depth + 1))
        self.rest = Signal(max(1, pause.bit_length()))
        # "$signal" is Amaranth's name for a signal without one; given where the Verilog has it.
        self.stepping, self.idle, self.output_pass, self.aged = (Signal(name="$signal") for _ in range(4))
        self.step, self.first, self.ended, self.follow = (Signal(name="$signal") for _ in range(4))
        self.run = Signal(index_bits(config.chunk))
        self.head_offset = Signal(index_bits(config.scratch_vectors))
        self.popped = Signal(range(lanes + 1))


class ValueStage(wiring.Component):
    """Takes items from the softmax, in order; after the last block of a head it multiplies the sums by the reciprocal of the
    denominator and writes them to the scratch: slot of kv_head ``h`` at ``output + h * group_vectors``.

    A pass over the dimensions of a block takes a cycle each, with none between passes, and at least as long as the pipeline is
    deep, so that no pass meets the one before it in the output memory.

    Members
    -------
    op : In(Operator)
    ready, take, willing, item, weights, power, correction, reciprocal
        Counterparts of :class:`OnlineSoftmax`.
    value_buffer, value_dim, value, value_ready, next_value_ready, free
        Counterparts of :class:`BlockBuffer`.
    group_vectors, output_round, output_run, output_read, output, active
        Counterparts of :class:`SlotTable`.
    scratch_write : Out(MemoryWrite)
    done : Out(1)
        Strobe after the last write of the operator's final item.
    working : Out(1)
        With ``config.probe`` only: a value beat is asked for.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.sizes = sizes = AttentionSizes(config)
        lanes = config.query_lanes
        super().__init__({
            "op": In(Operator(config)),
            "ready": In(1),
            "take": Out(1),
            "willing": Out(1),
            "item": In(ItemLayout(config)),
            "weights": In(16 * config.kv_block).array(lanes),
            "power": In(8).array(lanes),
            "correction": In(32).array(lanes),
            "reciprocal": In(stream.Signature(32)),
            "value_buffer": Out((sizes.buffers - 1).bit_length()),
            "value_dim": Out(index_bits(sizes.dims)),
            "value": In(8 * config.beat_bytes),
            "value_ready": In(1),
            "next_value_ready": In(1),
            "free": Out(1),
            "group_vectors": In(16),
            "output_round": Out(index_bits(sizes.rounds)),
            "output_run": Out(index_bits(config.chunk)),
            "output_read": Out(1),
            "output": In(index_bits(config.scratch_vectors)).array(lanes),
            "active": In(1).array(lanes),
            "scratch_write": Out(MemoryWrite(config.scratch_vectors, 32 * config.width)),
            "done": Out(1),
            **({"working": Out(1)} if config.probe else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes, lanes = self.sizes, self.config.query_lanes
        parts = 1 << sizes.part_bits
        value_lanes = [ValueLane(self.config) for _ in range(lanes)]
        for i, value_lane in enumerate(value_lanes):
            m.submodules[f"lane_{i}"] = value_lane
        # A beat's data reaches the lanes two cycles after its step.
        store_at, product_at = 2 + value_lanes[0].store_at, 2 + value_lanes[0].product_at
        depth = max(store_at + 2, product_at + lanes + 3)
        # Lanes write one after the other: with more lanes than beats in a vector the steps of the output pass pause.
        pause = max(0, lanes - parts)

        walk = Walk(self.config, sizes, depth, pause)
        self._take_steps(m, walk, depth, pause)
        self._sequence(m, walk)

        steps = delayed(m, walk.step, store_at, "step")
        firsts = delayed(m, walk.first, store_at, "first")
        outputs = delayed(m, walk.output_pass, product_at, "output")
        self._connect_lanes(m, walk, value_lanes, steps, firsts, outputs)
        return m

    def _take_steps(self, m: Module, walk: Walk, depth: int, pause: int) -> None:
        """Items are taken, and their dimensions counted."""
        config, sizes, lanes = self.config, self.sizes, self.config.query_lanes
        parts = 1 << sizes.part_bits
        if config.probe:
            m.d.comb += self.working.eq(walk.step & ~walk.output_pass)
        m.d.comb += [
            self.willing.eq(walk.idle & self.value_ready),
            self.take.eq((self.willing | walk.follow) & self.ready),
            self.value_buffer.eq(walk.item.buffer),
            self.value_dim.eq(walk.dim),
            self.output_round.eq(walk.item.round),
            self.output_run.eq(walk.run),
            walk.step.eq(walk.stepping & (walk.rest == 0)),
            walk.first.eq(walk.step & (walk.dim == 0)),
            walk.aged.eq(walk.age == depth),
            walk.ended.eq(~walk.stepping & walk.aged),
        ]
        m.d.sync += walk.last_dim.eq((self.op.descriptor.head_vectors << sizes.part_bits) - 1)  # of the operator
        with m.If(~walk.aged):
            m.d.sync += walk.age.eq(walk.age + 1)
        with m.If(walk.rest != 0):
            m.d.sync += walk.rest.eq(walk.rest - 1)
        with m.If(walk.step):
            m.d.sync += walk.dim.eq(walk.dim + 1)
            with m.If(walk.output_pass & ((walk.dim & (parts - 1)) == parts - 1)):
                m.d.sync += walk.rest.eq(pause)
            with m.If(walk.dim == walk.last_dim):
                m.d.sync += [walk.dim.eq(0), walk.stepping.eq(0)]

        with m.If(self.take):
            m.d.sync += [walk.item.eq(self.item), walk.stepping.eq(1), walk.output_pass.eq(0), walk.age.eq(0)]
            for i in range(lanes):
                m.d.sync += [walk.power[i].eq(self.power[i]), walk.factor[i].eq(self.correction[i])]

    def _sequence(self, m: Module, walk: Walk) -> None:
        """Passes that add up the values of a block; after the last block of a head a pass that writes the output."""
        item, factor, lanes = walk.item, walk.factor, self.config.query_lanes
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += walk.idle.eq(1)
                with m.If(self.take):
                    m.next = "ACCUMULATE"
            with m.State("ACCUMULATE"):
                m.d.sync += walk.popped.eq(0)
                # Another pass may follow the last step, its values being there.
                m.d.comb += walk.follow.eq(
                    walk.step & (walk.dim == walk.last_dim) & walk.aged & ~item.last & Mux(item.release, self.next_value_ready, 1)
                )
                with m.If(walk.ended | (walk.follow & self.ready)):
                    m.d.comb += self.free.eq(item.release)
                with m.If(walk.ended):
                    m.next = "IDLE"
                    with m.If(item.last):
                        m.next = "RECIPROCAL"
            with m.State("RECIPROCAL"):
                m.d.comb += [self.reciprocal.ready.eq(1), self.output_read.eq(1)]
                with m.If(self.reciprocal.valid):
                    m.d.sync += [
                        walk.popped.eq(walk.popped + 1),
                        factor[-1].eq(self.reciprocal.payload),
                        *(before.eq(after) for before, after in zip(factor, factor[1:], strict=False)),
                    ]
                    with m.If(walk.popped == lanes - 1):
                        m.d.sync += [walk.stepping.eq(1), walk.output_pass.eq(1), walk.age.eq(0)]
                        m.next = "OUTPUT"
            with m.State("OUTPUT"), m.If(walk.ended):
                m.next = "IDLE"
                with m.If(item.release):
                    m.d.sync += walk.head_offset.eq(walk.head_offset + self.group_vectors)
                with m.If(item.ends):
                    m.d.sync += [walk.run.eq(walk.run + 1), walk.head_offset.eq(0)]
                with m.If(item.final):
                    m.d.sync += walk.age.eq(0)
                    m.next = "DRAIN"
            with m.State("DRAIN"), m.If(walk.aged):
                m.d.comb += self.done.eq(1)
                m.d.sync += walk.run.eq(0)
                m.next = "IDLE"

    def _connect_lanes(
        self, m: Module, walk: Walk, value_lanes: list[ValueLane], steps: list[Value], firsts: list[Value], outputs: list[Value]
    ) -> None:
        """Values, weights, powers, factors and words reach the lanes when these need them; the output goes to the scratch."""
        config, sizes, shape = self.config, self.sizes, value_lanes[0]
        store_at, product_at, factor_at = (2 + at for at in (shape.store_at, shape.product_at, shape.factor_at))
        value = Signal(8 * config.beat_bytes, reset_less=True)
        with m.If(steps[1] & ~outputs[1]):
            m.d.sync += value.eq(self.value)
        word, store_word = Signal(index_bits(sizes.output_words)), Signal(index_bits(sizes.output_words))
        for target, at in ((word, factor_at - 2), (store_word, store_at)):
            # Registers that hold their word in cycle ``at`` after the step.
            with m.If(firsts[at - 1]):
                m.d.sync += target.eq(walk.item.output)
            with m.Elif(steps[at - 1]):
                m.d.sync += target.eq(target + 1)

        # Stored is what was no output pass.
        storing = delayed(m, ~outputs[-1] & steps[product_at], store_at - product_at, "storing")[-1]
        # The last beat of the pass before still needs its weights.
        taken = delayed(m, self.take, 2, "taken")[-1]
        results = []
        for i, value_lane in enumerate(value_lanes):
            weights = Signal(16 * config.kv_block, name=f"weights_{i}", reset_less=True)
            with m.If(taken):
                m.d.sync += weights.eq(self.weights[i])
            used_power = Signal(8, name=f"used_power_{i}", reset_less=True)
            used_factor = Signal(32, name=f"used_factor_{i}", reset_less=True)
            with m.If(firsts[2 + shape.power_at - 1]):
                m.d.sync += used_power.eq(walk.power[i])
            with m.If(firsts[factor_at - 1]):
                m.d.sync += used_factor.eq(walk.factor[i])
            m.d.comb += [
                value_lane.value.eq(value),
                value_lane.weights.eq(weights),
                value_lane.valid.eq(steps[2] & ~outputs[2]),
                value_lane.power.eq(used_power),
                value_lane.word.eq(word),
                value_lane.factor.eq(used_factor),
                value_lane.store.eq(storing),
                value_lane.store_word.eq(store_word),
            ]
            leaving, opening = steps[product_at] & outputs[product_at], firsts[product_at - 1] & outputs[product_at - 1]
            results.append(self._gather(m, walk, i, value_lane.product, leaving, opening))

        m.d.sync += self.scratch_write.valid.eq(Cat(write for write, _, _ in results).any())
        written = data_register(m, self.scratch_write.data)
        for write, address, vector in results:
            with m.If(write):
                m.d.sync += [self.scratch_write.addr.eq(address), written.eq(vector)]

    def _gather(
        self, m: Module, walk: Walk, i: int, product: Value, leaving: Value, opening: Value
    ) -> tuple[Value, Signal, Signal]:
        """Output pass: lane i is i cycles behind, so that one write port serves all. ``leaving``: products of the pass leave the
        lanes; ``opening``: in the next cycle its first do. Returns ``(write, address, vector)``."""
        config, sizes = self.config, self.sizes
        parts = 1 << sizes.part_bits
        leaving = delayed(m, leaving, i, f"leaving_{i}")[-1]
        opening = delayed(m, opening, i, f"opening_{i}")[-1]
        product = delayed(m, product, i, f"product_{i}", reset_less=True)[-1]
        part = Signal(max(1, sizes.part_bits), name=f"part_{i}")
        gathered = Signal(32 * config.width, name=f"gathered_{i}", reset_less=True)
        complete, vector = Signal(name=f"complete_{i}"), Signal(32 * config.width, name=f"vector_{i}")
        address, active = Signal(len(walk.head_offset), name=f"address_{i}"), Signal(name=f"active_{i}")
        m.d.comb += [
            vector.eq(Cat(gathered, product)[len(product) :]),
            complete.eq(leaving & ((part == parts - 1) if parts > 1 else 1)),
        ]
        with m.If(leaving):
            m.d.sync += [gathered.eq(vector), part.eq(part + 1)]
        with m.If(opening):
            m.d.sync += [address.eq(self.output[i] + walk.head_offset), active.eq(self.active[i]), part.eq(0)]
        with m.Elif(complete):
            m.d.sync += address.eq(address + 1)
        return complete & active, address, vector
