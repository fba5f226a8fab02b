"""Build configuration: everything that is fixed when the Verilog is generated, and nothing of a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from .int4 import WEIGHT_MAX
from .numerics import E4M3_LARGEST, GROUP, GROUP_SCALE_MAX
from .rounding import align, ceil_div

__all__ = ["BuildConfig", "ConfigError", "ENGINES"]

#: Linear engines of a build. "grouped" is the ternary engine with scales of groups of inputs; it also runs matrices without. "both"
#: is "ternary" and "int4".
ENGINES = ("ternary", "grouped", "int4", "both")

#: Ternary weights ("trits") stored in one byte, base 3.
TRITS_PER_BYTE = 5

#: Largest integer of as many digits in base 3, each -1, 0 or 1: what rows of the LM head are made of on the ternary engine.
DIGITS_LARGEST = (3**TRITS_PER_BYTE - 1) // 2

#: Memory ports of a build at most.
MAX_PORTS = 8

#: Banks that a segment is read from in turn.
MAX_READ_STREAMS = 4

#: Blocks that a step may choose at most: what a run says of them is a byte.
MAX_BUDGET = 253

#: Tokens of a pass at most: what a run says of them is a byte too, and a pass has an even number.
MAX_CHUNK = 254

#: Fields that may be 0: what they count is not there then.
_OPTIONAL = ("kv_budget",)

#: Whether a value is legal, what it must be and what to do, by the type of its field.
_LEGAL: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "int": (lambda value: type(value) is int and value > 0, "a positive integer", "; use 1 or more"),
    "float": (lambda value: type(value) in (int, float) and 0 < value < math.inf, "a positive number", ""),
    "bool": (lambda value: type(value) is bool, "true or false", ""),
    "str": (lambda value: type(value) is str, "text", ""),
}


class ConfigError(ValueError):
    """An illegal build configuration; the message states the reason and the nearest legal value."""


def power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def nearest_power_of_two(value: int) -> int:
    """Largest power of two that is at most ``value`` (1 for values below 1)."""
    return 1 << max(0, value.bit_length() - 1) if value > 0 else 1


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Build-time parameters of the accelerator. Sizes of a model are run-time data up to the maxima given here.

    Illegal combinations raise :class:`ConfigError` with the reason and the nearest legal value.
    """

    #: Name of the configuration, printed in reports.
    name: str = "custom"
    #: AXI4 memory ports, 1 to 8. Any of them reads any part of memory; port 0 alone writes.
    ports: int = 2
    #: Data width of one port, in bits (32, 64 or 128).
    port_bits: int = 128
    #: Bytes of one beat: what memory is laid out in and what the operators take in a cycle, 16 to 256.
    beat_bytes: int = 32
    #: Fabric clock that cycle counts are converted with, in MHz.
    clock_mhz: float = 250.0

    #: Linear engines: "ternary", "grouped" (ternary, with scales of groups of inputs), "int4" (INT4 weights, FP8 activations) or
    #: "both".
    engine: str = "ternary"
    #: Beat groups of the linear engines: beats consumed in one cycle when at most ``lanes`` tokens are active.
    groups: int = 2
    #: Token lanes in a group; all lanes of a group share one weight beat.
    lanes: int = 2
    #: Output rows that one weight beat carries.
    rows: int = 4
    #: Vectors of float32 in one beat: the vector unit works on ``beat_bytes / 4 / beat_vectors`` elements a cycle.
    beat_vectors: int = 1
    #: Look-up tables built at the same time in one lane.
    builders: int = 14

    #: True: the attention unit also takes e4m3 queries (wider multipliers), not only int8.
    fp8_query: bool = False
    #: True: the KV cache may hold 4-bit keys and values, not only int8.
    int4_kv: bool = False
    #: Blocks of cached keys and values that a decode step may choose for each key/value head, at most; 0: it attends to all.
    kv_budget: int = 0
    #: Summaries of a block of cached keys, by which it is chosen: so many means of as many keys each (a power of two).
    summary_rows: int = 4
    #: Query lanes of the attention unit; all share one beat of keys or values.
    query_lanes: int = 2
    #: Keys in one block of the KV cache.
    kv_block: int = 16
    #: Tokens in one pass (one doorbell) at most, 1 or an even number; also banks of the on-chip KV store.
    chunk: int = 8

    #: Capacity of the weight ring, in beats.
    ring_beats: int = 4096
    #: Memory that holds the ring: "ultra" (UltraRAM) or "block" (block RAM).
    ring_memory: str = "ultra"
    #: Memory that holds the scratch and the running sums of attention: "ultra" or "block".
    scratch_memory: str = "block"
    #: Memory of the int8 activations: "ultra" or "block".
    activation_memory: str = "block"
    #: Capacity of the scratch memory, in vectors of ``width`` float32.
    scratch_vectors: int = 2048
    #: Capacity of the parameter memory (norm gains, rotary rows), in vectors.
    param_vectors: int = 512

    #: Largest input dimension of a linear layer.
    max_inputs: int = 1024
    #: Output rows that one LINEAR operator computes at most; a lane holds accumulators of two such panels. A matrix of
    #: more rows is computed panel by panel.
    panel_rows: int = 512
    #: Largest number of query heads.
    max_heads: int = 16
    #: Largest number of key/value heads.
    max_kv_heads: int = 8
    #: Largest number of query heads that share one key/value head.
    max_shared: int = 16
    #: Largest head dimension.
    max_head_dim: int = 64
    #: Largest number of query elements of a token: query heads times head dimension.
    max_query: int = 1024
    #: Longest context, in tokens.
    max_context: int = 1024

    #: Entries of the KV page table, which the sequences of a pass share: at least those of the longest context.
    page_entries: int = 1024

    #: Operators of a pass whose start and end the trace memory keeps.
    trace_entries: int = 512
    #: Entries of the sorted candidate list that the LM head keeps.
    topk: int = 8
    #: Blocks of ``kv_block`` vocabulary rows that the short-list head rescores exactly.
    shortlist: int = 8
    #: Longest AXI burst, in port words. A read burst crosses no multiple of its bytes, and these are whole beats.
    burst: int = 16
    #: Bytes after which memory goes on in another bank (a power of two). Long segments are read from several banks in turn.
    bank_bytes: int = 16384
    #: Read bursts a port keeps in flight.
    outstanding: int = 8
    #: Descriptors held on chip between program reader, prefetcher and sequencer.
    descriptor_queue: int = 16
    #: True adds observation outputs for co-simulation; never set in a bitstream.
    probe: bool = False

    # ---- derived sizes -------------------------------------------------------------------------------------------
    @property
    def port_bytes(self) -> int:
        """Bytes of one port word."""
        return self.port_bits // 8

    @property
    def burst_beats(self) -> int:
        """Beats of the longest burst."""
        return self.burst * self.port_bytes // self.beat_bytes

    @property
    def beat_words(self) -> int:
        """Port words of one beat."""
        return self.beat_bytes // self.port_bytes

    @property
    def read_streams(self) -> int:
        """Banks that a long segment is read from in turn: at most `MAX_READ_STREAMS`, and their `bank_bytes` each take an eighth of
        the ring together."""
        room = self.ring_beats * self.beat_bytes // (8 * self.bank_bytes)
        return min(MAX_READ_STREAMS, nearest_power_of_two(room))

    @property
    def bank_bursts(self) -> int:
        """Longest bursts that follow each other in a bank, where segments are read from several in turn; 1 where they are not."""
        return self.bank_bytes // (self.burst * self.port_bytes) if self.read_streams > 1 else 1

    @property
    def block_beats(self) -> int:
        """Beats of a block: what is read from `read_streams` banks in turn."""
        return self.read_streams * self.bank_bursts * self.burst_beats

    @property
    def port_queue(self) -> int:
        """Words that wait behind a read port until they are whole beats."""
        return max(32, 4 * self.beat_words)

    @property
    def replay_beats(self) -> int:
        """Beats of the largest matrix that the ring holds for the next round of tokens, with two bursts beside it."""
        return self.ring_beats - 2 * self.burst_beats

    @property
    def width(self) -> int:
        """Vector width: float32 elements that the vector unit handles in one cycle."""
        return self.beat_bytes // 4 // self.beat_vectors

    @property
    def has_ternary(self) -> bool:
        """The build has the ternary engine."""
        return self.engine != "int4"

    @property
    def has_groups(self) -> bool:
        """The ternary engine takes scales of groups of inputs."""
        return self.engine == "grouped"

    @property
    def has_int4(self) -> bool:
        """The build has the INT4 x FP8 engine."""
        return self.engine in ("int4", "both")

    @property
    def int4_slice_inputs(self) -> int:
        """Input elements covered by one weight beat of the INT4 engine."""
        return 2 * self.beat_bytes // self.rows

    @property
    def slice_inputs(self) -> int:
        """Input elements covered by one ternary weight beat (a *slice* of the input dimension)."""
        return TRITS_PER_BYTE * self.beat_bytes // self.rows

    @property
    def tables(self) -> int:
        """Look-up tables of one lane: one for every three inputs of a slice, the last may cover fewer."""
        return ceil_div(self.slice_inputs, 3)

    @property
    def vector_blocks(self) -> int:
        """Row blocks (of ``rows`` rows) in one vector of results."""
        return self.width // self.rows

    @property
    def block_step(self) -> int:
        """Row blocks of a panel come in multiples of this: whole vectors, and a whole number a group."""
        return math.lcm(self.vector_blocks, self.groups)

    @property
    def panel_vectors(self) -> int:
        """Vectors of results in one panel at most."""
        return self.panel_rows // self.width

    @property
    def tokens(self) -> int:
        """Tokens that the linear engine works on at the same time."""
        return self.groups * self.lanes

    @property
    def key_bytes(self) -> int:
        """Elements of every key of a block that one beat carries."""
        return self.beat_bytes // self.kv_block

    @property
    def header_beats(self) -> int:
        """Beats of the header of a block of the KV cache (or of the LM head): bf16 scales of its keys, then of its values."""
        return 4 // self.key_bytes

    def macs(self, engine: str) -> int:
        """Multiply-accumulates a cycle of the ``engine`` "ternary" or "int4", with every token lane busy."""
        return self.tokens * self.rows * (self.int4_slice_inputs if engine == "int4" else self.slice_inputs)

    @property
    def ternary_acc_bits(self) -> int:
        """Width of an accumulator of the ternary engine (signed)."""
        return (127 * (GROUP_SCALE_MAX if self.has_groups else 1) * self.max_inputs).bit_length() + 1

    @property
    def int4_acc_bits(self) -> int:
        """Width of an accumulator of the INT4 engine (signed)."""
        return (WEIGHT_MAX * E4M3_LARGEST * self.max_inputs).bit_length() + 1

    @property
    def acc_bits(self) -> int:
        """Width of an accumulator as DRAIN reads it (signed)."""
        return self.int4_acc_bits if self.has_int4 else self.ternary_acc_bits

    @property
    def digit_bits(self) -> int:
        """Width of an accumulator of a digit of a row (signed)."""
        return (127 * self.max_inputs).bit_length() + 1

    @property
    def result_bits(self) -> int:
        """Width of what DRAIN makes a float of (signed): an accumulator, or one of each digit put together."""
        digits = (DIGITS_LARGEST * 127 * self.max_inputs).bit_length() + 1
        return max(self.acc_bits, digits if self.has_ternary else 0)

    @property
    def score_bits(self) -> int:
        """Width of an accumulator of the query-key unit (signed), which also computes the LM head."""
        of_head = 127 * 127 * max(self.max_head_dim, self.max_inputs)
        of_query = E4M3_LARGEST * 127 * self.max_head_dim if self.fp8_query else 0
        return max(of_head, of_query).bit_length() + 1

    @property
    def max_pages(self) -> int:
        """Entries of the KV page table that one sequence takes at most."""
        return ceil_div(self.max_context, self.kv_block)

    @property
    def summary_pages(self) -> int:
        """Entries of the KV page table that hold the summaries of the blocks of one sequence at most (hwgen/block_choice.py)."""
        return ceil_div(self.max_pages * self.summary_rows, self.kv_block) if self.kv_budget else 0

    @property
    def max_group(self) -> int:
        """Query heads of one key/value head times tokens of a chunk: slots of the attention unit."""
        return self.chunk * min(self.max_shared, self.max_heads)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            legal, what, use = _LEGAL[str(item.type)]
            if not legal(value) and not (item.name in _OPTIONAL and value == 0 and type(value) is int):
                raise ConfigError(f"{item.name} must be {what}, not {value!r}{use}")
        self._require(self.port_bits in (32, 64, 128), "port_bits", "32, 64 or 128", 128)
        self._require(self.ports <= MAX_PORTS, "ports", f"at most {MAX_PORTS}", MAX_PORTS)
        self._require(power_of_two(self.beat_bytes) and 16 <= self.beat_bytes <= 256, "beat_bytes", "a power of two, 16 to 256",
                      min(256, max(16, nearest_power_of_two(self.beat_bytes))))
        self._require(
            power_of_two(self.beat_vectors) and self.beat_vectors <= self.beat_bytes // 8, "beat_vectors",
            f"a power of two up to {self.beat_bytes // 8}", 1,
        )
        for name in ("kv_block", "summary_rows", "query_lanes", "burst", "bank_bytes"):
            value = getattr(self, name)
            self._require(power_of_two(value), name, "a power of two", nearest_power_of_two(value))
        legal_rows = [r for r in range(1, self.width + 1) if self.width % r == 0 and power_of_two(r)]
        self._require(
            self.rows in legal_rows, "rows", f"one of {legal_rows} (it divides the vector width {self.width})",
            max((r for r in legal_rows if r <= self.rows), default=1),
        )
        self._require(power_of_two(self.groups), "groups", "a power of two", nearest_power_of_two(self.groups))
        self._require(self.ring_beats % self.groups == 0, "ring_beats", f"a multiple of groups ({self.groups})",
                      max(1, self.ring_beats // self.groups) * self.groups)
        self._require(self.engine in ENGINES, "engine", f"one of {', '.join(ENGINES)}", "ternary")
        # A short list has all of its blocks but one whole, and a row of that; candidates that nothing reached would be noise.
        listed = (self.shortlist - 1) * self.kv_block + 1
        self._require(
            not self.has_ternary or self.topk <= listed, "topk",
            f"at most {listed}, the rows that a short list of {self.shortlist} blocks has at least", listed,
        )
        if self.has_int4:
            most, least = self.beat_bytes // 2, ceil_div(self.beat_bytes, 16)
            self._require(
                least <= self.rows <= most, "rows", f"{least} to {most} with an INT4 engine (slices of 4 to 32 inputs)",
                min(most, max(least, self.rows)),
            )
        self._require(
            not self.has_ternary or self.builders <= self.tables and self.tables % self.builders == 0, "builders",
            f"a divisor of the {self.tables} tables of a lane",
            max(b for b in range(1, self.tables + 1) if self.tables % b == 0 and b <= max(1, self.builders)),
        )
        if self.has_groups:
            rows = ceil_div(TRITS_PER_BYTE * self.beat_bytes, GROUP)
            self._require(self.slice_inputs < GROUP, "rows", f"{rows} or more with scales of groups of {GROUP} inputs", rows)
        self._require(
            self.key_bytes in (1, 2, 4), "kv_block",
            f"{self.beat_bytes // 4}, {self.beat_bytes // 2} or {self.beat_bytes} for beats of {self.beat_bytes} bytes",
            self.beat_bytes // 2,
        )
        # A vector is whole parts of keys: the attention unit takes one part a beat.
        self._require(
            self.key_bytes <= self.width, "kv_block",
            f"at least {self.beat_bytes // self.width}, so that a beat carries at most one vector ({self.width} elements) of a key",
            self.beat_bytes // self.width,
        )
        self._require(self.chunk <= self.kv_block, "chunk", f"at most kv_block ({self.kv_block})", self.kv_block)
        self._require(self.chunk <= MAX_CHUNK, "chunk", f"at most {MAX_CHUNK}", MAX_CHUNK)
        self._require(self.chunk == 1 or self.chunk % 2 == 0, "chunk", "1 or an even number", self.chunk - 1)
        self._require(self.burst * self.port_bytes <= 4096 and self.burst <= 256, "burst",
                      "at most 256 words and 4096 bytes", min(256, 4096 // self.port_bytes))
        self._require(self.burst >= self.beat_words, "burst", f"at least a beat ({self.beat_words} words)", self.beat_words)
        burst_bytes = self.burst * self.port_bytes
        self._require(self.bank_bytes >= burst_bytes, "bank_bytes", "at least a burst", burst_bytes)
        for name in ("ring_memory", "scratch_memory", "activation_memory"):
            self._require(getattr(self, name) in ("ultra", "block"), name, '"ultra" or "block"', "ultra")
        self._require(self.ring_beats >= 8 * self.burst_beats, "ring_beats",
                      "at least eight bursts", align(8 * self.burst_beats, self.groups))
        step = 2 * self.width
        self._require(self.max_head_dim % step == 0, "max_head_dim",
                      f"a multiple of {step} (two vectors)", max(step, self.max_head_dim // step * step))
        inputs = math.lcm(self.width, self.int4_slice_inputs) if self.has_int4 else self.width
        for name, step in (("max_inputs", inputs), ("max_query", 2 * self.width), ("panel_rows", self.block_step * self.rows)):
            value = getattr(self, name)
            self._require(value % step == 0, name, f"a multiple of {step}", align(value, step))
        self._require(self.max_context % self.kv_block == 0, "max_context", f"a multiple of kv_block ({self.kv_block})",
                      align(self.max_context, self.kv_block))
        self._check_budget()
        self._require(self.descriptor_queue >= 2, "descriptor_queue", "at least 2", 2)

    def _check_budget(self) -> None:
        """Blocks that may be chosen, and entries of the page table for all blocks and their summaries."""
        self._require(
            self.kv_budget != 1 and self.kv_budget <= MAX_BUDGET, "kv_budget", f"0 (none), or 2 to {MAX_BUDGET} blocks",
            min(MAX_BUDGET, max(2, self.kv_budget)),
        )
        self._require(self.summary_rows <= self.kv_block, "summary_rows", f"at most kv_block ({self.kv_block})", self.kv_block)
        entries = self.max_pages + self.summary_pages
        summed = " and pages of their summaries" if self.kv_budget else ""
        self._require(self.page_entries >= entries, "page_entries",
                      f"at least {entries}, the blocks of max_context{summed}", entries)

    def _require(self, legal: bool, name: str, what: str, nearest: object) -> None:
        if not legal:
            raise ConfigError(f"{name} must be {what}, not {getattr(self, name)!r}; the nearest legal value is {nearest!r}")

    # ---- identity ------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BuildConfig:
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown configuration field {unknown[0]!r}; known fields: {', '.join(sorted(known))}")
        return cls(**values)
