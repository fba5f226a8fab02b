"""Engine: an image on a device, run pass by pass. One pass is one doorbell over up to ``chunk`` tokens of any sessions."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ...block_choice import candidates
from ...config import BuildConfig
from ...contract import CONTRACT_VERSION, check_contract, contract_hash
from ...errors import HwgenError
from ...registers import (
    CHOSEN_TOKENS,
    COUNTERS,
    NUMBER_BITS,
    RUN_BUDGET,
    RUN_PAGES,
    RUN_TOKENS,
    STOP_TOKENS,
    Control,
    PassFlag,
    Register,
    draw_words,
    register_map,
)
from ..compiler.image import Image
from ..compiler.pass_costs import PassCosts, pass_costs
from ..devices.device import Device, attach
from .block_summaries import check_budget, loop_limit, pages_looked_at, update_summaries
from .device_state import Closing, DeviceState
from .image_memory import ImageMemory
from .pages import PagePool, Session
from .pass_status import check_status
from .runs import COUNTED, COUNTER_NAMES, Candidate, PassResult, Run, RunResult
from .vector_tokens import VectorToken

__all__ = ["COUNTED", "Candidate", "Engine", "PassResult", "Run", "RunResult"]

#: Seconds of the device's own time after which a pass counts as hung.
PASS_TIMEOUT = 60.0

#: What no token is.
NO_TOKEN = (1 << NUMBER_BITS) - 1

#: Bits of registers, as numbers: what is done with flags makes new flags, which is slow.
_START, _ACKNOWLEDGE = int(Control.START), int(Control.ACKNOWLEDGE)
_WRITE_LOGITS, _CHOOSE = int(PassFlag.WRITE_LOGITS), int(PassFlag.CHOOSE)


class Engine:
    """Writes an image to a device and runs passes for sessions that share its KV pages. ``beside``: another engine of that device,
    whose image stays there; their passes alternate.
    """

    def __init__(self, device: Device, image: Image, beside: Engine | None = None) -> None:
        check_contract(device.config, CONTRACT_VERSION, contract_hash(image.config), f"image {image.name!r}")
        attach(device)
        self.device = device
        self.image = image
        self._registers: dict[str, Register] = {r.name: r for r in register_map(device.config)}
        self._runs, self._chosen, self._chosen_count = (self._registers[n].offset for n in ("RUN", "CHOSEN", "CHOSEN_COUNT"))
        #: Offset of the first counter; those by operator follow.
        self._counters = self._registers[f"COUNT_{COUNTER_NAMES[0].upper()}"].offset
        assert self._registers["COUNT_OPCODE"].offset == self._counters + 4 * len(COUNTERS)
        self._state: DeviceState = DeviceState(device.config) if beside is None else beside._state
        #: Whether passes can write logits: the descriptors say it, thousands of them.
        self._has_logits = image.head != "shortlist"
        #: Where the image lies on the device.
        self.memory = ImageMemory(device, image)
        #: The KV pages, and which sessions hold them.
        self.pages = PagePool(device, image, self.memory.pages)
        self.set_registers()

    def set_registers(self) -> None:
        """Give the registers that hold from pass to pass their values: at the beginning, and behind a reset, which leaves
        what is in the tables.
        """
        self._state.forget()
        self._state.busy, self._state.by_id = False, 0
        for i in range(self.image.chunk):  # token i finds its embedding in row i
            self._hold("TOKEN", i, i)
        self._write("CONTROL", _ACKNOWLEDGE)  # the end of a pass that nobody acknowledged
        self._write("PORT_ENABLE", (1 << self.config.ports) - 1)  # some may have been left out to measure the others
        self._write("INTERRUPT", 1)

    @property
    def config(self) -> BuildConfig:
        return self.device.config

    @cached_property
    def costs(self) -> PassCosts:
        """What passes cost, by the model of a pass."""
        return pass_costs(self.image)

    def _write(self, name: str, value: int, index: int = 0) -> None:
        row = self._registers[name]
        self.device.write_register(row.offset + index * row.step, value)

    def _hold(self, name: str, value: int, index: int = 0) -> None:
        """Write a register that nobody else writes, if it has another value."""
        row = self._registers[name]
        offset = row.offset + index * row.step
        if self._state.held.get(offset) != value:
            self.device.write_register(offset, value)
            self._state.held[offset] = value

    def _read(self, name: str, index: int = 0) -> int:
        row = self._registers[name]
        return self.device.read_register(row.offset + index * row.step)

    # ---- sessions ------------------------------------------------------------------------------------------------
    def adopt(self, session: Session, tokens: Sequence[int]) -> None:
        """Tokens whose keys and values are put into the cache by other means: the session has them and their pages."""
        self.check_context(session.position + len(tokens))
        if not self.pages.reserve(session, session.position + len(tokens)):
            raise HwgenError("context", f"{len(tokens)} tokens need more KV pages than are free", "close another session")
        session.tokens.extend(tokens)

    def check_context(self, tokens: int) -> None:
        """Refuse a sequence that the cache cannot hold."""
        if tokens > self.image.context:
            raise HwgenError(
                "context",
                f"{tokens} tokens are longer than the context of {self.image.context} tokens",
                "shorten the prompt, or use a model and build with a longer context",
            )

    # ---- passes --------------------------------------------------------------------------------------------------
    def start(self, runs: Sequence[Run], *, write_logits: bool = False, layers: int | None = None) -> None:
        """Set the registers of one pass and ring the doorbell. :meth:`finish` waits for its end. ``layers``: the pass ends with
        keys and values of so many, and has no logits.
        """
        self._check(runs)
        if layers is not None and any(run.wanted for run in runs):
            raise ValueError("a pass of the first layers has no logits")
        self._reserve(runs)
        self._summarise(runs)
        for i in range(self._state.by_id):
            self._hold("TOKEN", i, i)
        self._state.by_id = 0
        everything, wanted, options = self._describe(runs)
        self.memory.write_rows(everything)
        if write_logits and wanted:
            options |= _WRITE_LOGITS
        self._ring(self.memory.program(layers), (len(runs), len(everything), wanted), options, 0)
        for run in runs:
            if run.at is None:
                run.session.tokens.extend(run.tokens)

    def _describe(self, runs: Sequence[Run]) -> tuple[list[int], int, int]:
        """Write what the runs of a pass are; their tokens, how many of these are wanted, and what PASS says of them."""
        everything, wants, options = list[int](), list[int](), 0
        state, write = self._state, self.device.write_register
        held, offset = state.held, self._runs
        for run, base in zip(runs, state.table.place([run.session for run in runs], self._write_page), strict=True):
            tokens, word = run.tokens, len(run.tokens) << RUN_TOKENS.first | base << RUN_PAGES.first  # checked: no `Field.put`
            if run.budget and (choice := run.choice(self.config)):
                word, options = word | choice << RUN_BUDGET.first, _CHOOSE
            for value in (run.position, word):
                if held.get(offset) != value:
                    write(offset, value)
                    held[offset] = value
                offset += 4
            everything += tokens
            if run.wanted:
                wants += range(len(everything) - run.wanted, len(everything))
        if wants != state.wants:
            for j, token in enumerate(wants):
                self._hold("WANT", token, j)
            state.wants = wants
        return everything, len(wants), options

    def _ring(self, program: int, counts: tuple[int, int, int], options: int, loop: int) -> None:
        """The doorbell, behind the last registers: ``counts`` of runs, tokens and wanted ones, bits of PASS, LOOP."""
        values = (program, self.memory.logits, *counts, options, loop)
        if values != self._state.rung:
            for name, address in zip(("PROGRAM", "LOGITS"), values, strict=False):
                self._hold(f"{name}_LOW", address & 0xFFFFFFFF)
                self._hold(f"{name}_HIGH", address >> 32)
            for name, value in zip(("RUNS", "COUNT", "WANTED", "PASS", "LOOP"), values[2:], strict=True):
                self._hold(name, value)
            self._state.rung = values
        self._write("CONTROL", _START)
        self._state.busy = True

    def _check(self, runs: Sequence[Run]) -> None:
        """Refuse a pass that the machine cannot run, and end one that runs."""
        count = sum([len(run.tokens) for run in runs])
        if not 1 <= count <= self.image.chunk:
            raise ValueError(f"a pass must have 1 to {self.image.chunk} tokens, not {count}")
        if len({run.session for run in runs}) < len(runs):
            several = Counter(run.session for run in runs)
            if any(several[run.session] > 1 and run.at is None for run in runs):
                raise ValueError("a session must have one run of a pass, or runs of tokens that it has")
        for run in runs:
            self.check_run(run)
        self.settle()

    def check_run(self, run: Run) -> None:
        """Refuse a run that the machine cannot compute."""
        tokens, wanted, at, vocab = run.tokens, run.wanted, run.at, self.image.shape.vocab
        if run.budget:
            check_budget(self.config, run.budget)
        if not 0 <= wanted <= len(tokens) or not tokens:
            raise ValueError(f"a run must have tokens, and want 0 to {len(tokens)} of them, not {wanted}")
        if run.session.parked is not None:
            raise ValueError("a parked session must be brought back (unpark) before a pass")
        self.check_context(run.position + len(tokens))
        if at is not None and run.session.tokens[at : at + len(tokens)] != list(tokens):
            raise ValueError(f"the session must have the tokens of a run at position {at} there")
        for token in tokens:
            if not 0 <= token < vocab and not (isinstance(token, VectorToken) and token.bits.size == self.image.shape.hidden):
                raise HwgenError(
                    "usage",
                    f"token id {token} is outside the vocabulary of {self.image.shape.vocab}",
                    "use the tokenizer of this model",
                )

    def _reserve(self, runs: Sequence[Run], more: int = 0) -> None:
        """Pages for the tokens of a pass, and so many more of every run."""
        for run in runs:
            need = run.position + len(run.tokens) + more, run.position, pages_looked_at(self.config, run, 1 + more)
            if not self.pages.reserve(run.session, *need):
                raise HwgenError(
                    "context", f"{self.pages.missing(run.session, *need)} KV pages are needed, {self.pages.free} are free",
                    "close another session, or give the cache more tokens",
                )

    def _summarise(self, runs: Sequence[Run], passes: int = 1) -> None:
        """Have summaries of all blocks that runs may choose from in so many passes."""
        for run in runs:
            if run.budget and run.choice(self.config):
                stop = candidates(self.config, run.position + passes - 1).stop
                update_summaries(self.image, self.pages, run.session, stop)
                run.session.exact = False

    def _write_page(self, entry: int, page: int) -> None:
        self._write("PAGE", self.pages.frame(page), entry)

    def wait(self, look: Callable[[], bool] | None = None) -> bool:
        """For the end of the passes that run, or until ``look`` returns True, as of `Device.wait`. Ctrl-C stops them."""
        try:
            return self.device.wait(PASS_TIMEOUT, look)
        except KeyboardInterrupt:
            self.device.stop()
            raise

    def finish(self, runs: Sequence[Run]) -> PassResult:
        """Wait for the pass and read its results."""
        self.wait()
        status = self._read("STATUS")
        self._state.busy = False
        self._write("CONTROL", _ACKNOWLEDGE)  # an error too, or the next pass would seem to have ended
        check_status(self._read, status)
        counted = self.device.read_registers(self._counters, COUNTED)
        words = self._candidates(sum([run.wanted for run in runs]))
        results, first = [], 0
        for run in runs:
            results.append(RunResult(len(run.tokens), words[first : first + run.wanted], first))
            first += run.wanted
        return PassResult(runs=tuple(results), counted=counted)

    def run_pass(self, runs: Sequence[Run], *, write_logits: bool = False, layers: int | None = None) -> PassResult:
        """One pass over runs of different sessions, up to ``image.chunk`` tokens together; a pass that fails adds none. Every token
        has the bits that it has alone. ``layers``: as of :meth:`start`.
        """
        positions = [run.session.position for run in runs]
        try:
            self.start(runs, write_logits=write_logits, layers=layers)
            return self.finish(runs)
        except BaseException:
            for run, position in zip(runs, positions, strict=True):
                del run.session.tokens[position:]
            raise

    # ---- loops ---------------------------------------------------------------------------------------------------
    def can_loop(self) -> bool:
        """Whether there are loops: the embeddings of all tokens are on the device, or can be put there, which is done then."""
        return self.memory.loop_program is not None

    def start_loop(self, loop: Closing, runs: Sequence[Run], passes: int, stop_tokens: Collection[int]) -> None:
        """Set the registers of a loop and ring the doorbell. Who uses the engine before its end closes ``loop``."""
        self._check(runs)
        program = self.memory.loop_program
        if program is None or any(len(run.tokens) != 1 or run.wanted != 1 or run.draw is None for run in runs):
            raise ValueError("a loop must have the embeddings of all tokens, and of every session a token that is wanted")
        if not 1 <= passes * len(runs) <= CHOSEN_TOKENS or len(stop_tokens) > STOP_TOKENS:
            raise ValueError(f"a loop must choose 1 to {CHOSEN_TOKENS} tokens and stop at up to {STOP_TOKENS}, "
                             f"not {passes} for each of {len(runs)}, and {len(stop_tokens)}")
        for run in runs:
            self.check_context(run.session.position + passes)
            if loop_limit(self.config, run, passes) < passes:
                raise ValueError(f"a loop must end before a run begins to choose, or lacks a summary, not after {passes} passes")
        self._reserve(runs, passes - 1)
        self._summarise(runs, passes)
        everything, wanted, options = self._describe(runs)
        for i, token in enumerate(everything):
            self._hold("TOKEN", token, i)
        self._state.by_id = max(self._state.by_id, len(everything))
        for i, word in enumerate(word for run in runs if run.draw for word in draw_words(run.draw)):
            self._hold("DRAW", word, i)
        stops = [*stop_tokens, *[NO_TOKEN] * (STOP_TOKENS - len(stop_tokens))]
        for i, token in enumerate(stops):
            self._hold("STOP_TOKEN", token, i)
        self._ring(program, (len(runs), len(everything), wanted), options, passes)
        self._state.loop = loop

    def let_loop_end(self) -> None:
        """The pass that runs is the last of the loop."""
        self._hold("LOOP", 1)
        self._state.rung = ()

    def loop_ended(self, positions: Sequence[int], tokens: Sequence[int]) -> None:
        """What a loop has left in the registers of its runs; nothing is known of one that failed, whose runs are none."""
        self._state.loop, held = None, self._state.held
        if not positions:
            self._state.forget()
        for r, position in enumerate(positions):
            held[self._runs + 8 * r], held[self._registers["TOKEN"].offset + 4 * r] = position, tokens[r]

    def chosen(self, known: int, count: int) -> list[int]:
        """What the loop that runs has chosen behind whole passes of ``count`` runs, beyond the first ``known`` tokens."""
        there = self.device.read_register(self._chosen_count)
        new = there - there % count - known
        return self.device.read_registers(self._chosen + 4 * known, new) if new else []

    def settle(self) -> None:
        """End a loop that an answer has left running, and wait for a pass whose end nobody waited for, as after Ctrl-C."""
        if self._state.loop is not None:
            self._state.loop.close()
        if self._state.busy:
            self.device.wait(PASS_TIMEOUT)
            self._write("CONTROL", _ACKNOWLEDGE)
            self._state.busy = False

    def forward(self, session: Session, tokens: Sequence[int], *, logits: bool = True, write_logits: bool = False) -> PassResult:
        """One pass of one run: up to ``image.chunk`` tokens behind those the session has, and what may follow the last one."""
        return self.run_pass([Run(session, tokens, int(logits))], write_logits=write_logits)

    def prefill(self, session: Session, tokens: Sequence[int], *, write_logits: bool = False) -> list[PassResult]:
        """A prompt in chunks; the last pass has the candidates of the next token."""
        if not tokens:
            raise HwgenError("usage", "the prompt has no tokens", "give a prompt")
        self.check_context(session.position + len(tokens))
        chunk, results = self.image.chunk, list[PassResult]()
        for start in range(0, len(tokens), chunk):
            last = start + chunk >= len(tokens)
            results.append(self.forward(session, tokens[start : start + chunk], logits=last, write_logits=write_logits))
        return results

    def logits(self, number: int = 0) -> npt.NDArray[np.float32]:
        """Every logit of a wanted token of the last pass that wrote them. The short-list head writes none."""
        return self.logits_in_place(number).copy()

    def logits_in_place(self, number: int = 0) -> npt.NDArray[np.float32]:
        """The same to be read before the next pass, and not written: nothing is copied where the memory is of this machine."""
        if not self._has_logits:
            raise ValueError("an image with the short-list head has no logits")
        address = self.memory.logits + number * self.image.logits_bytes
        return self.device.view(address, 4 * self.image.shape.vocab).view(np.float32)

    def _candidates(self, wanted: int) -> npt.NDArray[np.uint32]:
        """Of so many wanted tokens, as `RunResult.words` has them. (Packed words are an array much sooner than a list is.)"""
        each, count = self.config.topk, min(self.config.topk, self.image.shape.vocab)
        words = self.device.read_registers(self._registers["TOPK"].offset, 2 * each * wanted) if wanted else []
        return np.frombuffer(struct.pack(f"{len(words)}I", *words), np.uint32).reshape(wanted, each, 2)[:, :count]
