"""Bench of cycle agents: a memory behind an AXI4 port that checks the protocol, stream sources and sinks.

Every agent drives its inputs after the falling edge and looks at the settled signals before the rising one, so what it
sees is what the component samples.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

from tests.cocotb_runner import reader

BOUNDARY = 4096


class Agent(Protocol):
    def drive(self) -> None: ...

    def sample(self) -> None: ...


class Bench:
    """Runs agents in lock step with ``dut.clk``."""

    #: Task of the running clock; a test may set up several benches, one after the other.
    clock: Any = None

    def __init__(self, dut: Any, seed: int) -> None:
        self.dut = dut
        self.random = random.Random(seed)
        self.agents: list[Agent] = []

    async def start(self) -> None:
        if Bench.clock is not None:
            Bench.clock.cancel()
        Bench.clock = Clock(self.dut.clk, 4, unit="ns").start(start_high=False)
        await self.reset()

    async def reset(self) -> None:
        await FallingEdge(self.dut.clk)
        self.dut.rst.value = 1
        for _ in range(2):
            await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0

    async def step(self, cycles: int = 1) -> None:
        for _ in range(cycles):
            for agent in self.agents:
                agent.drive()
            await ReadOnly()
            for agent in self.agents:
                agent.sample()
            await FallingEdge(self.dut.clk)

    async def until(self, condition: Callable[[], bool], limit: int = 20000) -> int:
        for cycle in range(limit):
            if condition():
                return cycle
            await self.step()
        raise AssertionError(f"nothing happened in {limit} cycles")


class Source:
    """Stream source: offers what is appended to ``items``."""

    def __init__(self, bench: Bench, prefix: str, fields: Sequence[str] = ("payload",), rate: float = 1.0) -> None:
        self.bench, self.rate, self.fields = bench, rate, fields
        self.items: deque[Any] = deque()
        self.offered = False
        get = lambda name: getattr(bench.dut, f"{prefix}__{name}")  # noqa: E731
        self.valid, self.ready = get("valid"), get("ready")
        self.payload, self.takes = get("payload"), reader(self.ready)
        self.valid.value = 0
        bench.agents.append(self)

    def drive(self) -> None:
        if not self.offered and self.items and self.bench.random.random() < self.rate:
            self.offered = True
            self.payload.value = self.items[0]
        self.valid.value = int(self.offered)

    def sample(self) -> None:
        if self.offered and self.takes():
            self.items.popleft()
            self.offered = False


class Sink:
    """Stream sink: collects into ``items``; checks that an offer stands until it is taken."""

    def __init__(self, bench: Bench, prefix: str, rate: float = 1.0) -> None:
        self.bench, self.rate = bench, rate
        self.items: list[int] = []
        self.enable = True
        self.standing: int | None = None
        get = lambda name: getattr(bench.dut, f"{prefix}__{name}")  # noqa: E731
        self.ready, self.offers, self.contents = get("ready"), reader(get("valid")), reader(get("payload"))
        self.ready.value = 0
        bench.agents.append(self)

    def drive(self) -> None:
        self.taking = self.enable and self.bench.random.random() < self.rate
        self.ready.value = int(self.taking)

    def sample(self) -> None:
        if self.offers():
            value = self.contents()
            assert self.standing in (None, value), "payload changed while it waited"
            self.standing = None if self.taking else value
            if self.taking:
                self.items.append(value)
        else:
            assert self.standing is None, "an offer was withdrawn"

    def forget(self) -> None:
        """The component was told to withdraw its offer."""
        self.standing = None


class Channel:
    """One AXI channel driven by the component."""

    def __init__(self, bench: Bench, prefix: str, fields: Sequence[str], rate: float) -> None:
        self.bench, self.rate = bench, rate
        self.open = True
        self.signals = {name: reader(getattr(bench.dut, f"{prefix}__{name}")) for name in fields}
        self.valid, self.ready = getattr(bench.dut, f"{prefix}__valid"), getattr(bench.dut, f"{prefix}__ready")
        self.ready.value, self.offers = 0, reader(self.valid)
        self.standing: dict[str, int] | None = None

    def drive(self) -> None:
        self.taking = self.open and self.bench.random.random() < self.rate
        self.ready.value = int(self.taking)

    def sample(self) -> dict[str, int] | None:
        if not self.offers():
            assert self.standing is None, "valid fell before ready"
            return None
        values = {name: read() for name, read in self.signals.items()}
        assert self.standing in (None, values), "payload changed before ready"
        self.standing = None if self.taking else values
        return values if self.taking else None


class AxiMemory:
    """Memory behind one AXI4 master port. ``rate``: chance of ready or of data in a cycle; ``latency``: cycles from request to
    data at least; addresses beyond ``memory`` answer with DECERR, those of ``failing`` with their word and SLVERR. Write data may
    come before its address.

    ``open`` False: nothing is taken and nothing new is answered."""

    ADDRESS = ("addr", "id", "len", "size", "burst")

    def __init__(self, bench: Bench, prefix: str, memory: bytearray, word_bytes: int, *, max_words: int, rate: float = 1.0,
                 latency: int = 0, read: bool = True, write: bool = True) -> None:
        self.bench, self.memory, self.word_bytes, self.rate, self.latency = bench, memory, word_bytes, rate, latency
        self.max_words = max_words
        self.open = True
        self.cycle = 0
        self.requests: list[dict[str, int]] = []
        self.failing: set[int] = set()
        self.most_in_flight = 0
        self.read, self.write = read, write
        dut = bench.dut
        if read:
            self.ar = Channel(bench, f"{prefix}__ar", self.ADDRESS, rate)
            self.r = {name: getattr(dut, f"{prefix}__r__{name}") for name in ("valid", "ready", "data", "id", "resp", "last")}
            self.queues: dict[int, deque[tuple[int, int, int]]] = {}
            self.answer: tuple[int, int, int, int] | None = None
            self.r["valid"].value = 0
        if write:
            self.aw = Channel(bench, f"{prefix}__aw", self.ADDRESS, rate)
            self.w = Channel(bench, f"{prefix}__w", ("data", "strb", "last"), rate)
            self.b = {name: getattr(dut, f"{prefix}__b__{name}") for name in ("valid", "ready", "id", "resp")}
            self.bursts: deque[list[int]] = deque()
            self.words: deque[dict[str, int]] = deque()
            self.early_words = 0
            self.responses: deque[tuple[int, int]] = deque()
            self.responding = False
            self.b["valid"].value = 0
            self.b["id"].value = 0
        bench.agents.append(self)

    def check(self, request: dict[str, int]) -> int:
        words = request["len"] + 1
        assert 1 << request["size"] == self.word_bytes and request["burst"] == 1
        assert words <= self.max_words, f"burst of {words} words"
        assert request["addr"] % self.word_bytes == 0
        assert request["addr"] // BOUNDARY == (request["addr"] + words * self.word_bytes - 1) // BOUNDARY, "a burst crosses 4 KB"
        self.requests.append(request)
        return words

    def drive(self) -> None:
        self.cycle += 1
        for channel in ((self.ar,) if self.read else ()) + ((self.aw, self.w) if self.write else ()):
            channel.open = self.open
        if self.read:
            self.ar.drive()
            ready = [i for i, q in self.queues.items() if q and q[0][2] <= self.cycle and self.open]
            if self.answer is None and ready and self.bench.random.random() < self.rate:
                number = self.bench.random.choice(ready)
                address, last, _ = self.queues[number].popleft()
                failed = address + self.word_bytes > len(self.memory)
                data = 0 if failed else int.from_bytes(self.memory[address : address + self.word_bytes], "little")
                self.answer = (number, data, last, 3 if failed else 2 if address in self.failing else 0)
                for name, value in zip(("id", "data", "last", "resp"), self.answer, strict=True):
                    self.r[name].value = value
            self.r["valid"].value = int(self.answer is not None)
        if self.write:
            self.aw.drive()
            self.w.drive()
            answers = self.open and bool(self.responses) and self.responses[0][0] <= self.cycle
            if not self.responding and answers and self.bench.random.random() < self.rate:
                self.responding = True
                self.b["resp"].value = self.responses[0][1]
            self.b["valid"].value = int(self.responding)

    def sample(self) -> None:
        if self.read:
            if self.answer is not None and self.r["ready"].value:
                self.answer = None
            if (request := self.ar.sample()) is not None:
                words = self.check(request)
                queue = self.queues.setdefault(request["id"], deque())
                for i in range(words):
                    queue.append((request["addr"] + i * self.word_bytes, int(i == words - 1), self.cycle + self.latency))
                self.most_in_flight = max(self.most_in_flight, sum(entry[1] for q in self.queues.values() for entry in q))
        if self.write:
            if self.responding and self.b["ready"].value:
                self.responses.popleft()
                self.responding = False
            if (word := self.w.sample()) is not None:
                self.early_words += not self.bursts
                self.words.append(word)
            if (request := self.aw.sample()) is not None:
                self.bursts.append([request["addr"], self.check(request)])
                self.most_in_flight = max(self.most_in_flight, len(self.bursts) + len(self.responses))
            while self.words and self.bursts:
                self.store(self.words.popleft())

    def store(self, word: dict[str, int]) -> None:
        burst = self.bursts[0]
        for i in range(self.word_bytes):
            if word["strb"] >> i & 1 and burst[0] + i < len(self.memory):
                self.memory[burst[0] + i] = word["data"] >> 8 * i & 255
        burst[0] += self.word_bytes
        burst[1] -= 1
        assert word["last"] == (burst[1] == 0), "last on the wrong word"
        if burst[1] == 0:
            self.bursts.popleft()
            self.responses.append((self.cycle + self.latency, 3 if burst[0] > len(self.memory) else 0))


def pattern(size: int) -> bytearray:
    """Bytes that tell their address."""
    return bytearray(random.Random(size).randbytes(size))
