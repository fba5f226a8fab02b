"""What the machine cannot trust: answers of the memory that fail or do not come, programs that were damaged, registers that say
what no host should. It ends in a defined state, says what was wrong and where, writes nothing outside, and runs the next pass.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import numpy as np
import pytest

from hwgen.descriptors import DESCRIPTOR_BYTES, Flag
from hwgen.errors import HwgenError
from hwgen.registers import RUN_PAGES, RUN_TOKENS, Control, Status
from hwgen.sw.devices import verilator
from hwgen.sw.devices.device import DeviceTimeout, StopFailed
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.pages import Session

from .small import CONFIG, SHAPE, small_image
from .test_stop import FIRST, SECOND, Bench, expected_results


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(small_image())


@pytest.fixture(scope="module")
def expected(bench: Bench) -> list[object]:
    """What the pass leaves; the machine leaves the same."""
    wanted = expected_results(bench.image)
    assert bench.run() == wanted
    return wanted


@pytest.fixture(autouse=True)
def defined(bench: Bench, expected: list[object]) -> Iterator[None]:
    """After each test: nothing was written outside cache and logits, no rule of AXI was broken, and the next pass is right."""
    constant = ~bench.writable()
    # Everything that nobody uses is a sentinel.
    before = bench.device.accelerator.memory.copy()
    yield
    assert (bench.device.accelerator.memory == before)[constant].all()
    assert bench.run() == expected
    assert bench.device.accelerator.violation_count == 0


def failing(bench: Bench) -> str:
    """The second pass, which fails; what the error says."""
    with pytest.raises(HwgenError) as caught:
        bench.engine.forward(bench.session, SECOND, write_logits=True)
    assert caught.value.kind == "device"
    assert bench.engine._read("STATUS") & (Status.BUSY | Status.DONE) == 0
    assert bench.session.position == len(FIRST)
    return caught.value.message


def answers_of_a_pass(bench: Bench) -> tuple[int, int]:
    """Words that the pass reads, and bursts that it writes."""
    accelerator = bench.device.accelerator
    accelerator.clear_statistics()
    bench.run()
    counts = accelerator.port_statistics()[0]
    return counts.read_beats, counts.write_commands


@pytest.mark.parametrize("write", [False, True])
def test_an_answer_that_fails(bench: Bench, expected: list[object], write: bool) -> None:
    """SLVERR and DECERR, on the first answer of a pass, the last one, and some between: the error names the operator that ran."""
    count = answers_of_a_pass(bench)[write]
    rng = random.Random(3)
    chosen = sorted({0, count - 1, *rng.sample(range(count), 2 if write else 5)})
    operators = []
    for number, after in enumerate(chosen):
        response = 2 + number % 2
        bench.device.accelerator.fail_answer(0, response, write=write, after=after)
        message = failing(bench)
        found = re.fullmatch(r"memory port 0 answered a (\w+) with response (\d) at operator (\d+)", message)
        assert found and found[1] == ("write" if write else "read") and int(found[2]) == response, message
        operators.append(int(found[3]))
        # A program that is cut short leaves nothing behind in the ring.
        assert bench.run() == expected, after
    assert operators[1:] == sorted(operators[1:]) and len(set(operators)) > 2
    assert Flag.LOGITS in bench.image.descriptors[operators[-1]].flags, "the last words are of the LM head"
    assert not write or operators[-1] == bench.engine._read("CURRENT")


def test_a_port_that_stops_answering(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host is told where the machine stands; a stop ends nothing while answers are owed, and ends the pass when they come."""
    monkeypatch.setattr(verilator, "IDLE_LIMIT", 3000)
    accelerator = bench.device.accelerator
    run = Run(bench.session, SECOND, 1)
    bench.engine.start([run])
    accelerator.tick(1200)
    accelerator.silence_port(0)
    with pytest.raises(DeviceTimeout, match="nothing moved any more.*STATUS 0x1, CURRENT 0x"):
        bench.device.wait(1.0)
    with pytest.raises(StopFailed, match="the machine does not stop"):
        bench.device.stop()
    assert Status(bench.engine._read("STATUS")) == Status.BUSY
    accelerator.silence_port(0, False)
    bench.device.wait(1.0)
    with pytest.raises(HwgenError, match="the pass was stopped at operator"):
        bench.engine.finish([run])
    del bench.session.tokens[len(FIRST) :]


