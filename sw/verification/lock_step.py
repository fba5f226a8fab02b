"""Lock-step verification: the Verilated accelerator against the golden machine, after every operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ...config import BuildConfig
from ...descriptors import Descriptor, Flag, Opcode
from ...errors import HwgenError
from ...weights import ModelWeights
from ..compiler.compile import compile_model
from ..compiler.image import Image
from ..devices.device import DeviceTimeout
from ..runtime.engine import Engine, PassResult, Run
from ..runtime.pages import Session
from .operator_outputs import OperatorOutputs, Output, SteppedDevice, Words

if TYPE_CHECKING:
    from ..devices.golden import GoldenDevice
    from ..devices.verilator import Waves

__all__ = ["LockStep", "Mismatch", "Outcome", "verify_model"]

Weights = TypeVar("Weights", bound=ModelWeights)


@dataclass(frozen=True)
class Mismatch:
    """One element that differs."""

    operator: str
    layer: int
    #: Position in the context.
    token: int
    element: int
    rtl: float | int | str
    golden: float | int | str
    #: Which output of the operator.
    output: str = ""

    def __str__(self) -> str:
        return (
            f"operator {self.operator} ({self.output}), layer {self.layer}, token {self.token}, element {self.element}: "
            f"rtl {self.rtl}, golden {self.golden}"
        )


@dataclass
class Outcome:
    """What was compared and what differed."""

    operators_compared: int = 0
    elements_compared: int = 0
    mismatches: int = 0
    first: Mismatch | None = None
    passes: int = 0
    cycles: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _number(word: Any, kind: np.dtype[Any]) -> float | int:
    """A word as people read it: those that the golden machine has in 32 bits are float32."""
    return float(np.uint32(word).view(np.float32)) if kind == np.uint32 else int(word)


class LockStep:
    """Runs the same passes on both machines and compares the outputs of every operator when it retires; stops at the
    first operator that differs.

    Units of the machine run at the same time, so operators may retire out of the program's order. The golden machine
    goes in order; what it computed is kept until the device under test retires the same operator.
    """

    def __init__(
        self, config: BuildConfig, image: Image, device: SteppedDevice, golden: GoldenDevice, *, every_operator: bool = True,
        retired: Callable[[int], None] = lambda tag: None,
    ) -> None:
        self.config, self.image, self.device, self.golden = config, image, device, golden
        #: False: only what is left at the end of a pass is compared.
        self.every_operator = every_operator
        #: Told the tag of every operator as it retires on the device under test.
        self.retired = retired
        #: What the device under test reported of the latest pass.
        self.rtl_result: PassResult | None = None
        self.rtl_engine, self.golden_engine = Engine(device, image), Engine(golden, image)
        #: Of every sequence, on the golden device and on the one under test.
        self.sessions = [(Session(), Session())]
        #: Blocks of the cache that every run of one token chooses, 0 is all; builds with a budget.
        self.budget = 0
        self.outcome = Outcome()
        self._outputs = OperatorOutputs(config, device, golden.machine)

    def forward(self, tokens: list[int], logits: bool) -> PassResult | None:
        """One pass over the next tokens of the first sequence."""
        return self.run_pass([(0, tokens, int(logits))])

    def run_pass(self, parts: list[tuple[int, list[int], int]]) -> PassResult | None:
        """One pass on both machines: number of a sequence, its next tokens, and how many of the last are wanted, a run each. The
        result of the golden machine, or None after a mismatch.
        """
        while len(self.sessions) <= max(number for number, _, _ in parts):
            self.sessions.append((Session(), Session()))
        of_golden, of_rtl = (
            [Run(self.sessions[number][side], tokens, wanted, budget=self.budget) for number, tokens, wanted in parts]
            for side in range(2)
        )
        steps = self.golden.hold_next_pass()
        last: Descriptor | None = None
        for engine, runs in ((self.golden_engine, of_golden), (self.rtl_engine, of_rtl)):
            engine.start(runs, write_logits=True)
        if self.every_operator:
            last = self._compare_operators(steps())
        else:
            for last in steps():  # noqa: B007  # the last one is used
                self.outcome.operators_compared += 1
        if last is None:
            return None
        golden = self.golden_engine.finish(of_golden)
        try:
            self.rtl_result = rtl = self.rtl_engine.finish(of_rtl)
        except DeviceTimeout as error:
            self._fail(last, "no progress", "done", f"end: {error.message}")
            return None
        for output in self._outputs.whole_memories(last):
            if not np.array_equal(output.rtl(), output.golden):
                self._compare(output)
            elif not self.every_operator:
                self.outcome.elements_compared += output.golden.size
        self.outcome.passes += 1
        self.outcome.cycles += rtl.cycles
        for number, tokens, _ in parts:
            self._compare_cache(number, len(tokens))
        self._compare_logits(rtl, golden)
        return None if self.outcome.mismatches else golden

    def _compare_operators(self, steps: Iterator[Descriptor]) -> Descriptor | None:
        """All operators of a pass as they retire; the last one, or None after a mismatch."""
        waiting: dict[int, tuple[Descriptor, list[Output]]] = {}
        last: Descriptor | None = None
        ended = False
        while not (ended and not waiting):
            while not waiting and not ended:
                ended, last = self._step(steps, waiting, last)
            if ended and not waiting:
                break
            try:
                tag = self.device.next_operator()
            except DeviceTimeout as error:
                self._fail(next(iter(waiting.values()))[0], "no progress", "retired", f"end: {error.message}")
                return None
            self.retired(tag)
            while tag not in waiting and not ended:
                ended, last = self._step(steps, waiting, last)
            if tag not in waiting:
                d = next(iter(waiting.values()))[0]
                self._fail(d, tag, d.tag, "an operator that does not belong to this pass")
                return None
            _, outputs = waiting.pop(tag)
            self.outcome.operators_compared += 1
            for output in outputs:
                self._compare(output)
            if self.outcome.mismatches:
                return None
        return last

    def _step(
        self, steps: Iterator[Descriptor], waiting: dict[int, tuple[Descriptor, list[Output]]], last: Descriptor | None
    ) -> tuple[bool, Descriptor | None]:
        """One operator of the golden machine: whether there was none left, and the latest one."""
        d = next(steps, None)
        if d is None:
            return True, last
        waiting[d.tag] = d, self._outputs.of(d)
        return False, d

    def _fail(self, d: Descriptor, rtl: int | str, golden: int | str, output: str) -> None:
        self.outcome.mismatches += 1
        self.outcome.first = self.outcome.first or Mismatch(
            d.opcode.name, d.layer, self._position_of(d, self.golden.machine.first), 0, rtl, golden, output
        )

    def _position_of(self, d: Descriptor, token: int) -> int:
        """Context position of a token that an operator works on."""
        machine = self.golden.machine
        if Flag.LOGITS in d.flags:
            token = machine.registers.want[token]
        return machine.positions[token] if 0 <= token < machine.tokens else token

    def _compare(self, output: Output) -> None:
        self.outcome.elements_compared += output.golden.size
        rtl = output.rtl()
        if np.array_equal(rtl, output.golden):
            return
        wrong = np.argwhere(rtl != output.golden)
        self.outcome.mismatches += len(wrong)
        if self.outcome.first is None:
            row, element = (int(i) for i in wrong[0])
            self.outcome.first = Mismatch(
                output.owner.opcode.name,
                output.owner.layer,
                self._position_of(output.owner, int(output.tokens[row])),
                element,
                _number(rtl[row, element], output.golden.dtype),
                _number(output.golden[row, element], output.golden.dtype),
                output.name,
            )

    def _compare_cache(self, number: int, count: int) -> None:
        """The pages to which the last ``count`` tokens of a sequence were written, as they are in both memories."""
        c, (golden_session, rtl_session) = self.config, self.sessions[number]
        first, last = (golden_session.position - count) // c.kv_block, (golden_session.position - 1) // c.kv_block
        for d in self.image.descriptors:
            if d.opcode is not Opcode.KV_WRITE:
                continue
            for block in range(first, last + 1):
                for head in range(d.kv_heads):
                    offset, size = d.stream_address + head * d.head_stride, d.stream_beats * c.beat_bytes
                    rtl, golden = (
                        engine.device.read(engine.pages.address(session.pages[block]) + offset, size).reshape(1, -1)
                        for engine, session in ((self.rtl_engine, rtl_session), (self.golden_engine, golden_session))
                    )
                    token = np.zeros(1, np.int64)
                    name = f"block {block} of head {head}" + (f" of sequence {number}" if number else "")
                    self._compare(Output(d, name, token, partial(np.asarray, rtl), golden))

    def _compare_logits(self, rtl: PassResult, golden: PassResult) -> None:
        """Logits and candidates of every wanted token."""
        head = self.image.descriptors[-1]
        mine, theirs = ([tokens for run in result.runs for tokens in run.candidates] for result in (rtl, golden))
        for j, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            pairs: dict[str, list[Words]] = {
                "candidate": [np.array([[c.token for c in r]]) for r in (a, b)],
                "candidate logit": [np.array([[c.logit for c in r]], np.float32).view(np.uint32) for r in (a, b)],
            }
            if self.image.head == "exact":
                pairs["logits"] = [e.logits(j)[None].view(np.uint32) for e in (self.rtl_engine, self.golden_engine)]
            for name, (found, expected) in pairs.items():
                self._compare(Output(head, name, np.array([j]), partial(np.asarray, found), expected))

    def run(self, prompt: list[int], new_tokens: int, progress: Callable[[str], None] = lambda text: None) -> Outcome:
        """A prompt and greedy decoding behind it."""
        self.rtl_engine.check_context(len(prompt) + max(0, new_tokens - 1))
        result: PassResult | None = None
        for start in range(0, len(prompt), self.image.chunk):
            chunk = prompt[start : start + self.image.chunk]
            progress(f"prompt token {start + len(chunk)} of {len(prompt)}")
            result = self.forward(chunk, logits=start + len(chunk) == len(prompt))
            if result is None:
                return self.outcome
        for i in range(1, new_tokens):
            progress(f"new token {i} of {new_tokens}")
            result = self.forward([result.candidates[0].token] if result else [], logits=True)
            if result is None:
                return self.outcome
        return self.outcome


def truncate_layers(weights: Weights, layers: int) -> Weights:
    """The model cut down to its first layers."""
    if layers > weights.shape.layers:
        raise HwgenError("usage", f"--layers must be at most {weights.shape.layers}, not {layers}", "give fewer layers")
    centers = weights.key_centers
    return replace(
        weights, shape=replace(weights.shape, layers=layers), layers=weights.layers[:layers],
        key_centers=None if centers is None else centers.of_layers(layers),
    )


def verify_model(
    config: BuildConfig,
    weights: ModelWeights,
    *,
    prompt_tokens: int,
    new_tokens: int,
    layers: int | None = None,
    head: str = "exact",
    seed: int = 0,
    noise: int | None = None,
    waves: Waves | None = None,
    progress: Callable[[str], None] = lambda text: None,
    device: SteppedDevice | None = None,
) -> Outcome:
    """Compare RTL and golden model over a random prompt and its greedy continuation.

    ``device`` is the machine under test; without one the accelerator is generated with probes and verilated, with ``noise``
    (a seed) in everything that a board does not promise (`hwgen.sim.noise`), and its ``waves`` written.
    """
    from ..devices.golden import GoldenDevice
    from ..devices.verilator import VerilatorDevice

    if layers is not None:
        weights = truncate_layers(weights, layers)
    image = compile_model(config, weights, head=head)
    memory = image.memory_bytes()
    if device is None:
        device = VerilatorDevice(replace(config, probe=True), memory_bytes=memory, noise=noise, waves=waves, progress=progress)
    lock_step = LockStep(config, image, device, GoldenDevice(config, memory_bytes=memory))
    prompt = [int(t) for t in np.random.default_rng(seed).integers(0, weights.shape.vocab, prompt_tokens)]
    return lock_step.run(prompt, new_tokens, progress)
