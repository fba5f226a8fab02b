"""Where every element of a matrix, a key, a value and a row of the head lies in memory, placed one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Format
from hwgen.formats import four_bit_codes, to_four_bits
from hwgen.grouped import GroupedMatrix
from hwgen.grouped_layout import GroupedLayout, GroupSlices
from hwgen.layout import (
    Int4Layout,
    KvBlockLayout,
    blob_beats,
    key_mixing_strides,
    kv_format_name,
    lane_strides,
    matrix_beats,
    matrix_shape,
    mixing_strides,
    pack_head,
    pack_ternary,
    pack_trits,
    pad_beats,
    unpack_ternary,
    unpack_trits,
    vectors_of,
)
from hwgen.panels import panel_beats
from hwgen.rounding import align, ceil_div

CONFIG = BuildConfig()
INT4 = BuildConfig(engine="int4", beat_bytes=32, rows=2, groups=2, builders=1, panel_rows=64, max_inputs=256)
KV = Format.INT4_KEYS | Format.INT4_VALUES


def digits(trits: np.ndarray) -> int:
    return int(sum((int(t) + 1) * 3**j for j, t in enumerate(trits)))


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, groups=4, ring_beats=4096), load_board("kv260").config])
@pytest.mark.parametrize(("rows", "inputs"), [(7, 45), (16, 40), (1, 1), (33, 83)])
def test_ternary_matrices(config: BuildConfig, rows: int, inputs: int) -> None:
    """Slices outermost, row blocks inside, rows of a block side by side, five inputs a byte; all else zero trits."""
    rng = np.random.default_rng(rows)
    trits = rng.integers(-1, 2, (rows, inputs)).astype(np.int8)
    size, share = config.slice_inputs, config.beat_bytes // config.rows
    slices, blocks = matrix_shape(config, rows, inputs)
    step = config.width // config.rows * config.groups // np.gcd(config.width // config.rows, config.groups)
    assert slices == -(-inputs // size) and blocks % step == 0 and (blocks - step) * config.rows < rows <= blocks * config.rows
    full = np.zeros((blocks * config.rows, slices * size), np.int8)
    full[:rows, :inputs] = trits
    beats = pack_ternary(config, trits)
    assert beats.shape == (matrix_beats(config, rows, inputs), config.beat_bytes) == (slices * blocks, config.beat_bytes)
    for _ in range(300):
        s, block, r, b = (int(rng.integers(n)) for n in (slices, blocks, config.rows, share))
        first = s * size + 5 * b
        assert beats[s * blocks + block, r * share + b] == digits(full[block * config.rows + r, first : first + 5])
    assert np.array_equal(unpack_ternary(config, beats, rows, inputs), trits)
    packed = pack_trits(trits)
    assert packed.shape == (rows, -(-inputs // 5)) and np.array_equal(unpack_trits(packed)[:, :inputs], trits)


@pytest.mark.parametrize("midpoints", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "group"), [(9, 96, 64), (16, 128, 32), (33, 160, 128), (1, 32, 32)])
def test_int4_matrices(rows: int, inputs: int, group: int, midpoints: bool) -> None:
    """A group's scales and midpoints, then the codes of its slices of 32 inputs, two rows a beat."""
    rng = np.random.default_rng(rows)
    groups = -(-inputs // group)
    codes = rng.integers(-8, 8, (rows, inputs)).astype(np.int8)
    scales = rng.integers(0, 256, (rows, groups)).astype(np.uint8)
    middle = rng.integers(-127, 128, (rows, groups)).astype(np.int8) if midpoints else None
    layout = Int4Layout(INT4, rows, inputs, group)
    blocks = -(-rows // 8) * 4  # whole vectors of eight rows
    scale_beats = 2 * -(-4 * blocks // 64)  # two bytes a row, in pairs of beats
    assert (layout.slices, layout.shared, layout.groups, layout.row_blocks) == (inputs // 32, group // 32, groups, blocks)
    assert layout.scale_beats == scale_beats and layout.beats == groups * scale_beats + inputs // 32 * blocks
    beats = layout.pack(codes, scales, middle)
    at = 0
    for g in range(groups):
        head = beats[at : at + scale_beats].reshape(-1, 2)
        assert np.array_equal(head[:rows, 0], scales[:, g]) and not head[rows:].any()
        assert np.array_equal(head[:rows, 1].view(np.int8), middle[:, g] if middle is not None else np.zeros(rows))
        at += scale_beats
        for s in range(g * group // 32, min(inputs // 32, (g + 1) * group // 32)):
            for block in range(blocks):
                for r in range(2):
                    row = 2 * block + r
                    expected = codes[row, 32 * s : 32 * s + 32] & 15 if row < rows else np.zeros(32, np.int8)
                    stored = beats[at + block, 16 * r : 16 * r + 16]
                    assert np.array_equal(stored & 15, expected[0::2]) and np.array_equal(stored >> 4, expected[1::2])
            at += blocks
    assert at == layout.beats
    found = layout.unpack(beats)
    assert np.array_equal(found[0], codes) and np.array_equal(found[1], scales)
    assert np.array_equal(found[2], middle if middle is not None else np.zeros_like(found[2]))
    d = Descriptor(slices=layout.slices, row_blocks=blocks, vectors=group // 32, format=Format.FP8)
    assert panel_beats(INT4, d) == layout.beats == Int4Layout.of(INT4, d).beats
    assert panel_beats(INT4, Descriptor(slices=3, row_blocks=5)) == 15


def test_slices_that_groups_cannot_be_cut_into() -> None:
    with pytest.raises(ValueError, match="group must be a multiple of 32"):
        Int4Layout(INT4, 8, 64, 16)


@pytest.mark.parametrize("rows", [1, 8, 16, 24, 33, 64, 65])
@pytest.mark.parametrize(("config", "parts"), [
    (BuildConfig(
        engine="grouped", beat_bytes=16, rows=2, groups=2, builders=7, kv_block=16, max_inputs=256, panel_rows=96, lanes=1,
    ), 4),
    (load_board("kv260").for_engine("grouped").config, 4),
    # slices of 80 inputs: what is left of a group are 48, ten of the 16 bytes of a row
    (BuildConfig(engine="grouped", rows=2, builders=1), 1),
], ids=["small", "kv260", "long slices"])
def test_scales_of_groups(rows: int, config: BuildConfig, parts: int) -> None:
    """There and back, in as many beats as are counted: scales of a group, whole slices, and short ones, several a beat."""
    rng = np.random.default_rng(rows)
    trits, codes = rng.integers(-1, 2, (rows, 256)).astype(np.int8), rng.integers(0, 256, (rows, 2)).astype(np.uint8)
    layout, cut = GroupedLayout(config, rows, 256), GroupSlices(config)
    assert cut.parts == parts
    assert (cut.whole, cut.rest_inputs, cut.count) == (128 // config.slice_inputs, 128 % config.slice_inputs, cut.whole + 1)
    used = cut.parts * cut.rest_bytes
    assert cut.rest_bytes == -(-cut.rest_inputs // 5) and used <= cut.row_bytes < 2 * used
    blocks = layout.row_blocks
    together = cut.parts * config.groups
    assert layout.rest_beats == -(-blocks // together) * config.groups and layout.groups == 2
    ring_row = config.beat_bytes * config.groups
    assert layout.scale_beats == -(-blocks * config.rows // ring_row) * config.groups
    assert layout.group_beats == layout.scale_beats + cut.whole * blocks + layout.rest_beats
    assert layout.beats == 2 * layout.group_beats
    matrix = GroupedMatrix(trits, codes, 1.0)
    assert matrix.packed().shape == (rows, 2, 26)
    found = layout.unpack(layout.pack(matrix.packed(), codes))
    assert np.array_equal(found[0], trits) and np.array_equal(found[1], codes)
    d = Descriptor(slices=layout.slices, row_blocks=blocks, format=Format.GROUPED)
    assert panel_beats(config, d) == layout.beats and layout.slices == 2 * cut.count


@pytest.mark.parametrize("format", [Format.NONE, Format.INT4_VALUES, KV])
@pytest.mark.parametrize("config", [CONFIG, load_board("kv260").config], ids=["default", "kv260"])
def test_keys_and_values(config: BuildConfig, format: Format) -> None:
    """Beat d of keys has elements d * key_bytes on of every slot; of 4 bits, those of beats 2 d and 2 d + 1 in a nibble each."""
    dim, slots, part = 32, config.kv_block, config.beat_bytes // config.kv_block
    layout = KvBlockLayout(config, dim, format)
    header = 4 * slots // config.beat_bytes
    each = [dim // part // (2 if bits in format else 1) for bits in (Format.INT4_KEYS, Format.INT4_VALUES)]
    assert layout.header_beats == header and list(layout.data_beats) == each
    assert layout.first_beats == (header, header + each[0]) and layout.bytes == layout.beats * config.beat_bytes
    assert layout.beats == -(-(header + sum(each)) // config.groups) * config.groups
    rng = np.random.default_rng(1)
    for kind in range(2):
        elements = rng.integers(-127, 128, (3, slots, dim)).astype(np.int8)
        if layout.packed[kind]:
            elements = to_four_bits(elements)
        beats = layout.join(kind, elements)
        assert beats.shape == (3, each[kind], slots, part)
        where = layout.beats_of(kind)
        assert (where.start, where.stop) == (layout.first_beats[kind], layout.first_beats[kind] + each[kind])
        codes = four_bit_codes(elements)
        for block, d, slot, b in np.ndindex(beats.shape):
            if layout.packed[kind]:
                low, high = (codes[block, slot, (2 * d + h) * part + b] for h in range(2))
                assert beats.view(np.uint8)[block, d, slot, b] == low | high << 4
            else:
                assert beats[block, d, slot, b] == elements[block, slot, d * part + b]
        whole = np.ascontiguousarray(beats).view(np.uint8).reshape(3, each[kind], config.beat_bytes)
        assert np.array_equal(layout.split(kind, whole), elements)
    assert [kv_format_name(f | Format.FP8) for f in (Format.NONE, Format.INT4_VALUES, KV)] == ["k8v8", "k8v4", "k4v4"]


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize(("vocab", "inputs"), [(5, 20), (16, 32), (40, 33)])
def test_rows_of_a_short_list(vocab: int, inputs: int, groups: int) -> None:
    """Blocks of 16 rows: two beats of scales, of which the second has none, then two bytes of every row a beat."""
    rng = np.random.default_rng(vocab)
    rows = rng.integers(-121, 122, (vocab, inputs)).astype(np.int8)
    scales = rng.integers(1, 1 << 16, vocab).astype(np.uint16)
    blocks, padded = -(-vocab // 16), -(-inputs // 8) * 8
    each = -(-(2 + padded // 2) // groups) * groups
    beats = pack_head(replace(CONFIG, groups=groups), rows, scales).reshape(blocks, each, 32)
    full, all_scales = np.zeros((blocks * 16, padded), np.int8), np.zeros(blocks * 16, np.uint16)
    full[:vocab, :inputs], all_scales[:vocab] = rows, scales
    for block in range(blocks):
        assert np.array_equal(beats[block, 0].view(np.uint16), all_scales[16 * block : 16 * block + 16])
        assert not beats[block, 1].any()
        for d in range(padded // 2):
            for slot in range(16):
                expected = full[16 * block + slot, 2 * d : 2 * d + 2]
                assert np.array_equal(beats[block, 2 + d, 2 * slot : 2 * slot + 2].view(np.int8), expected)
        assert not beats[block, 2 + padded // 2 :].any()


def test_strides_of_mixing() -> None:
    """Of heads an eighth, a quarter and a half as far as these are whole vectors; of keys two within a vector first."""
    assert [mixing_strides(CONFIG, dim) for dim in (16, 32, 48, 64, 96, 128)] == [
        (8,), (8, 16), (24,), (8, 16, 32), (24, 48), (16, 32, 64),
    ]
    assert mixing_strides(CONFIG, 256) == (32, 64, 128) and mixing_strides(CONFIG, 24) == ()
    assert lane_strides(CONFIG) == (2, 4) and key_mixing_strides(CONFIG, 32) == (2, 4, 8, 16)


def test_bytes_and_beats() -> None:
    data = np.arange(33, dtype=np.uint8)
    for beats, expected in ((0, 2), (2, 2), (5, 5)):
        blob = blob_beats(CONFIG, data, beats)
        assert blob.shape == (expected, 32) and np.array_equal(blob.reshape(-1)[:33], data) and not blob.reshape(-1)[33:].any()
    assert [pad_beats(CONFIG, n) for n in (0, 1, 2, 3)] == [0, 2, 2, 4] and [vectors_of(CONFIG, n) for n in (1, 8, 9)] == [1, 1, 2]
    assert [ceil_div(n, 3) for n in (0, 1, 3, 4)] == [0, 1, 1, 2] and [align(n, 4) for n in (0, 1, 4, 5)] == [0, 4, 4, 8]
