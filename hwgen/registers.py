"""AXI4-Lite register map of the accelerator: the one home of every offset, field and access."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from .config import BuildConfig, ConfigError
from .descriptors import Opcode
from .draw import SCALE_BITS, Draw

__all__ = [
    "CHOSEN_TOKENS", "COUNTERS", "DRAW_COUNT", "DRAW_SCALE", "ENGINE_COUNTERS", "ERROR_OPERATOR", "ERROR_PORT",
    "ERROR_RESPONSE", "ERROR_WRITE", "INTERRUPT_ENABLE", "LOOP_PASSES", "MAGIC", "NUMBER_BITS", "RUN_BUDGET", "RUN_PAGES",
    "RUN_TOKENS", "STOP_TOKENS", "TRACE_WORDS", "WINDOW_BYTES", "Control", "Field", "PassFlag", "Register", "Status", "draw_from",
    "draw_words", "map_signature", "register", "register_map",
]

#: First register: the letters "hwgn".
MAGIC = 0x6E677768

#: Size of the register window in bytes.
WINDOW_BYTES = 0x20000

#: Bits of an entry of the token and page windows that count: of a token id, a position or a page number in an address.
NUMBER_BITS = 24

#: Base of the token window: one word a token of the pass.
TOKENS_BASE = 0x1000
#: Base of the window of runs: two words a run.
RUNS_BASE = 0x2000
#: Base of the window of wanted tokens: one word each.
WANT_BASE = 0x3000
#: Base of the window of stop tokens: one word each.
STOPS_BASE = 0x3800
#: Base of the window of chosen tokens: one word each, in the order in which they were chosen.
CHOSEN_BASE = 0x7000
#: Base of the window of draws: two words a run.
DRAW_BASE = 0x7800
#: Base of the page table window: one word a page.
PAGES_BASE = 0x8000
#: Base of the trace window: `TRACE_WORDS` words an entry.
TRACE_BASE = 0x10000
#: Base of the candidate window: by wanted token, ``topk`` entries of two words, token id and logit (float32 bits).
TOPK_BASE = 0x4000
#: Base of the counters.
COUNTER_BASE = 0x0400
#: Token ids that end a loop.
STOP_TOKENS = 8
#: Tokens that a loop chooses at most, of all its runs together: those of a block RAM.
CHOSEN_TOKENS = 512
#: Words of one entry of the trace.
TRACE_WORDS = 4


class Control(enum.IntFlag):
    """Bits of the CONTROL register."""

    #: Run the program at PROGRAM once (ignored while busy).
    START = 1
    #: Clear DONE and the interrupt.
    ACKNOWLEDGE = 2
    #: End the pass at the next operator boundary, with nothing left in flight (ignored while none runs).
    STOP = 4


class PassFlag(enum.IntFlag):
    """Bits of the PASS register."""

    NONE = 0
    #: Also write every logit of the wanted tokens, one's behind another's, to LOGITS.
    WRITE_LOGITS = 1
    #: A run of the pass has a budget of blocks: the operators that choose are not skipped.
    CHOOSE = 2


class Status(enum.IntFlag):
    """Bits of the STATUS register."""

    #: A pass is running.
    BUSY = 1
    #: A pass has ended since the last doorbell.
    DONE = 2
    #: A memory port answered with an error response; ERROR tells which.
    ERROR = 4
    #: The pass was ended by STOP.
    STOPPED = 8


@dataclass(frozen=True)
class Field:
    """Bits ``[first, first + width)`` of a register."""

    name: str
    first: int
    width: int
    description: str

    def extract(self, word: int) -> int:
        """Value of the field in a word of the register."""
        return word >> self.first & (1 << self.width) - 1

    def put(self, value: int) -> int:
        """The bits of a word that the field has with a value, which must fit."""
        if not 0 <= value < 1 << self.width:
            raise ValueError(f"{self.name} must have at most {self.width} bits, not {value!r}")
        return value << self.first


def _bits(*rows: tuple[enum.IntFlag, str]) -> tuple[Field, ...]:
    return tuple(Field(flag.name or "", flag.bit_length() - 1, 1, description) for flag, description in rows)


#: Fields of the ERROR register.
ERROR_RESPONSE = Field("RESPONSE", 0, 2, "AXI response code.")
ERROR_WRITE = Field("WRITE", 2, 1, "1 for a write.")
ERROR_PORT = Field("PORT", 8, 8, "Port number.")
ERROR_OPERATOR = Field("OPERATOR", 16, 16, "CURRENT as it was when the answer came: the low bits.")

#: Fields of the second word of a run: its tokens, and the first entry of its page table.
RUN_TOKENS = Field("TOKENS", 0, 8, "Tokens of the run.")
RUN_BUDGET = Field("BUDGET", 8, 8, "Blocks that its one token chooses, beside the first and the newest; 0: it attends to all. "
                   "Builds with kv_budget.")
RUN_PAGES = Field("PAGES", 16, 16, "Entry of PAGE that has the first page of its sequence.")

#: Fields of the first word of a draw.
DRAW_SCALE = Field("SCALE", 0, SCALE_BITS, "log2(e) / temperature, 16 bits behind the point.")
DRAW_COUNT = Field("COUNT", SCALE_BITS, 32 - SCALE_BITS, "Candidates that a token is drawn from, at most those there are.")

#: The field of the LOOP register.
LOOP_PASSES = Field("PASSES", 0, CHOSEN_TOKENS.bit_length(), "Passes at most; 0: no loop.")

#: The field of the INTERRUPT register.
INTERRUPT_ENABLE = Field("ENABLE", 0, 1, "Raise irq while DONE is set.")


def draw_words(draw: Draw) -> tuple[int, int]:
    """The words of DRAW that say how a run's tokens are chosen."""
    return DRAW_SCALE.put(draw.scale) | DRAW_COUNT.put(draw.count), draw.key


