"""Passes that end before their program does: by the stop bit, by Ctrl-C, by a reset while the memory ports still owe answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from hwgen.descriptors import Opcode
from hwgen.errors import HwgenError
from hwgen.hw.memory.system import SETTLE_CYCLES
from hwgen.registers import Control, Status
from hwgen.sim.dram import KV260, RANDOM, DramTiming
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.device import DeviceTimeout, StopFailed
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.pass_trace import TraceEntry, read_trace

from .small import CONFIG, MEMORY_BYTES, SHAPE, SmallDevice, small_image

#: The second pass has a cache to read. Its 3 tokens are two rounds of the two lanes.
FIRST, SECOND = [5, 40], [23, 8, 31]


class StoppedDevice(SmallDevice):
    """Passes end some cycles after their doorbell, when it is told so."""

    def __init__(self, timing: DramTiming = KV260) -> None:
        super().__init__(timing)
        #: Cycles from the doorbell to STOP; None lets passes end by themselves.
        self.stop_after: int | None = None
        #: Raised in place of stopping.
        self.interruption: BaseException | None = None
        self.stop_cycles = 0

    def wait(self, timeout: float, look: Callable[[], bool] | None = None) -> bool:
        if self.stop_after is not None:
            self.accelerator.tick(self.stop_after)
            if self.interruption is not None:
                raise self.interruption
            begin = self.accelerator.cycle
            self.stop()
            self.stop_cycles = self.accelerator.cycle - begin
        return super().wait(timeout, look)

    def outstanding(self) -> int:
        return sum(port.reads_outstanding + port.writes_outstanding for port in self.accelerator.port_statistics())


@dataclass
class Bench:
    """A device that has read the first tokens; the second pass is run again and again."""

    image: Image
    timing: DramTiming = KV260
    device: StoppedDevice = field(init=False)
    engine: Engine = field(init=False)
    session: Session = field(init=False)
    #: Of the image's buffers.
    first_address: int = field(init=False)

    def __post_init__(self) -> None:
        self.device = StoppedDevice(self.timing)
        self.first_address = self.device._memory.next
        self.engine = Engine(self.device, self.image)
        self.prepare()

    def prepare(self) -> None:
        self.session = Session()
        self.engine.forward(self.session, FIRST, logits=False)

    def run(self) -> list[object]:
        """The second pass, and what it leaves; the session is as before."""
        return second_pass(self.engine, self.session)

    def stop(self, cycles: int) -> bool:
        """The second pass, stopped some cycles after its doorbell; False where it had ended by then."""
        self.device.stop_after = cycles
        try:
            self.engine.forward(self.session, SECOND, write_logits=True)
        except HwgenError as error:
            assert "the pass was stopped at operator" in error.message
            return True
        finally:
            self.device.stop_after = None
        del self.session.tokens[len(FIRST) :]
        return False

    def writable(self) -> np.ndarray:
        """Which bytes of memory a pass may write: cache, and logits of as many tokens as a pass may want."""
        mask = np.zeros(MEMORY_BYTES, bool)
        memory, image = self.engine.memory, self.image
        logits = image.chunk * image.logits_bytes
        for address, size in [(memory.logits, logits), *((page, image.page_bytes) for page in memory.pages)]:
            start = address - self.device.accelerator.memory_base
            mask[start : start + size] = True
        return mask


def second_pass(engine: Engine, session: Session) -> list[object]:
    result = engine.forward(session, SECOND, write_logits=True)
    pages = [engine.device.read(page, engine.image.page_bytes).tobytes() for page in engine.memory.pages]
    logits = engine.device.read(engine.memory.logits, engine.image.logits_bytes)  # of the short-list head none are written
    left = [result.candidates, logits.tobytes(), *pages]
    del session.tokens[len(FIRST) :]
    return left


def expected_results(image: Image) -> list[object]:
    """What golden leaves after the second pass."""
    engine, session = Engine(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES), image), Session()
    engine.forward(session, FIRST, logits=False)
    return second_pass(engine, session)


def moments(entries: tuple[TraceEntry, ...], cycles: int, seed: int) -> Iterator[tuple[str, int]]:
    """A cycle within an operator of every kind, at random, and those around the ends of the pass."""
    rng = random.Random(seed)
    for opcode in sorted({entry.opcode for entry in entries}):
        entry = rng.choice([entry for entry in entries if entry.opcode is opcode])
        yield opcode.name, rng.randrange(entry.start, entry.end)
    yield "doorbell", 0
    yield "descriptors", rng.randrange(1, entries[0].start)
    yield "end", cycles - 25


@pytest.mark.parametrize(("head", "timing"), [("exact", KV260), ("shortlist", RANDOM(3))])
def test_stop_in_every_operator(head: str, timing: DramTiming) -> None:
    """Nothing is in flight or written after it, no operator starts after it, and the next pass is bit for bit right."""
    image = small_image(SHAPE, head)
    bench = Bench(image, timing)
    device, memory = bench.device, bench.device.accelerator.memory
    expected = expected_results(image)
    assert bench.run() == expected
    whole = bench.engine._read("COUNT_CYCLES")
    trace = read_trace(bench.engine, "", whole).entries
    others = {Opcode.END} if head == "shortlist" else {Opcode.END, Opcode.HEAD}
    assert {entry.opcode for entry in trace} == set(Opcode) - others
    constant = ~bench.writable()
    before, lengths = memory.copy(), []
    for name, cycles in moments(trace, whole, 7):
        if not bench.stop(cycles):
            assert name in ("HEAD", "end"), "only memory may be quicker than before"
            continue
        assert not device.outstanding(), name
        after = memory.copy()
        device.accelerator.tick(400)
        assert (memory == after).all(), f"{name}: written after STOPPED"
        assert (after == before)[constant].all(), f"{name}: written outside"
        stopped = read_trace(bench.engine, "", 0).entries
        assert bench.engine._read("COUNT_OPERATORS") == len(stopped) <= len(trace)
        lengths.append(len(stopped))
        assert all(entry.start <= cycles + 40 for entry in stopped), f"{name}: an operator started after STOP"
        assert bench.run() == expected, name
    assert bench.engine._read("UNASKED") == 0
    assert len(lengths) >= len(Opcode) and len(set(lengths)) > 8 and 0 in lengths
    assert device.clean()


def test_a_stop_that_comes_between_and_twice() -> None:
    bench = Bench(small_image())
    engine, device = bench.engine, bench.device
    expected = expected_results(bench.image)
    engine._write("CONTROL", Control.STOP)
    device.stop()
    assert engine._read("STATUS") == 0, "nothing ran"
    engine.start([Run(bench.session, SECOND, 1)])
    device.accelerator.tick(1000)
    for value in (Control.STOP, Control.START, Control.STOP | Control.START):
        engine._write("CONTROL", value)
    assert Status(engine._read("STATUS")) == Status.BUSY, "a doorbell while it stops is ignored, and so is a second stop"
    device.accelerator.run_until_irq(20_000)
    assert Status(engine._read("STATUS")) == Status.DONE | Status.STOPPED
    device.accelerator.tick(3000)
    assert Status(engine._read("STATUS")) == Status.DONE | Status.STOPPED and not device.outstanding()
    engine._write("CONTROL", Control.ACKNOWLEDGE)
    assert Status(engine._read("STATUS")) == Status.STOPPED
    engine._write("CONTROL", Control.START | Control.STOP)  # none runs: a doorbell alone
    assert Status(engine._read("STATUS")) == Status.BUSY
    device.accelerator.run_until_irq(200_000)
    assert Status(engine._read("STATUS")) == Status.DONE
    engine._write("CONTROL", Control.ACKNOWLEDGE)
    engine._state.busy = False
    del bench.session.tokens[len(FIRST) :]
    assert bench.run() == expected
    assert device.clean()


def test_ctrl_c_stops_the_pass() -> None:
    bench = Bench(small_image())
    device = bench.device
    device.stop_after, device.interruption = 1500, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        bench.engine.forward(bench.session, SECOND)
    assert Status(bench.engine._read("STATUS")) == Status.DONE | Status.STOPPED and not device.outstanding()
    assert len(bench.session.tokens) == len(FIRST)
    device.stop_after = None
    assert bench.run() == expected_results(bench.image)
    # A pass that is waited for in vain goes on.
    device.stop_after, device.interruption = 1500, DeviceTimeout("no time left")
    with pytest.raises(DeviceTimeout):
        bench.engine.forward(bench.session, SECOND)
    assert Status(bench.engine._read("STATUS")) == Status.BUSY
    device.stop_after = None
    assert bench.run() == expected_results(bench.image)


def test_a_machine_that_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(small_image())
    bench.engine.start([Run(bench.session, SECOND)])
    monkeypatch.setattr("hwgen.sw.devices.verilator.OPERATOR_LIMIT", 50)
    with pytest.raises(StopFailed, match="the machine does not stop: .*cycles allowed are over.*its memory is not given back"):
        bench.device.stop()


def test_reset_in_every_operator() -> None:
    """The ports answer what was asked before the reset: it is discarded and counted, and the next pass, which the host starts at
    once, waits for its end. A write that the reset left without its data is beyond that: the driver resets the ports.
    """
    image = small_image()
    bench = Bench(image)
    device, accelerator = bench.device, bench.device.accelerator
    expected = expected_results(image)
    assert bench.run() == expected
    whole = bench.engine._read("COUNT_CYCLES")
    kinds = set()
    for name, cycles in moments(read_trace(bench.engine, "", whole).entries, whole, 5):
        bench.engine.start([Run(bench.session, SECOND, 1)], write_logits=True)
        accelerator.tick(cycles)
        for _ in range(200):  # to where something is in flight
            owed = accelerator.port_statistics()[0]
            if owed.reads_outstanding:
                break
            accelerator.tick()
        if owed.writes_outstanding:
            accelerator.drop_outstanding()
            owed = accelerator.port_statistics()[0]
        accelerator.reset()
        if owed.reads_outstanding:
            kinds.add(name)
        device._memory.next = bench.first_address
        bench.engine = Engine(device, image)
        bench.prepare()
        assert bench.engine._read("UNASKED") >= owed.reads_outstanding, name
        assert bench.run() == expected, name
    assert len(kinds) > 8, kinds
    assert device.clean()


def test_what_is_left_over_is_counted_and_waited_for() -> None:
    """Read words and a write response from before the reset, one by one; then 1024 quiet cycles before the first request."""
    bench = Bench(small_image())
    device, accelerator = bench.device, bench.device.accelerator
    bench.run()
    written = accelerator.port_statistics()[0].write_beats
    bench.run()
    written = accelerator.port_statistics()[0].write_beats - written
    accelerator.clear_statistics()
    bench.engine.start([Run(bench.session, SECOND, 1)], write_logits=True)
    while accelerator.port_statistics()[0].write_beats < written:
        accelerator.tick()
    owed = accelerator.port_statistics()
    assert owed[0].writes_outstanding
    accelerator.reset()
    accelerator.tick(2 * SETTLE_CYCLES)
    came = sum(port.read_beats for port in accelerator.port_statistics()) - sum(port.read_beats for port in owed)
    assert bench.engine._read("UNASKED") == owed[0].writes_outstanding + came

    device._memory.next = bench.first_address
    bench.engine = Engine(device, bench.image)
    bench.engine.start([Run(Session(), FIRST)])
    while accelerator.port_statistics()[0].reads_outstanding < 3:
        accelerator.tick()
    accelerator.reset()
    before = accelerator.port_statistics()[0]
    last, commands = 0, before.read_commands
    bench.engine._write("CONTROL", Control.START)
    while accelerator.port_statistics()[0].read_commands == commands:
        beats = accelerator.port_statistics()[0].read_beats
        accelerator.tick()
        if accelerator.port_statistics()[0].read_beats != beats:
            last = accelerator.cycle
    words = accelerator.port_statistics()[0].read_beats - before.read_beats
    assert words >= 3 and bench.engine._read("UNASKED") == words
    assert SETTLE_CYCLES < accelerator.cycle - last < SETTLE_CYCLES + 10
    assert not accelerator.violation_count
