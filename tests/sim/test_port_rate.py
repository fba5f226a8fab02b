"""What the read stream gets of the memory model, and the tables beside the boards."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hwgen.boards import board_names, load_board
from hwgen.errors import HwgenError
from hwgen.sim.board_timing import MemoryConditions, board_timing
from hwgen.sim.dram import IDEAL
from hwgen.sim.port_rate import LATENCIES_NS, port_rate, rates_path, stream_rate, tabled_port_rate

KV260 = load_board("kv260")
PLATFORMS = [name for name in board_names() if load_board(name).platform is not None]


@pytest.mark.parametrize("ports", [4, 5, 8])
def test_an_ideal_memory_gives_a_beat_a_cycle(ports: int) -> None:
    assert stream_rate(replace(KV260.config, ports=ports), IDEAL, [0], 16 << 20) > 0.995  # the last block is taken behind its end


def test_fewer_ports_than_a_beat_has_words_give_their_words() -> None:
    for ports in (1, 2, 3):
        rate = stream_rate(replace(KV260.config, ports=ports), IDEAL, [0], 4 << 20)
        assert rate == pytest.approx(ports / 4, rel=0.02)


def test_a_window_bounds_the_rate() -> None:
    timing = replace(IDEAL, read_latency=200, max_reads=8, read_buffer_bytes=2048)
    # A port has 128 words in flight for 200 cycles and the time that they take; a beat is four.
    for ports in (1, 3):
        rate = stream_rate(replace(KV260.config, ports=ports), timing, [0], 1 << 20)
        assert rate == pytest.approx(ports * 128 / 215 / 4, rel=0.05)


@pytest.mark.parametrize("name", PLATFORMS)
def test_tables_are_those_of_the_model(name: str) -> None:
    board = load_board(name)
    for latency, cpu in ((320.0, 0.0), (480.0, 1e9)):
        conditions = MemoryConditions(latency_ns=latency, cpu_bytes_per_s=cpu)
        measured = port_rate(board.config, board_timing(board, conditions))
        assert tabled_port_rate(board, conditions) == pytest.approx(measured, abs=1e-3), "python -m hwgen.sim.port_rate --write"


@pytest.mark.parametrize("name", PLATFORMS)
def test_more_latency_and_more_traffic_are_not_faster(name: str) -> None:
    rates = json.loads(rates_path(name).read_text())["rates"]
    for row in rates:
        assert all(a >= b - 0.03 for a, b in zip(row, row[1:], strict=False)) and row[0] > row[-1]
    for column in zip(*rates, strict=True):
        assert all(a >= b - 0.08 for a, b in zip(column, column[1:], strict=False))


def test_between_and_beyond_the_points() -> None:
    def rate(latency: float, cpu: float = 0.0) -> float:
        return tabled_port_rate(KV260, MemoryConditions(latency_ns=latency, cpu_bytes_per_s=cpu))

    assert rate(360) == pytest.approx((rate(320) + rate(400)) / 2)
    assert rate(320, 0.75e9) == pytest.approx((rate(320, 0.5e9) + rate(320, 1e9)) / 2)
    assert rate(10 * LATENCIES_NS[-1]) == rate(LATENCIES_NS[-1])


def test_a_board_that_was_not_measured_is_refused() -> None:
    with pytest.raises(HwgenError, match="the memory ports of board 'mine' were not measured"):
        tabled_port_rate(replace(KV260, name="mine"), MemoryConditions())