def draw_from(how: int, key: int) -> Draw:
    """What `draw_words` made these of."""
    return Draw(DRAW_COUNT.extract(how), DRAW_SCALE.extract(how), key)


@dataclass(frozen=True)
class Register:
    """One 32-bit register (or ``count`` consecutive ones, ``step`` bytes apart)."""

    name: str
    offset: int
    #: "ro" read-only, "rw" read-write, "wo" write-only (strobe).
    access: str
    description: str
    count: int = 1
    step: int = 4
    fields: tuple[Field, ...] = field(default=())


#: What the linear engine does, or why it does nothing: every cycle of a pass counts in exactly one of these, the first
#: that applies, so that they add up to ``cycles``.
ENGINE_COUNTERS: tuple[tuple[str, str], ...] = (
    ("engine_busy", "Cycles in which the linear engine worked on a beat."),
    ("engine_tables", "Cycles in which LINEAR ran but waited for tables."),
    ("engine_rows", "Cycles in which LINEAR ran but waited for a row from the ring."),
    ("engine_pipeline", "Cycles in which LINEAR ran otherwise: it filled (neither tables nor rows yet) or emptied its pipeline."),
    ("engine_idle_vector", "Cycles in which no LINEAR ran because NORM, DRAIN or ROPE did."),
    ("engine_idle_attention", "Cycles in which no LINEAR ran because ATTENTION or HEAD did."),
    ("engine_idle_loader", "Cycles in which no LINEAR ran because EMBED, PARAM or ROTARY did."),
    ("engine_idle_other", "Cycles in which no LINEAR ran for another reason: descriptors, starts, the last writes of the pass."),
)

#: Stall and activity counters, in the order of their registers; 32 bits each, cleared by a doorbell.
COUNTERS: tuple[tuple[str, str], ...] = (
    ("cycles", "Cycles from doorbell to completion."),
    ("stream_beats", "Beats that entered the ring."),
    ("ring_full", "Cycles in which the prefetcher waited for space in the ring."),
    ("ring_empty", "Cycles in which an operator waited for a beat from the ring."),
    ("write_beats", "Beats written to memory."),
    ("operators", "Operators retired."),
    *ENGINE_COUNTERS,
)


