"""A device that computes no model, but whose answers depend on every token and page as a model's do.

The record of a token, kept in its page, is a hash over all records before it and the token; logits are drawn from the last
record. So a page that is wrong, stale or shared by mistake changes every token that follows, in no time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hwgen.contract import CONTRACT_VERSION, contract_hash
from hwgen.registers import MAGIC, RUN_PAGES, RUN_TOKENS, PassFlag, Status, register_map
from hwgen.shape import ModelShape
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.placement import FRAME_BYTES
from hwgen.sw.devices.device import Allocator, DeviceTimeout
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.weights import random_weights

from ..conftest import CONFIG

__all__ = ["ToyDevice", "tiny_image", "toy_engine"]

RECORD = 8


class ToyDevice:
    """Registers and memory of an accelerator; see the module."""

    name = "toy"
    simulated = True

    def __init__(self, image: Image) -> None:
        self.image, self.config = image, image.config
        self.memory = np.zeros(image.memory_bytes() + 3 * Allocator.STEP, np.uint8)
        self._allocator = Allocator(Allocator.STEP, self.memory.size - Allocator.STEP)
        #: Address of every buffer, in the order in which the host asked for them.
        self._buffers: list[int] = []
        #: Number of the buffer of embedding rows: those of constants come before, that of the program behind.
        self._rows = len(image.constant_parts)
        #: Token of every embedding.
        self._tokens = {self._key(row): token for token, row in enumerate(image.rows(range(image.shape.vocab)))}
        if len(self._tokens) != image.shape.vocab:
            raise ValueError("tokens must have embeddings that differ")
        self._names = {r.offset + i * r.step: (r.name, i) for r in register_map(self.config) for i in range(r.count)}
        code = contract_hash(self.config)
        self.values: dict[tuple[str, int], int] = {
            ("MAGIC", 0): MAGIC,
            ("VERSION", 0): CONTRACT_VERSION,
            ("HASH_LOW", 0): code & 0xFFFFFFFF,
            ("HASH_HIGH", 0): code >> 32,
        }

    @staticmethod
    def _key(row: npt.NDArray[np.uint8]) -> bytes:
        return row.tobytes()

    def allocate(self, size: int) -> int:
        self._buffers.append(self._allocator.allocate(size))
        return self._buffers[-1]

    def fill(self, address: int, size: int, read: Callable[[npt.NDArray[np.uint8]], None]) -> None:
        read(self.memory[address : address + size])

    def write(self, address: int, data: npt.NDArray[np.uint8]) -> None:
        self.memory[address : address + data.size] = data.reshape(-1)

    def read(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        return self.view(address, size).copy()

    def view(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        return self.memory[address : address + size]

    def read_register(self, offset: int) -> int:
        return self.values.get(self._names[offset], 0)

    def read_registers(self, offset: int, count: int) -> list[int]:
        return [self.read_register(offset + 4 * i) for i in range(count)]

    def write_register(self, offset: int, value: int) -> None:
        name, index = self._names[offset]
        if name != "CONTROL":
            self.values[name, index] = value
        elif value & 1:
            assert self.values.get(("STATUS", 0), 0) == 0, "a doorbell before the end of the last pass was acknowledged"
            self._run()
            self.values["STATUS", 0] = int(Status.DONE)
        else:
            self.values["STATUS", 0] = 0

    def wait(self, timeout: float, look: object = None) -> bool:
        if not self.values.get(("STATUS", 0), 0):
            raise DeviceTimeout("no pass was started")
        return True

    def stop(self) -> None:
        """No pass is ever running."""

    def _record(self, pages: int, position: int) -> npt.NDArray[np.uint8]:
        """Place of the record of a position, of the sequence whose page table begins at an entry."""
        page = self.values["PAGE", pages + position // self.config.kv_block]
        start = page * FRAME_BYTES
        start += position % self.config.kv_block * RECORD
        return self.memory[start : start + RECORD]

    def _run(self) -> None:
        count, wanted = self.values["COUNT", 0], self.values["WANTED", 0]
        tokens = [self._token(i) for i in range(count)]
        assert self.values["PROGRAM_LOW", 0] == self._buffers[self._rows + 1]
        lasts: list[bytes] = []
        for r in range(self.values["RUNS", 0]):
            begin, word = self.values["RUN", 2 * r], self.values["RUN", 2 * r + 1]
            own = tokens[len(lasts) : len(lasts) + RUN_TOKENS.extract(word)]
            lasts += self._run_tokens(RUN_PAGES.extract(word), begin, own)
        assert len(lasts) == count
        for j in range(wanted):
            self._answer(j, lasts[self.values["WANT", j]])

    def _token(self, index: int) -> int:
        """The token whose embedding the pass finds at ``index``."""
        start = self._buffers[self._rows] + self.values["TOKEN", index] * self.image.row_bytes
        return self._tokens[self._key(self.memory[start : start + self.image.row_bytes])]

    def _run_tokens(self, pages: int, begin: int, tokens: list[int]) -> list[bytes]:
        """The records of the tokens of a run, written."""
        digest = hashlib.blake2b(b"".join(self._record(pages, p).tobytes() for p in range(begin)), digest_size=RECORD)
        records = []
        for i, token in enumerate(tokens):
            last = digest.copy()
            last.update(np.array([token]).tobytes())
            records.append(last.digest())
            self._record(pages, begin + i)[:] = np.frombuffer(records[-1], np.uint8)
            digest.update(records[-1])
        return records

    def _answer(self, j: int, record: bytes) -> None:
        """Candidates, and on request logits, of a wanted token."""
        rng = np.random.default_rng(int.from_bytes(record, "little"))
        logits = rng.standard_normal(self.image.shape.vocab).astype(np.float32)
        first = 2 * self.config.topk * j
        for i, token in enumerate(np.argsort(-logits)[: self.config.topk].tolist()):
            self.values["TOPK", first + 2 * i] = token
            self.values["TOPK", first + 2 * i + 1] = int(logits[token : token + 1].view(np.uint32)[0])
        if PassFlag.WRITE_LOGITS in PassFlag(self.values["PASS", 0]):
            beats = np.zeros(self.image.logits_bytes, np.uint8)
            beats[: logits.nbytes] = logits.view(np.uint8)
            self.write(self.values["LOGITS_LOW", 0] + j * self.image.logits_bytes, beats)


def tiny_image(max_context: int = 64, head: str = "exact") -> Image:
    """Of a model of which nothing is asked but to have tokens and a context."""
    shape = ModelShape(
        hidden=16, layers=1, heads=1, kv_heads=1, head_dim=16, ffn=16, vocab=40, max_context=max_context,
    )
    return compile_model(CONFIG, random_weights(shape, 5), head=head)


def toy_engine(image: Image, cache_tokens: int) -> Engine:
    """An engine on a device of its own."""
    image = with_cache_tokens(image, cache_tokens)
    return Engine(ToyDevice(image), image)
