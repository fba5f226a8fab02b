"""Signatures between the units of the accelerator. Latencies that both sides rely on are constants here."""

from __future__ import annotations

from amaranth import unsigned
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import bits_for

from ..config import BuildConfig
from ..descriptors import field_bits
from ..registers import NUMBER_BITS, RUN_BUDGET
from ..rounding import ceil_div

__all__ = [
    "ACCUMULATOR_LATENCY", "ADDRESS_BITS", "AccumulatorRead", "ActivationWrite", "BeatStream", "DescriptorLayout",
    "KV_SCALE_LATENCY", "KvRead", "KvScaleWrite", "KvWrite", "MemoryRead", "MemoryWrite", "Operator", "QueryScaleWrite",
    "QueryWrite", "RowStream", "RunRead", "SCRATCH_LATENCY", "Segment", "TableRead", "WriteBeat", "kv_latency",
]

#: Bits of an AXI address.
ADDRESS_BITS = 40

#: Cycles from a scratch or parameter address to its data: that of the memory, and a register for every two rows of an UltraRAM
#: matrix of up to eight rows (32,768 words), which Vivado puts between them (UG573, REG_CAS; UG901, "Pipelining the RAM").
SCRATCH_LATENCY = 5

#: Cycles from an accumulator read request to its data.
ACCUMULATOR_LATENCY = 3

#: Cycles from a KV store read request to its scales.
KV_SCALE_LATENCY = 3


def DescriptorLayout() -> data.StructLayout:
    """The 512-bit descriptor, field for field as :mod:`hwgen.descriptors` packs it."""
    return data.StructLayout({name: unsigned(width) for name, (_, width) in field_bits().items()})


def index_bits(size: int) -> int:
    """Bits of an index below ``size`` (at least 1)."""
    return max(1, int(bits_for(size - 1)))


def kv_latency(config: BuildConfig) -> int:
    """Cycles from a KV store read request to its data: three to the elements of the banks, one for every two bits of the turn."""
    return 3 + ceil_div((config.kv_block - 1).bit_length(), 2)


def Operator(config: BuildConfig) -> Signature:
    """What the sequencer shows to every unit while an operator runs; stable from ``start`` to ``done``.

    ``descriptor`` the command; ``first`` first active token, of the pass or of the wanted ones; ``count`` active tokens (>= 1);
    ``tokens`` tokens of the pass, in ``runs`` runs; ``gang`` 1 where all groups of the linear engine work on the same
    tokens (``count <= lanes``); ``write_logits`` and ``logits`` (address) for DRAIN of the head.
    """
    count = bits_for(config.chunk)
    return Signature({
        "descriptor": Out(DescriptorLayout()),
        "first": Out(count),
        "count": Out(count),
        "tokens": Out(count),
        "runs": Out(count),
        "gang": Out(1),
        "write_logits": Out(1),
        "logits": Out(ADDRESS_BITS),
    })


def TableRead(depth: int) -> Signature:
    """Read of a table that the host writes: ``number`` is entry ``index`` of the cycle before."""
    return Signature({"index": Out(index_bits(depth)), "number": In(NUMBER_BITS)})


def RunRead(config: BuildConfig) -> Signature:
    """Read of the table of runs: of run ``index`` of the cycle before the ``position`` of its first token, its ``tokens``, the
    entry of the page table that has its first page, ``pages``, and the ``budget`` of builds that have one."""
    return Signature({
        "index": Out(index_bits(config.chunk)),
        "position": In(bits_for(config.max_context)),
        "tokens": In(bits_for(config.chunk)),
        "pages": In(index_bits(config.page_entries)),
        **({"budget": In(RUN_BUDGET.width)} if config.kv_budget else {}),
    })


def BeatStream(config: BuildConfig) -> Signature:
    """Stream of beats, ``8 * beat_bytes`` bits."""
    return stream.Signature(unsigned(8 * config.beat_bytes))


def RowStream(config: BuildConfig) -> Signature:
    """Stream of ring rows: ``groups`` beats, the earliest in the low bits."""
    return stream.Signature(unsigned(8 * config.beat_bytes * config.groups))


def MemoryRead(depth: int, width: int) -> Signature:
    """Read request without handshake: ``addr`` (initiator) and ``data`` a fixed number of cycles later; ``data`` of a cycle
    without ``en`` has no meaning."""
    return Signature({"addr": Out(index_bits(depth)), "en": Out(1), "data": In(width)})


def MemoryWrite(depth: int, width: int) -> Signature:
    """Write strobe: ``data`` to ``addr`` while ``valid``."""
    return Signature({"valid": Out(1), "addr": Out(index_bits(depth)), "data": Out(width)})


