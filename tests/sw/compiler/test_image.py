"""Buffers of an image, places of its programs, and the contiguous memory that published models take on their boards."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from hwgen.boards import load_board
from hwgen.descriptors import Fetch, Format, Opcode, unpack_program
from hwgen.published import published_model
from hwgen.sw.compiler.compile import compile_model, plan_image
from hwgen.sw.compiler.image import Image, Places
from hwgen.sw.compiler.placement import contiguous_bytes, pages_together
from hwgen.sw.models.random_model import RandomModel
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.weights import ModelWeights

from ..conftest import CONFIG, SHAPE
from .content import content

MIB = 1 << 20


class Weightless(RandomModel):
    """Sizes of a model; whoever asks for a byte of it fails."""

    def embedding_bits(self) -> np.ndarray:
        raise AssertionError("the placement must not need weights")

    quantized_head = embedding_bits  # type: ignore[assignment]


def planned(name: str, board: str, head: str, context: int, group: int = 128) -> Image:
    model = published_model(name)
    weights = Weightless(replace(model.shape, max_context=context), model.layer, model.engine, group=group)
    config = load_board(board).for_engine(model.engine).config
    if name == "bitnet-0.73b" and board == "pynq-z2":  # a build for larger layers
        larger = {"max_inputs": 4096, "max_head_dim": 96, "max_heads": 16, "max_kv_heads": 16, "max_query": 1536}
        config = replace(config, **larger, param_vectors=2048, scratch_vectors=8192)  # type: ignore[arg-type]  # fields by name
    return plan_image(config, weights, head=head)  # type: ignore[arg-type]  # a random model has what compilers use


@pytest.mark.parametrize(
    ("name", "head", "context", "group"),
    [
        ("bitnet-0.73b", "shortlist", 2048, 128), ("bitnet-2b4t", "shortlist", 2048, 128), ("bitnet-2b4t", "shortlist", 4096, 128),
        ("llama-1b", "exact", 2048, 128), ("llama-1b", "exact", 2048, 32),
    ],
)
def test_published_models_fit_the_memory_that_a_kv260_boots_with(name: str, head: str, context: int, group: int) -> None:
    image = planned(name, "kv260", head, context, group)
    assert image.context == context and image.pages * image.config.kv_block == context
    sizes = [size for of in image.buffers().values() for size in of]
    assert sum(sizes) <= image.contiguous_bytes <= (1000e6 if context == 2048 else 968 * MIB)  # of 1000 MiB, drivers take some
    shape = image.shape
    assert sum(sizes) > shape.linear_weights // (5 if image.engine == "ternary" else 2) + shape.vocab * shape.hidden
    assert max(image.page_buffers) < 8 * MIB  # what one page costs to synchronise
    check_parts(image, 64 * MIB)


def check_parts(image: Image, most: int) -> None:
    """Parts of the constants follow one another; one that is larger than ``most`` is a region that cannot be parted. What an
    operator reads lies in one region, and every region in one part.
    """
    regions = sorted(image.symbols.values(), key=lambda region: region.offset)
    at = 0
    for part in image.constant_parts:
        inside = [r for r in regions if part.offset <= r.offset < part.offset + part.bytes]
        assert part.offset == at and part.offset % 4096 == 0 and inside[0].offset == part.offset
        assert inside[-1].offset + inside[-1].bytes <= part.offset + part.bytes
        large = [r for r in inside if r.offset % 4096 == 0]
        assert part.bytes <= most or len(large) == 1
        at += part.bytes
    assert at == image.constants.bytes
    assert all(a.bytes + b.bytes > most for a, b in pairwise(image.constant_parts)), "no more of them than needed"
    for d in image.descriptors:
        if d.fetch in (Fetch.STREAM, Fetch.POSITION, Fetch.SHORTLIST):
            (region,) = [r for r in regions if r.offset <= d.stream_address < r.offset + r.bytes]
            assert d.fetch is not Fetch.STREAM or (
                d.stream_address + d.stream_beats * image.config.beat_bytes <= region.offset + region.bytes
            )


def test_small_boards() -> None:
    """No buffer of a PYNQ-Z2 is larger than 64 MiB (its head is 57): a contiguous area has no room for one of them all."""
    image = planned("bitnet-0.73b", "pynq-z2", "shortlist", 1024)
    assert image.contiguous_bytes < 300e6
    check_parts(image, 64 * MIB)
    assert max(image.buffers()["constants"]) <= 64 * MIB < sum(image.buffers()["constants"]) // 2


@pytest.mark.parametrize(
    ("size", "taken"),
    [(1, 8192), (4096, 8192), (9000, 16384), (3 << 18, MIB), (MIB, MIB), (MIB + 1, 2 * MIB), (5 * MIB // 2, 3 * MIB)],
)
def test_contiguous_memory_is_aligned_to_its_size(size: int, taken: int) -> None:
    assert contiguous_bytes(size) == taken


@pytest.mark.parametrize("page_bytes", [4096, 8192, 540672, MIB, 1249280, 2408448, 5 * MIB])
def test_pages_share_buffers_of_little_waste(page_bytes: int) -> None:
    count = pages_together(page_bytes)
    assert contiguous_bytes(count * page_bytes) <= 1.2 * count * page_bytes
    assert all(contiguous_bytes(n * page_bytes) > 1.2 * n * page_bytes for n in range(1, count))


def test_page_buffers(weights: ModelWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    image = compile_model(CONFIG, weights)
    more = with_cache_tokens(image, 10 * CONFIG.kv_block + 1)
    assert more.pages == 11 and sum(more.page_buffers) == 11 * image.page_bytes
    assert more.constants is image.constants
    monkeypatch.setattr("hwgen.sw.compiler.image.pages_together", lambda page_bytes: 4)
    assert more.page_buffers == [4 * image.page_bytes, 4 * image.page_bytes, 3 * image.page_bytes]


def test_a_program_moves_with_the_buffers(weights: ModelWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwgen.sw.compiler.image.CONSTANTS_BUFFER", 8192)
    image = compile_model(CONFIG, weights)
    assert len(image.constant_parts) > 3
    check_parts(image, 8192)
    bases = tuple(0x12345000 - 0x10_0000 * number for number in range(len(image.constant_parts)))  # in any order
    places = Places(bases, 0x7000_0000)
    moved = list(unpack_program(image.program(places)))
    assert len(moved) == len(image.descriptors)
    used = set()
    for tag, (a, b) in enumerate(zip(moved, image.descriptors, strict=True)):
        expected = b.stream_address
        if b.fetch is Fetch.TOKEN:
            expected += places.rows
        elif b.fetch in (Fetch.STREAM, Fetch.POSITION, Fetch.SHORTLIST) or b.opcode is Opcode.LINEAR:
            (number,) = [i for i, p in enumerate(image.constant_parts) if p.offset <= expected < p.offset + p.bytes]
            expected += bases[number] - image.constant_parts[number].offset
            used.add(number)
        assert a.tag == tag and a.stream_address == expected
    assert used == set(range(len(bases)))


def test_a_plan_packs_what_compiling_does(weights: ModelWeights) -> None:
    lazy, packed = plan_image(CONFIG, weights), compile_model(CONFIG, weights)
    assert lazy.symbols == packed.symbols and lazy.descriptors == packed.descriptors
    np.testing.assert_array_equal(content(lazy.constants), content(packed.constants))
    pieces = np.empty(lazy.constants.bytes, np.uint8)
    with lazy.constants.reading() as read:  # in windows of any size
        for first in range(0, pieces.size, 999):
            read(pieces[first : first + 999])
    np.testing.assert_array_equal(pieces, content(packed.constants))
    tokens = [3, SHAPE.vocab - 1, 3]
    np.testing.assert_array_equal(lazy.rows(tokens), packed.rows(tokens))
    assert lazy.model_hash == packed.model_hash


def whole_frames(sizes: list[int]) -> int:
    return sum(-(-size // 4096) for size in sizes) * 4096


@pytest.mark.parametrize("head", ["exact", "shortlist"])
def test_buffers_in_bytes(weights: ModelWeights, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 45 bf16 numbers take four beats of 32 bytes, at multiples of 256; 259 logits 33 beats. A loop has all rows."""
    image = compile_model(CONFIG, weights, head=head)
    program = whole_frames([64 * (len(image.descriptors) + 8)])
    buffers = {"program": [program], "rows": [image.chunk * 256], "logits": [1056 * (1 if head == "shortlist" else image.chunk)]}
    assert image.row_bytes == 256 and buffers.items() <= image.buffers().items()
    assert sum(image.buffers()["constants"]) == image.constants.bytes and sum(image.page_buffers) == image.pages * image.page_bytes
    assert image.loop_buffers == [259 * 256, program]
    needed = whole_frames([259 * 256, program, *(size for sizes in image.buffers().values() for size in sizes)])
    assert image.memory_bytes() == needed + MIB and image.memory_bytes(1) == needed + 4096 and image.memory_bytes(0) == needed
    monkeypatch.setattr("hwgen.sw.compiler.image.LOOP_TABLE", 259 * 256)
    assert image.loop_buffers
    monkeypatch.setattr("hwgen.sw.compiler.image.LOOP_TABLE", 259 * 256 - 1)
    assert image.loop_buffers == [] and image.memory_bytes(0) == needed - whole_frames([259 * 256]) - program


