"""The table of a loop is filled window by window, wherever these end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.sw.runtime.image_memory import ImageMemory
from hwgen.sw.runtime.vector_tokens import VectorToken


@pytest.mark.parametrize("window", [1, 7, 10, 33, 1000])
def test_embeddings_of_all_tokens(window: int) -> None:
    table = np.random.default_rng(window).integers(0, 256, (23, 10)).astype(np.uint8)
    memory: Any = ImageMemory.__new__(ImageMemory)
    memory._image = SimpleNamespace(row_bytes=10, rows=lambda tokens: table[list(tokens)])
    filled = np.zeros(table.size, np.uint8)
    fill = memory._fill_table()
    for first in range(0, filled.size, window):
        fill(filled[first : first + window])
    assert np.array_equal(filled, table.reshape(-1))


def test_rows_of_a_pass() -> None:
    """Embeddings of the tokens, and vectors in their places; nothing of the table changes."""
    table = np.arange(60, dtype=np.uint8).reshape(5, 12)
    kept, written = table.copy(), list[tuple[int, np.ndarray]]()
    memory: Any = ImageMemory.__new__(ImageMemory)
    asked: list[list[int]] = []
    memory._image = SimpleNamespace(rows=lambda tokens: (asked.append(list(tokens)), table[list(tokens)])[1])
    memory._device, memory._rows = SimpleNamespace(write=lambda at, data: written.append((at, np.array(data)))), 4096
    vector = VectorToken(np.array([7, 8, 9, 10, 11], np.uint16))
    for tokens in ([0, 3], [4], [vector, 2], [1, vector, vector]):
        memory.write_rows(tokens)
        at, rows = written[-1]
        expected = np.array([
            np.concatenate((token.bits.view(np.uint8), table[0][10:])) if isinstance(token, VectorToken) else table[token]
            for token in tokens
        ])
        assert at == 4096 and np.array_equal(rows, expected) and np.array_equal(table, kept)
    assert all(token >= 0 for tokens in asked for token in tokens)


def test_programs_are_placed_once() -> None:
    """One for every number of layers that is asked for, and that of a whole pass."""
    memory: Any = ImageMemory.__new__(ImageMemory)
    placed: list[int] = []
    memory._image = SimpleNamespace(program=lambda places, layers: bytes([layers] * 3))
    memory._device = SimpleNamespace(
        allocate=lambda size: (placed.append(size), 4096 * len(placed))[1], write=lambda at, data: None,
    )
    memory._places, memory._programs = None, {None: 7}
    assert [memory.program(layers) for layers in (None, 2, 1, 2, 1)] == [7, 4096, 8192, 4096, 8192] and placed == [3, 3]


def test_the_table_is_filled_and_the_program_written() -> None:
    """Each in its own buffer, whole: sizes as different as these two cannot be taken for each other."""
    memory: Any = ImageMemory.__new__(ImageMemory)
    log = list[tuple[Any, ...]]()
    places = iter((4096, 8192))
    memory._device = SimpleNamespace(
        allocate=lambda size: (log.append(("allocate", size)), next(places))[1],
        fill=lambda at, size, fill: log.append(("fill", at, size)), write=lambda at, data: log.append(("write", at, bytes(data))),
    )
    memory._places = SimpleNamespace(constants=(1, 2))
    memory._image = SimpleNamespace(
        loop_buffers=[230, 6], row_bytes=10, program=lambda places: bytes((*places.constants, places.rows >> 8, 7, 8, 9)),
    )
    assert memory.loop_program == 8192
    assert log == [("allocate", 230), ("allocate", 6), ("fill", 4096, 230), ("write", 8192, bytes((1, 2, 16, 7, 8, 9)))]
    none: Any = ImageMemory.__new__(ImageMemory)
    none._image, none._device = SimpleNamespace(loop_buffers=[]), None
    assert none.loop_program is None


def test_what_an_image_puts_where() -> None:
    """Every buffer of its own; constants in the order in which they are read; pages one behind the other in theirs."""
    constants, asked = np.arange(1, 9, dtype=np.uint8), list[int]()

    @contextmanager
    def reading() -> Iterator[Callable[[np.ndarray], None]]:
        parts = iter(constants.tolist())

        def read(window: np.ndarray) -> None:
            window[:] = [next(parts) for _ in range(window.size)]

        yield read

    content = np.zeros(1000, np.uint8)

    def write(at: int, data: np.ndarray) -> None:
        content[at : at + data.size] = data

    device: Any = SimpleNamespace(
        allocate=lambda size: (asked.append(size), 100 * len(asked))[1], write=write,
        fill=lambda at, size, read: read(content[at : at + size]),
    )
    sizes = {"constants": [5, 3], "rows": [7], "program": [4], "logits": [9], "pages": [8, 4]}
    image: Any = SimpleNamespace(
        buffers=lambda: sizes, page_bytes=4, constants=SimpleNamespace(reading=reading),
        program=lambda places: bytes((*(at // 100 for at in places.constants), places.rows // 100, 77)),
    )
    memory = ImageMemory(device, image)
    assert asked == [5, 3, 7, 4, 9, 8, 4]
    assert content[100:106].tolist() == [1, 2, 3, 4, 5, 0] and content[200:204].tolist() == [6, 7, 8, 0]
    assert content[400:405].tolist() == [1, 2, 3, 77, 0] and (memory.program(), memory.logits) == (400, 500)
    assert memory.pages == [600, 604, 700] and not content[600:].any()
    memory._image.rows = lambda tokens: np.full((len(tokens), 3), 9, np.uint8)
    device.write = lambda at, data: write(at, data.reshape(-1))
    memory.write_rows([0, 1])
    assert content[300:307].tolist() == [9] * 6 + [0]


def test_no_room_for_the_table() -> None:
    """There are no loops then; nothing is asked for again."""
    asked: list[int] = []

    def allocate(size: int) -> int:
        asked.append(size)
        raise HwgenError("memory", "full", "")

    memory: Any = ImageMemory.__new__(ImageMemory)
    memory._image, memory._device = SimpleNamespace(loop_buffers=[230, 6], row_bytes=10), SimpleNamespace(allocate=allocate)
    assert memory.loop_program is None and memory.loop_program is None and asked == [230]