def damaged(bench: Bench, index: int, bits: list[int]) -> Iterator[None]:
    """A descriptor in memory with some of its bits flipped."""
    memory, start = bench.engine.memory, index * DESCRIPTOR_BYTES
    address = memory.program() + start
    data = bench.device.read(address, DESCRIPTOR_BYTES)
    wrong = data.copy()
    for bit in bits:
        wrong[bit // 8] ^= 1 << bit % 8
    bench.device.write(address, wrong)
    yield
    bench.device.write(address, data)


def test_a_damaged_descriptor(bench: Bench, expected: list[object]) -> None:
    """One bit anywhere, or zeros, or ones: the pass ends in front of it, nothing that it says is done, and the next pass is right,
    also where the ring holds rows that a descriptor behind it would have read again.
    """
    count, rng = len(bench.image.descriptors), random.Random(5)
    image = np.frombuffer(bench.device.read(bench.engine.memory.program(), count * DESCRIPTOR_BYTES).tobytes(), np.uint8)
    behind_replay = next(i for i, d in enumerate(bench.image.descriptors) if Flag.REPLAY in d.flags) + 1
    for index in sorted({0, 1, behind_replay, count - 1, *rng.sample(range(count), 4)}):
        for _ in damaged(bench, index, [rng.randrange(8 * DESCRIPTOR_BYTES)]):
            message = failing(bench)
        assert bench.run() == expected, index
        if not index:
            assert message == "the first descriptor is damaged: its check word is wrong"
            continue
        found = re.fullmatch(r"the descriptor behind operator (\d+) is damaged: its check word is wrong", message)
        assert found, message
        before = int(found[1])
        assert before < index
        # Those between were skipped: they are for tokens that this pass does not have.
        assert all(d.token_start >= 1 for d in bench.image.descriptors[before + 1 : index])
    for value in (0, 255):
        whole = [i for i in range(8 * DESCRIPTOR_BYTES) if (image[3 * DESCRIPTOR_BYTES + i // 8] >> i % 8 & 1) != value % 2]
        for _ in damaged(bench, 3, whole):
            assert "behind operator 2 is damaged" in failing(bench)


@pytest.mark.parametrize("name", ["RUN", "COUNT", "WANT", "PAGE", "WANTED", "RUNS"])
def test_registers_out_of_range(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that lies about a pass: it ends, or stands still until it is stopped or reset; memory outside is not written."""
    monkeypatch.setattr(verilator, "IDLE_LIMIT", 3000)
    c, engine = CONFIG, bench.engine
    wrong = {
        "RUN": [
            (0, c.max_context - 1), (0, 0xFFFF_FFFF), (1, RUN_TOKENS.put(c.chunk + 9)),
            (1, RUN_TOKENS.put(3) | RUN_PAGES.put(0xFFFF)),
        ],
        "COUNT": [(0, 0), (0, c.chunk + 1), (0, 0xFFFF_FFFF)],
        "WANT": [(0, c.chunk), (0, 0xFFFF_FFFF)],
        "PAGE": [(0, 0), (0, 0xFFFF_FFFF)],
        "WANTED": [(0, c.chunk + 1), (0, 0xFFFF_FFFF)],
        "RUNS": [(0, 0), (0, c.chunk + 1), (0, 0xFFFF_FFFF)],
    }[name]
    for index, value in wrong:
        run = Run(bench.session, SECOND, 1)
        ring = bench.engine._write

        def lie(register: str, number: int, at: int = 0, *, ring=ring, index=index, value=value) -> None:  # type: ignore[no-untyped-def]  # stands in
            if register == "CONTROL" and number == Control.START:
                ring(name, value, index)
            ring(register, number, at)

        monkeypatch.setattr(engine, "_write", lie)
        engine.start([run], write_logits=True)
        monkeypatch.setattr(engine, "_write", ring)
        try:
            bench.device.wait(1.0)
        except DeviceTimeout as error:
            assert "STATUS 0x" in error.message and "CURRENT 0x" in error.message
            bench.device.accelerator.reset()
            bench.device.accelerator.tick(2000)
        engine._write("CONTROL", Control.ACKNOWLEDGE)
        engine._state.busy = False
        bench.device._memory.next = bench.first_address
        bench.engine = Engine(bench.device, bench.image)
        engine = bench.engine
        bench.prepare()
    bench.run()  # the rows of its tokens, which the host writes, stand where they stood


def test_what_the_host_refuses(bench: Bench) -> None:
    """Token ids, positions and runs are checked before anything is written to a register."""
    engine = bench.engine
    for tokens, message in (([SHAPE.vocab], "outside the vocabulary"), ([-1], "outside the vocabulary"),
                            ([1] * (CONFIG.max_context + 1), "1 to 6 tokens")):
        with pytest.raises((HwgenError, ValueError), match=message):
            engine.start([Run(Session(), tokens, 0)])
    assert Status(engine._read("STATUS")) & Status.BUSY == 0


def test_a_doorbell_while_a_pass_runs(bench: Bench, expected: list[object]) -> None:
    """It is ignored, and what it would begin does not begin afterwards."""
    run = Run(bench.session, SECOND, 1)
    bench.engine.start([run], write_logits=True)
    for _ in range(3):
        bench.device.accelerator.tick(500)
        bench.engine._write("CONTROL", Control.START)
    bench.engine.finish([run])
    del bench.session.tokens[len(FIRST) :]
    bench.device.accelerator.tick(2000)
    assert bench.engine._read("STATUS") == 0