def register_map(config: BuildConfig) -> list[Register]:
    """Every register of an accelerator built with ``config``, by ascending offset."""
    rows = [
        Register("MAGIC", 0x000, "ro", 'Constant 0x6E677768 ("hwgn").'),
        Register("VERSION", 0x004, "ro", "Contract version."),
        Register("HASH_LOW", 0x008, "ro", "Contract hash, low word; an image is refused when it differs."),
        Register("HASH_HIGH", 0x00C, "ro", "Contract hash, high word."),
        Register("CONTROL", 0x010, "wo", "Doorbell and reset of the pass.",
                 fields=_bits((Control.START, "Run the program at PROGRAM once (ignored while busy)."),
                              (Control.ACKNOWLEDGE, "Clear DONE and the interrupt."),
                              (Control.STOP, "End the pass at the next operator boundary, with nothing left in flight."))),
        Register("STATUS", 0x014, "ro", "State of the machine.",
                 fields=_bits((Status.BUSY, "A pass is running."), (Status.DONE, "A pass has ended."),
                              (Status.ERROR, "A memory port answered with an error."),
                              (Status.STOPPED, "The pass was ended by STOP; cleared by a doorbell."))),
        Register("INTERRUPT", 0x018, "rw", "Interrupt enable.", fields=(INTERRUPT_ENABLE,)),
        Register("PROGRAM_LOW", 0x020, "rw", "Address of the program, low word (64-byte aligned)."),
        Register("PROGRAM_HIGH", 0x024, "rw", "Address of the program, high word."),
        Register("RUNS", 0x028, "rw", "Runs of this pass, 1 up to COUNT."),
        Register("COUNT", 0x02C, "rw", "Tokens of this pass, those of all its runs: 1 up to the build's chunk."),
        Register("PASS", 0x030, "rw", "Options of this pass.",
                 fields=_bits((PassFlag.WRITE_LOGITS, "Also write every logit of the wanted tokens to LOGITS, one token's behind "
                               "another's."), (PassFlag.CHOOSE, "Runs with a BUDGET choose their blocks of the cache."))),
        Register("LOGITS_LOW", 0x034, "rw", "Address of the logits (a segment of float32), low word."),
        Register("LOGITS_HIGH", 0x038, "rw", "Address of the logits, high word."),
        Register("CURRENT", 0x03C, "ro", "Index in the program of the operator that started last."),
        Register("ERROR", 0x040, "ro", "First memory error.",
                 fields=(ERROR_RESPONSE, ERROR_WRITE, ERROR_PORT, ERROR_OPERATOR)),
        Register("TRACE_COUNT", 0x044, "ro", "Entries of the trace, at most those it has room for; cleared by a doorbell."),
        Register("UNASKED", 0x048, "ro", "Read words and write responses that nobody had asked for, since reset (at most "
                 "0xFFFFFFFF): left over from before, and discarded."),
        Register("PORT_ENABLE", 0x04C, "rw", "Memory ports that may read segments, a bit each; all when none is set. Taken over by "
                 "a doorbell, all ones after reset. The program, and what is written, go through port 0 always."),
        Register("WANTED", 0x050, "rw", "Tokens of this pass whose logits are wanted: 0 up to COUNT."),
        Register("LOOP", 0x054, "rw", "The doorbell is for a loop: a candidate of every run, as DRAW says, goes to CHOSEN and is "
                 "its token of the next pass, one position on. Every run has one token and wants it: RUNS, COUNT and WANTED are "
                 "the same, and WANT[j] = j. The loop ends behind a pass that chose a stop token, or that was the last of so many; "
                 "1, written while it runs, makes the present pass the last one.", fields=(LOOP_PASSES,)),
        Register("CHOSEN_COUNT", 0x058, "ro", "Words of CHOSEN that are there; cleared by a doorbell."),
    ]
    rows += [Register(f"COUNT_{name.upper()}", COUNTER_BASE + 4 * i, "ro", text) for i, (name, text) in enumerate(COUNTERS)]
    base = COUNTER_BASE + 4 * len(COUNTERS)
    rows.append(Register("COUNT_OPCODE", base, "ro", "Cycles in which an operator ran, by opcode; several may run at once.",
                         count=len(Opcode)))
    base += 4 * len(Opcode)
    rows.append(Register("COUNT_PORT_BUSY", base, "ro", "Read data words taken, by port.", count=config.ports))
    base += 4 * config.ports
    rows.append(Register("COUNT_PORT_STALL", base, "ro", "Cycles a port offered data that was not taken.", count=config.ports))
    rows += _windows(config)
    _check_windows(rows)
    return rows


