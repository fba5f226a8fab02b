from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen.config import BuildConfig
from hwgen.descriptors import Buffers, Fetch, Flag, Opcode
from hwgen.errors import HwgenError
from hwgen.formats import rotary_rows, widen_bf16
from hwgen.layout import KvBlockLayout, unpack_ternary, vectors_of
from hwgen.operators import accumulator_vectors
from hwgen.rounding import align, ceil_div
from hwgen.shape import ModelShape
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.placement import FRAME_BYTES, SEGMENT_ALIGNMENT
from hwgen.weights import ModelWeights, random_weights

from ..conftest import CONFIG, SHAPE
from .content import content


@pytest.fixture(scope="module")
def image(weights: ModelWeights) -> Image:
    return compile_model(CONFIG, weights, name="small")


def segment(image: Image, name: str) -> np.ndarray:
    region = image.symbols[name]
    return content(image.constants)[region.offset : region.offset + region.bytes].reshape(-1, image.config.beat_bytes)


def test_regions_do_not_overlap(image: Image) -> None:
    end = 0
    for name, region in sorted(image.symbols.items(), key=lambda item: item[1].offset):
        assert region.offset >= end, name
        assert region.offset % 64 == 0, name
        end = region.offset + region.bytes
    assert end <= image.constants.bytes < end + 4096
    for name in ("rotary", "layers.1.down.0", "head.0"):
        assert image.symbols[name].offset % 4096 == 0


def test_segments_are_whole_rows_inside_their_buffers(image: Image) -> None:
    for d in image.descriptors:
        if d.fetch is Fetch.NONE:
            continue
        room = {Fetch.TOKEN: image.row_bytes, Fetch.CACHE: image.page_bytes}.get(d.fetch, image.constants.bytes)
        assert d.stream_beats % CONFIG.groups == 0 and d.stream_beats > 0
        assert d.stream_address + d.stream_beats * CONFIG.beat_bytes <= room


@pytest.mark.parametrize("panel_rows", [CONFIG.panel_rows, 48])
def test_matrices_are_in_their_panels(weights: ModelWeights, panel_rows: int) -> None:
    config = replace(CONFIG, panel_rows=panel_rows)
    image, w = compile_model(config, weights), config.width

    def unpacked(name: str, rows: int, inputs: int) -> np.ndarray:
        """A matrix from its panels, whole vectors of rows."""
        height, parts = vectors_of(config, rows) * w, []
        while (part := f"{name}.{len(parts)}") in image.symbols:
            beats = segment(image, part)
            part_rows = beats.shape[0] // ceil_div(inputs, config.slice_inputs) * config.rows
            assert part_rows <= panel_rows
            parts.append(unpack_ternary(config, beats, part_rows, inputs))
        assert len(parts) in (ceil_div(height, panel_rows), ceil_div(height, panel_rows) + 1)  # one more where it splits q | k | v
        whole = np.concatenate(parts)
        assert not whole[height:].any()
        return whole[:height]

    for i, layer in enumerate(weights.layers):
        for name in ("o", "gate", "up", "down"):
            matrix = layer.matrices[name]
            whole = unpacked(f"layers.{i}.{name}", matrix.rows, matrix.inputs)
            np.testing.assert_array_equal(whole[: matrix.rows], matrix.trits)
            assert not whole[matrix.rows :].any()
        parts = [layer.matrices["q"], layer.matrices["k"], layer.matrices["v"]]
        fused = unpacked(f"layers.{i}.qkv", sum(vectors_of(config, p.rows) * w for p in parts), SHAPE.hidden)
        start = 0
        for part in parts:
            np.testing.assert_array_equal(fused[start : start + part.rows], part.trits)
            start += vectors_of(config, part.rows) * w


