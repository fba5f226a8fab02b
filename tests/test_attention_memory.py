from __future__ import annotations

import pytest

from hwgen.attention_memory import AttentionMemory, last_column
from hwgen.config import BuildConfig


@pytest.mark.parametrize(
    ("bits", "depth", "rest"),
    [
        (128, 64, (20, "distributed")),  # 3 columns of 36
        (128, 512, (20, "block")),
        (128, 1024, (2, "distributed")),  # 7 columns of 18
        (36, 512, (0, "distributed")),
        (20, 64, (0, "distributed")),  # less than a column is the column
        (64, 8192, (0, "distributed")),
    ],
)
def test_last_column(bits: int, depth: int, rest: tuple[int, str]) -> None:
    assert last_column(bits, depth) == rest


@pytest.mark.parametrize(("depth", "rest"), [
    (512, 0), (513, 10), (1024, 10), (1025, 10), (2048, 10), (2049, 1), (4096, 1), (4097, 0),
])
def test_every_depth_has_its_column(depth: int, rest: int) -> None:
    """Of 36, 18, 18 and 9 bits; deeper ones have none."""
    assert last_column(28, depth) == (rest, "block" if rest else "distributed")


def test_lanes_that_do_not_divide_the_chunk_waste_a_row_of_every_head() -> None:
    shape = {"max_heads": 16, "max_kv_heads": 8, "max_shared": 2, "query_lanes": 4}
    whole, ragged = (AttentionMemory(BuildConfig.from_dict(shape | {"chunk": chunk})) for chunk in (8, 6))
    assert (whole.rounds, whole.query_rows) == (4, 32)
    assert (ragged.rounds, ragged.query_rows) == (3, 24 + 8)
    assert whole.output_words == 4 * whole.dims
    elements = {"max_query": 1024, "max_head_dim": 64, "max_inputs": 256}
    whole, ragged = (AttentionMemory(BuildConfig.from_dict(shape | elements | {"chunk": chunk})) for chunk in (8, 6))
    assert whole.query_words == 8 * 1024 // 4 // 8 and ragged.query_words == (6 * 1024 // 4 + 8 * 64) // 8
