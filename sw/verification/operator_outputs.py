"""What every operator has just written, in the golden machine and in the mirrors of a device under test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...descriptors import Descriptor
from ...operators import OPERATORS, State, accumulator_half, accumulator_vectors, activation_half
from ..devices.device import Device

if TYPE_CHECKING:
    from ...golden.machine import GoldenMachine

__all__ = ["OperatorOutputs", "Output", "SteppedDevice", "Words"]

Words = npt.NDArray[Any]
Tokens = npt.NDArray[np.int64]


class SteppedDevice(Device, Protocol):
    """A device under test whose passes stop after every operator and whose memories can be seen."""

    def next_operator(self) -> int:
        """Run to the end of the next operator; its ``tag``. :class:`DeviceTimeout` when nothing moves."""

    def mirror(self, name: str) -> Words:
        """Live view ``[depth, lanes]`` of the memory behind a probe of ``hwgen.probes``, unsigned words."""


@dataclass(frozen=True)
class Output:
    """One output of an operator: equal rows of words, one for each token."""

    #: Who computed it.
    owner: Descriptor
    name: str
    #: Chunk token of every row.
    tokens: Tokens
    #: What the device under test has now.
    rtl: Callable[[], Words]
    golden: Words


class OperatorOutputs:
    """Finds the outputs of an operator in the state of the golden machine, and where the device under test mirrors them."""

    def __init__(self, config: BuildConfig, device: SteppedDevice, golden: GoldenMachine) -> None:
        self.config, self.device, self.golden = config, device, golden
        #: The latest operator that wrote either half of the accumulators.
        self._multiplied: dict[int, Descriptor] = {}

    def of(self, d: Descriptor) -> list[Output]:
        """Every output of ``d``, which the golden machine has just executed.

        Accumulators can be seen only while they are read; what differs there was done by the operator that wrote them.
        """
        row = OPERATORS[d.opcode]
        tokens = np.arange(self.golden.first, self.golden.first + self.golden.count)
        outputs = [self._accumulators(d, tokens)] if State.ACCUMULATORS in row.reads(d) else []
        for name, state, at in (
            ("scratch", self.golden.scratch, row.scratch_writes(d)), ("param", self.golden.param, row.param_writes(d))
        ):
            if at.count:
                of = tokens if at.stride else tokens[:1]
                vectors = at.base + of[:, None] * at.stride + np.arange(at.count)
                outputs.append(self._mirrored(d, name, name, vectors, of, state.view(np.uint32)[vectors]))
        if State.ACCUMULATORS in row.writes(d):
            self._multiplied[accumulator_half(d)] = d
        for written in row.writes(d).each():
            outputs += _OUTPUTS[written](self, d, tokens)
        return outputs

    def whole_memories(self, d: Descriptor) -> Iterator[Output]:
        """Scratch and parameter memory from end to end: nothing else may have been written."""
        for name, state in (("scratch", self.golden.scratch), ("param", self.golden.param)):
            golden = state.view(np.uint32)
            yield Output(d, f"{name} written besides", np.zeros(len(golden), np.int64), partial(self.device.mirror, name), golden)

    def _mirrored(self, d: Descriptor, name: str, mirror: str, at: npt.NDArray[np.int64], tokens: Tokens, golden: Words) -> Output:
        """Words ``at`` ``[tokens, ...]`` of a mirror against ``golden`` ``[tokens, ...]``, which is copied."""
        rows, kind = len(tokens), golden.dtype
        return Output(
            d,
            name,
            tokens,
            lambda: self.device.mirror(mirror)[at].reshape(rows, -1).view(kind),
            golden.reshape(rows, -1).copy(),
        )

    def _accumulators(self, d: Descriptor, tokens: Tokens) -> Output:
        c, rows, half = self.config, len(tokens), accumulator_half(d)
        count = accumulator_vectors(d)
        at = (half * c.tokens + np.arange(rows))[:, None] * c.panel_vectors + d.row_blocks + np.arange(count)
        golden = self.golden.accumulator[half, :rows, d.row_blocks * c.width : (d.row_blocks + count) * c.width]
        sign = 1 << (c.acc_bits - 1)

        def rtl() -> Words:
            words: npt.NDArray[np.int64] = self.device.mirror("acc")[at].reshape(rows, -1).astype(np.int64)
            return (words ^ sign) - sign

        return Output(self._multiplied.get(half, d), "accumulator", tokens, rtl, golden.copy())

    def _unseen(self, d: Descriptor, tokens: Tokens) -> list[Output]:
        """No probe is there: what differs shows in the operator that reads it."""
        return []

    def _head_input(self, d: Descriptor, tokens: Tokens) -> list[Output]:
        g = self.golden
        query, scale = g.head_query[: d.vectors * self.config.width], g.head_scale.view(np.uint32)
        return [
            self._mirrored(d, "query", "query", np.arange(d.vectors)[None], tokens, query),
            self._mirrored(d, "query_scale", "query_scale", np.zeros((1, 1), np.int64), tokens, scale),
        ]

    def _activations(self, d: Descriptor, tokens: Tokens) -> list[Output]:
        c, rows, half = self.config, len(tokens), activation_half(d)
        at = (half * c.tokens + np.arange(rows))[:, None] * (c.max_inputs // c.width) + d.dst + np.arange(d.vectors)
        golden = self.golden.activation[half, :rows, d.dst * c.width : (d.dst + d.vectors) * c.width]
        return [self._mirrored(d, "activation", "act", at, tokens, golden)]

    def _queries(self, d: Descriptor, tokens: Tokens) -> list[Output]:
        g, dim, group = self.golden, d.head_vectors * self.config.width, d.heads // d.kv_heads
        head = np.arange(d.heads)
        slot = (tokens[:, None] * group + head % group) * d.kv_heads + head // group  # [token, head]
        at = slot[:, :, None] * d.head_vectors + np.arange(d.head_vectors)
        return [
            self._mirrored(d, "query", "query", at, tokens, g.query[tokens, : d.heads, :dim]),
            self._mirrored(d, "query_scale", "query_scale", slot, tokens, g.query_scale[tokens, : d.heads].view(np.uint32)),
        ]

    def _stored(self, d: Descriptor, tokens: Tokens, kind: int, name: str) -> list[Output]:
        """Keys (``kind`` 0) or values (1)."""
        c, g, dim = self.config, self.golden, d.head_vectors * self.config.width
        place = (tokens[:, None] * 2 + kind) * c.max_kv_heads + np.arange(d.kv_heads)
        at = place[:, :, None] * (c.max_head_dim // c.width) + np.arange(d.head_vectors)
        return [
            self._mirrored(d, name, "kv", at, tokens, g.kv_store[kind, tokens, : d.kv_heads, :dim]),
            self._mirrored(d, f"{name}_scale", "kv_scale", place, tokens, g.kv_scale[kind, tokens, : d.kv_heads]),
        ]


#: How everything that operators write besides vectors is seen.
_OUTPUTS: Mapping[State, Callable[[OperatorOutputs, Descriptor, Tokens], list[Output]]] = {
    State.ACTIVATIONS: OperatorOutputs._activations,
    State.ACCUMULATORS: OperatorOutputs._unseen,
    State.SCALES: OperatorOutputs._unseen,
    State.QUERIES: OperatorOutputs._queries,
    State.HEAD_INPUT: OperatorOutputs._head_input,
    State.KEYS: partial(OperatorOutputs._stored, kind=0, name="key"),
    State.VALUES: partial(OperatorOutputs._stored, kind=1, name="value"),
    State.SCORES: OperatorOutputs._unseen,
    State.CANDIDATES: OperatorOutputs._unseen,
    State.CHOICE: OperatorOutputs._unseen,
}
if wrong := {kind for kind in State if kind is not State.NONE} ^ set(_OUTPUTS):
    raise AssertionError(f"sw/verification/operator_outputs.py, _OUTPUTS: {wrong}")
