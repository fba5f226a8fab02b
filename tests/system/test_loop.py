"""Loops: many passes of one doorbell give what as many doorbells give, on the functional model and in the hardware."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from hwgen.draw import GREEDY, Draw, draw_scale
from hwgen.errors import HwgenError
from hwgen.registers import CHOSEN_TOKENS, Control, Status
from hwgen.sim.dram import KV260, RANDOM
from hwgen.sw.devices.device import Device
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine, PassResult, Run
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.running_loop import RunningLoop

from .small import CONFIG, MEMORY_BYTES, SHAPE, SmallDevice, small_image

#: What the sequences of a loop begin with; their first tokens of a loop follow.
PROMPTS, FIRST = [[5, 40, 7], [3], [9, 9, 30, 2, 11, 8, 1]], [12, 6, 33]

GREEDIES = [GREEDY] * len(PROMPTS)
#: Two runs that are drawn, each in its way, and a greedy one between them.
DRAWS = [Draw(4, draw_scale(0.9) or 0, 1), GREEDY, Draw(3, draw_scale(6.0) or 0, 2)]

class Nobody:
    """Who leaves a loop to the test."""

    def close(self) -> None:
        return


NOBODY = Nobody()

DEVICES: dict[str, Callable[[], Device]] = {
    "golden": lambda: GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES), "rtl": lambda: SmallDevice(),
    "rtl, random memory": lambda: SmallDevice(RANDOM(5)),
}


class Bench:
    """An engine whose sessions have read their prompts."""

    def __init__(self, device: Device, head: str = "exact", runs: int = len(PROMPTS), draws: Sequence[Draw] = GREEDIES) -> None:
        self.engine = Engine(device, with_cache_tokens(small_image(SHAPE, head), len(PROMPTS) * CONFIG.max_context))
        self.sessions, self.draws = [Session() for _ in range(runs)], draws
        for session, prompt in zip(self.sessions, PROMPTS, strict=False):
            for first in range(0, len(prompt), CONFIG.chunk):
                self.engine.forward(session, prompt[first : first + CONFIG.chunk], logits=False)

    def runs(self, tokens: Sequence[int] = FIRST) -> list[Run]:
        rows = zip(self.sessions, tokens, self.draws, strict=False)
        return [Run(session, [token], 1, draw=draw) for session, token, draw in rows]

    def chosen(self, result: PassResult) -> list[int]:
        """What the host would choose of the candidates behind the last pass."""
        rows = zip(result.runs, self.sessions, self.draws, strict=False)
        places = [draw.choose(run.words[0, :, 1].tolist(), session.position) for run, session, draw in rows]
        return [int(run.words[0, place, 0]) for run, place in zip(result.runs, places, strict=True)]

    def loop(self, passes: int, stops: Sequence[int] = (), tokens: Sequence[int] = FIRST) -> list[list[int]]:
        """What was chosen, pass by pass; those of the last one are candidates of the result."""
        loop = RunningLoop(self.engine, self.runs(tokens), passes, stops)
        chosen = [list(tokens) for tokens in loop]
        result = loop.result
        assert result is not None and not loop.closed
        assert chosen[-1] == self.chosen(result) and {run.tokens for run in result.runs} == {len(chosen)}
        assert all(len(run.words) == 1 for run in result.runs)
        self.candidates = [run.candidates for run in result.runs]
        self.operators = result.counters["operators"]
        return chosen

    def by_hand(self, passes: int, tokens: Sequence[int] = FIRST) -> list[list[int]]:
        """The same with a doorbell a pass."""
        chosen = []
        self.operators = 0
        for _ in range(passes):
            result = self.engine.run_pass(self.runs(tokens))
            tokens = self.chosen(result)
            chosen.append(tokens)
            self.candidates = [run.candidates for run in result.runs]
            self.operators += result.counters["operators"]
        return chosen

    def state(self) -> list[object]:
        """Everything that the passes left."""
        engine = self.engine
        keys = [engine.pages.read(session.pages).tobytes() for session in self.sessions]
        blocks = [len(session.pages) for session in self.sessions]
        return [[session.tokens for session in self.sessions], blocks, keys, self.candidates]


def by_hand(
    passes: int, head: str = "exact", runs: int = len(PROMPTS), draws: Sequence[Draw] = GREEDIES,
) -> tuple[list[list[int]], Bench]:
    bench = Bench(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES), head, runs, draws)
    return bench.by_hand(passes), bench


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("head", ["exact", "shortlist"])
def test_a_loop_is_as_many_passes(kind: str, head: str) -> None:
    """Over ends of pages, to the end of the context, with the passes before and behind it; tokens, keys, values, logits."""
    longest = CONFIG.max_context - len(PROMPTS[2])
    expected, hand = by_hand(longest, head)
    bench = Bench(DEVICES[kind](), head)
    bench.loop(1)
    one = [session.tokens[-1] for session in bench.sessions]
    assert one == FIRST
    chosen = bench.loop(6, tokens=expected[0])
    assert chosen == expected[1:7]
    assert bench.by_hand(2, chosen[-1]) == expected[7:9], "passes behind a loop"
    chosen = bench.loop(longest - 9, tokens=expected[8])
    assert chosen == expected[9:]
    assert bench.state() == hand.state()


@pytest.mark.parametrize("kind", ["golden", "rtl"])
def test_stop_tokens(kind: str) -> None:
    expected, hand = by_hand(12)
    operators = hand.operators // 12
    flat = [token for tokens in expected for token in tokens]
    bench = Bench(DEVICES[kind]())
    # A token of any run ends the loop behind the pass that chose it.
    stop = next(token for token in flat[3 * len(FIRST) :] if token not in flat[: 3 * len(FIRST)])
    at = next(i for i, tokens in enumerate(expected) if stop in tokens)
    others = [token for token in range(SHAPE.vocab) if token not in flat][:7]
    assert bench.loop(12, [*others, stop]) == expected[: at + 1]
    assert bench.operators == operators * (at + 1)
    rest = bench.loop(11 - at, [], expected[at])
    assert rest == expected[at + 1 :], "no stop token is left over"
    assert bench.state() == hand.state()


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("head", ["exact", "shortlist"])
def test_drawn_tokens(kind: str, head: str) -> None:
    """Drawn runs beside a greedy one, with a stop token too: tokens, keys, values."""
    expected, hand = by_hand(20, head, draws=DRAWS)
    bench = Bench(DEVICES[kind](), head, draws=DRAWS)
    assert bench.loop(3) == expected[:3]
    assert bench.by_hand(2, expected[2]) == expected[3:5], "passes behind a loop"
    stop = next(tokens[2] for i, tokens in enumerate(expected) if i > 6 and tokens[2] not in sum(expected[5:i], []))
    at = next(i for i in range(5, 20) if stop in expected[i])
    assert bench.loop(15, [stop], expected[4]) == expected[5 : at + 1]
    assert bench.loop(19 - at, [], expected[at]) == expected[at + 1 :]
    assert bench.state() == hand.state()
    greedy, _ = by_hand(20, head)
    assert [tokens[1] for tokens in expected] == [tokens[1] for tokens in greedy]
    assert all([tokens[run] for tokens in expected] != [tokens[run] for tokens in greedy] for run in (0, 2))


@pytest.mark.parametrize("kind", ["golden", "rtl"])
@pytest.mark.parametrize("runs", [1, 2])
def test_fewer_runs(kind: str, runs: int) -> None:
    expected, hand = by_hand(5, runs=runs)
    bench = Bench(DEVICES[kind](), runs=runs)
    assert bench.loop(5) == expected and bench.state() == hand.state()


def test_the_host_ends_a_loop() -> None:
    """On the functional model, where the host looks behind every pass; then in hardware, in the middle of a pass."""
    expected, _ = by_hand(8)
    bench = Bench(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))
    told: list[list[int]] = []
    loop = RunningLoop(bench.engine, bench.runs(), 20, [])
    for tokens in loop:
        told.append(list(tokens))
        if len(told) == 3:
            loop.let_end()
    assert told[:3] == expected[:3] and len(told) == 4, "the pass that ran has ended"
    assert bench.by_hand(2, told[-1]) == expected[4:6]

    bench = Bench(SmallDevice())
    engine, device = bench.engine, bench.engine.device
    engine.start_loop(NOBODY, bench.runs(), 20, [])
    while engine._read("CHOSEN_COUNT") < 2 * len(FIRST):
        device.accelerator.tick(50)  # type: ignore[attr-defined]  # it is a simulated one
    engine._hold("LOOP", 1)
    device.wait(1)
    assert engine._read("CHOSEN_COUNT") == 3 * len(FIRST)
    words = device.read_registers(engine._registers["CHOSEN"].offset, 3 * len(FIRST))
    assert words == [token for tokens in expected[:3] for token in tokens]
    assert Status(engine._read("STATUS")) == Status.DONE


def test_stop_and_reset_in_the_middle() -> None:
    """STOP and reset at any cycle of a loop, between passes too, where tokens are drawn: nothing goes on, what follows is right."""
    expected, hand = by_hand(6, draws=DRAWS)
    device = SmallDevice(KV260)
    accelerator = device.accelerator
    bench = Bench(device, draws=DRAWS)
    assert bench.loop(6) == expected
    whole = bench.engine._read("COUNT_CYCLES")
    generator = random.Random(3)
    first = device._memory.next

    def again() -> None:
        for session, prompt in zip(bench.sessions, PROMPTS, strict=True):
            del session.tokens[len(prompt) :]
        bench.engine._state.held.clear()

    again()
    ends = pass_ends(bench)
    moments = [generator.randrange(whole) for _ in range(6)] + [end + late for end in ends[:2] for late in range(-240, 360, 40)]
    stopped = 0
    for cycles in moments:
        again()
        bench.engine.start_loop(NOBODY, bench.runs(), 6, [])
        accelerator.tick(cycles)
        device.stop()
        assert Status(bench.engine._read("STATUS")) in (Status.DONE | Status.STOPPED, Status.DONE)
        stopped += bool(bench.engine._read("STATUS") & Status.STOPPED)
        chosen = bench.engine._read("CHOSEN_COUNT")
        accelerator.tick(2000)
        assert bench.engine._read("CHOSEN_COUNT") == chosen <= 6 * len(FIRST), "the loop went on"
        bench.engine._write("CONTROL", Control.ACKNOWLEDGE)
        bench.engine._state.busy = False
        again()
        if cycles % 5 == 0:
            assert bench.loop(6) == expected, cycles
    assert stopped > len(moments) // 2
    assert device.clean()
    again()
    bench.engine.start_loop(NOBODY, bench.runs(), 6, [])
    accelerator.tick(whole // 2)
    accelerator.drop_outstanding()
    accelerator.reset()
    device._memory.next = first
    bench = Bench(device, draws=DRAWS)
    assert bench.engine._read("CHOSEN_COUNT") == 0
    assert bench.loop(6) == expected and bench.state() == hand.state()


def pass_ends(bench: Bench) -> list[int]:
    """Cycles from the doorbell of a loop to where the passes have chosen their first tokens."""
    device, ends = bench.engine.device, []
    bench.engine.start_loop(NOBODY, bench.runs(), 6, [])
    cycles = 0
    while not device.accelerator.irq:  # type: ignore[attr-defined]  # it is a simulated one
        device.accelerator.tick(8)  # type: ignore[attr-defined]  # as above
        cycles += 8
        if bench.engine._read("CHOSEN_COUNT") > len(FIRST) * len(ends):
            ends.append(bench.engine._read("COUNT_CYCLES") - 60)
    bench.engine._write("CONTROL", Control.ACKNOWLEDGE)
    bench.engine._state.busy = False
    for session, prompt in zip(bench.sessions, PROMPTS, strict=True):
        del session.tokens[len(prompt) :]
    return ends


def test_loops_that_cannot_be() -> None:
    bench = Bench(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))
    session = bench.sessions[0]

    def run(runs: Sequence[Run], passes: int = 2, stops: Sequence[int] = ()) -> None:
        RunningLoop(bench.engine, runs, passes, stops)

    for runs in ([Run(session, [1, 2], 1)], [Run(session, [1])], [Run(session, [1]), *bench.runs()[1:]]):
        with pytest.raises(ValueError, match="of every session a token that is wanted"):
            run(runs)
    for passes, stops in ((0, ()), (CHOSEN_TOKENS // 3 + 1, ()), (2, range(9))):
        with pytest.raises(ValueError, match="must choose 1 to 512 tokens and stop at up to 8, not"):
            run(bench.runs(), passes, stops)
    with pytest.raises(HwgenError, match="longer than the context of 32 tokens"):
        run(bench.runs(), CONFIG.max_context - len(PROMPTS[2]) + 1)
    small = GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES)
    small._memory.end = bench.engine.device._memory.next - 2 * 4096  # type: ignore[attr-defined]  # a golden device
    full = Engine(small, bench.engine.image)
    assert not full.can_loop() and bench.engine.can_loop()
