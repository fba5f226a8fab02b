"""Functional coverage: which operators have run in lock step in which formats, at which sizes, and while what was held up.

A *bin* is one combination that should happen, of one *cross*:

``stalls``       kind of operator x tokens of its round x what was held up between the end of the operator before and its own end
``sizes``        operator x field of its descriptor x whether that is the least, the most that the build has, or between
``contexts``     operator that has to do with the cache x formats of cache and queries x where the tokens of a run lie in blocks
``interrupted``  how a pass ended early x the operator that had ended last
``passes``       runs of a pass x how many of its tokens are wanted

What is not there, because nothing makes it, is not a bin: a new kind of operator that has none raises `KeyError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from ...config import BuildConfig
from ...descriptors import Descriptor, Fetch, Flag, Format, Opcode
from ...operators import active_tokens
from ...rounding import ceil_div

if TYPE_CHECKING:
    from ...sim.dram import PortStatistics
    from ..devices.verilator import VerilatorDevice
    from ..runtime.engine import Engine

__all__ = ["BINS", "Bin", "FunctionalCoverage", "kind_of", "summarise"]

Bin = tuple[str, str, str]
"""Cross, operator, and the rest of the combination."""

#: What DRAIN makes of results.
_DRAINS = {
    Flag.STORE: "store", Flag.RELU2: "relu2", Flag.SILU: "silu", Flag.MULTIPLY: "multiply", Flag.ADD: "add",
    Flag.CANDIDATES: "candidates", Flag.SHORTLIST: "short list",
}
_NORMS = {Format.NONE: "int8", Format.FP8: "e4m3", Format.PLAIN: "plain int8", Format.PLAIN | Format.FP8: "plain e4m3"}
_ROPES = {Flag.QUERIES: "queries", Flag.KEYS: "keys", Flag.VALUES: "values"}

#: Every kind of every operator.
KINDS: dict[Opcode, tuple[str, ...]] = {
    Opcode.EMBED: ("rows", "biases", "row scales"),
    Opcode.PARAM: ("of layers", "of the head"),
    Opcode.ROTARY: ("",),
    Opcode.NORM: (*_NORMS.values(), "heads", "to queries"),
    Opcode.LINEAR: ("ternary", "int4", "grouped", "ternary again", "int4 again", "grouped again"),
    Opcode.DRAIN: (
        *(f"{what}{of}" for what in ("store", "relu2", "silu", "multiply", "add") for of in ("", " of int4")),
        "candidates", "candidates of int4", "candidates of digits", "short list",
    ),
    Opcode.ROPE: (
        "queries", "keys", "values", "queries and keys", "keys and values", "queries and keys and values",
        "rotate alone", "add a row", "mix alone", "mix back alone",
    ),
    Opcode.ATTENTION: ("", "choice"),
    Opcode.KV_WRITE: ("",),
    Opcode.HEAD: ("",),
}

#: Kinds that are loaded once for all tokens, or run once a token.
ONCE = {
    (Opcode.EMBED, "biases"), (Opcode.EMBED, "row scales"), (Opcode.PARAM, "of layers"), (Opcode.PARAM, "of the head"),
    (Opcode.NORM, "to queries"), (Opcode.HEAD, ""),
}

TOKENS = ("one", "several", "all")
#: Words read are none of them: a port asks for no more than it has room for.
STALLS = ("nothing", "addresses", "writes")

#: Of the sizes of an operator, the least and the most of a build.
_SIZES: dict[Opcode, dict[str, Callable[[BuildConfig, Descriptor], tuple[int, int]]]] = {
    Opcode.NORM: {"vectors": lambda c, d: (1, c.max_inputs // c.width)},
    Opcode.LINEAR: {
        "slices": lambda c, d: (1, ceil_div(c.max_inputs, c.int4_slice_inputs if Format.FP8 in d.format else c.slice_inputs)),
        "row_blocks": lambda c, d: (c.block_step, c.panel_rows // c.rows),
    },
    Opcode.DRAIN: {"vectors": lambda c, d: (1, c.panel_vectors)},
    Opcode.ROPE: {
        "heads": lambda c, d: (1, c.max_heads), "kv_heads": lambda c, d: (1, c.max_kv_heads),
        "head_vectors": lambda c, d: (2, c.max_head_dim // c.width),
    },
    Opcode.ATTENTION: {
        "heads": lambda c, d: (1, c.max_heads), "kv_heads": lambda c, d: (1, c.max_kv_heads),
        "head_vectors": lambda c, d: (2, c.max_head_dim // c.width),
    },
    Opcode.KV_WRITE: {"kv_heads": lambda c, d: (1, c.max_kv_heads)},
    Opcode.HEAD: {"row_blocks": lambda c, d: (1, c.shortlist)},
}
SIZES = ("least", "between", "most")

CACHES = ("k8v8", "k8v4", "k4v4")
QUERIES = ("int8", "e4m3")
PLACES = ("from the start", "from a block's start", "within a block", "over a block's end", "to a block's end", "to the end")

ENDS = ("stopped", "failed", "reset")
RUNS = ("one run", "two runs", "three runs")
WANTED = ("none", "one", "several", "all")


def _words(*words: str) -> str:
    return ", ".join(word for word in words if word)


def _choices() -> Iterator[Bin]:
    for opcode, kinds in KINDS.items():
        for kind, tokens, stall in product(kinds, TOKENS, STALLS):
            if tokens == "all" or (opcode, kind) not in ONCE:
                yield "stalls", opcode.name, _words(kind, tokens, stall)
    for opcode, fields in _SIZES.items():
        for name, size in product(fields, SIZES):
            if (name, size) != ("head_vectors", "between"):  # a head has two vectors, or twice as many
                yield "sizes", opcode.name, f"{name}, {size}"
    for cache, place in product(CACHES, PLACES):
        yield "contexts", "KV_WRITE", f"{cache}, {place}"
        for query in QUERIES:
            yield "contexts", "ATTENTION", f"{cache}, {query}, {place}"
    for end, opcode in product(ENDS, KINDS):
        yield "interrupted", opcode.name, end
    for runs, wanted in product(RUNS, WANTED):
        yield "passes", "pass", f"{runs}, {wanted}"


#: All that should happen.
BINS = frozenset(_choices())


def kind_of(d: Descriptor) -> str:
    """Which of its kinds an operator is."""
    kind = _kind(d)
    if kind not in KINDS[d.opcode]:
        raise KeyError(f"{d.opcode.name} {kind}: give it a row in {__name__}.KINDS")
    return kind


def _kind(d: Descriptor) -> str:
    of_int4 = " of int4" if Format.FP8 in d.format else ""
    match d.opcode:
        case Opcode.EMBED:
            return "rows" if d.fetch is Fetch.TOKEN else "row scales" if Flag.LOGITS in d.flags else "biases"
        case Opcode.PARAM:
            return "of the head" if Flag.LOGITS in d.flags else "of layers"
        case Opcode.NORM:
            return "heads" if Flag.STORE in d.flags else "to queries" if Flag.TO_QUERY in d.flags else _NORMS[d.format]
        case Opcode.LINEAR:
            numbers = "int4" if of_int4 else "grouped" if Format.GROUPED in d.format else "ternary"
            return numbers + (" again" if d.fetch is Fetch.NONE else "")
        case Opcode.DRAIN:
            what = [name for flag, name in _DRAINS.items() if flag in d.flags and (flag != Flag.STORE or not _is_of_head(d))]
            return (what[-1] if what else "none") + (" of digits" if Flag.DIGITS in d.flags else of_int4)
        case Opcode.ATTENTION:
            return "choice" if Flag.CHOOSE in d.flags else ""
        case Opcode.ROPE:
            if Flag.STORE not in d.flags:
                return " and ".join(name for flag, name in _ROPES.items() if flag in d.flags)
            if Flag.ADD in d.flags:
                return "add a row"
            return "mix back alone" if Format.UNMIX in d.format else "mix alone" if Format.MIX in d.format else "rotate alone"
    return ""


def _is_of_head(d: Descriptor) -> bool:
    return bool(d.flags & (Flag.CANDIDATES | Flag.SHORTLIST))


def stall_bins(
    d: Descriptor, tokens: int, wanted: int, before: Sequence[PortStatistics], after: Sequence[PortStatistics]
) -> set[Bin]:
    """Of an operator in a pass of ``tokens``, of which ``wanted`` are wanted, by what ports counted."""
    count = len(active_tokens(d, tokens, wanted))
    lengths = {TOKENS[0]: count == 1, TOKENS[2]: count == d.token_count, TOKENS[1]: 1 < count < d.token_count}

    def rose(*names: str) -> bool:
        return any(getattr(b, name) > getattr(a, name) for a, b in zip(before, after, strict=True) for name in names)

    stalls = {STALLS[1]: rose("read_address_stalled"), STALLS[2]: rose("write_stalled", "write_address_stalled")}
    stalls[STALLS[0]] = not any(stalls.values())
    return {
        ("stalls", d.opcode.name, _words(kind_of(d), length, stall))
        for length, stall in product((n for n, there in lengths.items() if there), [n for n, there in stalls.items() if there])
    } & BINS


def size_bins(config: BuildConfig, d: Descriptor) -> set[Bin]:
    """Of an operator. ROPE that only mixes counts parts of heads as heads: it has none."""
    found: set[Bin] = set()
    if d.opcode is Opcode.ROPE and Flag.STORE in d.flags:
        return found
    for name, limits in _SIZES.get(d.opcode, {}).items():
        value, (least, most) = getattr(d, name), limits(config, d)
        if value:  # ROPE may have no heads of a kind
            size = {SIZES[0]: value == least, SIZES[2]: value == most, SIZES[1]: least < value < most}
            found |= {("sizes", d.opcode.name, f"{name}, {what}") for what, there in size.items() if there}
    return found & BINS


def context_bins(config: BuildConfig, program: Iterable[Descriptor], runs: Iterable[tuple[int, int]]) -> set[Bin]:
    """Of a pass whose ``runs`` have a first position and a number of tokens each."""
    formats: set[tuple[str, str]] = set()
    for d in program:
        if d.opcode in (Opcode.ATTENTION, Opcode.KV_WRITE):
            cache = f"k{4 if Format.INT4_KEYS in d.format else 8}v{4 if Format.INT4_VALUES in d.format else 8}"
            query = f", {QUERIES[Format.FP8_QUERY in d.format]}" if d.opcode is Opcode.ATTENTION else ""
            formats.add((d.opcode.name, cache + query))
    block, places = config.kv_block, set()
    for first, count in runs:
        end = first + count
        places |= {place for place, there in zip(PLACES, (
            first == 0, first > 0 and first % block == 0, first // block == (end - 1) // block and first % block and end % block,
            first // block != (end - 1) // block, end % block == 0, end == config.max_context,
        ), strict=True) if there}
    return {("contexts", name, f"{format}, {place}") for (name, format), place in product(formats, places)}


def pass_bins(runs: int, tokens: int, wanted: int) -> set[Bin]:
    """Of a whole pass."""
    amounts = {"none": not wanted, "one": wanted == 1, "several": 1 < wanted < tokens, "all": wanted == tokens}
    return {("passes", "pass", f"{RUNS[runs - 1]}, {amount}") for amount, there in amounts.items() if there}


class FunctionalCoverage:
    """Follows the passes of a simulated device: :meth:`begin` before one, then :meth:`retired` at the end of every operator, or
    :meth:`interrupted`.
    """

    def __init__(self, engine: Engine, device: VerilatorDevice) -> None:
        self.engine, self.accelerator = engine, device.accelerator
        #: How often each bin was reached.
        self.reached: Counter[Bin] = Counter()
        self._tokens = self._wanted = self._retired = 0
        self._before: list[PortStatistics] = []

    def begin(self, runs: Sequence[tuple[int, int, int]]) -> None:
        """A pass; its runs have a first position, tokens, and how many of these are wanted."""
        self._tokens, self._wanted = sum(tokens for _, tokens, _ in runs), sum(wanted for _, _, wanted in runs)
        self._retired, self._before = self.accelerator.retired, self.accelerator.port_statistics()
        self.reached.update(pass_bins(len(runs), self._tokens, self._wanted))
        places = [(first, tokens) for first, tokens, _ in runs]
        self.reached.update(context_bins(self.engine.config, self.engine.image.descriptors, places))

    def retired(self, tag: int) -> None:
        d, now = self.engine.image.descriptors[tag], self.accelerator.port_statistics()
        self.reached.update(stall_bins(d, self._tokens, self._wanted, self._before, now))
        self.reached.update(size_bins(self.engine.config, d))
        self._before = now

    def interrupted(self, end: str) -> None:
        """The pass ended so, early; nothing is counted where no operator had ended."""
        if self.accelerator.retired > self._retired and end in ENDS:
            opcode = self.engine.image.descriptors[self.accelerator.retire_index].opcode
            self.reached["interrupted", opcode.name, end] += 1


def summarise(reached: Counter[Bin]) -> dict[str, Any]:
    """``coverage``: rows by cross and operator, of ``bins`` those ``reached``; ``functional_bins``, ``functional_reached`` and
    ``functional_percent`` of all; ``not_reached`` in words.
    """
    rows: dict[tuple[str, str], list[int]] = {}
    for cross, operator, rest in sorted(BINS):
        row = rows.setdefault((cross, operator), [0, 0])
        row[0] += 1
        row[1] += reached[cross, operator, rest] > 0
    bins, got = (sum(row[i] for row in rows.values()) for i in range(2))
    return {
        "functional_bins": bins, "functional_reached": got, "functional_percent": round(100 * got / bins, 1),
        "coverage": [
            {"cross": cross, "operator": operator, "bins": row[0], "reached": row[1], "percent": round(100 * row[1] / row[0], 1)}
            for (cross, operator), row in rows.items()
        ],
        "not_reached": [": ".join(b) for b in sorted(BINS) if not reached[b]],
    }
