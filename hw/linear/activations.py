"""The activations of all tokens (int8, or e4m3 codes), and the order in which a slice of them goes to the lanes."""

from __future__ import annotations

import math

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import bits_for

from ...config import BuildConfig
from ...grouped_layout import GroupSlices
from ...rounding import ceil_div
from ..interfaces import ActivationWrite

__all__ = ["ActivationMemory", "LoadBus", "load_parts"]


def load_parts(config: BuildConfig, slice_inputs: int) -> tuple[int, int]:
    """``(parts, chunks)``: a slice begins and ends at multiples of 1/``parts`` of a vector, and is ``chunks`` of them."""
    part = math.gcd(config.width, slice_inputs)
    return config.width // part, slice_inputs // part


def LoadBus(config: BuildConfig, slice_inputs: int) -> Signature:
    """Part c % ``parts`` of ``data`` is chunk c of the slice, for every c whose bit of ``chunks`` is set."""
    return Signature({"data": Out(8 * config.width), "chunks": Out(load_parts(config, slice_inputs)[1])})


class ActivationMemory(wiring.Component):
    """Holds the activations of two rounds of tokens (halves), and hands LINEAR those of one slice after the other.

    A slice takes ``count`` times the vectors that it touches (``slice_inputs / width``, rounded up), and `LATENCY` cycles.
    Inputs beyond the last vector that was written are arbitrary. With ``groups`` and while ``grouped``, slices are those of
    `GroupSlices`: behind a short one the next begins with the inputs that are not its own.

    Members
    -------
    write : In(ActivationWrite)
        At any time. A word counts for an operator that starts in a later cycle.
    start : In(1)
        Strobe.
    grouped : In(1)
        With ``groups`` alone; as stable as those that follow.
    half : In(1), count : In, slices : In(16)
        ``count`` tokens (at least 1), ``slices`` (at least 1); stable until the last slice has been taken.
    load : Out(LoadBus), token : Out
        Activations on the way to a lane, and one-hot whose they are.
    loaded : Out(1)
        A slice has arrived in all lanes.
    taken : In(1)
        Strobe: it was taken over, the next may arrive.
    """

    #: Cycles from the first read of a slice to the first change in a lane, among them a register for every two rows of an UltraRAM
    #: matrix of up to six (see `SCRATCH_LATENCY`).
    LATENCY = 6

    def __init__(self, config: BuildConfig, slice_inputs: int, groups: GroupSlices | None = None) -> None:
        self.config, self.slice_inputs, self.groups = config, slice_inputs, groups
        super().__init__({
            "write": In(ActivationWrite(config)),
            "start": In(1),
            **({"grouped": In(1)} if groups else {}),
            "half": In(1),
            "count": In(bits_for(config.chunk)),
            "slices": In(16),
            "load": Out(LoadBus(config, slice_inputs)),
            "token": Out(config.tokens),
            "loaded": Out(1),
            "taken": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        words = config.max_inputs // config.width
        m.submodules.memory = memory = Memory(
            shape=8 * config.width, depth=2 * config.tokens * words, init=[], attrs={"ram_style": config.activation_memory}
        )
        self._write(m, memory.write_port(), words)
        read = memory.read_port()
        parts, chunks = load_parts(config, self.slice_inputs)

        # Walk: the words of a slice, token after token, slice after slice.
        begin, reading, full = Signal(), Signal(), Signal()
        slices_left = Signal(16)
        slice_head, token_head, address = (Signal.like(read.addr, name=n) for n in ("slice_head", "token_head", "address"))
        offset = Signal(range(max(2, parts)))  # chunk of the word at which the slice begins
        word = Signal(range(max(2, ceil_div(chunks + parts - 1, parts))))
        token = Signal(config.tokens)  # one-hot
        tokens_left = Signal.like(self.count)
        last_word, last_token, last, next_offset, words_on = (
            Signal(), Signal(), Signal(), Signal.like(offset), Signal(range(chunks // parts + 2))
        )
        m.d.comb += [last_token.eq(tokens_left == 1), last.eq(reading & last_word & last_token)]
        short = self._short(m, last, begin)
        with m.Switch(offset):
            for value in range(parts):
                with m.Case(value):
                    m.d.comb += [
                        last_word.eq(word == (value + chunks - 1) // parts),
                        next_offset.eq((value + chunks) % parts),
                        words_on.eq((value + chunks) // parts),
                    ]
                    if self.groups is not None:
                        rest = self.groups.rest_inputs * chunks // self.slice_inputs
                        with m.If(short):
                            m.d.comb += [next_offset.eq((value + rest) % parts), words_on.eq((value + rest) // parts)]
        m.d.comb += [read.addr.eq(address), read.en.eq(reading)]
        m.d.sync += begin.eq(self.start)
        next_token, next_slice = Signal.like(address), Signal.like(address)
        m.d.comb += [next_token.eq(token_head + words), next_slice.eq(slice_head + words_on)]
        with m.If(reading):
            m.d.sync += [word.eq(word + 1), address.eq(address + 1)]
            with m.If(last_word):
                m.d.sync += [
                    word.eq(0), token.eq(token << 1), tokens_left.eq(tokens_left - 1), token_head.eq(next_token),
                    address.eq(next_token),
                ]
            with m.If(last):
                m.d.sync += [
                    token.eq(1), tokens_left.eq(self.count), offset.eq(next_offset), slices_left.eq(slices_left - 1),
                    slice_head.eq(next_slice), token_head.eq(next_slice), address.eq(next_slice), reading.eq(0),
                ]
        with m.If(self.taken & (slices_left != 0)):
            m.d.sync += reading.eq(1)
        with m.If(begin):
            first = Mux(self.half, config.tokens * words, 0)
            m.d.sync += [
                reading.eq(1), word.eq(0), token.eq(1), tokens_left.eq(self.count), offset.eq(0), slices_left.eq(self.slices),
                slice_head.eq(first), token_head.eq(first), address.eq(first),
            ]

        wanted = Signal(chunks)
        for c in range(chunks):
            in_word = Cat((offset == o) & (word == (o + c) // parts) for o in range(parts))
            m.d.comb += wanted[c].eq(reading & in_word.any())
        arrived = self._send(m, read.data, {"reading": reading, "chunks": wanted, "token": token, "offset": offset, "last": last})
        m.d.comb += self.loaded.eq(full)
        with m.If(arrived):
            m.d.sync += full.eq(1)
        with m.If(self.taken | self.start):
            m.d.sync += full.eq(0)
        return m

    def _short(self, m: Module, last: Value, begin: Value) -> Value:
        """Whether the slice is the short one of its group; ``last``: it is read, ``begin``: an operator begins."""
        if self.groups is None:
            return Const(0)
        number = Signal(range(self.groups.count))
        short = Signal()
        m.d.comb += short.eq(self.grouped & (number == self.groups.count - 1))
        with m.If(last):
            m.d.sync += number.eq(Mux(short, 0, number + 1))
        with m.If(begin):
            m.d.sync += number.eq(0)
        return short

    def _send(self, m: Module, data: Value, stage: dict[str, Value]) -> Value:
        """What a word is for accompanies it: read, memory's register, registers (each with an enable of its own, as in
        `VectorMemory`), rotated register. Returns when the last came."""
        config = self.config
        parts, _ = load_parts(config, self.slice_inputs)
        for cycle in range(1, self.LATENCY):
            if 1 < cycle < self.LATENCY - 1:
                fetched = Signal(8 * config.width, name=f"fetched_{cycle}", reset_less=True)
                with m.If(stage["reading"]):
                    m.d.sync += fetched.eq(data)
                data = fetched
            following: dict[str, Value] = {}
            for name, value in stage.items():
                if name not in ("offset", "reading") or cycle < self.LATENCY - 1:
                    following[name] = Signal(len(value), name=f"{name}_{cycle}")
                    m.d.sync += following[name].eq(value)
            stage, rotation = following, stage["offset"]
        # Chunk c lies in part (offset + c) % parts of its word: turned by the offset, it is in part c % parts.
        turned = Signal(8 * config.width)
        with m.Switch(rotation):
            for value in range(parts):
                with m.Case(value):
                    m.d.comb += turned.eq(data.rotate_right(value * 8 * config.width // parts))
        m.d.sync += self.load.data.eq(turned)
        m.d.comb += [self.load.chunks.eq(stage["chunks"]), self.token.eq(stage["token"])]
        return stage["last"]

    def _write(self, m: Module, port: wiring.PureInterface, words: int) -> None:
        """Two registers: first vector of the token by table, then its sum with the vector."""
        config = self.config
        source = self.write
        base, valid = Signal.like(port.addr), Signal()
        vector, data = Signal.like(source.addr, reset_less=True), Signal.like(source.data, reset_less=True)
        m.d.sync += [valid.eq(source.valid), vector.eq(source.addr), data.eq(source.data)]
        with m.Switch(Cat(source.token, source.half)):
            for half in range(2):
                for token in range(config.tokens):
                    with m.Case(half << len(source.token) | token):
                        m.d.sync += base.eq((half * config.tokens + token) * words)
        m.d.sync += [port.en.eq(valid), port.addr.eq(base + vector), port.data.eq(data)]
