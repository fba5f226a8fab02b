"""The table of a loop is filled window by window, wherever these end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.sw.runtime.image_memory import ImageMemory


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
