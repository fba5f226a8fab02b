"""Resources of a configuration in closed form, in microseconds where ``hwgen report`` takes minutes.

Memories follow from their geometry, registers and arithmetic from the widths in the RTL; constants are fitted to what Yosys made of
control logic on every board (``hwgen report --board B --accept`` writes ``boards/B/resources.json``, and
`tests/sw/analysis/test_area_model.py` holds the model against each).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ...attention_memory import AttentionMemory, last_column
from ...config import BuildConfig
from ...numerics import SCORE_BITS
from ...rounding import ceil_div

__all__ = ["CEILINGS", "ResourceEstimate", "block_rams", "estimate_resources", "predicted_uram", "ultra_rams"]

#: Share of a device that a build is planned to use at most, so that it can still be placed and routed at its clock.
CEILINGS = {"lut": 0.7, "ff": 0.5, "bram36": 0.8, "uram": 0.8, "dsp": 0.8}

#: Kinds that are estimated.
KINDS = tuple(CEILINGS)

#: ``(words, bits, bits of a half)`` of a block RAM.
_SHAPES = ((512, 72, 36), (1024, 36, 18), (2048, 18, 9), (4096, 9, 4), (8192, 4, 2), (16384, 2, 1), (32768, 1, 0))

#: Largest tail of the parameter memory that lies in look-up tables (see `hwgen.hw.accelerator.VectorMemory`).
_TAIL = 64

#: Bits of an entry of a table; three inputs share one (see `hwgen.hw.linear.tables`).
_ENTRY_BITS = 10

#: Rows that read one memory of a table (see `hwgen.hw.linear.lane`).
_SHARED_ROWS = 7


def block_rams(depth: int, bits: int) -> float:
    """Block RAMs of one memory in the shape that needs fewest; the last column may be a half."""
    best = math.inf
    for words, wide, half in _SHAPES:
        columns, rest = divmod(bits, wide)
        best = min(best, ceil_div(depth, words) * (columns + (0 if not rest else 0.5 if rest <= half else 1)))
    return best


def ultra_rams(depth: int, bits: int) -> int:
    """URAM288 of one memory: a block is 4096 x 72 and has no other shape. Yosys cuts banks laid side by side, and counts fewer."""
    return ceil_div(depth, 4096) * ceil_div(bits, 72)


def mux_luts(inputs: int) -> int:
    """Look-up tables of one bit of a multiplexer: four inputs and their select fill one."""
    if inputs <= 1:
        return 0
    groups = ceil_div(inputs, 4)
    return groups + mux_luts(groups)


def gate_luts(inputs: int) -> int:
    """Look-up tables of one wide gate: every further one takes five more inputs."""
    return ceil_div(inputs - 1, 5)


def power_bits(value: int) -> int:
    """Bits of an index below ``value``, at least one."""
    return max(1, (value - 1).bit_length())


@dataclass(frozen=True)
class Amount:
    """Resources of one unit."""

    lut: float = 0
    ff: float = 0
    bram36: float = 0
    uram: float = 0
    dsp: float = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(*(getattr(self, kind) + getattr(other, kind) for kind in KINDS))

    def __mul__(self, count: float) -> Amount:
        return Amount(*(getattr(self, kind) * count for kind in KINDS))


@dataclass(frozen=True)
class ResourceEstimate:
    """Resources by unit, with the names of ``hwgen report``."""

    units: dict[str, Amount] = field(default_factory=dict)

    @property
    def total(self) -> dict[str, float]:
        return {kind: sum(getattr(unit, kind) for unit in self.units.values()) for kind in KINDS}


def memory(kind: str, depth: int, bits: int) -> Amount:
    """A memory of one write and one read port. UltraRAMs one behind the other need a multiplexer."""
    if kind == "ultra":
        return Amount(uram=ultra_rams(depth, bits), lut=bits * mux_luts(ceil_div(depth, 4096)))
    return Amount(bram36=block_rams(depth, bits), lut=bits * mux_luts(ceil_div(depth, 32768)))


# ---- linear engine ---------------------------------------------------------------------------------------------------
def tree_bits(tables: int) -> tuple[int, int]:
    """Bits of the adders and of the registers of the tree over the tables of a row, but for the last level, which is in a slice."""
    adders = registers = 0
    values = [_ENTRY_BITS] * tables
    level = 0
    while len(values) > 2:
        pairs, odd = divmod(len(values), 2)
        bits = _ENTRY_BITS + level + 1
        adders += pairs * bits
        values = [bits] * pairs + values[-1:] * odd
        registers += sum(values)
        level += 1
    return adders, registers


def linear(c: BuildConfig) -> Amount:
    rows, tables, parts = c.rows, c.tables, c.vector_blocks
    adders, registers = tree_bits(tables)
    block = rows * c.acc_bits
    accumulators = block_rams(2 << power_bits(c.panel_vectors), block) * parts
    # Rows that share a memory of a table: five RAM32M16, or one for each of fewer rows.
    shared = sum(min(40, 8 * (rows - first)) for first in range(0, rows, _SHARED_ROWS))
    lane = Amount(
        # Distributed memories, adder tree, what the accumulator adds to, control.
        lut=tables * shared + rows * (adders + parts * c.acc_bits) + 75,
        # Entries, tree; own, and what is kept and shown; activations that arrive and are in use.
        ff=rows * (10 * tables + registers + c.acc_bits * (1 + 2 * parts)) + 16 * c.slice_inputs + 17,
        bram36=accumulators, dsp=rows,
    )
    turns = tables // c.builders
    builder = Amount(lut=27 + 8 * (3 * turns - 1) / 3, ff=19)
    parity = Amount(
        lut=block * (gate_luts(c.lanes) + gate_luts(c.lanes + parts)), ff=block * (2 + parts), bram36=accumulators
    )
    decoder = Amount(lut=35 * c.beat_bytes, ff=40 * c.beat_bytes)
    turned = c.width // math.gcd(c.width, c.slice_inputs)
    activations = Amount(lut=64 + 8 * c.width * mux_luts(turned), ff=24 * c.width + 243) + memory(
        c.activation_memory, 2 * c.tokens * (c.max_inputs // c.width), 8 * c.width
    )
    merge = block * parts
    own = Amount(
        lut=c.groups * (8 * c.beat_bytes * mux_luts(c.groups) + merge * gate_luts(c.lanes)) + merge * (c.groups > 1) + 226,
        ff=8 * c.groups * c.beat_bytes + merge + 254,
    )
    schedule = Amount(lut=33, ff=55)
    return lane * c.tokens + builder * (c.tokens * c.builders) + (parity + decoder) * c.groups + activations + own + schedule


# ---- attention unit --------------------------------------------------------------------------------------------------
def packed_memory(depth: int, bits: int) -> Amount:
    """`hwgen.hw.attention.memory.BlockMemory`: a small rest beside whole columns lies in look-up tables."""
    rest, style = last_column(bits, depth)
    if rest and style == "distributed":
        return Amount(bram36=block_rams(depth, bits - rest), lut=9.5 * rest, ff=rest)
    return Amount(bram36=block_rams(depth, bits))


def attention(c: BuildConfig) -> Amount:
    lanes, size, words = c.query_lanes, c.beat_bytes, AttentionMemory(c)
    # Buffers written by slots leave the ninth bit of every byte.
    kept = block_rams(words.buffers << power_bits(words.dims), 9 * size)
    # A beat of 4-bit elements is two of int8.
    blocks = Amount(lut=248 + (41 if c.int4_kv else 24) * size, ff=284 + 32 * size, bram36=2 * kept)
    scores = Amount(lut=516, ff=972) + Amount(
        lut=17.5 * size + 9 * c.kv_block - 217, ff=26.9 * size + 38.3 * c.kv_block - 598, dsp=size + 2
    ) * lanes
    queries = (packed_memory(words.query_words, 8 * c.width) + Amount(bram36=block_rams(words.query_rows, 32))) * lanes
    output = Amount(
        lut=22.3 * size + 7.8 * c.kv_block + 792 * c.key_bytes + 68,
        ff=36.4 * size + 27.8 * c.kv_block + 644 * c.key_bytes - 321,
        dsp=size + 2 * c.key_bytes,
    )
    values = Amount(lut=-199, ff=805) + (
        output + memory(c.scratch_memory, words.output_words, 32 * c.key_bytes)
    ) * lanes
    # Scales and sums of a block of keys.
    scaler = Amount(lut=153, ff=250) + Amount(lut=366 + 11.9 * c.kv_block, ff=511 + 27.25 * c.kv_block, dsp=3) * lanes
    softmax = Amount(lut=677, ff=849, dsp=2) + Amount(lut=439 + 6.5 * c.kv_block, ff=557 + 17.4 * c.kv_block, dsp=2) * lanes
    # Work list, control.
    rest = Amount(lut=250, ff=180 + 2 * size)
    return blocks + scores + queries + values + scaler + softmax + rest + choice(c)


def choice(c: BuildConfig) -> Amount:
    """Of a budget of blocks: the list of a head in registers, a comparator an entry, and the lists of every run and key/value head
    in block RAM. Constants are of the unit alone and of what is told apart elsewhere: no report is accepted of a build that has it.
    """
    if not c.kv_budget:
        return Amount()
    # A score, a block, and whether they are there.
    entry = SCORE_BITS + power_bits(c.max_pages) + 1
    return Amount(lut=250, ff=335, bram36=block_rams(*choice_memory(c))) + Amount(lut=entry + 21, ff=entry) * c.kv_budget


def choice_memory(c: BuildConfig) -> tuple[int, int]:
    """Entries of the lists of all runs and key/value heads, and their bits: a block."""
    return (c.chunk << power_bits(c.max_kv_heads)) * c.kv_budget, power_bits(c.max_pages)


# ---- everything else -------------------------------------------------------------------------------------------------
def vector(c: BuildConfig) -> Amount:
    # Digits of the head's rows become one integer, in a DSP slice.
    digits = Amount(lut=40) + Amount(dsp=1) * c.width if c.has_ternary else Amount()
    mixing = Amount(lut=250 + 12 * c.width, ff=25) if c.int4_kv else Amount()
    return Amount(lut=2244 + 1480 * c.width, ff=1901 + 1335 * c.width, dsp=7 + 5 * c.width) + digits + mixing


def ring_bits(c: BuildConfig) -> tuple[int, int]:
    """Bits of a beat in UltraRAM and in block RAM, where a few beyond whole words of UltraRAM lie."""
    bits = 8 * c.beat_bytes
    if c.ring_memory != "ultra":
        return 0, bits
    return (bits, 0) if bits % 72 > 9 else (bits - bits % 72, bits % 72)


def memory_system(c: BuildConfig) -> Amount:
    # The ring is a bank for every beat of a row, which is shown from registers.
    depth, (ultra, block) = c.ring_beats // c.groups, ring_bits(c)
    bank = memory("ultra", depth, ultra) + memory("block", depth, block) + Amount(ff=8 * c.beat_bytes)
    # Every place of a beat chooses its word among the ports; the earlier words wait.
    words = Amount(lut=8 * c.beat_bytes * mux_luts(c.ports), ff=c.port_bits * c.beat_words * (c.beat_words + 1) / 2)
    port = Amount(lut=217 + c.port_bits, ff=130 + c.port_bits)
    return Amount(lut=1500, ff=2350, dsp=2) + words + port * c.ports + bank * c.groups


def vector_memory(kind: str, depth: int, bits: int) -> Amount:
    """Scratch or parameter memory: one more register behind it, behind UltraRAM four, each with an enable of its own."""
    if kind == "ultra":
        return memory(kind, depth, bits) + Amount(ff=4 * bits + 8)
    tail = depth % 512 if kind == "block" and depth > 512 else 0
    if not 0 < tail <= _TAIL:
        # Block RAMs of different depths one behind the other.
        stacked = kind == "block" and depth > 512 and depth & (depth - 1)
        return memory(kind, depth, bits) + Amount(lut=bits + 3 if stacked else 0, ff=bits + 1)
    # 64 words of 7 bits fill eight look-up tables.
    return memory(kind, depth - tail, bits) + Amount(lut=8 * ceil_div(bits, 7) + bits + 2, ff=2 * bits + 1)


def store(c: BuildConfig) -> Amount:
    parts = c.width // c.key_bytes
    halves = 2 if c.chunk > 1 and parts > 1 else 1
    bits = 8 * c.width // halves
    head, vectors = power_bits(c.max_kv_heads), power_bits(c.max_head_dim // c.width)
    bank = Amount(bram36=block_rams(halves << (head + vectors + 1), bits), ff=8 * c.key_bytes,
                  lut=8 * c.key_bytes * max(1, mux_luts(parts)))
    # Slots that are only handed on lie in shift registers.
    turns = Amount(lut=8 * c.key_bytes * turned_slots(c), ff=8 * c.key_bytes * turned_slots(c))
    return bank * c.chunk + turns + Amount(lut=102, ff=129, bram36=block_rams(1 << (head + power_bits(c.chunk)), 32))


def turned_slots(c: BuildConfig) -> int:
    """Multiplexers of a slot in all stages that turn what the banks hold: none where one bank alone reaches the slot."""
    reached, high, count = set(range(c.chunk)), power_bits(c.kv_block), 0
    while high:
        low = (high - 1) // 2 * 2
        sources = [{(slot - (n << low)) % c.kv_block for n in range(1 << (high - low))} & reached for slot in range(c.kv_block)]
        count += sum(len(of) > 1 for of in sources)
        reached, high = {slot for slot, of in enumerate(sources) if of}, low
    return count


def estimate_resources(config: BuildConfig) -> ResourceEstimate:
    """Resources of the accelerator of ``config``, by unit."""
    c, bits = config, 32 * config.width
    return ResourceEstimate({
        "activity": Amount(lut=15, ff=18),
        "attention": attention(c),
        "beats": Amount(lut=8 * c.beat_bytes * mux_luts(c.groups) + 2, ff=1),
        "counters": Amount(lut=16, ff=792 + 66 * c.ports),
        "errors": Amount(lut=24, ff=7),
        "kv_writer": Amount(lut=450 + (15 if c.int4_kv else 8) * c.beat_bytes, ff=330 + 16 * c.beat_bytes, dsp=4),
        "linear": linear(c),
        "loader": Amount(lut=316 + bits, ff=90 + 50 * c.width, dsp=1),
        "memory": memory_system(c),
        "param": vector_memory("block", c.param_vectors, bits),
        "ranking": Amount(
            lut=400 + 2.5 * c.beat_bytes + 32 * c.width, ff=340 + 9.8 * c.beat_bytes + 32 * c.width,
            bram36=block_rams(c.chunk * c.topk, 56),
        ),
        # Pages are read by two; the loop's tokens are the rest. With a budget one more reads the runs, and all have its byte.
        "registers": Amount(lut=1300 + 115 * c.ports, ff=1050, bram36=2 * block_rams(c.page_entries, 32) + 0.5, dsp=1)
        + Amount(lut=64 if c.kv_budget else 0, ff=80 if c.kv_budget else 0),
        "scratch": vector_memory(c.scratch_memory, c.scratch_vectors, bits),
        "sequencer": Amount(lut=225, ff=3260),
        "shortlist": Amount(
            lut=748 + 86 * c.width, ff=278 + 64 * c.width, bram36=block_rams(c.chunk << (c.shortlist - 1).bit_length(), 56)
        ),
        "stop": Amount(lut=15, ff=8),
        "store": store(c),
        "trace": Amount(lut=126, ff=269, bram36=block_rams(c.trace_entries, 128)),
        "vector": vector(c),
        "top": Amount(lut=190 + bits + 8 * c.beat_bytes, ff=1),
    })


def predicted_uram(config: BuildConfig) -> int:
    """URAM288 that a configuration needs: every memory that it asks to have in UltraRAM."""
    engines = config.has_ternary + config.has_int4
    memories = [
        (config.ring_memory, config.groups, config.ring_beats // config.groups, ring_bits(config)[0]),
        (config.scratch_memory, 1, config.scratch_vectors, 32 * config.width),
        (config.scratch_memory, config.query_lanes, AttentionMemory(config).output_words, 32 * config.key_bytes),
        (config.activation_memory, engines, 2 * config.tokens * (config.max_inputs // config.width), 8 * config.width),
    ]
    return sum(n * ultra_rams(depth, bits) for kind, n, depth, bits in memories if kind == "ultra")
