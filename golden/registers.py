"""Register window of the functional model: the same offsets and access rules as the hardware's."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..config import BuildConfig
from ..contract import CONTRACT_VERSION, contract_hash
from ..draw import Draw
from ..registers import (
    COUNTERS,
    INTERRUPT_ENABLE,
    LOOP_PASSES,
    MAGIC,
    RUN_BUDGET,
    RUN_PAGES,
    RUN_TOKENS,
    STOP_TOKENS,
    WINDOW_BYTES,
    Control,
    PassFlag,
    Status,
    draw_from,
    register_map,
)

__all__ = ["RegisterWindow", "Run"]


#: Attributes of registers that are numbers.
_NUMBERS = {"RUNS": "run_count", "COUNT": "count", "WANTED": "wanted"}


#: Bits of PASS that mean something.
_OPTIONS = PassFlag.WRITE_LOGITS | PassFlag.CHOOSE


def _float_bits(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


class Run(NamedTuple):
    """Tokens of one sequence in a pass."""

    #: Context position of the first one.
    position: int
    tokens: int
    #: The first one's place in the pass.
    first: int
    #: First entry of the page table.
    pages: int
    #: Blocks of the cache that its one token chooses; 0: it attends to all.
    budget: int = 0


class RegisterWindow:
    """Registers of one accelerator. Fields of the host's and the machine's side are plain attributes."""

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.status = Status(0)
        self.interrupt_enable = False
        #: Ports that the host allows; which of them reads changes no bit.
        self._all_ports = self.port_enable = (1 << config.ports) - 1
        #: Runs of the pass, its tokens and the wanted ones among them, by their number.
        self.run_count = 0
        self.count = 0
        self.wanted = 0
        self.options = PassFlag(0)
        self.token_ids = [0] * config.chunk
        self.run_words = [0] * (2 * config.chunk)
        self.want = [0] * config.chunk
        self.pages = [0] * config.page_entries
        #: Candidates of the LM head for every wanted token, best first: token id and logit.
        self.candidates: list[list[tuple[int, float]]] = [[] for _ in range(config.chunk)]
        #: Passes of a loop at most, 0 for none; those that it has had; tokens that end it, and those that it chose.
        self.loop = self.passes = 0
        self.stop_tokens = [0] * STOP_TOKENS
        self.draw_words = [0] * (2 * config.chunk)
        self.chosen: list[int] = []
        self.current = 0
        self.counters = dict.fromkeys((name for name, _ in COUNTERS), 0)
        self._tables = {"TOKEN": self.token_ids, "RUN": self.run_words, "WANT": self.want, "PAGE": self.pages,
                        "STOP_TOKEN": self.stop_tokens, "DRAW": self.draw_words}
        self._halves = dict.fromkeys(("PROGRAM_LOW", "PROGRAM_HIGH", "LOGITS_LOW", "LOGITS_HIGH"), 0)
        contract = contract_hash(config)
        constants = {"MAGIC": MAGIC, "VERSION": CONTRACT_VERSION, "HASH_LOW": contract & 0xFFFFFFFF, "HASH_HIGH": contract >> 32}
        #: What is read of registers of one word, besides counters.
        self._values: dict[str, Callable[[], int]] = {
            **{name: partial(int, value) for name, value in constants.items()},
            **{name: partial(self._halves.__getitem__, name) for name in self._halves},
            "STATUS": lambda: int(self.status), "INTERRUPT": lambda: int(self.interrupt_enable), "RUNS": lambda: self.run_count,
            "COUNT": lambda: self.count, "WANTED": lambda: self.wanted, "PASS": lambda: int(self.options),
            "CURRENT": lambda: self.current, "PORT_ENABLE": lambda: self.port_enable, "LOOP": lambda: self.loop,
            "CHOSEN_COUNT": lambda: len(self.chosen),
        }
        self._by_offset = {r.offset + i * r.step: (r, i) for r in register_map(config) for i in range(r.count)}

    @property
    def program(self) -> int:
        """Address of the program."""
        return self._halves["PROGRAM_HIGH"] << 32 | self._halves["PROGRAM_LOW"]

    @property
    def logits(self) -> int:
        """Address the logits are written to."""
        return self._halves["LOGITS_HIGH"] << 32 | self._halves["LOGITS_LOW"]

    @property
    def runs(self) -> list[Run]:
        """Runs of the pass."""
        runs, first = [], 0
        for r in range(min(self.run_count, self.config.chunk)):
            position, word = self.run_words[2 * r : 2 * r + 2]
            runs.append(Run(position, RUN_TOKENS.extract(word), first, RUN_PAGES.extract(word), RUN_BUDGET.extract(word)))
            first += runs[-1].tokens
        return runs

    @property
    def draws(self) -> list[Draw]:
        """How a loop chooses the tokens of the runs."""
        return [draw_from(*self.draw_words[2 * r : 2 * r + 2]) for r in range(min(self.run_count, self.config.chunk))]

    @property
    def irq(self) -> bool:
        return self.interrupt_enable and Status.DONE in self.status

    def begin(self) -> None:
        """What a doorbell does to the registers."""
        self.status = Status.BUSY
        self.counters = dict.fromkeys(self.counters, 0)
        self.chosen.clear()
        self.passes = 0

    def choose(self) -> bool:
        """What the end of the program does in a loop: chosen tokens go to `chosen` and are those of the next pass; whether there is
        one.
        """
        if not self.loop:
            return False
        tokens = []
        for number, draw in enumerate(self.draws):
            self.run_words[2 * number] += 1
            candidates = self.candidates[number]
            place = draw.choose([_float_bits(logit) for _, logit in candidates], self.run_words[2 * number])
            tokens.append(candidates[place][0])
        self.token_ids[: len(tokens)] = tokens
        self.chosen += tokens
        self.passes += 1
        return self.passes < self.loop and not set(tokens) & set(self.stop_tokens)

    def end(self) -> None:
        """What the end of the program does to the registers."""
        self.status = Status.DONE

    def stop(self) -> None:
        """What the end of a pass by STOP does to the registers."""
        self.status = Status.DONE | Status.STOPPED

    def abandon(self) -> None:
        """Leave a pass that did not end, as a reset would; nothing after :meth:`end`."""
        self.status &= ~Status.BUSY

    def write(self, offset: int, value: int) -> bool:
        """Write one register; True where it was a doorbell that starts a pass. Other offsets are ignored, as in
        hardware.
        """
        self._check(offset)
        if offset not in self._by_offset:
            return False
        row, index = self._by_offset[offset]
        value &= 0xFFFFFFFF
        if row.name == "CONTROL":
            if value & Control.ACKNOWLEDGE:
                self.status &= ~Status.DONE
            if value & Control.STOP and Status.BUSY in self.status:
                self.stop()
                return False
            return bool(value & Control.START) and Status.BUSY not in self.status
        if row.name in self._halves:
            self._halves[row.name] = value
        elif row.name == "INTERRUPT":
            self.interrupt_enable = bool(INTERRUPT_ENABLE.extract(value))
        elif row.name == "PORT_ENABLE":
            self.port_enable = value & self._all_ports
        elif row.name in _NUMBERS:
            setattr(self, _NUMBERS[row.name], value)
        elif row.name == "LOOP":
            self.loop = LOOP_PASSES.extract(value)
        elif row.name == "PASS":
            self.options = PassFlag(value & _OPTIONS)
        elif row.name in self._tables:
            self._tables[row.name][index] = value
        return False

    def read(self, offset: int) -> int:
        """Read one register; 0 where nothing is readable, and for what only time can fill."""
        self._check(offset)
        if offset not in self._by_offset:
            return 0
        row, index = self._by_offset[offset]
        if row.name == "TOPK":
            number, place = divmod(index // 2, self.config.topk)
            token, logit = self.candidates[number][place] if place < len(self.candidates[number]) else (0, 0.0)
            return _float_bits(logit) if index % 2 else token
        if row.name == "CHOSEN":
            return self.chosen[index] if index < len(self.chosen) else 0
        if row.name.startswith("COUNT_"):
            return self.counters.get(row.name.removeprefix("COUNT_").lower(), 0) & 0xFFFFFFFF
        return self._values[row.name]() if row.name in self._values else 0

    def _check(self, offset: int) -> None:
        if offset % 4 or not 0 <= offset < WINDOW_BYTES:
            raise ValueError(f"offset must be a multiple of 4 below {WINDOW_BYTES:#x}, not {offset:#x}")
