"""Layout of data in memory: the LM head, byte by byte."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.boards import load_board
from hwgen.layout import ZERO_BYTE, head_block_beats, pack_head, unpack_trits


@pytest.mark.parametrize("at_a_time", [1, 2, 64])
def test_head(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every element of every row is, whatever number of blocks is arranged at a time."""
    config = load_board("demo").config
    monkeypatch.setattr("hwgen.layout._HEAD_BLOCKS", at_a_time)
    vocab, inputs = 2 * config.kv_block + 3, 3 * config.key_bytes
    rng = np.random.default_rng(1)
    rows, scales = rng.integers(-127, 128, (vocab, inputs), dtype=np.int8), rng.integers(1, 1 << 16, vocab, dtype=np.uint16)
    beats = head_block_beats(config, inputs)
    expected = np.zeros((3 * beats, config.beat_bytes), np.uint8)
    for row in range(vocab):
        block, slot = divmod(row, config.kv_block)
        header = expected[block * beats : block * beats + config.header_beats].reshape(-1).view(np.uint16)
        header[slot] = scales[row]
        for i in range(inputs):
            beat = block * beats + config.header_beats + i // config.key_bytes
            expected[beat, slot * config.key_bytes + i % config.key_bytes] = rows[row, i].view(np.uint8)
    np.testing.assert_array_equal(pack_head(config, rows, scales), expected)


def test_the_byte_of_zeros() -> None:
    assert ZERO_BYTE == 121 and not unpack_trits(np.full((2, 3), ZERO_BYTE, np.uint8)).any()