def _windows(config: BuildConfig) -> list[Register]:
    """Registers of many words, by ascending offset."""
    return [
        Register("TOKEN", TOKENS_BASE, "wo", "By token of this pass: number of its segment in what EMBED reads.",
                 count=config.chunk),
        Register("RUN", RUNS_BASE, "wo", "By run two words: context position of its first token (tokens of its sequence "
                 "that are cached); its tokens, and the first entry of its pages. Its tokens follow those of the run "
                 "before.", count=2 * config.chunk, fields=(RUN_TOKENS, RUN_BUDGET, RUN_PAGES)),
        Register("WANT", WANT_BASE, "wo", "Token of this pass whose logits are wanted, by number.", count=config.chunk),
        Register("STOP_TOKEN", STOPS_BASE, "wo", "Tokens that end a loop, of whatever run; all of them hold one, or what is "
                 "no token.", count=STOP_TOKENS),
        Register("TOPK", TOPK_BASE, "ro", f"Candidates of the LM head, {config.topk} for every wanted token: token id, "
                 "then logit as float32 bits, best first.", count=2 * config.topk * config.chunk),
        Register("CHOSEN", CHOSEN_BASE, "ro", "Tokens that the loop has chosen: those of the runs of its first pass, then "
                 "those of its second, and so on.", count=CHOSEN_TOKENS),
        Register("DRAW", DRAW_BASE, "wo", "How a loop chooses the tokens of a run, two words each: the first has the fields below, "
                 "and with a COUNT of 0 or 1 takes the best candidate; the second is the key of the run's random numbers.",
                 count=2 * config.chunk, fields=(DRAW_SCALE, DRAW_COUNT)),
        Register("PAGE", PAGES_BASE, "wo", "KV page tables of all runs: page number of every block.",
                 count=config.page_entries),
        Register("TRACE", TRACE_BASE, "ro", "Operators in the order in which they ended, four words each: cycle of the "
                 "start, cycle of the end (the doorbell is cycle 0), tag | opcode << 16 | active tokens << 24, "
                 "beats in the ring at the start | at the end << 16.", count=TRACE_WORDS * config.trace_entries),
    ]


def _check_windows(rows: list[Register]) -> None:
    """Every register ends before the next begins."""
    ends = [*(row.offset for row in rows[1:]), WINDOW_BYTES]
    for row, end in zip(rows, ends, strict=True):
        if row.offset + row.count * row.step > end:
            raise ConfigError(f"{row.name} must have at most {(end - row.offset) // row.step} entries, not {row.count}; "
                              "use a smaller page_entries, chunk, topk or trace_entries")


def register(config: BuildConfig, name: str) -> Register:
    """The register called ``name``."""
    for row in register_map(config):
        if row.name == name:
            return row
    raise KeyError(name)


def map_signature(config: BuildConfig) -> list[list[object]]:
    """What the contract hash covers of this module."""
    return [[r.name, r.offset, r.access, r.count, r.step] for r in register_map(config)]
