"""Compiler: weights of a model and a build configuration -> memory image and program (docs/machine.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..config import BuildConfig
from ..descriptors import DESCRIPTOR_BYTES, PROGRAM_PADDING, Descriptor, Fetch, Flag, Opcode
from ..errors import HwgenError
from ..layout import (
    KvBlockLayout,
    blob_beats,
    head_block_beats,
    matrix_shape,
    pack_bf16,
    pack_head,
    pack_ternary,
    pad_beats,
    to_planes,
    vectors_of,
)
from ..model import ModelShape
from ..weights import LayerWeights, ModelWeights, TernaryMatrix, quantize_head, rotary_rows, score_constant
from .image import REGION_ALIGNMENT, Image, Region, relocate
from .progress import Ticker

__all__ = ["compile_model"]

Bytes = npt.NDArray[np.uint8]

#: Alignment of every segment, in bytes.
SEGMENT_ALIGNMENT = 64


def align(value: int, step: int) -> int:
    return -(-value // step) * step


def check_fit(config: BuildConfig, shape: ModelShape) -> None:
    """Refuse a model that does not fit the build: which maximum, its value, what to set."""
    w = config.width
    qkv = shape.q_rows + 2 * shape.kv_rows
    widest = max(shape.hidden, shape.q_rows, shape.ffn)
    needs = (
        ("max_inputs", "inputs of the widest linear layer", align(widest, w)),
        ("max_rows", "rows of the largest linear layer", align(max(qkv, shape.hidden, shape.ffn), w)),
        ("max_heads", "query heads", shape.heads),
        ("max_kv_heads", "key/value heads", shape.kv_heads),
        ("max_shared", "query heads a key/value head", shape.heads // shape.kv_heads),
        ("max_head_dim", "elements of a head", shape.head_dim),
    )
    for name, what, value in needs:
        if value > getattr(config, name):
            raise HwgenError(
                "model",
                f"the model needs {value} {what}, build {config.name!r} has {name}={getattr(config, name)}",
                f"build with {name}={value} or more",
            )
    if shape.head_dim % (2 * w):
        raise HwgenError(
            "model",
            f"head_dim is {shape.head_dim}, build {config.name!r} needs a multiple of {2 * w} (two vectors)",
            f"build with beats (ports * port_bits) of at most {16 * (shape.head_dim & -shape.head_dim)} bits",
        )


@dataclass(frozen=True)
class ScratchPlan:
    """Where one pass keeps its vectors. Token ``t`` of a region is at ``base + t * stride``."""

    #: Tokens of a pass.
    chunk: int
    #: Residual stream and its stride.
    x: int
    x_stride: int
    #: Queries | keys | values, and their stride.
    qkv: int
    qkv_stride: int
    #: Attention output, and its stride.
    a: int
    a_stride: int
    #: Feed-forward product (laid over the two before), and its stride.
    g: int
    g_stride: int
    #: Parameter memory: rotary rows at 0, gains here.
    gain: int


def plan_scratch(config: BuildConfig, shape: ModelShape) -> ScratchPlan:
    """Regions of scratch and parameter memory, for as many tokens as fit (a whole number of rounds where that is possible)."""
    hidden, ffn = vectors_of(config, shape.hidden), vectors_of(config, shape.ffn)
    q, kv, head = (vectors_of(config, n) for n in (shape.q_rows, shape.kv_rows, shape.head_dim))
    qkv = q + 2 * kv
    token = hidden + max(qkv + q, ffn)
    gains = max(hidden, q, ffn)
    chunk = min(config.chunk, config.scratch_vectors // token, max(0, config.param_vectors - gains) // head)
    if chunk < 1:
        name, need = ("scratch_vectors", token) if config.scratch_vectors < token else ("param_vectors", gains + head)
        raise HwgenError(
            "model",
            f"one token needs {need} vectors, build {config.name!r} has {name}={getattr(config, name)}",
            f"build with {name}={need} or more",
        )
    if config.tokens < chunk < config.chunk:
        chunk -= chunk % config.tokens
    base = chunk * hidden
    return ScratchPlan(
        chunk=chunk,
        x=0,
        x_stride=hidden,
        qkv=base,
        qkv_stride=qkv,
        a=base + chunk * qkv,
        a_stride=q,
        g=base,
        g_stride=ffn,
        gain=chunk * head,
    )


class SegmentWriter:
    """Lays segments one behind the other and remembers where they are."""

    def __init__(self) -> None:
        self.parts: list[Bytes] = []
        self.symbols: dict[str, Region] = {}
        self.end = 0

    def align(self, step: int) -> None:
        gap = align(self.end, step) - self.end
        if gap:
            self.parts.append(np.zeros(gap, np.uint8))
            self.end += gap

    def add(self, name: str, data: Bytes) -> int:
        """Append flat bytes; returns their offset."""
        self.align(SEGMENT_ALIGNMENT)
        offset = self.end
        self.parts.append(data)
        self.end += data.size
        self.symbols[name] = Region(offset, data.size)
        return offset


class ModelCompiler:
    """One compilation. Offsets count from the end of the program until :meth:`image` knows how long that is."""

    def __init__(self, config: BuildConfig, weights: ModelWeights) -> None:
        check_fit(config, weights.shape)
        self.config, self.weights, self.shape = config, weights, weights.shape
        self.plan = plan_scratch(config, weights.shape)
        self.context = min(config.max_context, self.shape.max_context)
        self.head_vectors = self.shape.head_dim // config.width
        self.block = KvBlockLayout(config, self.shape.head_dim)
        self.layer_bytes = align(self.shape.kv_heads * self.block.bytes, SEGMENT_ALIGNMENT)
        self.page_bytes = align(self.shape.layers * self.layer_bytes, REGION_ALIGNMENT)
        self.memory = SegmentWriter()
        self.program: list[Descriptor] = []
        #: Descriptors whose address is relative to the KV region.
        self.kv_users: list[int] = []

    def emit(self, opcode: Opcode, **fields: object) -> None:
        self.program.append(Descriptor(opcode=opcode, **fields))  # type: ignore[arg-type]  # fields by name

    def rounds(self) -> Iterator[dict[str, int]]:
        """Token ranges that the lanes work on at the same time."""
        for start in range(0, self.plan.chunk, self.config.tokens):
            yield {"token_start": start, "token_count": min(self.config.tokens, self.plan.chunk - start)}

    def rows(self, name: str, rows: npt.NDArray[np.generic]) -> tuple[int, int, int]:
        """A table of rows, each a segment of its own: ``(offset, beats, stride)``."""
        data = np.ascontiguousarray(rows).view(np.uint8).reshape(rows.shape[0], -1)
        beats = pad_beats(self.config, -(-data.shape[1] // self.config.beat_bytes))
        stride = align(beats * self.config.beat_bytes, SEGMENT_ALIGNMENT)
        table = np.zeros((rows.shape[0], beats * self.config.beat_bytes), np.uint8)
        table[:, : data.shape[1]] = data
        ports, word = self.config.ports, self.config.port_bytes
        planes = table.reshape(-1, beats, ports, word).transpose(0, 2, 1, 3).reshape(rows.shape[0], -1)
        full = np.zeros((rows.shape[0], stride), np.uint8)
        full[:, : planes.shape[1]] = planes
        self.memory.align(REGION_ALIGNMENT)
        return self.memory.add(name, full.reshape(-1)), beats, stride

    def gains(self, name: str, values: npt.NDArray[np.float32], flags: Flag = Flag.NONE, layer: int = 0) -> None:
        """Norm gains to the parameter memory."""
        beats = blob_beats(self.config, values.view(np.uint8))
        self.emit(
            Opcode.PARAM,
            layer=layer,
            flags=flags,
            fetch=Fetch.STREAM,
            token_count=1,
            stream_address=self.memory.add(name, to_planes(self.config, beats)),
            stream_beats=beats.shape[0],
            vectors=vectors_of(self.config, values.size),
            dst=self.plan.gain,
        )

    def norm(self, src: int, stride: int, size: int, *, layer: int = 0, flags: Flag = Flag.NONE, **tokens: int) -> None:
        self.emit(
            Opcode.NORM,
            layer=layer,
            flags=flags,
            vectors=vectors_of(self.config, size),
            src=src,
            src_stride=stride,
            param=self.plan.gain,
            scalar0=float(np.float32(1.0 / size)),
            scalar1=float(np.float32(self.shape.rms_eps)),
            **tokens,
        )

    def matrix(self, name: str, parts: list[TernaryMatrix]) -> Descriptor:
        """Place matrices of the same inputs as one, each part padded to whole vectors of rows."""
        inputs = parts[0].inputs
        padded = [np.zeros((vectors_of(self.config, p.rows) * self.config.width, inputs), np.int8) for p in parts]
        for rows, part in zip(padded, parts, strict=True):
            rows[: part.rows] = part.trits
        trits = np.concatenate(padded)
        slices, blocks = matrix_shape(self.config, trits.shape[0], inputs)
        self.memory.align(REGION_ALIGNMENT)
        address = self.memory.add(name, to_planes(self.config, pack_ternary(self.config, trits)))
        return Descriptor(
            opcode=Opcode.LINEAR,
            fetch=Fetch.STREAM,
            slices=slices,
            row_blocks=blocks,
            stream_address=address,
            stream_beats=slices * blocks,
        )

    def linear(self, command: Descriptor, first: bool, last: bool, *, layer: int, **tokens: int) -> None:
        """One round of a matrix: replayed from the ring where it fits, else fetched again."""
        if command.stream_beats <= self.config.ring_beats - 2 * self.config.burst:
            command = replace(command, flags=Flag.NONE if last else Flag.REPLAY)
            if not first:
                command = replace(command, fetch=Fetch.NONE)
        self.program.append(replace(command, layer=layer, **tokens))  # type: ignore[arg-type]  # fields by name

    def drain(
        self,
        part: TernaryMatrix,
        mode: Flag,
        dst: int,
        stride: int,
        *,
        first_vector: int = 0,
        layer: int,
        **tokens: int,
    ) -> None:
        source = {"src": dst, "src_stride": stride} if mode & (Flag.MULTIPLY | Flag.ADD) else {}
        self.emit(
            Opcode.DRAIN,
            layer=layer,
            flags=mode,
            vectors=vectors_of(self.config, part.rows),
            row_blocks=first_vector,
            dst=dst,
            dst_stride=stride,
            scalar0=part.scale,
            **source,
            **tokens,
        )

    def project(
        self,
        name: str,
        layer: int,
        src: int,
        stride: int,
        size: int,
        parts: list[TernaryMatrix],
        mode: Flag,
        dst: int,
        dst_stride: int,
        *,
        same_input: bool = False,
    ) -> None:
        """Per round of tokens: norm, matrix, drain of every part. ``same_input``: the operator before had the same activations."""
        command = self.matrix(f"layers.{layer}.{name}", parts)
        rounds = list(self.rounds())
        for i, tokens in enumerate(rounds):
            self.norm(
                src, stride, size, layer=layer, flags=Flag.MULTI if same_input and i == 0 else Flag.NONE, **tokens
            )
            self.linear(command, i == 0, i == len(rounds) - 1, layer=layer, **tokens)
            vector = 0
            for part in parts:
                self.drain(part, mode, dst + vector, dst_stride, first_vector=vector, layer=layer, **tokens)
                vector += vectors_of(self.config, part.rows)

    def attention(self, layer: int) -> None:
        p, s = self.plan, self.shape
        heads = {
            "layer": layer,
            "token_count": p.chunk,
            "heads": s.heads,
            "kv_heads": s.kv_heads,
            "head_vectors": self.head_vectors,
        }
        cache = {
            "stream_address": layer * self.layer_bytes,
            "stream_beats": self.block.beats,
            "stride": self.page_bytes,
            "head_stride": self.block.bytes,
        }
        self.emit(
            Opcode.ROPE,
            **heads,
            src=p.qkv,
            src_stride=p.qkv_stride,
            dst=p.qkv,
            dst_stride=p.qkv_stride,
            param=0,
            param_stride=self.head_vectors,
            scalar0=score_constant(s.head_dim),
        )
        self.kv_users += [len(self.program), len(self.program) + 1]
        self.emit(Opcode.ATTENTION, **heads, **cache, fetch=Fetch.CACHE, dst=p.a, dst_stride=p.a_stride)
        self.emit(Opcode.KV_WRITE, **heads, **cache)

    def layer(self, i: int, w: LayerWeights) -> None:
        p, s = self.plan, self.shape
        gate = Flag.RELU2 if s.activation == "relu2" else Flag.SILU
        name = f"layers.{i}"
        self.gains(f"{name}.input_layernorm", w.input_layernorm, layer=i)
        self.project("qkv", i, p.x, p.x_stride, s.hidden, [w.q, w.k, w.v], Flag.STORE, p.qkv, p.qkv_stride)
        self.attention(i)
        self.gains(f"{name}.attn_sub_norm", w.attn_sub_norm, layer=i)
        self.project("o", i, p.a, p.a_stride, s.q_rows, [w.o], Flag.ADD, p.x, p.x_stride)
        self.gains(f"{name}.post_attention_layernorm", w.post_attention_layernorm, layer=i)
        self.project("gate", i, p.x, p.x_stride, s.hidden, [w.gate], gate, p.g, p.g_stride)
        self.project("up", i, p.x, p.x_stride, s.hidden, [w.up], Flag.MULTIPLY, p.g, p.g_stride, same_input=True)
        self.gains(f"{name}.ffn_sub_norm", w.ffn_sub_norm, layer=i)
        self.project("down", i, p.g, p.g_stride, s.ffn, [w.down], Flag.ADD, p.x, p.x_stride)

    def first_operators(self) -> None:
        p, s = self.plan, self.shape
        offset, beats, stride = self.rows("rotary", rotary_rows(s, np.arange(self.context)))
        self.emit(
            Opcode.ROTARY,
            fetch=Fetch.POSITION,
            token_count=p.chunk,
            vectors=self.head_vectors,
            dst=0,
            dst_stride=self.head_vectors,
            stream_address=offset,
            stream_beats=beats,
            stride=stride,
        )
        offset, beats, stride = self.rows("embedding", pack_bf16(self.weights.embedding))
        self.emit(
            Opcode.EMBED,
            fetch=Fetch.TOKEN,
            token_count=p.chunk,
            vectors=p.x_stride,
            dst=p.x,
            dst_stride=p.x_stride,
            stream_address=offset,
            stream_beats=beats,
            stride=stride,
        )

    def head(self) -> None:
        p, s, c = self.plan, self.shape, self.config
        self.gains("norm", self.weights.norm, Flag.LOGITS, layer=s.layers)
        self.norm(
            p.x, p.x_stride, s.hidden, layer=s.layers, flags=Flag.LOGITS | Flag.LAST | Flag.TO_QUERY, token_count=1
        )
        blocks = -(-s.vocab // c.kv_block)
        self.memory.align(REGION_ALIGNMENT)
        address = self.memory.add("head", to_planes(c, pack_head(c, *quantize_head(self.weights.head_rows))))
        self.emit(
            Opcode.HEAD,
            layer=s.layers,
            flags=Flag.LOGITS | Flag.LAST,
            fetch=Fetch.STREAM,
            token_count=1,
            vectors=vectors_of(c, s.hidden),
            row_blocks=blocks,
            stream_address=address,
            stream_beats=blocks * head_block_beats(c, s.hidden),
            stride=s.vocab,
        )

    def image(self, name: str, progress: Callable[[str], None]) -> Image:
        ticker = Ticker(progress)
        self.first_operators()
        for i, weights in enumerate(self.weights.layers):
            ticker.tick(f"packing layer {i + 1} of {self.shape.layers}")
            self.layer(i, weights)
        ticker.tick("packing the LM head")
        self.head()
        used = (len(self.program) + PROGRAM_PADDING) * DESCRIPTOR_BYTES
        start = align(used, REGION_ALIGNMENT)
        self.memory.align(REGION_ALIGNMENT)
        constants = start + self.memory.end
        logits = pad_beats(self.config, -(-4 * self.shape.vocab // self.config.beat_bytes)) * self.config.beat_bytes
        kv = constants + align(logits, REGION_ALIGNMENT)
        pages = -(-self.context // self.config.kv_block)
        users = set(self.kv_users)
        descriptors = [
            d for i, plain in enumerate(self.program) for d in relocate([plain], kv if i in users else start)
        ]
        symbols = {"program": Region(0, used)}
        symbols.update({n: Region(r.offset + start, r.bytes) for n, r in self.memory.symbols.items()})
        symbols.update({"logits": Region(constants, logits), "kv": Region(kv, pages * self.page_bytes)})
        data = np.concatenate([np.zeros(start, np.uint8), *self.memory.parts])
        return Image(
            config=self.config,
            shape=self.shape,
            name=name,
            descriptors=tuple(descriptors),
            data=data,
            symbols=symbols,
            total_bytes=kv + pages * self.page_bytes,
            chunk=self.plan.chunk,
            context=self.context,
            page_bytes=self.page_bytes,
        )


def compile_model(
    config: BuildConfig,
    weights: ModelWeights,
    *,
    name: str = "model",
    progress: Callable[[str], None] = lambda text: None,
) -> Image:
    """Image and program of a model; :class:`HwgenError` of kind ``model`` where it does not fit the build."""
    return ModelCompiler(config, weights).image(name, progress)
