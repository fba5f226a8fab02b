"""Driving a Verilated design: registers, running, mirrors, waves and faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pywellen

from hwgen.sim.accelerator import RegisterError, SimulatedAccelerator, SimulationTimeout
from hwgen.sim.dram import IDEAL, KV260, RANDOM
from hwgen.sim.verilate import build_library

from .dma_engine import (
    BURSTS,
    CONTROL,
    COPY,
    ID_BITS,
    PORT,
    PROBES,
    UNMAPPED,
    Job,
    dma_verilog,
    expected_hashes,
    read_hashes,
    start,
)

IRQ_BIT = 1 << 4


def test_registers_hold_what_is_written(dma: SimulatedAccelerator) -> None:
    for offset in range(PORT, PORT + 0x80, 4):
        dma.write_register(offset, offset * 0x01234567)
    for offset in range(PORT, PORT + 0x80, 4):
        assert dma.read_register(offset) == offset * 0x01234567 & 0xFFFFFFFF


def test_register_errors_are_raised(dma: SimulatedAccelerator) -> None:
    with pytest.raises(RegisterError, match="reading register 0x800"):
        dma.read_register(UNMAPPED)
    with pytest.raises(RegisterError, match="writing register 0x800"):
        dma.write_register(UNMAPPED, 1)
    dma.write_register(PORT, 5)
    assert dma.read_register(PORT) == 5


def test_ticks_are_cycles(dma: SimulatedAccelerator) -> None:
    begin = dma.cycle
    dma.tick()
    dma.tick(41_234)
    dma.tick(0)
    assert dma.cycle - begin == 41_235


def test_irq_and_register_agree(dma: SimulatedAccelerator) -> None:
    start(dma, [Job(0, 30, 15)])
    cycles = dma.run_until_irq(10_000)
    assert dma.irq and dma.run_until_irq(10_000) == 0
    start(dma, [Job(0, 30, 15)])
    assert not dma.irq
    polled = dma.run_until_register(CONTROL, IRQ_BIT, IRQ_BIT, 10_000, interval=10)
    assert abs(polled - cycles) < 40
    with pytest.raises(SimulationTimeout, match="register 0x0"):
        dma.run_until_register(CONTROL, IRQ_BIT, 0, 500)


def test_running_out_of_cycles_is_raised_with_the_state(dma: SimulatedAccelerator) -> None:
    dma.state_dump = lambda accelerator: f"bursts {accelerator.read_register(PORT + BURSTS)}"
    start(dma, [Job(0, 3000, 255)])
    begin = dma.cycle
    with pytest.raises(SimulationTimeout, match="the cycles allowed are over after 30000 cycles") as caught:
        dma.run_until_irq(30_000)
    assert "port 0: reads" in caught.value.state and caught.value.state.endswith("bursts 3000")
    assert dma.cycle - begin >= 30_000


def test_a_machine_that_stands_still_is_noticed(dma: SimulatedAccelerator) -> None:
    begin = dma.cycle
    with pytest.raises(SimulationTimeout, match="nothing moved any more after 50[0-9]"):
        dma.run_until_irq(10**9, max_idle_cycles=500)
    assert dma.cycle - begin < 600


def test_mirrors_follow_the_probes_to_the_cycle(dma: SimulatedAccelerator) -> None:
    dma.memory[:4096] = np.random.default_rng(5).integers(0, 256, 4096, dtype=np.uint8)
    words = dma.memory[:4096].view("<u4").reshape(-1, 4)[:, 0]  # of every beat
    beats, odd, wide = dma.mirror("beats"), dma.mirror("odd"), dma.mirror("wide")
    assert (beats.shape, beats.dtype) == ((64, 2), np.dtype("<u4"))
    assert (odd.shape, odd.dtype) == ((64, 3), np.dtype("u1"))
    assert wide.shape == (8, 1, 9)
    start(dma, [Job(0, 4, 15)])
    for burst in range(4):
        dma.run_until_retire(1000)
        assert dma.retire_index == burst
        done = 16 * (burst + 1)
        np.testing.assert_array_equal(beats[:done, 0], words[:done])
        np.testing.assert_array_equal(beats[1:done:2, 1], words[1:done:2])
        assert not beats[done:].any() and not beats[::2, 1].any()
    index = np.arange(64)
    np.testing.assert_array_equal(odd, np.stack([words[:64] & 31, ~index & 31, index & 31], axis=1))
    np.testing.assert_array_equal(wide[:, 0, 8], np.arange(56, 64))
    np.testing.assert_array_equal(wide[:, 0, :4].copy().view("<u4")[:, 0], words[56:64])
    assert dma.retired == 4


def test_probe_writes_beyond_the_depth_are_errors(dma: SimulatedAccelerator, dma_library: Path) -> None:
    assert not dma.errors()
    shallow = [PROBES[0], type(PROBES[1])("odd", 50, 5, 3), PROBES[2]]
    library = build_library(dma_verilog(1, 64), top="dma", ports=1, port_bits=64, id_bits=ID_BITS, probes=shallow, optimize=False)
    narrow = SimulatedAccelerator(library, memory_bytes=1 << 20)
    narrow.memory[:] = np.random.default_rng(6).integers(0, 256, 1 << 20, dtype=np.uint8)
    job = Job(0, 4, 15)
    start(narrow, [job])
    narrow.run_until_irq(10_000)
    assert read_hashes(narrow, 0) == expected_hashes(narrow.memory, job, 8)
    errors = narrow.errors()
    assert len(errors) == 14 and errors[0].text == "probe odd writes at 50, beyond its depth" and errors[0].port is None


def test_reset_in_the_middle_drops_everything_but_the_memory(dma: SimulatedAccelerator) -> None:
    dma.memory[: 1 << 20] = 1
    job = Job(0, 200, 255, destination=1 << 21, flags=COPY)
    for cycles in (3, 77, 1000, 2345):
        start(dma, [job] * 4)
        dma.tick(cycles)
        dma.drop_outstanding()
        dma.reset()
        assert all(not port.reads_outstanding and not port.writes_outstanding for port in dma.port_statistics())
        dma.set_timing(dma.timing)  # refused while anything is outstanding
    assert (dma.memory[: 1 << 20] == 1).all()
    start(dma, [Job(0, 10, 15)])
    dma.run_until_irq(1000)
    assert read_hashes(dma, 0) == expected_hashes(dma.memory, Job(0, 10, 15), 16)
    assert not dma.violations()


def test_timing_changes_only_at_rest(dma: SimulatedAccelerator) -> None:
    start(dma, [Job(0, 100, 255)])
    dma.tick(50)
    with pytest.raises(RuntimeError, match="while nothing is outstanding"):
        dma.set_timing(IDEAL)
    dma.run_until_irq(100_000)
    slow = dma.cycle
    dma.set_timing(IDEAL)
    start(dma, [Job(0, 100, 255)])
    assert dma.run_until_irq(100_000) == pytest.approx(25_600, abs=20) and slow > 0


def test_two_accelerators_do_not_know_each_other(dma_library: Path, public_library: Path) -> None:
    first = SimulatedAccelerator(dma_library, memory_bytes=1 << 20)
    second = SimulatedAccelerator(dma_library, memory_bytes=1 << 20, timing=RANDOM(1))
    third = SimulatedAccelerator(public_library, memory_bytes=1 << 20)
    first.memory[:], second.memory[:], third.memory[:] = 1, 2, 3
    job = Job(0, 20, 15)
    for accelerator in (first, second, third):
        start(accelerator, [job])
    for _ in range(100):
        for accelerator in (first, second, third):
            accelerator.tick(37)
    for accelerator, width in ((first, 16), (second, 16), (third, 4)):
        accelerator.run_until_irq(10_000)
        assert read_hashes(accelerator, 0) == expected_hashes(accelerator.memory, job, width)


def test_views_outlive_the_accelerator(dma_library: Path) -> None:
    memory = SimulatedAccelerator(dma_library, memory_bytes=1 << 40).memory  # a terabyte costs nothing
    memory[-1] = 9
    assert memory[-1] == 9 and memory[12345] == 0


def test_bad_memory_is_refused(dma_library: Path) -> None:
    for arguments in ({"memory_bytes": 1000}, {"memory_base": 12}, {"memory_bytes": 0}):
        with pytest.raises(ValueError, match="memory_.* must be"):
            SimulatedAccelerator(dma_library, **arguments)


def run_to_hash(accelerator: SimulatedAccelerator, job: Job) -> int:
    start(accelerator, [job])
    accelerator.run_until_irq(20_000)
    return read_hashes(accelerator, 0)[0]


def test_poke_flips_one_bit_once(public_library: Path) -> None:
    dma = SimulatedAccelerator(public_library, memory_bytes=1 << 20)
    assert {"port0.araddr", "port0.fifo", "port0.busy", "port0.to_respond"} <= set(dma.public_names())
    # `busy` keeps `irq` down: at rest, one flip is seen at once and another takes it back.
    start(dma, [Job(0, 1, 0)])
    dma.run_until_irq(1000)
    dma.poke("port0.to_respond", 3)  # 8 responses to come
    assert dma.irq
    dma.poke("port0.busy", 0)
    assert not dma.irq
    dma.tick(1000)
    assert not dma.irq
    dma.poke("to_respond", 3)
    assert dma.run_until_irq(10) == 1


def test_poke_reaches_memories(public_library: Path) -> None:
    dma = SimulatedAccelerator(public_library, memory_bytes=1 << 20, timing=KV260)
    dma.memory[:4096] = np.arange(4096) % 251
    start(dma, [Job(0, 1, 15, destination=0x1000, flags=COPY)])
    while dma.port_statistics()[0].read_beats < 8:
        dma.tick()
    dma.tick()
    dma.poke("fifo", 17, element=7)
    dma.run_until_irq(1000)
    expected = dma.memory[:64].copy()
    expected[7 * 4 + 2] ^= 2
    np.testing.assert_array_equal(dma.memory[0x1000:0x1040], expected)


def test_flips_happen_in_their_cycles(public_library: Path) -> None:
    dma = SimulatedAccelerator(public_library, memory_bytes=1 << 20)
    start(dma, [Job(0, 1, 0)])
    dma.run_until_irq(1000)
    begin = dma.cycle + 50
    # Two flips put the register back, so only the cycle between them shows it.
    dma.flip_each_cycle("to_respond", 0, begin, 2)
    dma.flip_each_cycle("port0.busy", 0, begin, 1)
    dma.tick(50)
    assert dma.cycle == begin and dma.irq
    dma.tick()
    assert not dma.irq
    dma.tick(2)
    assert dma.irq


def test_accelerators_with_scopes_end_in_any_order(public_library: Path) -> None:
    first, second, third = (SimulatedAccelerator(public_library, memory_bytes=1 << 20) for _ in range(3))
    first.memory[:] = 3
    del second
    assert first.public_names()
    del third
    first.poke("port0.busy", 0)
    start(first, [Job(0, 20, 15)])
    first.run_until_irq(10_000)
    del first


def test_faults_need_a_public_name(public_library: Path, dma: SimulatedAccelerator) -> None:
    faulty = SimulatedAccelerator(public_library, memory_bytes=1 << 20)
    for accelerator, name in ((faulty, "nothing"), (dma, "busy")):
        with pytest.raises(ValueError, match="name must be one of"):
            accelerator.poke(name, 0)
    with pytest.raises(ValueError, match="bit and element must lie inside port0.to_respond, not 16 and 0"):
        faulty.poke("to_respond", 16)
    with pytest.raises(ValueError, match="bit and element must lie inside port0.fifo, not 0 and 1024"):
        faulty.poke("fifo", 0, element=1024)
    with pytest.raises(ValueError, match="from_cycle must not be over"):
        faulty.flip_each_cycle("busy", 0, 0, 1)


def test_waves_need_a_library_with_waves(dma: SimulatedAccelerator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="built with trace=True"):
        dma.record_waves(tmp_path / "waves.fst", 100, 200)


def test_waves_cover_their_window(tmp_path: Path) -> None:
    for header in ("lz4.h", "zlib.h"):
        if not Path("/usr/include", header).exists():
            pytest.skip(f"waves need {header}")
    library = build_library(dma_verilog(1, 32), top="dma", ports=1, port_bits=32, id_bits=ID_BITS, trace=True, optimize=False)
    dma = SimulatedAccelerator(library, memory_bytes=1 << 20)
    path = tmp_path / "waves.fst"
    begin = dma.cycle + 100
    dma.record_waves(path, begin, begin + 300)
    dma.tick(100)
    start(dma, [Job(0, 5, 15)])
    dma.run_until_irq(10_000)
    dma.tick(300)
    head = path.read_bytes()[:25]
    assert head[0] == 0  # FST header block: length, then first and last time stamp
    first, last = (int.from_bytes(head[at : at + 8], "big") for at in (9, 17))
    assert begin * 4000 <= first < begin * 4000 + 4000
    assert last // 4000 == begin + 299
    waves = pywellen.Waveform(str(path))
    signals = {variable.full_name: variable.signal for variable in waves.all_vars()}
    half = {signals["TOP.clk"].value_at(begin * 4000 + at) for at in range(0, 299 * 4000, 4000)}
    assert len(half) == 1 and half != {signals["TOP.clk"].value_at(begin * 4000 + 2000)}  # a period is a cycle
    assert [signals["TOP.irq"].value_at(at) for at in (first, last)] == [0, 1]
    with pytest.raises(ValueError, match="must be ahead and in order"):
        dma.record_waves(path, 5, 10)
