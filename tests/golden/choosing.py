"""Runs that choose what they attend to on the golden machine, and what is expected of them in rational arithmetic and loops."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from hwgen.block_choice import summary_beats
from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Fetch, Flag, Format, Opcode, pack_program
from hwgen.formats import four_bit_elements, widen_bf16
from hwgen.golden.int4 import e4m3_code_values
from hwgen.golden.machine import GoldenMachine
from hwgen.layout import KV_FORMATS, KvBlockLayout
from hwgen.registers import RUN_BUDGET, RUN_PAGES, RUN_TOKENS, PassFlag, register

from . import rational

CONFIG = BuildConfig(
    engine="int4", groups=2, rows=2, fp8_query=True, int4_kv=True, kv_budget=4, chunk=12, max_inputs=256, panel_rows=64,
    max_context=512, summary_rows=1,
)
BLOCK, DIM, KV_HEADS, GROUP = CONFIG.kv_block, 16, 2, 2
HEADS = KV_HEADS * GROUP
#: Where the layer lies in a page, and pages in memory: the page whose number is 0 belongs to nobody.
DATA, LAYER, PROGRAM = 0x10000, 96, 0x1000
#: Where outputs go, and how far apart those of tokens are, in vectors.
DST, STRIDE = 40, 30


class Wanted(NamedTuple):
    """A run: position, tokens and budget."""

    position: int
    tokens: int = 1
    budget: int = 0


class Rig:
    """A machine with queries, new keys and values, caches and summaries of runs, all random, and its program."""

    def __init__(
        self, runs: Sequence[Wanted], kv: str = "k8v8", e4m3: bool = False, seed: int = 1, config: BuildConfig = CONFIG
    ) -> None:
        self.config, self.runs, self.format = config, runs, KV_FORMATS[kv] | (Format.FP8_QUERY if e4m3 else Format.NONE)
        self.layout = KvBlockLayout(config, DIM, self.format)
        self.page_bytes = 128 + KV_HEADS * self.layout.bytes
        self.rng = rng = np.random.default_rng(seed)
        self.machine = machine = GoldenMachine(config, 1 << 20)
        machine.writable(DATA, machine.memory.size - DATA)[:] = rng.integers(0, 128, machine.memory.size - DATA)
        self.e4m3 = e4m3
        machine.query[:] = rng.integers(0, 127, machine.query.shape) if e4m3 else rng.integers(-127, 128, machine.query.shape)
        if e4m3:
            machine.query[:] |= (rng.integers(0, 2, machine.query.shape) << 7).astype(np.uint8).view(np.int8)
        machine.query_scale[:] = rng.uniform(0.5, 1.5, machine.query_scale.shape) * (2e-6 if e4m3 else 1e-3)
        for kind in range(2):
            machine.kv_store[kind] = self.elements(kind, *machine.kv_store.shape[1:])
        machine.kv_scale[:] = self.scales(*machine.kv_scale.shape)
        numbers = iter((1 + rng.permutation(200)).tolist())
        #: By run, head and block: keys and values, ``[2, BLOCK, DIM]``, and bits of their scales, ``[2, BLOCK]``.
        self.cache: list[list[list[tuple[np.ndarray, np.ndarray]]]] = []
        #: By run, head and row (of every block `summary_rows`): summary and bits of its scale.
        self.summaries: list[list[list[tuple[np.ndarray, np.ndarray]]]] = []
        #: First entry of every run.
        self.first: list[int] = []
        entry = 0
        for number, run in enumerate(runs):
            whole, pages = run.position // BLOCK, -(-run.position // BLOCK)
            of_summaries = -(-(whole - 1) * config.summary_rows // BLOCK) if run.budget else 0
            entry += of_summaries + (number == 0)  # one entry is nobody's
            self.first.append(entry)
            self.cache.append([[self.random_block() for _ in range(pages)] for _ in range(KV_HEADS)])
            self.summaries.append([
                [(self.elements(0, DIM), self.scales()) for _ in range(of_summaries * BLOCK)] for _ in range(KV_HEADS)
            ])
            for place in range(-of_summaries, max(1, pages)):
                self.set("PAGE", next(numbers), entry + place)
            for head, block in itertools.product(range(KV_HEADS), range(pages)):
                self.put_block(number, head, block)
            for head, row in itertools.product(range(KV_HEADS), range(of_summaries * BLOCK)):
                self.put_summary(number, head, row)
            entry += max(1, pages)
        self.write_program([self.choose(), self.attend()])

    def elements(self, kind: int, *shape: int) -> np.ndarray:
        if self.layout.packed[kind]:
            return four_bit_elements(self.rng.integers(0, 16, shape, dtype=np.uint8))
        return self.rng.integers(-127, 128, shape, dtype=np.int8)

    def scales(self, *shape: int) -> np.ndarray:
        return np.array(self.rng.integers(0x3C00, 0x3D80, shape), np.uint16)

    def random_block(self) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([self.elements(kind, BLOCK, DIM) for kind in range(2)]), self.scales(2, BLOCK)

    def segment(self, number: int, entry: int, head: int) -> np.ndarray:
        """Memory of a head in the page of an entry: ``[beats, beat_bytes]``."""
        page = self.machine.registers.pages[self.first[number] + entry]
        address = DATA + LAYER + page * self.page_bytes + head * self.layout.bytes
        return self.machine.writable(address, self.layout.bytes).reshape(-1, self.config.beat_bytes)

    def put_block(self, number: int, head: int, block: int) -> None:
        elements, scales = self.cache[number][head][block]
        beats = self.segment(number, block, head)
        beats[: self.layout.header_beats].reshape(-1).view(np.uint16)[:] = scales.reshape(-1)
        for kind in range(2):
            data = self.layout.join(kind, elements[kind])
            beats[self.layout.beats_of(kind)] = data.reshape(-1, self.config.beat_bytes).view(np.uint8)

    def put_summary(self, number: int, head: int, row: int) -> None:
        """Slot ``row % BLOCK`` of the page of entry ``-1 - row // BLOCK``."""
        elements, scale = self.summaries[number][head][row]
        slot, size = row % BLOCK, self.config.key_bytes
        beats = self.segment(number, -1 - row // BLOCK, head)
        beats[: self.layout.header_beats].reshape(-1).view(np.uint16)[slot] = scale
        beats[self.layout.beats_of(0), slot * size : (slot + 1) * size] = self.layout.join(0, elements[None])[:, 0].view(np.uint8)

    def operator(self, **fields: object) -> Descriptor:
        return Descriptor(**{  # type: ignore[arg-type]  # fields by name, of several types
            "opcode": Opcode.ATTENTION, "fetch": Fetch.CACHE, "token_count": self.config.chunk, "heads": HEADS,
            "kv_heads": KV_HEADS, "head_vectors": DIM // self.config.width, "dst": DST, "dst_stride": STRIDE,
            "stream_address": DATA + LAYER, "stream_beats": self.layout.beats, "stride": self.page_bytes,
            "head_stride": self.layout.bytes, "format": self.format, **fields,
        })

    def attend(self, **fields: object) -> Descriptor:
        return self.operator(**fields)

    def choose(self, **fields: object) -> Descriptor:
        beats = summary_beats(self.config, self.layout)
        return self.operator(**{"flags": Flag.CHOOSE, "fetch": Fetch.SUMMARY, "stream_beats": beats, **fields})

    def write_program(self, program: Sequence[Descriptor]) -> None:
        data = np.frombuffer(pack_program(program), np.uint8)
        self.machine.writable(PROGRAM, data.size)[:] = data

    def set(self, name: str, value: int, index: int = 0) -> None:
        row = register(self.config, name)
        self.machine.write_register(row.offset + index * row.step, value)

    def set_pass(self, options: int = PassFlag.CHOOSE) -> None:
        for number, run in enumerate(self.runs):
            self.set("RUN", run.position, 2 * number)
            word = RUN_TOKENS.put(run.tokens) | RUN_BUDGET.put(run.budget) | RUN_PAGES.put(self.first[number])
            self.set("RUN", word, 2 * number + 1)
        tokens = sum(run.tokens for run in self.runs)
        for name, value in (
            ("RUNS", len(self.runs)), ("COUNT", tokens), ("WANTED", 0), ("PASS", int(options)), ("PROGRAM_LOW", PROGRAM),
        ):
            self.set(name, value)

    def go(self, options: int = PassFlag.CHOOSE) -> None:
        self.set_pass(options)
        self.set("CONTROL", 1)

    def outputs(self) -> np.ndarray:
        """What ATTENTION wrote ``[token, head, DIM]``."""
        count, vectors = sum(run.tokens for run in self.runs), HEADS * DIM // self.config.width
        rows = [self.machine.scratch[DST + token * STRIDE :][:vectors] for token in range(count)]
        return np.stack(rows).reshape(count, HEADS, DIM)

    # ---- what is expected ------------------------------------------------------------------------------------------
    def query(self, token: int, head: int) -> tuple[list[int], Fraction]:
        codes = self.machine.query[token, head, :DIM]
        values = e4m3_code_values().numpy()[codes.view(np.uint8)] if self.e4m3 else codes
        return values.tolist(), Fraction(float(self.machine.query_scale[token, head]))

    def score(self, number: int, head: int, block: int) -> int:
        """Of the block's summaries, the largest of the queries that share the key/value head."""
        token, rows = sum(run.tokens for run in self.runs[:number]), self.config.summary_rows
        queries = [self.query(token, head * GROUP + g) for g in range(GROUP)]
        found = []
        for (q8, q_scale), row in itertools.product(queries, range(block * rows, (block + 1) * rows)):
            k8, scale = self.summaries[number][head][row]
            dot = rational.f32(sum(a * b for a, b in zip(q8, k8.tolist(), strict=True)))
            found.append(rational.to_int(rational.mul(rational.mul(dot, scale_of(scale)), q_scale), 10, 24))
        return max(found)

    def chosen(self, number: int) -> list[list[int]]:
        run = self.runs[number]
        whole = run.position // BLOCK
        return [
            sorted(range(1, whole - 1), key=lambda block, head=head: (-self.score(number, head, block), block))[: run.budget]
            for head in range(KV_HEADS)
        ]

    def expected(self, choices: dict[int, list[list[int]]]) -> np.ndarray:
        """Outputs of every token, whose runs attend to what they choose."""
        out, token = [], 0
        for number, run in enumerate(self.runs):
            own = range(token, token + run.tokens)
            for i in range(run.tokens):
                out.append([self.attention(number, run, run.position + i, head, own, choices) for head in range(HEADS)])
            token += run.tokens
        return np.array([[[float(x) for x in head] for head in heads] for heads in out], np.float32)

    def attention(
        self, number: int, run: Wanted, position: int, head: int, own: range, choices: dict[int, list[list[int]]]
    ) -> list[Fraction]:
        kv_head = head // GROUP
        order = list(range(position // BLOCK + 1))
        if run.budget:
            newest = position // BLOCK - 1
            order = [0, *choices[number][kv_head], newest, newest + 1]
        blocks = []
        for block in order:
            pairs = []
            for p in range(block * BLOCK, min(position + 1, (block + 1) * BLOCK)):
                if p < run.position:
                    elements, scales = self.cache[number][kv_head][block]
                    both = [(elements[kind][p % BLOCK].tolist(), scale_of(scales[kind][p % BLOCK])) for kind in range(2)]
                else:
                    token = own[p - run.position]
                    store, of = self.machine.kv_store, self.machine.kv_scale
                    both = [(store[kind, token, kv_head, :DIM].tolist(), scale_of(of[kind, token, kv_head])) for kind in range(2)]
                pairs.append((both[0], both[1]))
            blocks.append(pairs)
        return rational.attention(self.query(own[position - run.position], head), blocks)


def scale_of(bits: np.ndarray) -> Fraction:
    return Fraction(float(widen_bf16(np.array(bits, np.uint16))))
