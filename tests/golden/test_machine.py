"""Operators of the functional model one by one, from hand-written descriptors (whole models: test_model.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from hwgen.config import BuildConfig
from hwgen.descriptors import Buffers, Descriptor, Fetch, Flag, Opcode, pack_program
from hwgen.formats import pack_bf16, round_bf16
from hwgen.golden.machine import GoldenMachine
from hwgen.golden.memories import ProgramError
from hwgen.golden.norm import norm_quantize
from hwgen.golden.unpacked_weights import StationaryWeights
from hwgen.layout import KV_FORMATS, KvBlockLayout, matrix_shape, pack_ternary, unpack_ternary
from hwgen.registers import RUN_TOKENS, PassFlag, Status, register
from hwgen.rounding import align, ceil_div
from hwgen.shape import ModelShape
from hwgen.sw.compiler.compile import compile_model
from hwgen.vocabulary import digit_rows
from hwgen.weights import random_weights

from .bits import assert_same_bits
from .passes import Host

CONFIG = BuildConfig(max_context=128)
WIDTH = CONFIG.width
DATA = 0x10000


class Bench:
    """A machine and a bump allocator for segments."""

    def __init__(self, config: BuildConfig = CONFIG) -> None:
        self.config = config
        self.machine = GoldenMachine(config, 1 << 20)
        self.next = DATA

    def place(self, beats: np.ndarray) -> tuple[int, int]:
        """Store beats as a segment: ``(address, beats)``."""
        address, data = self.next, beats.reshape(-1)
        self.machine.writable(address, data.size)[:] = data
        self.next += align(data.size, 64)
        return address, len(beats)

    def floats(self, values: np.ndarray) -> tuple[int, int]:
        size = ceil_div(values.size, WIDTH * self.config.groups) * WIDTH * self.config.groups
        padded = np.zeros(size, np.float32)
        padded[: values.size] = values.reshape(-1)
        return self.place(padded.view(np.uint8).reshape(-1, self.config.beat_bytes))

    def set(self, name: str, value: int, index: int = 0) -> None:
        row = register(self.config, name)
        self.machine.write_register(row.offset + index * row.step, value)

    def get(self, name: str, index: int = 0) -> int:
        row = register(self.config, name)
        return self.machine.read_register(row.offset + index * row.step)

    def set_pass(self, tokens: int, position: int = 0, wanted: Sequence[int] = ()) -> None:
        """A pass of one run."""
        for name, *words in (
            ("RUN", position, RUN_TOKENS.put(tokens)), ("RUNS", 1), ("COUNT", tokens), ("WANT", *wanted), ("WANTED", len(wanted)),
        ):
            for index, word in enumerate(words):
                self.set(name, word, index)

    def run(
        self, program: Sequence[Descriptor], tokens: Sequence[int] = (0,), position: int = 0, wanted: Sequence[int] = (),
        options: int = 0,
    ) -> list[int]:
        """Tags of the operators executed."""
        data = np.frombuffer(pack_program(program), np.uint8)
        self.machine.writable(0, data.size)[:] = data
        self.set_pass(len(tokens), position, wanted)
        self.set("PASS", options)
        for i, token in enumerate(tokens):
            self.set("TOKEN", token, i)
        tags: list[int] = []
        self.machine.on_retire = lambda descriptor, machine: tags.append(descriptor.tag)
        self.set("CONTROL", 1)
        return tags


@pytest.fixture
def bench() -> Bench:
    return Bench()


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def param(bench: Bench, **fields: Any) -> Descriptor:
    address, beats = bench.floats(random(WIDTH))
    return Descriptor(opcode=Opcode.PARAM, fetch=Fetch.STREAM, vectors=1, stream_address=address, stream_beats=beats,
                      **({"token_count": 8} | fields))


@pytest.mark.parametrize(("tokens", "wanted", "executed"), [
    (1, 0, [0]), (4, 0, [0]), (5, 0, [0, 2, 3]), (8, 0, [0, 2, 3]), (1, 1, [0, 1]), (5, 1, [0, 1, 2, 3]), (3, 2, [0, 1, 4]),
])
def test_skipped_descriptors(bench: Bench, tokens: int, wanted: int, executed: list[int]) -> None:
    program = [
        param(bench),
        param(bench, flags=Flag.LOGITS),
        param(bench, flags=Flag.MULTI, token_count=2),
        param(bench, token_start=4),
        param(bench, token_start=1, flags=Flag.LOGITS),
    ]
    assert bench.run(program, [0] * tokens, wanted=range(wanted)) == executed
    assert bench.get("COUNT_OPERATORS") == len(executed)
    assert bench.get("CURRENT") == executed[-1]


def test_embed_rotary_and_param(bench: Bench) -> None:
    table = round_bf16(random(6, 3 * WIDTH))
    bits = np.zeros((6, 4 * WIDTH), np.uint16)  # two beats a row, the last vector unused
    bits[:, : 3 * WIDTH] = pack_bf16(table)
    row_bytes = 2 * CONFIG.beat_bytes
    start = bench.next
    for row in bits:
        bench.place(row.view(np.uint8).reshape(2, CONFIG.beat_bytes))
    rotary_start = bench.next
    rotary = random(20, 2 * WIDTH, seed=1)
    for row in rotary:
        bench.floats(row)
    machine = bench.machine
    machine.scratch[:] = -1.0
    embed = Descriptor(opcode=Opcode.EMBED, fetch=Fetch.TOKEN, token_start=1, token_count=2, vectors=3, dst=10,
                       dst_stride=5, stream_address=start, stream_beats=2, stride=row_bytes)
    turn = Descriptor(opcode=Opcode.ROTARY, fetch=Fetch.POSITION, token_count=8, vectors=2, dst=7, dst_stride=2,
                      stream_address=rotary_start, stream_beats=2, stride=row_bytes)
    gains = param(bench, dst=3)
    bench.run([embed, turn, gains], [5, 0, 4, 1], position=9)
    expected = np.full_like(machine.scratch, -1.0)
    expected[15:18], expected[20:23] = table[0].reshape(3, WIDTH), table[4].reshape(3, WIDTH)
    assert np.array_equal(machine.scratch, expected)
    assert np.array_equal(machine.param[7:15].reshape(4, -1), rotary[9:13])
    assert np.array_equal(machine.param[3], random(WIDTH))
    assert bench.get("COUNT_STREAM_BEATS") == 2 * 2 + 4 * 2 + gains.stream_beats


def norm_program(n: int, **fields: Any) -> Descriptor:
    return Descriptor(opcode=Opcode.NORM, vectors=n // WIDTH, src=4, src_stride=n // WIDTH,
                      scalar0=float(np.float32(1 / n)), scalar1=float(np.float32(1e-5)), **fields)


@pytest.mark.parametrize("tokens", [1, 2, 3, 4])
def test_norm_fills_one_half_of_the_activations(bench: Bench, tokens: int) -> None:
    n, machine = 3 * WIDTH, bench.machine
    x, gain = random(tokens, n), random(n, seed=2)
    machine.scratch[4 : 4 + tokens * 3] = x.reshape(-1, WIDTH)
    machine.param[:3] = gain.reshape(-1, WIDTH)
    half = tokens % 2
    buffers = Buffers.ACTIVATION if half else Buffers.NONE
    bench.run([norm_program(n, token_count=4, buffers=buffers)], [0] * tokens)
    q, scale = norm_quantize(
        torch.from_numpy(x), torch.from_numpy(gain), float(np.float32(1 / n)), float(np.float32(1e-5))
    )
    assert np.array_equal(machine.activation[half, :tokens, :n], q.numpy()) and not machine.activation[1 - half].any()
    assert_same_bits(torch.from_numpy(machine.activation_scale[:tokens]), scale)
    assert machine.gang == (tokens <= CONFIG.lanes)


def test_norm_of_the_last_token_to_the_head(bench: Bench) -> None:
    n, machine = 2 * WIDTH, bench.machine
    x = random(3, n)
    machine.scratch[4:10] = x.reshape(-1, WIDTH)
    machine.param[:2] = 1.0
    bench.run([norm_program(n, token_count=1, flags=Flag.LOGITS | Flag.TO_QUERY)], [0] * 3, wanted=[2])
    q, scale = norm_quantize(torch.from_numpy(x[2]), torch.ones(n), float(np.float32(1 / n)), float(np.float32(1e-5)))
    assert np.array_equal(machine.head_query[:n], q.numpy()) and machine.head_scale[0] == scale
    assert not machine.activation.any()


def linear_program(bench: Bench, trits: np.ndarray, **fields: Any) -> Descriptor:
    slices, blocks = matrix_shape(CONFIG, *trits.shape)
    address, beats = bench.place(pack_ternary(CONFIG, trits))
    return Descriptor(**({"opcode": Opcode.LINEAR, "fetch": Fetch.STREAM, "slices": slices, "row_blocks": blocks,
                         "stream_address": address, "stream_beats": beats, "token_count": 4} | fields))


def test_linear_and_drain(bench: Bench) -> None:
    machine, rng = bench.machine, np.random.default_rng(3)
    trits = rng.integers(-1, 2, (27, 90), dtype=np.int8)
    machine.activation[:] = rng.integers(-127, 128, machine.activation.shape)  # stale beyond the inputs, too
    machine.activation_scale[:] = 0.25
    machine.accumulator[:] = 12345
    other = random(3, 2 * WIDTH, seed=4)
    machine.scratch[:] = 0
    machine.scratch[100:106] = other.reshape(-1, WIDTH)
    drain = Descriptor(opcode=Opcode.DRAIN, flags=Flag.ADD, vectors=2, row_blocks=1, src=100, src_stride=2, dst=200,
                       dst_stride=3, scalar0=0.5, token_count=4, buffers=Buffers.ACCUMULATOR)
    both = Buffers.ACCUMULATOR | Buffers.ACTIVATION
    bench.run([linear_program(bench, trits, buffers=both), drain], [0] * 3)
    acc = machine.activation[1, :3, :90].astype(np.int64) @ trits.T.astype(np.int64)
    upper = machine.accumulator[1]
    assert np.array_equal(upper[:3, :27], acc) and not upper[:3, 27:32].any()
    assert (upper[3] == 12345).all() and (upper[:, 32:] == 12345).all() and (machine.accumulator[0] == 12345).all()
    rows = acc[:, WIDTH : 3 * WIDTH].astype(np.float32) * np.float32(0.125) + other
    assert np.array_equal(machine.scratch[[200, 201, 203, 204, 206, 207]], rows.reshape(-1, WIDTH))
    assert not machine.scratch[[202, 205, 208]].any()


def test_changed_weights_are_noticed(bench: Bench) -> None:
    machine = bench.machine
    machine.activation[:] = 3
    d = linear_program(bench, np.ones((8, 40), np.int8))
    bench.run([d])
    assert machine.accumulator[0, 0, 0] == 120
    data = pack_ternary(CONFIG, -np.ones((8, 40), np.int8)).reshape(-1)
    machine.writable(d.stream_address, data.size)[:] = data
    bench.run([d])
    assert machine.accumulator[0, 0, 0] == -120


def test_memory_is_written_where_the_machine_sees_it(bench: Bench) -> None:
    """Not past it: kept weights would stay what they were."""
    with pytest.raises(ValueError, match="read-only"):
        bench.machine.memory[DATA] = 1
    writes = bench.machine.last_write(DATA + 4096, 4096)
    bench.machine.writable(DATA, 4096)[:] = 1
    assert bench.machine.memory[DATA : DATA + 4096].all() and bench.machine.last_write(DATA, 1) > writes
    assert bench.machine.last_write(DATA + 4096, 4096) == writes


def test_a_segment_is_consecutive_bytes(bench: Bench) -> None:
    """Beat i at A + i * beat_bytes: vectors lie in memory as they come out, and a crooked address is refused."""
    values = random(1, 6 * WIDTH, seed=1).reshape(-1)
    bench.machine.writable(DATA, values.nbytes)[:] = values.view(np.uint8)
    d = Descriptor(opcode=Opcode.PARAM, fetch=Fetch.STREAM, token_count=1, vectors=6, stream_address=DATA, stream_beats=6)
    bench.run([d])
    assert np.array_equal(bench.machine.param[:6].reshape(-1), values)
    with pytest.raises(ProgramError, match="must begin at a multiple of 32 bytes, not at 0x10010"):
        bench.run([dataclasses.replace(d, stream_address=DATA + 16)])


def test_replay_over_rounds(bench: Bench) -> None:
    d = linear_program(bench, np.ones((8, 40), np.int8), flags=Flag.REPLAY)
    second = dataclasses.replace(d, fetch=Fetch.NONE, flags=Flag.NONE, token_start=4)
    bench.machine.activation[:] = 1
    assert bench.run([d, second], [0] * 8) == [0, 1]
    assert bench.get("COUNT_STREAM_BEATS") == d.stream_beats
    assert bench.run([d, second], [0] * 4) == [0]  # nothing held: one round
    assert bench.run([d, param(bench)], [0] * 4) == [0, 1]
    with pytest.raises(ProgramError, match="while the ring holds a matrix"):
        bench.run([d, param(bench)], [0] * 8)
    with pytest.raises(ProgramError, match="must find .* beats held in the ring, not None"):
        bench.run([dataclasses.replace(d, flags=Flag.NONE), second], [0] * 8)
    assert bench.run([d, second], [0] * 8) == [0, 1]  # a pass that failed leaves nothing behind


@pytest.mark.parametrize(("position", "tokens", "kv"), [
    (0, 1, "k8v8"), (3, 8, "k8v4"), (13, 8, "k4v4"), (16, 5, "k8v8"), (31, 1, "k8v4"),
])
def test_kv_write_touches_only_its_tokens(bench: Bench, position: int, tokens: int, kv: str) -> None:
    machine, heads, dim = bench.machine, 2, 16
    layout = KvBlockLayout(CONFIG, dim, KV_FORMATS[kv])
    sizes = [dim // CONFIG.key_bytes // (2 if bits == "4" else 1) for bits in (kv[1], kv[3])]
    rng = np.random.default_rng(position)
    machine.kv_store[:] = rng.integers(-127, 128, machine.kv_store.shape)
    machine.kv_scale[:] = rng.integers(0, 1 << 15, machine.kv_scale.shape)
    machine.writable(DATA, machine.memory.size - DATA)[:] = 0xA5
    for block, page in enumerate((3, 0, 2)):
        bench.set("PAGE", page, block)
    page_bytes = heads * layout.bytes
    bench.run([Descriptor(opcode=Opcode.KV_WRITE, token_count=8, heads=2, kv_heads=heads, head_vectors=dim // WIDTH,
                          stream_address=DATA, stream_beats=layout.beats, stride=page_bytes, head_stride=layout.bytes,
                          format=KV_FORMATS[kv])],
              [0] * tokens, position)
    changed = np.zeros(machine.memory.size, bool)
    for p in range(position, position + tokens):
        for head in range(heads):
            address = DATA + (3, 0, 2)[p // 16] * page_bytes + head * layout.bytes
            beats = machine.memory[address : address + layout.bytes].reshape(-1, CONFIG.beat_bytes)
            slot, bank = p % 16, p - position
            header = beats[: layout.header_beats].reshape(-1)
            for kind in range(2):
                first = 2 * (16 * kind + slot)
                assert header[first : first + 2].view(np.uint16)[0] == machine.kv_scale[kind, bank, head]
                start = layout.header_beats + kind * sizes[0]
                data = beats[start : start + sizes[kind], slot * CONFIG.key_bytes : (slot + 1) * CONFIG.key_bytes]
                wanted = machine.kv_store[kind, bank, head, :dim].view(np.uint8).reshape(-1, CONFIG.key_bytes)
                if kv[2 * kind + 1] == "4":
                    codes = wanted >> 4 & 8 | wanted & 7
                    wanted = codes[0::2] | codes[1::2] << 4
                assert np.array_equal(data, wanted)
            mark = np.zeros((layout.beats, CONFIG.beat_bytes), np.uint8)
            mark.reshape(-1)[: layout.header_beats * CONFIG.beat_bytes].view(np.uint16)[[slot, 16 + slot]] = 0xFFFF
            columns = slice(slot * CONFIG.key_bytes, (slot + 1) * CONFIG.key_bytes)
            mark[layout.header_beats : layout.header_beats + sum(sizes), columns] = 1
            changed[address : address + layout.bytes] |= mark.reshape(-1).astype(bool)
    assert (machine.memory[DATA:][~changed[DATA:]] == 0xA5).all()


def test_candidates_and_logits_of_digits(bench: Bench) -> None:
    """Rows of -121 to 121 in panels of two and one vectors: bits of two wanted tokens, in memory and in the registers."""
    machine, vocab, n = bench.machine, 3 * WIDTH - 3, 24
    rng = np.random.default_rng(7)
    rows = rng.integers(-121, 122, (vocab, n), dtype=np.int8)
    rows[0], rows[1], rows[9] = 121, -121, rows[18]
    scales = np.ones(3 * WIDTH, np.float32)
    scales[:vocab] = rng.choice([0.5, 1, 2.0**-7], vocab)
    scales[9] = scales[18]
    machine.activation[0, :2, :n] = rng.integers(-127, 128, (2, n))
    machine.activation_scale[:2] = 0.5, 0.25
    machine.scratch[100:103] = scales.reshape(3, WIDTH)
    bench.set("LOGITS_LOW", 0x80000)
    machine.writable(0x80000, machine.memory.size - 0x80000)[:] = 0xA5
    stride = 7
    program = []
    for first, vectors in ((0, 2), (2, 1)):
        digits = digit_rows(CONFIG, rows[first * WIDTH : (first + vectors) * WIDTH])
        program += [
            linear_program(bench, digits, flags=Flag.LOGITS),
            Descriptor(
                opcode=Opcode.DRAIN, flags=Flag.LOGITS | Flag.MULTIPLY | Flag.DIGITS | Flag.CANDIDATES, token_count=4,
                vectors=vectors, src=100 + first, scalar0=1.0, stride=first * WIDTH, head_stride=vocab,
                stream_address=4 * first * WIDTH, stream_beats=stride,
            ),
        ]
    bench.run(program, [0] * 3, wanted=[2, 1], options=PassFlag.WRITE_LOGITS)
    dots = machine.activation[0, :2, :n].astype(np.int64) @ rows.T.astype(np.int64)
    expected = (dots * scales[:vocab] * np.array([[0.5], [0.25]])).astype(np.float32)  # exact: powers of two
    assert np.array_equal(machine.logits[:2], expected)
    written = 3 * WIDTH * 4
    for token in range(2):
        at = 0x80000 + token * stride * CONFIG.beat_bytes
        stored = machine.memory[at : at + written].view(np.float32)
        assert np.array_equal(stored[:vocab], expected[token]) and not stored[vocab:].any()
        assert (machine.memory[at + written : at + stride * CONFIG.beat_bytes] == 0xA5).all()
        order = sorted(range(vocab), key=lambda row, token=token: (-expected[token, row], row))[: CONFIG.topk]
        for i, row in enumerate(order):
            place = 2 * (token * CONFIG.topk + i)
            assert bench.get("TOPK", place) == row
            assert bench.get("TOPK", place + 1) == int(expected[token, row : row + 1].view(np.uint32)[0])


@pytest.mark.parametrize(("fields", "message"), [
    ({"fetch": Fetch.NONE, "opcode": Opcode.PARAM}, "PARAM must have fetch STREAM, not NONE"),
    ({"stream_beats": 3}, "stream_beats must be a multiple of 2, not 3"),
    ({"stream_beats": 4}, "LINEAR: stream_beats must be 2, not 4"),
    ({"stream_address": 1 << 30}, "outside the memory"),
    ({"token_count": 8}, "LINEAR must have at most 4 tokens, not 5"),
    ({"opcode": Opcode.DRAIN, "fetch": Fetch.NONE}, "DRAIN must have one mode flag"),
    ({"opcode": Opcode.DRAIN, "fetch": Fetch.NONE, "flags": Flag.STORE, "vectors": 1, "dst": 5000}, "DRAIN: "),
])
def test_refuses_what_is_not_defined(bench: Bench, fields: dict[str, Any], message: str) -> None:
    d = dataclasses.replace(linear_program(bench, np.ones((8, 40), np.int8)), **fields)
    with pytest.raises(ProgramError, match=message):
        bench.run([d], [0] * 5)
    assert bench.get("STATUS") == 0


@pytest.mark.parametrize(("count", "position"), [(0, 0), (9, 0), (1, 128), (8, 121)])
def test_refuses_a_pass_outside_the_build(bench: Bench, count: int, position: int) -> None:
    bench.set_pass(count, position)
    with pytest.raises(ProgramError, match="COUNT must be|a run must end at position 128"):
        bench.set("CONTROL", 1)


@pytest.mark.parametrize(("words", "message"), [
    ({"RUNS": [2]}, "the 2 runs must have a token each and 3 together"), ({"RUNS": [0]}, "the 0 runs"),
    ({"RUN": [0, 2]}, "3 together"), ({"WANTED": [4]}, "wanted tokens must be"),
    ({"WANTED": [1], "WANT": [3]}, "wanted tokens must be"),
])
def test_refuses_runs_that_are_not_the_pass(bench: Bench, words: dict[str, list[int]], message: str) -> None:
    bench.set_pass(3)
    for name, values in words.items():
        for index, value in enumerate(values):
            bench.set(name, value, index)
    with pytest.raises(ProgramError, match=message):
        bench.set("CONTROL", 1)


def test_steps_stop_between_operators(bench: Bench) -> None:
    program = [param(bench, dst=0), param(bench, dst=1)]
    data = np.frombuffer(pack_program(program), np.uint8)
    bench.machine.writable(0, data.size)[:] = data
    bench.set_pass(1)
    steps = bench.machine.steps()
    assert next(steps).tag == 0
    assert bench.machine.param[0].any() and not bench.machine.param[1].any()
    assert bench.get("STATUS") == Status.BUSY
    assert next(steps).tag == 1
    assert next(steps, None) is None
    assert bench.get("STATUS") == Status.DONE


def test_tokens_of_a_chunk_do_not_depend_on_later_ones() -> None:
    shape = ModelShape(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=48, vocab=30, max_context=64)
    image = compile_model(CONFIG, random_weights(shape, 2))
    hosts = Host(CONFIG, image), Host(CONFIG, image)
    hosts[0].run(0, [1, 2, 3, 4, 5, 6])
    hosts[1].run(0, [1, 2, 3, 9, 8, 7])
    vectors = shape.hidden // WIDTH
    x = [
        host.machine.scratch[: 6 * vectors].reshape(6, -1) for host in hosts
    ]  # the residual stream is first in the scratch
    assert np.array_equal(x[0][:3], x[1][:3]) and not np.array_equal(x[0][3], x[1][3])


def test_matrices_are_unpacked_again_when_their_memory_was_written_to() -> None:
    config = BuildConfig(name="unpacked")
    bytes_of = [np.random.default_rng(seed).integers(0, 243, (8, config.beat_bytes), dtype=np.uint8) for seed in range(3)]
    written = {0: 0, 4096: 0}
    weights = StationaryWeights(config, lambda address, size: written[address])
    d, made = Descriptor(opcode=Opcode.LINEAR, slices=4, row_blocks=2), []
    for address, content in ((0, 0), (0, 1), (4096, 2), (0, 1)):
        written[address] = content
        made.append(weights.panel(d, address, bytes_of[content]))
        trits = unpack_ternary(config, bytes_of[content], 2 * config.rows, 4 * config.slice_inputs)
        columns = np.eye(trits.shape[1], dtype=np.int8)
        assert np.array_equal(made[-1].products(columns), trits.T)
    assert made[1] is made[3] and made[0] is not made[1]