def test_tables_of_rows(image: Image, weights: ModelWeights) -> None:
    """Rotary rows by position in the constants; embeddings by token with the host, and by place in the pass on the device."""
    by_opcode = {d.opcode: d for d in reversed(image.descriptors)}  # the first of each
    data, tokens = content(image.constants), range(SHAPE.vocab)
    tables = {
        Opcode.EMBED: (image.rows(tokens), np.uint16, widen_bf16, weights.embedding),
        Opcode.ROTARY: (data, np.float32, np.asarray, rotary_rows(SHAPE, np.arange(SHAPE.max_context))),
    }
    for opcode, (table, dtype, value, expected) in tables.items():
        d = by_opcode[opcode]
        for index in (0, 1, len(expected) - 1):
            start = d.stream_address + index * d.stride
            row = value(table.reshape(-1)[start : start + d.stream_beats * CONFIG.beat_bytes].view(dtype))
            np.testing.assert_array_equal(row[: expected.shape[1]], expected[index])
            assert not row[expected.shape[1] :].any()
    assert by_opcode[Opcode.EMBED].stride == image.row_bytes


def units(image: Image, layer: int) -> list[Opcode]:
    return [d.opcode for d in image.descriptors if d.layer == layer]


def test_program_of_one_round(weights: ModelWeights) -> None:
    image = compile_model(replace(CONFIG, chunk=CONFIG.tokens), weights)
    o = Opcode
    # gains of a norm are loaded one stage ahead; DRAIN of a panel follows the LINEAR of the next
    assert units(image, 0)[2:] == [
        o.PARAM, o.NORM, o.PARAM, o.LINEAR, o.DRAIN, o.DRAIN, o.DRAIN, o.ROPE, o.ATTENTION, o.KV_WRITE,
        o.NORM, o.PARAM, o.LINEAR, o.DRAIN, o.NORM, o.PARAM, o.LINEAR, o.LINEAR, o.DRAIN, o.DRAIN, o.NORM, o.LINEAR, o.DRAIN,
    ]
    assert [d.opcode for d in image.descriptors[:2]] == [Opcode.ROTARY, Opcode.EMBED]
    panels = [d for d in image.descriptors if d.opcode is o.LINEAR and d.layer == SHAPE.layers]
    head = [o.NORM, o.EMBED, o.LINEAR, *[o.LINEAR, o.DRAIN] * (len(panels) - 1), o.DRAIN]
    assert [d.opcode for d in image.descriptors[-len(head) :]] == head
    assert [d.opcode for d in image.descriptors if Flag.LOGITS in d.flags] == [o.PARAM, *head]


def test_the_head_is_read_once_a_round(weights: ModelWeights) -> None:
    """Every row of the vocabulary in one panel, for every round of wanted tokens, whose logits lie one behind the other."""
    image = compile_model(CONFIG, weights)
    drains = [d for d in image.descriptors if d.opcode is Opcode.DRAIN and Flag.CANDIDATES in d.flags]
    rounds = sorted({d.token_start for d in drains})
    assert rounds == list(range(0, image.chunk, CONFIG.tokens))
    size = image.logits_bytes
    for start in rounds:
        row = 0
        for d in (d for d in drains if d.token_start == start):
            assert (d.stride, d.head_stride, d.stream_beats * CONFIG.beat_bytes) == (row, SHAPE.vocab, size)
            assert d.stream_address == start * size + 4 * row
            row += d.vectors * CONFIG.width
        assert SHAPE.vocab <= row <= size // 4


@pytest.mark.parametrize("chunk", [4, 8, 16])
def test_buffers_of_neighbours_differ(weights: ModelWeights, chunk: int) -> None:
    """DRAIN may run beside the next LINEAR, and NORM of the next round beside this one, only on other halves."""
    image = compile_model(replace(CONFIG, chunk=chunk, kv_block=16, panel_rows=48, scratch_vectors=4096), weights)
    linear = [d for d in image.descriptors if d.opcode is Opcode.LINEAR]
    halves = [Buffers.ACCUMULATOR in d.buffers for d in linear]
    assert all(a != b for a, b in zip(halves, halves[1:], strict=False))
    written: dict[bool, tuple[int, int]] = {}
    for d in image.descriptors:
        half = Buffers.ACTIVATION in d.buffers
        if d.opcode is Opcode.NORM and Flag.TO_QUERY not in d.flags:
            written[half] = d.layer, d.token_start
        elif d.opcode is Opcode.LINEAR:
            assert written[half] == (d.layer, d.token_start)