def ActivationWrite(config: BuildConfig) -> Signature:
    """``width`` int8 activations to vector ``addr`` of the ``token``-th active token, in half ``half`` of the activation memory."""
    return Signature({
        "valid": Out(1),
        "half": Out(1),
        "token": Out(index_bits(config.tokens)),
        "addr": Out(index_bits(config.max_inputs // config.width)),
        "data": Out(8 * config.width),
    })


def AccumulatorRead(config: BuildConfig) -> Signature:
    """Result vector ``vector`` (``width`` rows of the panel) of the ``token``-th active token, in half ``half`` of the
    accumulators; ``gang`` as it was when the panel was computed.

    ``data`` holds ``width`` signed accumulators, ``ACCUMULATOR_LATENCY`` cycles after the request.
    """
    return Signature({
        "half": Out(1),
        "gang": Out(1),
        "token": Out(index_bits(config.tokens)),
        "vector": Out(index_bits(config.panel_vectors)),
        "data": In(config.width * config.acc_bits),
    })


def QueryWrite(config: BuildConfig) -> Signature:
    """``width`` int8 query elements: vector ``vector`` of head slot ``slot`` (token * group + head in group) of ``kv_head``.

    ``kv_heads`` and ``head_vectors`` are those of the operator, stable over it (NORM to the head uses 0 for slot, kv_head).
    """
    return Signature({
        "valid": Out(1),
        "slot": Out(index_bits(config.max_group)),
        "kv_head": Out(index_bits(config.max_kv_heads)),
        "kv_heads": Out(bits_for(config.max_kv_heads)),
        "head_vectors": Out(bits_for(config.max_head_dim // config.width)),
        "vector": Out(index_bits(max(config.max_inputs, config.max_head_dim) // config.width)),
        "data": Out(8 * config.width),
    })


def QueryScaleWrite(config: BuildConfig) -> Signature:
    """float32 scale of one query head slot (same indices as :func:`QueryWrite`)."""
    return Signature({
        "valid": Out(1),
        "slot": Out(index_bits(config.max_group)),
        "kv_head": Out(index_bits(config.max_kv_heads)),
        "kv_heads": Out(bits_for(config.max_kv_heads)),
        "scale": Out(32),
    })


def KvWrite(config: BuildConfig) -> Signature:
    """``width`` int8 elements of one key (``value`` 0) or value (1): vector ``vector`` of head ``head``,
    bank ``bank``: the token's number in the pass."""
    return Signature({
        "valid": Out(1),
        "bank": Out(index_bits(config.chunk)),
        "value": Out(1),
        "head": Out(index_bits(config.max_kv_heads)),
        "head_vectors": Out(bits_for(config.max_head_dim // config.width)),
        "vector": Out(index_bits(config.max_head_dim // config.width)),
        "data": Out(8 * config.width),
    })


def KvScaleWrite(config: BuildConfig) -> Signature:
    """bf16 scale of one key or value head of one bank."""
    return Signature({
        "valid": Out(1),
        "bank": Out(index_bits(config.chunk)),
        "value": Out(1),
        "head": Out(index_bits(config.max_kv_heads)),
        "scale": Out(16),
    })


def KvRead(config: BuildConfig) -> Signature:
    """Read of the on-chip KV store: elements ``[dim, dim + 1) * key_bytes`` of one kind of head ``head`` in every bank, and both
    scales of that head in bank ``bank``.

    `kv_latency` cycles later ``data`` is a beat of ``kv_block`` slots of ``key_bytes`` elements: slot ``(t + turn) % kv_block`` has
    those of bank t, and slots of no bank have no meaning. ``KV_SCALE_LATENCY`` cycles later ``scales`` holds the bf16 scale of
    the key (low half) and of the value.
    """
    return Signature({
        "value": Out(1),
        "head": Out(index_bits(config.max_kv_heads)),
        "head_vectors": Out(bits_for(config.max_head_dim // config.width)),
        "dim": Out(index_bits(config.max_head_dim // config.key_bytes)),
        "bank": Out(index_bits(config.chunk)),
        "turn": Out(index_bits(config.kv_block)),
        "data": In(8 * config.beat_bytes),
        "scales": In(32),
    })


def Segment() -> Signature:
    """Stream of segments: ``address`` in bytes and ``beats``."""
    return stream.Signature(data.StructLayout({"address": ADDRESS_BITS, "beats": 32}))


def WriteBeat(config: BuildConfig) -> Signature:
    """Stream of beats to memory: ``data`` and a byte ``strobe``."""
    return stream.Signature(data.StructLayout({"data": 8 * config.beat_bytes, "strobe": config.beat_bytes}))
