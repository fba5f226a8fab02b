"""Engine: an image on a device, run pass by pass. One pass is one doorbell over up to ``chunk`` tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...contract import CONTRACT_VERSION, check_contract, contract_hash
from ...descriptors import Opcode
from ...errors import HwgenError
from ...registers import COUNTERS, ERROR_PORT, ERROR_RESPONSE, ERROR_WRITE, Control, PassFlag, Register, Status, register_map
from ..compiler.image import Image
from ..compiler.programs import is_needed
from ..devices.device import Device, attach
from .image_memory import ImageMemory
from .pages import PagePool, Session

__all__ = ["Candidate", "Engine", "PassResult", "SlicedPass"]

#: Seconds of the device's own time after which a pass counts as hung.
PASS_TIMEOUT = 60.0

@dataclass(frozen=True)
class Candidate:
    """A token that the LM head found likely."""

    token: int
    logit: float


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """What one doorbell did."""

    #: Tokens computed.
    tokens: int
    #: Best next tokens, best first; empty without logits.
    candidates: tuple[Candidate, ...]
    #: Counters of ``hwgen.registers`` by name; those of time are 0 on the golden device.
    counters: dict[str, int]
    #: Cycles by operator.
    opcode_cycles: dict[str, int]

    @property
    def cycles(self) -> int:
        """Cycles from doorbell to completion."""
        return self.counters["cycles"]

    @property
    def stream_beats(self) -> int:
        """Beats read through the ring."""
        return self.counters["stream_beats"]


@dataclass(eq=False)
class SlicedPass:
    """A pass that is run slice by slice (:meth:`Engine.run_slice`). Its tokens belong to the session when it has ended."""

    session: Session
    tokens: list[int]
    #: As for :meth:`Engine.forward`.
    logits: bool
    write_logits: bool
    #: Tokens of the session before it.
    position: int
    #: Slice to be run next.
    next: int = 0
    #: Sums over the slices that were run.
    counters: Counter[str] = field(default_factory=Counter)
    opcode_cycles: Counter[str] = field(default_factory=Counter)


class Engine:
    """Writes an image to a device and runs passes for sessions that share its KV pages."""

    def __init__(self, device: Device, image: Image) -> None:
        check_contract(device.config, CONTRACT_VERSION, contract_hash(image.config), f"image {image.name!r}")
        attach(device)
        self.device = device
        self.image = image
        self._registers: dict[str, Register] = {r.name: r for r in register_map(device.config)}
        self._busy = False
        #: Page table as the device has it.
        self._table: list[int | None] = [None] * device.config.max_pages
        #: Where the image lies on the device.
        self.memory = ImageMemory(device, image)
        #: The KV pages, and which sessions hold them.
        self.pages = PagePool(device, image, self.memory.pages)
        #: The pass whose vectors are in the scratch memory.
        self._suspended: SlicedPass | None = None
        self._write_address("LOGITS", self.memory.logits)
        #: PROGRAM as the device has it.
        self._loaded = self.memory.programs.whole
        self._write_address("PROGRAM", self._loaded)
        for i in range(image.chunk):  # token i finds its embedding in row i
            self._write("TOKEN", i, i)
        self._write("CONTROL", Control.ACKNOWLEDGE)  # the end of a pass that nobody acknowledged
        self._write("PORT_ENABLE", (1 << device.config.ports) - 1)  # some may have been left out to measure the others
        self._write("INTERRUPT", 1)

    @property
    def config(self) -> BuildConfig:
        return self.device.config

    def _write(self, name: str, value: int, index: int = 0) -> None:
        row = self._registers[name]
        self.device.write_register(row.offset + index * row.step, value)

    def _write_address(self, name: str, value: int) -> None:
        self._write(f"{name}_LOW", value & 0xFFFFFFFF)
        self._write(f"{name}_HIGH", value >> 32)

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
    def start(self, session: Session, tokens: Sequence[int], *, logits: bool, write_logits: bool = False) -> None:
        """Set the registers of one pass and ring the doorbell. :meth:`finish` waits for its end.

        A pass of one token leaves a suspended one (:meth:`run_slice`) as it is; any other makes that begin anew.
        """
        self._check_pass(session, tokens)
        self._settle(session)
        if len(tokens) > 1:
            self._suspended = None
        self.memory.write_rows(tokens)
        programs = self.memory.programs
        program = programs.whole if self._suspended is None else programs.beside
        self._ring(program, session, len(tokens), logits, write_logits)
        session.tokens.extend(tokens)

    def _check_pass(self, session: Session, tokens: Sequence[int]) -> None:
        if not 1 <= len(tokens) <= self.image.chunk:
            raise ValueError(f"a pass must have 1 to {self.image.chunk} tokens, not {len(tokens)}")
        self.check_context(session.position + len(tokens))
        for token in tokens:
            if not 0 <= token < self.image.shape.vocab:
                raise HwgenError(
                    "usage",
                    f"token id {token} is outside the vocabulary of {self.image.shape.vocab}",
                    "use the tokenizer of this model",
                )

    def _settle(self, session: Session) -> None:
        """What must hold before registers are written."""
        if session.parked is not None:
            raise ValueError("a parked session must be brought back (unpark) before a pass")
        if self._busy:  # a pass whose end nobody waited for, as after Ctrl-C
            self.device.wait(PASS_TIMEOUT)
            self._write("CONTROL", Control.ACKNOWLEDGE)
            self._busy = False

    def _ring(self, program: int, session: Session, tokens: int, logits: bool, write_logits: bool) -> None:
        """Run a program over ``tokens`` tokens behind those of a session."""
        end = session.position + tokens
        if not self.pages.reserve(session, end):
            raise HwgenError(
                "context",
                f"{self.pages.missing(session, end)} KV pages are needed, {self.pages.free} are free",
                "close another session, or give the cache more tokens",
            )
        if self._loaded != program:
            self._write_address("PROGRAM", program)
            self._loaded = program
        for i, page in enumerate(session.pages):
            if self._table[i] != page:
                self._write("PAGE", self.pages.frame(page), i)
                self._table[i] = page
        self._write("POSITION", session.position)
        self._write("COUNT", tokens)
        options = (PassFlag.LOGITS if logits else 0) | (PassFlag.WRITE_LOGITS if logits and write_logits else 0)
        self._write("PASS", options)
        self._write("CONTROL", Control.START)
        self._busy = True

    def finish(self, tokens: int, *, logits: bool) -> PassResult:
        """Wait for the pass and read its results. Ctrl-C stops it."""
        try:
            self.device.wait(PASS_TIMEOUT)
        except KeyboardInterrupt:
            self.device.stop()
            raise
        status = Status(self._read("STATUS"))
        self._busy = False
        self._write("CONTROL", Control.ACKNOWLEDGE)  # an error too, or the next pass would seem to have ended
        if Status.STOPPED in status:
            raise HwgenError("device", f"the pass was stopped at operator {self._read('CURRENT')}", "start it again")
        if Status.ERROR in status:
            error = self._read("ERROR")
            raise HwgenError(
                "device",
                f"memory port {ERROR_PORT.extract(error)} answered a {'write' if ERROR_WRITE.extract(error) else 'read'} "
                f"with response {ERROR_RESPONSE.extract(error)} at operator {self._read('CURRENT')}",
                "check the address of the image in device memory",
            )
        counters = {name: self._read(f"COUNT_{name.upper()}") for name, _ in COUNTERS}
        opcodes = {o.name.lower(): self._read("COUNT_OPCODE", o) for o in Opcode if o is not Opcode.END}
        return PassResult(tokens=tokens, candidates=self._candidates() if logits else (), counters=counters, opcode_cycles=opcodes)

    def forward(self, session: Session, tokens: Sequence[int], *, logits: bool = True, write_logits: bool = False) -> PassResult:
        """One pass over up to ``image.chunk`` tokens behind those the session has; a pass that fails adds none."""
        position = session.position
        try:
            self.start(session, tokens, logits=logits, write_logits=write_logits)
            return self.finish(len(tokens), logits=logits)
        except BaseException:
            del session.tokens[position:]
            raise

    # ---- passes that make way ------------------------------------------------------------------------------------
    @property
    def slices(self) -> int:
        """Slices of a pass of the whole chunk; 0 where the scratch memory has no room for another token beside it."""
        return len(self.memory.programs.slices)

    def begin_slices(
        self, session: Session, tokens: Sequence[int], *, logits: bool = True, write_logits: bool = False
    ) -> SlicedPass:
        """A pass as :meth:`forward` runs it, with the same results, to be run slice by slice. Between slices other sessions
        may have passes of one token, and this one may be parked; given up by running no more slices.
        """
        if not self.memory.programs.slices:
            raise ValueError("the image must have slices")
        self._check_pass(session, tokens)
        return SlicedPass(session, list(tokens), logits, write_logits, session.position)

    def is_suspended(self, sliced: SlicedPass | None) -> bool:
        """Whether what a pass has computed is still on the device."""
        return sliced is not None and sliced is self._suspended

    def run_slice(self, sliced: SlicedPass) -> PassResult | None:
        """The next slice; what the whole pass did, when it was the last one.

        Where other vectors have taken the place of this pass's in the meantime, it begins anew.
        """
        if sliced.session.position != sliced.position:
            raise ValueError(f"the session must have {sliced.position} tokens, not {sliced.session.position}")
        self._settle(sliced.session)
        if self._suspended is not sliced:
            sliced.next = 0
        self._suspended = None  # of a slice that fails nothing is known
        tokens = len(sliced.tokens)
        if not sliced.next:  # the embedding
            self.memory.write_rows(sliced.tokens)
        self._ring(self.memory.programs.slices[sliced.next], sliced.session, tokens, sliced.logits, sliced.write_logits)
        result = self.finish(tokens, logits=False)
        sliced.counters.update(result.counters)
        sliced.opcode_cycles.update(result.opcode_cycles)
        assert self.image.sliced is not None
        for number in range(sliced.next + 1, len(self.memory.programs.slices)):
            if is_needed(self.image.sliced.slices[number], tokens, sliced.logits):
                sliced.next, self._suspended = number, sliced
                return None
        sliced.session.tokens.extend(sliced.tokens)
        return PassResult(
            tokens=tokens,
            candidates=self._candidates() if sliced.logits else (),
            counters=dict(sliced.counters),
            opcode_cycles=dict(sliced.opcode_cycles),
        )

    def prefill(self, session: Session, tokens: Sequence[int], *, write_logits: bool = False) -> list[PassResult]:
        """A prompt in chunks; the last pass has the candidates of the next token."""
        if not tokens:
            raise HwgenError("usage", "the prompt has no tokens", "give a prompt")
        self.check_context(session.position + len(tokens))
        chunk = self.image.chunk
        results = []
        for start in range(0, len(tokens), chunk):
            last = start + chunk >= len(tokens)
            results.append(self.forward(session, tokens[start : start + chunk], logits=last, write_logits=write_logits))
        return results

    def logits(self) -> npt.NDArray[np.float32]:
        """Every logit of the last pass that wrote them."""
        return self.device.read(self.memory.logits, 4 * self.image.shape.vocab).view(np.float32).copy()

    def _candidates(self) -> tuple[Candidate, ...]:
        count = min(self.config.topk, self.image.shape.vocab)
        words = np.array([self._read("TOPK", i) for i in range(2 * count)], np.uint32)
        return tuple(Candidate(int(t), float(x)) for t, x in zip(words[0::2], words[1::2].copy().view(np.float32), strict=True))