def test_drain_reads_what_its_linear_wrote(image: Image) -> None:
    latest: dict[Buffers, tuple[int, int, int]] = {}
    for d in image.descriptors:
        half = d.buffers & Buffers.ACCUMULATOR
        if d.opcode is Opcode.LINEAR:
            latest[half] = d.layer, d.token_start, d.row_blocks * CONFIG.rows // CONFIG.width
        elif d.opcode is Opcode.DRAIN:
            layer, start, vectors = latest[half]
            assert (layer, start) == (d.layer, d.token_start) and d.row_blocks + accumulator_vectors(d) <= vectors


def test_rounds_cover_every_token_once(image: Image) -> None:
    for opcode in (Opcode.NORM, Opcode.LINEAR, Opcode.DRAIN):
        for layer in range(SHAPE.layers):
            covered = [
                t
                for d in image.descriptors
                if d.opcode is opcode and d.layer == layer
                for t in range(d.token_start, d.token_start + d.token_count)
            ]
            counts = {covered.count(t) for t in range(image.chunk)}
            assert len(counts) == 1 and set(covered) == set(range(image.chunk))


@pytest.mark.parametrize(("chunk", "marked"), [(4, 0), (8, 0), (12, 3)])
def test_norms_are_repeated_for_more_than_two_rounds(weights: ModelWeights, chunk: int, marked: int) -> None:
    image = compile_model(replace(CONFIG, chunk=chunk, kv_block=16, scratch_vectors=4096), weights)
    layer = [d for d in image.descriptors if d.layer == 0 and Flag.MULTI in d.flags]
    assert len(layer) == marked and all(d.opcode is Opcode.NORM for d in layer)


@pytest.mark.parametrize(("ring", "replayed"), [(4096, True), (256, False)])
def test_replay_where_the_matrix_fits(ring: int, replayed: bool) -> None:
    shape = ModelShape(**{**SHAPE.to_dict(), "hidden": 200, "ffn": 300})  # type: ignore[arg-type]
    config = replace(CONFIG, ring_beats=ring, burst=16)
    image = compile_model(config, random_weights(shape))
    gate = [
        d
        for d in image.descriptors
        if d.opcode is Opcode.LINEAR and d.layer == 0 and d.slices == 5 and d.row_blocks == 76
    ]
    assert len(gate) == 4 and gate[0].stream_beats == 380
    for d in gate:
        first = d.token_start == 0
        assert (Flag.REPLAY in d.flags) == (replayed and first)
        assert d.fetch is (Fetch.STREAM if first or not replayed else Fetch.NONE)


def test_kv_pages(image: Image) -> None:
    block = align(KvBlockLayout(CONFIG, SHAPE.head_dim).bytes, SEGMENT_ALIGNMENT)
    for layer in range(SHAPE.layers):
        users = [d for d in image.descriptors if d.layer == layer and d.opcode in (Opcode.ATTENTION, Opcode.KV_WRITE)]
        assert len({(d.stream_address, d.stride, d.head_stride, d.stream_beats) for d in users}) == 1
        assert users[0].stream_address == layer * SHAPE.kv_heads * block
        assert users[0].stride == FRAME_BYTES and image.page_bytes >= SHAPE.layers * SHAPE.kv_heads * block
    assert image.page_bytes % FRAME_BYTES == 0
    assert image.pages == ceil_div(SHAPE.max_context, CONFIG.kv_block)


