"""Engine: an image on a device, run pass by pass. One pass is one doorbell over up to ``chunk`` tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..config import BuildConfig
from ..descriptors import Opcode
from ..errors import HwgenError
from ..layout import from_planes
from ..registers import COUNTERS, PassFlag, Register, Status, register_map
from .device import Device, attach
from .image import Image, check_contract

__all__ = ["Candidate", "Engine", "PassResult", "Session"]

#: Seconds of the device's own time after which a pass counts as hung.
PASS_TIMEOUT = 60.0

START, ACKNOWLEDGE = 1, 2


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


class Session:
    """One sequence of tokens and its pages of the KV cache."""

    def __init__(self) -> None:
        #: Tokens in the cache, first to last.
        self.tokens: list[int] = []
        #: Page number of every block of the sequence.
        self.pages: list[int] = []

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return len(self.tokens)


class Engine:
    """Writes an image to a device and runs passes for sessions that share its KV pages."""

    def __init__(self, device: Device, image: Image) -> None:
        check_contract(
            device.config, image.header()["contract_version"], image.config.contract_hash, f"image {image.name!r}"
        )
        attach(device)
        self.device = device
        self.image = image
        self._registers: dict[str, Register] = {r.name: r for r in register_map(device.config)}
        self._free = list(range(image.pages - 1, -1, -1))
        #: Page table as the device has it.
        self._table: list[int | None] = [None] * device.config.max_pages
        #: Address of the image in device memory.
        self.base = device.allocate(image.total_bytes)
        device.write(self.base, image.data)
        device.write(self.base, np.frombuffer(image.program(self.base), np.uint8))
        logits = self.base + image.symbols["logits"].offset
        for name, value in (("PROGRAM", self.base + image.symbols["program"].offset), ("LOGITS", logits)):
            self._write(f"{name}_LOW", value & 0xFFFFFFFF)
            self._write(f"{name}_HIGH", value >> 32)
        self._write("CONTROL", ACKNOWLEDGE)  # the end of a pass that nobody acknowledged
        self._write("INTERRUPT", 1)

    @property
    def config(self) -> BuildConfig:
        return self.device.config

    def _write(self, name: str, value: int, index: int = 0) -> None:
        row = self._registers[name]
        self.device.write_register(row.offset + index * row.step, value)

    def _read(self, name: str, index: int = 0) -> int:
        row = self._registers[name]
        return self.device.read_register(row.offset + index * row.step)

    # ---- sessions ------------------------------------------------------------------------------------------------
    def close(self, session: Session) -> None:
        """Give the pages of a session back."""
        self._free.extend(reversed(session.pages))
        session.pages.clear()
        session.tokens.clear()

    def _grow(self, session: Session, positions: int) -> None:
        """Pages for ``positions`` tokens."""
        need = -(-positions // self.config.kv_block) - len(session.pages)
        if need > len(self._free):
            raise HwgenError(
                "context", f"{need} KV pages are needed, {len(self._free)} are free", "close another session"
            )
        for _ in range(need):
            session.pages.append(self._free.pop())

    def adopt(self, session: Session, tokens: Sequence[int]) -> None:
        """Tokens whose keys and values are put into the cache by other means: the session has them and their pages."""
        self.check_context(session.position + len(tokens))
        self._grow(session, session.position + len(tokens))
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
        """Set the registers of one pass and ring the doorbell. :meth:`finish` waits for its end."""
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
        self._grow(session, session.position + len(tokens))
        for i, page in enumerate(session.pages):
            if self._table[i] != page:
                self._write("PAGE", page, i)
                self._table[i] = page
        for i, token in enumerate(tokens):
            self._write("TOKEN", token, i)
        self._write("POSITION", session.position)
        self._write("COUNT", len(tokens))
        options = (PassFlag.LOGITS if logits else 0) | (PassFlag.WRITE_LOGITS if logits and write_logits else 0)
        self._write("PASS", int(options))
        session.tokens.extend(tokens)
        self._write("CONTROL", START)

    def finish(self, tokens: int, *, logits: bool) -> PassResult:
        """Wait for the pass and read its results."""
        self.device.wait(PASS_TIMEOUT)
        status = Status(self._read("STATUS"))
        self._write("CONTROL", ACKNOWLEDGE)  # an error too, or the next pass would seem to have ended
        if Status.ERROR in status:
            error = self._read("ERROR")
            raise HwgenError(
                "device",
                f"memory port {error >> 8 & 0xFF} answered a {'write' if error & 4 else 'read'} "
                f"with response {error & 3} at operator {self._read('CURRENT')}",
                "check the address of the image in device memory",
            )
        counters = {name: self._read(f"COUNT_{name.upper()}") for name, _ in COUNTERS}
        opcodes = {o.name.lower(): self._read("COUNT_OPCODE", o) for o in Opcode if o is not Opcode.END}
        return PassResult(
            tokens=tokens, candidates=self._candidates() if logits else (), counters=counters, opcode_cycles=opcodes
        )

    def forward(
        self, session: Session, tokens: Sequence[int], *, logits: bool = True, write_logits: bool = False
    ) -> PassResult:
        """One pass over up to ``image.chunk`` tokens behind those the session has."""
        self.start(session, tokens, logits=logits, write_logits=write_logits)
        return self.finish(len(tokens), logits=logits)

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
        region = self.image.symbols["logits"]
        data = self.device.read(self.base + region.offset, region.bytes)
        return from_planes(self.config, data).reshape(-1).view(np.float32)[: self.image.shape.vocab].copy()

    def _candidates(self) -> tuple[Candidate, ...]:
        count = min(self.config.topk, self.image.shape.vocab)
        words = np.array([self._read("TOPK", i) for i in range(2 * count)], np.uint32)
        return tuple(
            Candidate(int(t), float(x)) for t, x in zip(words[0::2], words[1::2].copy().view(np.float32), strict=True)
        )
