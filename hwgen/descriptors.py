"""Operator descriptors: the 64-byte commands of a program, and how a pass walks them.

A program is a list of descriptors in DDR, ended by :data:`Opcode.END`. One doorbell runs it once over the tokens of a pass. Two
readers walk the same list: the *prefetcher*, which turns descriptors into stream segments for the ring, and the *sequencer*,
which executes them in order. A descriptor whose ``token_start`` is not below the number of tokens of the pass is skipped by both;
with :data:`Flag.LOGITS` it is the wanted tokens that are counted.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import reduce
from operator import xor

__all__ = [
    "Buffers", "DESCRIPTOR_BYTES", "Descriptor", "Fetch", "Flag", "Format", "Opcode", "field_bits", "layout_signature",
    "pack_program", "unpack_program", "CHECK_SUM",
]

#: Size of one descriptor in bytes.
DESCRIPTOR_BYTES = 64

#: XOR of the 32 16-bit words of a descriptor: its check word makes it so. Neither memory that was never written nor a word of ones
#: is a descriptor.
CHECK_SUM = 0x5A5A

#: END descriptors that close a program, so that a reader running ahead stays inside it.
PROGRAM_PADDING = 8


class Opcode(enum.IntEnum):
    """Operators of the machine."""

    #: End of the program: raise the completion status.
    END = 0
    #: Rows of bf16 from the ring to the scratch, one a token: embeddings, or row scales of the short-list head.
    EMBED = 1
    #: Float32 vectors from the ring to the parameter memory (norm gains).
    PARAM = 2
    #: Rotary rows (cosines, sines) from the ring to the parameter memory, one row a token.
    ROTARY = 3
    #: RMSNorm gain and per-token absmax int8 quantisation: scratch -> activation memory (or query memory for the head).
    NORM = 4
    #: Ternary matrix-vector products of up to ``tokens`` tokens: activation memory x ring -> accumulators.
    LINEAR = 5
    #: Accumulators -> scratch: dequantise, with gate function, product or residual sum.
    DRAIN = 6
    #: Rotary embedding and per-head int8 quantisation of queries, keys and values: scratch -> query memory, KV store.
    ROPE = 7
    #: Online-softmax attention of every token over its sequence's keys, cached ones and those of this pass: -> scratch.
    ATTENTION = 8
    #: KV store -> KV cache in DDR.
    KV_WRITE = 9
    #: int8 rows of the short list: logits and top-k of a wanted token.
    HEAD = 10


class Fetch(enum.IntEnum):
    """What the prefetcher reads for a descriptor."""

    #: Nothing.
    NONE = 0
    #: ``stream_beats`` beats at ``stream_address``.
    STREAM = 1
    #: For each active token, ``stream_beats`` beats at ``stream_address + token_id * stride``.
    TOKEN = 2
    #: For each active token, ``stream_beats`` beats at ``stream_address + position * stride``; ``token_start`` is 0.
    POSITION = 3
    #: For each run, for each of ``kv_heads`` heads, for each block ``b`` that holds cached positions: ``stream_beats`` beats at
    #: ``stream_address + page_table[first entry of the run + b] * stride + head * head_stride``. Of a run with a budget those that
    #: it attends to, read when the choice is complete.
    CACHE = 4
    #: For each of the first ``row_blocks`` entries of the short list: ``stream_beats`` beats at ``stream_address + block *
    #: head_stride``. Read when the operator has started: the list must be complete.
    SHORTLIST = 5
    #: For each run, for each of ``kv_heads`` heads, for each page of summaries ``j`` of a run that chooses: ``stream_beats`` beats
    #: at ``stream_address + page_table[first entry of the run - 1 - j] * stride + head * head_stride``; of a run that does not
    #: choose one segment a head, by its first entry, which nobody looks at. ATTENTION with CHOOSE.
    SUMMARY = 6


class Flag(enum.IntFlag):
    """Modifiers of a descriptor."""

    NONE = 0
    #: Works on the wanted tokens: its token j is the j-th of them, and their number stands in for that of the pass's tokens. NORM
    #: reads the scratch of the token of the pass that is the j-th.
    LOGITS = 1
    #: DRAIN: the results are logits of vocabulary rows ``stride``, ``stride + 1``, ... of ``head_stride`` in all: candidates of
    #: their token, and written to memory where the host asks for that. Row 0 begins new candidates.
    CANDIDATES = 2
    #: Keep the consumed ring region, and rewind to its start when the operator ends (replay), if the pass has tokens behind
    #: ``token_start + token_count``.
    REPLAY = 4
    #: NORM writes the query memory (bank 0) instead of the activation memory.
    TO_QUERY = 8
    #: DRAIN: y -> scratch. NORM: `heads` heads of `vectors` vectors, each normed by itself -> scratch, where they were. ROPE: heads
    #: are rotated or mixed, where they lie, and not quantised.
    STORE = 16
    #: DRAIN: max(y, 0)^2 -> scratch
    RELU2 = 32
    #: DRAIN: y * sigmoid(y) -> scratch
    SILU = 64
    #: DRAIN: y * scratch[src] -> scratch
    MULTIPLY = 128
    #: DRAIN: y + scratch[src] -> scratch. ROPE with STORE and MIX: to every head its part of the row at ``dst`` is added, which is
    #: the same for all tokens.
    ADD = 256
    #: Skip when the whole pass is at most two rounds (``2 * token_count``): their activations are still in both buffers.
    MULTI = 512
    #: DRAIN: the results are scores of vocabulary rows ``stride``, ``stride + 1``, ... of ``head_stride`` in all; each block of
    #: ``kv_block`` rows competes with its best score for the short list of the token. Row 0 begins a new list.
    SHORTLIST = 1024
    #: ROPE: works on the query heads. At least one kind of heads; ``src`` is where the first of them lies.
    QUERIES = 2048
    #: ROPE: works on the key heads.
    KEYS = 4096
    #: ROPE: works on the value heads.
    VALUES = 8192
    #: DRAIN: every vector of results is made of `TRITS_PER_BYTE` vectors of accumulators, the digits of its rows in base 3, the
    #: highest first.
    DIGITS = 16384
    #: ATTENTION: no attention, but a choice: of every run that has a budget, and for each key/value head, the blocks whose
    #: summaries score highest. Skipped in a pass without such a run (PASS).
    CHOOSE = 32768


class Buffers(enum.IntFlag):
    """Halves of the double-buffered memories around the linear engine, and of the two places for parameters."""

    NONE = 0
    #: LINEAR, DRAIN: the upper half of the accumulators.
    ACCUMULATOR = 1
    #: NORM, LINEAR: the upper half of the activations.
    ACTIVATION = 2
    #: PARAM, and NORM and DRAIN with such parameters: the second place for gains of a norm, or for scales of the rows of a panel.
    PARAMETER = 4


class Format(enum.IntFlag):
    """Number formats, where they are not those of ternary models (docs/numerics-int4.md)."""

    NONE = 0
    #: NORM: e4m3 activations. LINEAR: the INT4 engine. DRAIN: its accumulators, and row scales from the parameter memory.
    FP8 = 1
    #: NORM: no gains (QUANTIZE, with 0 for 1/n and 1 for epsilon).
    PLAIN = 2
    #: ROPE, ATTENTION: e4m3 queries.
    FP8_QUERY = 4
    #: ROPE, ATTENTION, KV_WRITE: keys of 4 bits.
    INT4_KEYS = 8
    #: ROPE, ATTENTION, KV_WRITE: values of 4 bits.
    INT4_VALUES = 16
    #: ROPE: in place of the rotary row ones: pairs become difference and sum.
    MIX = 32
    #: ROPE: in place of the rotary row halves, the sines negative: what MIX makes of pairs becomes the pairs again.
    UNMIX = 64
    #: LINEAR: ternary weights with a scale for every group of inputs (docs/numerics.md).
    GROUPED = 128


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """One operator. Addresses in scratch and parameter memory are vector indices; token ``t`` of the chunk is at
    ``base + t * stride``. Float fields are float32. Unused fields are zero.
    """

    #: Operator.
    opcode: Opcode = Opcode.END
    #: Modifiers.
    flags: Flag = Flag.NONE
    #: What the prefetcher reads.
    fetch: Fetch = Fetch.NONE
    #: Decoder layer, for traces alone.
    layer: int = 0
    #: First token of the chunk that the operator works on.
    token_start: int = 0
    #: Tokens that the operator works on at most.
    token_count: int = 0
    #: Vectors of one token: ``ceil(n / width)`` for EMBED, NORM and HEAD, of the row range for DRAIN; PARAM: vectors
    #: written; ROTARY: vectors of one row (cosines, then sines: ``head_vectors``). LINEAR with FP8: slices that share scales.
    vectors: int = 0
    #: LINEAR: row blocks of the panel. DRAIN: first vector of accumulators in the panel. HEAD: blocks of the short list.
    row_blocks: int = 0
    #: LINEAR: slices of the input dimension.
    slices: int = 0
    #: Query heads.
    heads: int = 0
    #: Key/value heads.
    kv_heads: int = 0
    #: Vectors of one head (``head_dim / width``).
    head_vectors: int = 0
    #: Scratch address read.
    src: int = 0
    #: Scratch vectors from one token to the next at ``src``.
    src_stride: int = 0
    #: Scratch or parameter address written; NORM without STORE: vector of the activations where a token begins; ROPE with ADD:
    #: scratch address of the row.
    dst: int = 0
    #: Vectors from one token to the next at ``dst``.
    dst_stride: int = 0
    #: Parameter memory address (gains of NORM, rotary rows of ROPE, row scales of DRAIN with FP8). ROPE with MIX or UNMIX:
    #: distance of the elements of a pair in their vector, one of `hwgen.layout.lane_strides`; 0 where it is half a head.
    param: int = 0
    #: Parameter vectors from one token to the next (ROPE).
    param_stride: int = 0
    #: First stream address in bytes, a multiple of ``beat_bytes``, as are strides between segments. DRAIN with CANDIDATES: from the
    #: address of the logits to those of the first token and row.
    stream_address: int = 0
    #: Beats of one segment (consecutive bytes of memory), a multiple of ``groups``. DRAIN with CANDIDATES: beats from one token's
    #: logits to the next one's.
    stream_beats: int = 0
    #: Bytes from one token, position or page to the next. HEAD: rows of the vocabulary. DRAIN with SHORTLIST or
    #: CANDIDATES: first row.
    stride: int = 0
    #: CACHE, KV_WRITE: bytes from one head's block to the next. SHORTLIST: bytes of a block; DRAIN: rows of the vocabulary.
    head_stride: int = 0
    #: NORM: 1/n. DRAIN: weight scale. ROPE: score constant log2(e) / (127 sqrt(head_dim)).
    scalar0: float = 0.0
    #: NORM: epsilon.
    scalar1: float = 0.0
    #: Index in the program; reported when the operator retires.
    tag: int = 0
    #: Halves of accumulators and activations that the operator uses.
    buffers: Buffers = Buffers.NONE
    #: Number formats.
    format: Format = Format.NONE

    def pack(self) -> bytes:
        """The 64 bytes of the descriptor, little endian."""
        values = {name: getattr(self, name, 0) for name, _ in FIELDS}
        values["stream_address"] = values["stream_address"].to_bytes(_ADDRESS_BYTES, "little")
        words = struct.unpack("<32H", _LAYOUT.pack(*values.values()))
        return _LAYOUT.pack(*(values | {"check": reduce(xor, words, CHECK_SUM)}).values())

    @classmethod
    def unpack(cls, data: bytes) -> Descriptor:
        """The descriptor in 64 bytes; raises ValueError for a check word that is wrong, and for values that nothing has."""
        values = dict(zip((name for name, _ in FIELDS), _LAYOUT.unpack(data), strict=True))
        if reduce(xor, struct.unpack("<32H", data)) != CHECK_SUM:
            raise ValueError(f"the check word of descriptor {values['tag']} is wrong; it was damaged in memory")
        del values["check"]
        values["stream_address"] = int.from_bytes(values["stream_address"], "little")
        values["opcode"] = Opcode(values["opcode"])
        values["flags"] = Flag(values["flags"])
        values["fetch"] = Fetch(values["fetch"])
        values["buffers"] = Buffers(values["buffers"])
        values["format"] = Format(values["format"])
        return cls(**values)


_ADDRESS_BYTES = 6

#: Order and type of the packed fields: B u8, H u16, I u32, 6s u48, f float32. The one home of every offset. ``check`` is made when
#: a descriptor is packed.
FIELDS: tuple[tuple[str, str], ...] = (
    ("opcode", "B"), ("fetch", "B"), ("flags", "H"),
    ("layer", "H"), ("token_start", "B"), ("token_count", "B"),
    ("vectors", "H"), ("slices", "H"),
    ("row_blocks", "I"),
    ("heads", "B"), ("kv_heads", "B"), ("head_vectors", "H"),
    ("src", "H"), ("src_stride", "H"), ("dst", "H"), ("dst_stride", "H"),
    ("param", "H"), ("param_stride", "H"),
    ("stream_beats", "I"), ("stride", "I"),
    ("stream_address", f"{_ADDRESS_BYTES}s"), ("check", "H"),
    ("head_stride", "I"),
    ("scalar0", "f"), ("scalar1", "f"),
    ("tag", "H"), ("buffers", "B"), ("format", "B"),
)
_LAYOUT = struct.Struct("<" + "".join(code for _, code in FIELDS))
_BITS = {"B": 8, "H": 16, "I": 32, f"{_ADDRESS_BYTES}s": 8 * _ADDRESS_BYTES, "f": 32}


def field_bits() -> dict[str, tuple[int, int]]:
    """``{field: (first bit, width)}`` in the 512-bit descriptor, for the generators."""
    table, offset = {}, 0
    for name, code in FIELDS:
        table[name] = (offset, _BITS[code])
        offset += _BITS[code]
    if offset != 8 * DESCRIPTOR_BYTES or {f.name for f in fields(Descriptor)} | {"check"} != set(table):
        raise AssertionError("descriptor fields and layout differ")
    return table


def layout_signature() -> list[object]:
    """What the contract hash covers of this module."""
    kinds: tuple[type[enum.IntEnum] | type[enum.IntFlag], ...] = (Opcode, Fetch, Flag, Buffers, Format)
    # Python 3.10 iterates over NONE of flags too, later ones do not
    enums: list[object] = [[e.__name__, [[m.name, int(m)] for m in e if m or issubclass(e, enum.IntEnum)]] for e in kinds]
    return [[list(pair) for pair in FIELDS], *enums]


def pack_program(descriptors: Iterable[Descriptor]) -> bytes:
    """Bytes of a program: the descriptors, each with its index as ``tag``, closed by END descriptors."""
    body = b"".join(replace(d, tag=i).pack() for i, d in enumerate(descriptors))
    return body + Descriptor().pack() * PROGRAM_PADDING


def unpack_program(data: bytes) -> Iterator[Descriptor]:
    """Descriptors of a packed program up to, not including, END."""
    for offset in range(0, len(data), DESCRIPTOR_BYTES):
        d = Descriptor.unpack(data[offset : offset + DESCRIPTOR_BYTES])
        if d.opcode is Opcode.END:
            return
        yield d
    raise ValueError("the program has no END descriptor; write it with pack_program()")