@pytest.mark.parametrize("kv", ["k8v8", "k4v4"])
def test_a_choice_before_the_attention_of_every_layer(weights: ModelWeights, kv: str) -> None:
    """In builds that choose blocks; other operators stay what they are, and without it so does the whole program."""
    config = replace(CONFIG, int4_kv=True, max_context=512)
    weights = replace(weights, kv=kv)
    plain, image = compile_model(config, weights), compile_model(replace(config, kv_budget=4), weights)
    numbered = {n: d for n, d in enumerate(image.descriptors) if Flag.CHOOSE in d.flags}
    layout = KvBlockLayout(config, SHAPE.head_dim, next(iter(numbered.values())).format)
    assert [d.layer for d in numbered.values()] == list(range(SHAPE.layers))
    for n, choice in numbered.items():
        attention = image.descriptors[n + 1]
        assert attention.opcode is Opcode.ATTENTION and attention.fetch is Fetch.CACHE
        same = replace(
            choice, flags=attention.flags, fetch=Fetch.CACHE, stream_beats=attention.stream_beats, dst=attention.dst,
            dst_stride=attention.dst_stride, tag=attention.tag,
        )
        assert same == attention and choice.fetch is Fetch.SUMMARY and choice.dst == choice.dst_stride == 0
        assert choice.stream_beats == align(layout.first_beats[1], config.groups) < attention.stream_beats
    assert [d for d in image.descriptors if Flag.CHOOSE not in d.flags] == list(plain.descriptors)
    assert not any(Flag.CHOOSE in d.flags for d in plain.descriptors)
    assert plain.pages == ceil_div(SHAPE.max_context, CONFIG.kv_block) == image.pages - 1, "one page has summaries of all blocks"
    first = image.first_layers(1)
    assert not any(d.opcode is Opcode.ATTENTION for d in first) and first[-1].opcode is Opcode.KV_WRITE


def test_fewer_tokens_a_pass_where_the_scratch_is_small(weights: ModelWeights) -> None:
    need = (
        vectors_of(CONFIG, SHAPE.hidden) + 2 * vectors_of(CONFIG, SHAPE.q_rows) + 2 * vectors_of(CONFIG, SHAPE.kv_rows)
    )
    assert compile_model(replace(CONFIG, scratch_vectors=3 * need), weights).chunk == 3
    assert compile_model(replace(CONFIG, scratch_vectors=5 * need), weights).chunk == CONFIG.tokens  # in whole rounds
    big = compile_model(replace(CONFIG, scratch_vectors=7 * need), weights)
    assert big.chunk == 6  # two rounds of three of the four lanes
    for d in big.descriptors:
        assert d.dst + (d.token_count - 1) * d.dst_stride < 7 * need


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_inputs": 80}, r"needs 88 inputs .* max_inputs=80"),
        ({"max_query": 32}, r"needs 48 query elements of a token, .* max_query=32"),
        ({"max_heads": 2}, r"needs 3 query heads"),
        ({"max_shared": 2}, r"needs 3 query heads a key/value head"),
        (
            {"ports": 4, "beat_bytes": 64, "rows": 8, "builders": 2, "kv_block": 32, "max_head_dim": 64},
            r"head_dim is 16, .* a multiple of 32",
        ),
        ({"scratch_vectors": 8}, r"has scratch_vectors=8"),
        ({"param_vectors": 8}, r"has param_vectors=8"),
    ],
)
def test_model_that_does_not_fit(weights: ModelWeights, changes: dict[str, int], message: str) -> None:
    with pytest.raises(HwgenError, match=message) as caught:
        compile_model(replace(CONFIG, **changes), weights)  # type: ignore[arg-type]
    assert caught.value.kind == "model" and caught.value.fix


def test_kv260_takes_both_published_models() -> None:
    from hwgen.boards import load_board
    from hwgen.sw.compiler.placement import check_fit, plan_scratch

    config = load_board("kv260").config
    large = ModelShape(
        hidden=1536, layers=24, heads=16, kv_heads=16, head_dim=96, ffn=4096, vocab=32002, activation="silu"
    )
    big = ModelShape(hidden=2560, layers=30, heads=20, kv_heads=5, head_dim=128, ffn=6912, vocab=128256)
    for shape in (large, big):
        check_fit(config, shape)
        assert plan_scratch(config, shape).chunk >= 12


def test_build_config_default_takes_the_story_model() -> None:
    from hwgen.sw.compiler.placement import check_fit, plan_scratch
    from hwgen.sw.training.train import STORY_SHAPE

    check_fit(BuildConfig(), STORY_SHAPE)
    assert plan_scratch(BuildConfig(), STORY_SHAPE).chunk == BuildConfig().chunk
