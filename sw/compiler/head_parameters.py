"""What query, key and value heads have in some families: biases, norms, no rotation. Where that lies, and its operators."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...decoder import DecoderLayer, Values
from ...descriptors import Buffers, Descriptor, Fetch, Flag, Opcode
from ...errors import HwgenError
from ...formats import Float, flush, identity_row, pack_bf16
from ...layout import blob_beats, pad_beats, vectors_of
from ...rounding import ceil_div
from ...shape import ModelShape
from ...weights import LayerWeights
from .placement import ScratchPlan, SegmentPlan

__all__ = ["HeadParameters", "check_biases", "load_parameters"]

KeyRows = npt.NDArray[np.uint16] | None


def check_biases(layer: DecoderLayer) -> None:
    """Refuse biases where the machine adds none."""
    for stage in layer.stages:
        if stage.biases and stage.writes is not Values.HEADS:
            raise HwgenError(
                "model", f"the model has a bias {stage.biases[0]}; the machine adds those of queries, keys and values alone",
                "choose a model without it",
            )


def load_parameters(
    config: BuildConfig, memory: SegmentPlan, name: str, values: Float, *, dst: int, layer: int = 0, flags: Flag = Flag.NONE,
    buffers: Buffers = Buffers.NONE,
) -> Descriptor:
    """Places ``values`` in ``memory`` as ``name``; what loads them to ``dst`` of the parameter memory, the place of ``buffers``."""
    data = flush(values)
    beats = pad_beats(config, ceil_div(data.nbytes, config.beat_bytes))
    address = memory.add(name, beats * config.beat_bytes, lambda: blob_beats(config, data.view(np.uint8)).reshape(-1))
    return Descriptor(
        opcode=Opcode.PARAM, layer=layer, flags=flags, buffers=buffers, fetch=Fetch.STREAM, token_count=1, stream_address=address,
        stream_beats=beats, vectors=vectors_of(config, data.size), dst=dst,
    )


class HeadParameters:
    """Parameter memory behind that of norms and matrices: a rotary row that rotates nothing, for layers that are not rotated;
    gains of the norms of queries and of keys. Biases lie in the scratch, one row for all tokens, and behind them what is added to
    rotated keys (`hwgen.key_centers.key_rows`), in models that have it.
    """

    def __init__(self, config: BuildConfig, shape: ModelShape, layer: DecoderLayer, keys: KeyRows = None) -> None:
        self.config, self.shape, self.names, self.bias_of = config, shape, layer.head_norms, layer.bias_of
        self._keys = keys
        self.head_vectors = shape.head_dim // config.width
        self._identity = self.head_vectors if shape.unrotated else 0
        #: Vectors of the parameter memory, and of the scratch.
        self.vectors = self._identity + self.head_vectors * len(self.names)
        biases = sum(vectors_of(config, rows) for rows in layer.biases(shape).values())
        #: Where the row of keys lies behind the first bias; None where there is none.
        self.key_row = None if keys is None else biases
        self.bias_vectors = biases + (0 if keys is None else vectors_of(config, shape.kv_rows))
        #: First address in the parameter memory.
        self.first = 0

    def rotary(self, layer: int) -> tuple[int, int]:
        """Address of the rotary rows of a layer, and vectors from one token to the next."""
        return (self.first, 0) if layer in self.shape.unrotated else (0, self.head_vectors)

    def load_once(self, memory: SegmentPlan) -> Iterator[Descriptor]:
        """What all layers share."""
        if self._identity:
            yield load_parameters(self.config, memory, "unrotated", identity_row(self.shape.head_dim), dst=self.first)

    def load(self, memory: SegmentPlan, plan: ScratchPlan, layer: int, weights: LayerWeights) -> Iterator[Descriptor]:
        """What the heads of a layer have, before they are drained."""
        c = self.config
        if self.names:
            gains = np.concatenate([weights.norms[name] for name in self.names])
            yield load_parameters(
                c, memory, f"layers.{layer}.head_norms", gains, dst=self.first + self._identity, layer=layer
            )
        if self.bias_vectors:
            rows = [pack_bf16(weights.biases[name]) for name in self.bias_of.values()]
            bits = np.concatenate(rows if self._keys is None else [*rows, self._keys[layer]])
            beats = pad_beats(c, ceil_div(bits.nbytes, c.beat_bytes))
            address = memory.add(
                f"layers.{layer}.biases", beats * c.beat_bytes, lambda: blob_beats(c, bits.view(np.uint8))[:beats].reshape(-1)
            )
            yield Descriptor(
                opcode=Opcode.EMBED, layer=layer, fetch=Fetch.STREAM, token_count=1, stream_address=address, stream_beats=beats,
                vectors=self.bias_vectors, dst=plan.bias,
            )

    def norms(self, plan: ScratchPlan, layer: int, first: int, last: int, tokens: dict[str, int]) -> Iterator[Descriptor]:
        """Norms of kinds ``first`` to ``last`` of heads, in front of their rotation: of queries and of keys."""
        s = self.shape
        for kind in range(first, min(last, len(self.names))):
            start = plan.qkv + (vectors_of(self.config, s.q_rows) if kind else 0)
            yield Descriptor(
                opcode=Opcode.NORM, layer=layer, flags=Flag.STORE, vectors=self.head_vectors,
                heads=s.kv_heads if kind else s.heads, src=start, src_stride=plan.qkv_stride, dst=start, dst_stride=plan.qkv_stride,
                param=self.first + self._identity + kind * self.head_vectors, scalar0=float(np.float32(1.0 / s.head_dim)),
                scalar1=float(np.float32(s.rms_eps)), **tokens,  # type: ignore[arg-type]  # fields by name
            )