def test_a_program_of_the_first_layers(weights: ModelWeights) -> None:
    """It ends with the keys and values of the last of them, without its attention and what would turn that back."""
    image = compile_model(replace(CONFIG, int4_kv=True), replace(weights, kv="k4v4"))
    places = Places((1 << 20,) * len(image.constant_parts), 1 << 24)
    moved = {(d.layer, d.tag): d for d in unpack_program(image.program(places))}
    for layers in (1, 2):
        writes = [i for i, d in enumerate(image.descriptors) if d.opcode is Opcode.KV_WRITE]
        kept = [
            i for i, d in enumerate(image.descriptors[: writes[layers - 1] + 1])
            if not (d.layer == layers - 1 and (d.opcode is Opcode.ATTENTION or Format.UNMIX in d.format))
        ]
        assert len(kept) < writes[layers - 1], "attention is left out, and a turn back"
        found = list(unpack_program(image.program(places, layers)))
        assert found == [replace(moved[image.descriptors[i].layer, i], tag=n) for n, i in enumerate(kept)]
    for wrong in (0, 3):
        with pytest.raises(ValueError, match=f"layers must be 1 to 2, not {wrong}"):
            image.first_layers(wrong)


def test_images_are_themselves(weights: ModelWeights) -> None:
    """Arrays are not compared one by one: a copy is another image, and any may be a key."""
    image = compile_model(CONFIG, weights)
    copy = replace(image)
    assert image != copy and len({image, copy, image}) == 2


@pytest.mark.parametrize(("name", "engine", "board"), [
    ("bitnet-0.73b", "ternary", "kv260"), ("bonsai-1.7b", "grouped", "kv260"), ("llama-1b", "int4", "kv260"),
])
def test_the_engine_that_an_image_needs(name: str, engine: str, board: str) -> None:
    image = planned(name, board, "exact", 256)
    assert (image.engine, image.kv, image.head) == (engine, "k8v8", "exact")
