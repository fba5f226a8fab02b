"""Lock-step verification: the Verilated accelerator against the golden machine, after every operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ..config import BuildConfig
from ..descriptors import Descriptor, Flag, Opcode
from ..errors import HwgenError
from ..layout import from_planes
from ..weights import ModelWeights
from .compiler import compile_model
from .device import Device, DeviceTimeout
from .engine import Engine, PassResult, Session
from .image import Image

if TYPE_CHECKING:
    from ..golden.machine import GoldenMachine
    from .golden_device import GoldenDevice

__all__ = ["LockStep", "Mismatch", "Outcome", "SteppedDevice", "verify_model"]

Words = npt.NDArray[Any]


class SteppedDevice(Device, Protocol):
    """A device under test whose passes stop after every operator and whose memories can be seen."""

    def next_operator(self) -> int:
        """Run to the end of the next operator; its ``tag``. :class:`DeviceTimeout` when nothing moves."""

    def mirror(self, name: str) -> Words:
        """Live view ``[depth, lanes]`` of the memory behind a probe of ``hwgen.probes``, unsigned words."""


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


@dataclass(frozen=True)
class Output:
    """One output of an operator: equal rows of words, one for each token."""

    name: str
    #: Chunk token of every row.
    tokens: npt.NDArray[np.int64]
    rtl: Words
    golden: Words


def _display(words: Words, kind: str, index: tuple[int, ...]) -> float | int:
    word = words[index]
    if kind == "f32":
        return float(np.uint32(word).view(np.float32))
    return int(word)


class OperatorOutputs:
    """Finds the outputs of an operator in the mirrors of the device under test and in the state of the golden machine."""

    def __init__(self, config: BuildConfig, device: SteppedDevice, golden: GoldenMachine) -> None:
        self.config, self.device, self.golden = config, device, golden
        self._linear: Descriptor | None = None

    def of(self, d: Descriptor) -> Iterator[tuple[Descriptor, Output]]:
        """Every output known after ``d`` has retired, with the operator that computed it.

        Accumulators can be seen only while DRAIN reads them; what differs there is LINEAR's doing.
        """
        tokens = np.arange(self.golden.first, self.golden.first + self.golden.count)
        if d.opcode is Opcode.LINEAR:
            self._linear = d
        elif d.opcode is Opcode.DRAIN:
            yield self._linear or d, self._accumulators(d, tokens)
            yield d, self._scratch(d.dst, d.dst_stride, d.vectors, tokens)
        elif d.opcode is Opcode.EMBED:
            yield d, self._scratch(d.dst, d.dst_stride, d.vectors, tokens)
        elif d.opcode is Opcode.ATTENTION:
            yield d, self._scratch(d.dst, d.dst_stride, d.heads * d.head_vectors, tokens)
        elif d.opcode is Opcode.ROTARY:
            yield d, self._memory("param", self.golden.param, d.dst, d.dst_stride, d.vectors, tokens)
        elif d.opcode is Opcode.PARAM:
            yield d, self._memory("param", self.golden.param, d.dst, 0, d.vectors, tokens[:1])
        elif d.opcode is Opcode.NORM:
            for output in self._norm(d, tokens):
                yield d, output
        elif d.opcode is Opcode.ROPE:
            for output in self._rope(d, tokens):
                yield d, output

    def whole_memories(self) -> Iterator[Output]:
        """Scratch and parameter memory from end to end: nothing else may have been written."""
        for name, state in (("scratch", self.golden.scratch), ("param", self.golden.param)):
            golden = state.view(np.uint32)
            yield Output(name, np.zeros(len(golden), np.int64), self.device.mirror(name), golden)

    def _memory(
        self,
        name: str,
        state: npt.NDArray[np.float32],
        base: int,
        stride: int,
        vectors: int,
        tokens: npt.NDArray[np.int64],
    ) -> Output:
        at = base + tokens[:, None] * stride + np.arange(vectors)
        rows = len(tokens)
        return Output(
            name, tokens, self.device.mirror(name)[at].reshape(rows, -1), state.view(np.uint32)[at].reshape(rows, -1)
        )

    def _scratch(self, base: int, stride: int, vectors: int, tokens: npt.NDArray[np.int64]) -> Output:
        return self._memory("scratch", self.golden.scratch, base, stride, vectors, tokens)

    def _accumulators(self, d: Descriptor, tokens: npt.NDArray[np.int64]) -> Output:
        c = self.config
        at = np.arange(len(tokens))[:, None] * (c.max_rows // c.width) + d.row_blocks + np.arange(d.vectors)
        rtl = self.device.mirror("acc")[at].reshape(len(tokens), -1).astype(np.int64)
        sign = 1 << (c.acc_bits - 1)
        golden = self.golden.accumulator[: len(tokens), d.row_blocks * c.width : (d.row_blocks + d.vectors) * c.width]
        return Output("accumulator", tokens, (rtl ^ sign) - sign, golden)

    def _norm(self, d: Descriptor, tokens: npt.NDArray[np.int64]) -> Iterator[Output]:
        c, g = self.config, self.golden
        n = d.vectors * c.width
        if Flag.TO_QUERY in d.flags:
            yield Output(
                "query",
                tokens,
                self.device.mirror("query")[: d.vectors].reshape(1, -1).view(np.int8),
                g.head_query[None, :n],
            )
            yield Output(
                "query_scale",
                tokens,
                self.device.mirror("query_scale")[:1].reshape(1, 1),
                g.head_scale[None].view(np.uint32),
            )
            return
        copies = range(c.groups) if g.gang else range(1)
        for copy in copies:
            lanes = [divmod(copy * c.lanes + i, c.lanes) for i in range(len(tokens))]
            rtl = np.stack([self.device.mirror(f"act{group}_{lane}")[: d.vectors].reshape(-1) for group, lane in lanes])
            first = copy * c.lanes
            yield Output("activation", tokens, rtl.view(np.int8), g.activation[first : first + len(tokens), :n])

    def _rope(self, d: Descriptor, tokens: npt.NDArray[np.int64]) -> Iterator[Output]:
        c, g, rows = self.config, self.golden, len(tokens)
        yield self._scratch(d.dst, d.dst_stride, (d.heads + d.kv_heads) * d.head_vectors, tokens)
        dim, group = d.head_vectors * c.width, d.heads // d.kv_heads
        head = np.arange(d.heads)
        slot = (tokens[:, None] * group + head % group) * d.kv_heads + head // group  # [token, head]
        at = slot[:, :, None] * d.head_vectors + np.arange(d.head_vectors)
        yield Output(
            "query",
            tokens,
            self.device.mirror("query")[at].reshape(rows, -1).view(np.int8),
            g.query[tokens, : d.heads, :dim].reshape(rows, -1),
        )
        yield Output(
            "query_scale",
            tokens,
            self.device.mirror("query_scale")[slot].reshape(rows, -1),
            g.query_scale[tokens, : d.heads].view(np.uint32),
        )
        banks = (g.position + tokens) % c.chunk
        for kind, name in enumerate(("key", "value")):
            place = (banks[:, None] * 2 + kind) * c.max_kv_heads + np.arange(d.kv_heads)
            at = place[:, :, None] * (c.max_head_dim // c.width) + np.arange(d.head_vectors)
            yield Output(
                name,
                tokens,
                self.device.mirror("kv")[at].reshape(rows, -1).view(np.int8),
                g.kv_store[kind, banks, : d.kv_heads, :dim].reshape(rows, -1),
            )
            yield Output(
                f"{name}_scale",
                tokens,
                self.device.mirror("kv_scale")[place].reshape(rows, -1),
                g.kv_scale[kind, banks, : d.kv_heads],
            )


class LockStep:
    """Runs the same passes on both machines and compares after every operator; stops at the first operator that differs."""

    def __init__(self, config: BuildConfig, image: Image, device: SteppedDevice, golden: GoldenDevice) -> None:
        self.config, self.image, self.device, self.golden = config, image, device, golden
        self.rtl_engine, self.golden_engine = Engine(device, image), Engine(golden, image)
        self.sessions = Session(), Session()
        self.outcome = Outcome()
        self._outputs = OperatorOutputs(config, device, golden.machine)
        self._position = 0

    def forward(self, tokens: list[int], logits: bool) -> PassResult | None:
        """One pass on both; the result of the golden machine, or None after a mismatch."""
        self._position = self.sessions[0].position
        steps = self.golden.hold_next_pass()
        for engine, session in zip((self.golden_engine, self.rtl_engine), self.sessions, strict=True):
            engine.start(session, tokens, logits=logits, write_logits=True)
        last: Descriptor | None = None
        for d in steps():
            last = d
            try:
                tag = self.device.next_operator()
            except DeviceTimeout as error:
                self._fail(d, "no progress", "retired", f"end: {error.message}")
                return None
            if tag != d.tag:
                self._fail(d, tag, d.tag, "order of operators")
                return None
            self.outcome.operators_compared += 1
            for owner, output in self._outputs.of(d):
                self._compare(owner, output)
            if not self.outcome.mismatches:
                for output in self._outputs.whole_memories():
                    if not np.array_equal(output.rtl, output.golden):
                        self._compare(d, replace(output, name=f"{output.name} written besides"))
            if self.outcome.mismatches:
                return None
        golden = self.golden_engine.finish(len(tokens), logits=logits)
        try:
            rtl = self.rtl_engine.finish(len(tokens), logits=logits)
        except DeviceTimeout as error:
            self._fail(last or Descriptor(), "no progress", "done", f"end: {error.message}")
            return None
        self.outcome.passes += 1
        self.outcome.cycles += rtl.cycles
        self._compare_cache(len(tokens))
        if logits:
            self._compare_logits(rtl, golden)
        return None if self.outcome.mismatches else golden

    def _fail(self, d: Descriptor, rtl: int | str, golden: int | str, output: str) -> None:
        self.outcome.mismatches += 1
        self.outcome.first = self.outcome.first or Mismatch(
            d.opcode.name, d.layer, self._position + self.golden.machine.first, 0, rtl, golden, output
        )

    def _compare(self, d: Descriptor, output: Output) -> None:
        self.outcome.elements_compared += output.golden.size
        if np.array_equal(output.rtl, output.golden):
            return
        wrong = np.argwhere(output.rtl != output.golden)
        self.outcome.mismatches += len(wrong)
        if self.outcome.first is None:
            row, element = (int(i) for i in wrong[0])
            float_like = output.golden.dtype == np.uint32
            kind = "f32" if float_like else "int"
            self.outcome.first = Mismatch(
                d.opcode.name,
                d.layer,
                self._position + int(output.tokens[row]),
                element,
                _display(output.rtl, kind, (row, element)),
                _display(output.golden, kind, (row, element)),
                output.name,
            )

    def _compare_cache(self, count: int) -> None:
        """The pages this pass wrote to, as they are in both memories."""
        c = self.config
        first, last = self._position // c.kv_block, (self._position + count - 1) // c.kv_block
        for d in self.image.descriptors:
            if d.opcode is not Opcode.KV_WRITE:
                continue
            for block in range(first, last + 1):
                for head in range(d.kv_heads):
                    offset = d.stream_address + self.sessions[0].pages[block] * d.stride + head * d.head_stride
                    size = d.stream_beats * c.beat_bytes
                    pair = [
                        from_planes(c, device.read(base + offset, size)).reshape(1, -1)
                        for device, base in (
                            (self.device, self.rtl_engine.base),
                            (self.golden, self.golden_engine.base),
                        )
                    ]
                    self._compare(
                        d,
                        Output(f"block {block} of head {head}", np.array([block * c.kv_block - self._position]), *pair),
                    )

    def _compare_logits(self, rtl: PassResult, golden: PassResult) -> None:
        head = self.image.descriptors[-1]
        token = np.array([golden.tokens - 1])
        for name, pair in (
            ("logits", [e.logits()[None].view(np.uint32) for e in (self.rtl_engine, self.golden_engine)]),
            ("candidate", [np.array([[c.token for c in r.candidates]]) for r in (rtl, golden)]),
            (
                "candidate logit",
                [np.array([[c.logit for c in r.candidates]], np.float32).view(np.uint32) for r in (rtl, golden)],
            ),
        ):
            self._compare(head, Output(name, token, *pair))

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


def truncate_layers(weights: ModelWeights, layers: int) -> ModelWeights:
    """The model cut down to its first layers."""
    if layers > weights.shape.layers:
        raise HwgenError("usage", f"--layers must be at most {weights.shape.layers}, not {layers}", "give fewer layers")
    return replace(weights, shape=replace(weights.shape, layers=layers), layers=weights.layers[:layers])


def verify_model(
    config: BuildConfig,
    weights: ModelWeights,
    *,
    prompt_tokens: int,
    new_tokens: int,
    layers: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
    device: SteppedDevice | None = None,
) -> Outcome:
    """Compare RTL and golden model over a random prompt and its greedy continuation.

    ``device`` is the machine under test; without one the accelerator is generated with probes and verilated.
    """
    from .golden_device import GoldenDevice
    from .verilator_device import VerilatorDevice

    if layers is not None:
        weights = truncate_layers(weights, layers)
    image = compile_model(config, weights)
    memory = -(-(image.total_bytes + (1 << 20)) // 4096) * 4096
    if device is None:
        device = VerilatorDevice(replace(config, probe=True), memory_bytes=memory, progress=progress)
    lock_step = LockStep(config, image, device, GoldenDevice(config, memory_bytes=memory))
    prompt = [int(t) for t in np.random.default_rng(seed).integers(0, weights.shape.vocab, prompt_tokens)]
    return lock_step.run(prompt, new_tokens, progress)
