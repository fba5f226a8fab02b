"""Passes on a second, four-state simulator: at the pins it does what Verilator does, where every operator equals golden."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwgen.config import BuildConfig
from hwgen.hw.verilog import cached_verilog
from hwgen.shape import ModelShape
from hwgen.sim.dram import IDEAL
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.devices.verilator import VerilatorDevice
from hwgen.sw.verification.lock_step import LockStep
from hwgen.weights import random_weights

from .replay import HAS_ICARUS, RECORD, Recording, differences, pins_of, read_recording, run_icarus, with_recorder

pytestmark = [
    pytest.mark.regress, pytest.mark.skipif(not HAS_ICARUS, reason="Icarus Verilog is missing (Debian: iverilog)"),
]

MEMORY_BYTES = 1 << 20

#: The smallest machine: vectors of two elements, one lane, one query head.
CONFIG = BuildConfig(
    name="gates", ports=1, port_bits=32, beat_bytes=16, beat_vectors=2, groups=1, lanes=1, rows=1, kv_block=8, chunk=2, builders=1,
    query_lanes=1, burst=4, ring_beats=8, outstanding=2, descriptor_queue=2, scratch_vectors=64, param_vectors=32, max_inputs=16,
    panel_rows=24, max_heads=1, max_kv_heads=1, max_head_dim=4, max_query=4, max_context=8, trace_entries=16, topk=1, shortlist=1,
    probe=True,
)
SHAPE = ModelShape(
    hidden=5, layers=1, heads=1, kv_heads=1, head_dim=4, ffn=6, vocab=7, activation="silu", max_context=8, tied=False
)


#: What Yosys writes so that every process runs once at the start, also one that depends on constants alone.
TRIGGER = re.compile(r"^  reg (\\\$auto\$verilog_backend\S+ ) = 0;$", re.MULTILINE)

#: A memory: name and last word. Amaranth does not say what it begins with where that is zero.
MEMORY = re.compile(r"^  reg \[\d+:0\] (\\\S+ |\w+) ?\[(\d+):0\];$", re.MULTILINE)

#: Memories by the end of their module's name that may begin with anything known, but not unknown: a four-state simulator does not
#: know that a bit differs from its complement, which a burst writes at its start and turns back at its end, nor that zero times an
#: unknown number is zero, which is how values of a round's tokens that are not there are left out.
KNOWN = {"reader.dispatcher": ("wanted", "reached"), "design.store": ("bank_0", "bank_1", "scales")}


def for_icarus(verilog: str) -> str:
    """Processes that run at the start. A declaration sets its register before processes wait for anything: here the trigger is set
    behind that, else what they assign would stay unknown until something else changes; those of one statement have none.
    """
    verilog, found = TRIGGER.subn(r"  reg \1; initial #0 \1 = 0;", verilog)
    assert found > 50
    return verilog.replace("  always @*\n", "  always_comb\n")


def with_known_memories(verilog: str) -> str:
    """Ones in the memories of `KNOWN`."""
    found = []

    def ones(memory: re.Match[str]) -> str:
        if memory[1].strip() not in names:
            return memory[0]
        found.append(memory[1].strip())
        return f"{memory[0]}\n  initial for (int i = 0; i <= {memory[2]}; i = i + 1) {memory[1]}[i] = ~0;"

    parts = re.split(r"(?<=^endmodule\n)", verilog, flags=re.MULTILINE)
    for i, text in enumerate(parts):
        head = re.search(r"^module \\?(\S+)", text, re.MULTILINE)
        names = next((names for end, names in KNOWN.items() if head and head[1].endswith(end)), ())
        parts[i] = MEMORY.sub(ones, text)
    assert len(found) == sum(map(len, KNOWN.values())) and len(MEMORY.findall(verilog)) > 50
    return "".join(parts)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """From power-up to the end of two passes, the second of which has a cache to read."""
    verilog = cached_verilog(CONFIG)
    folder = tmp_path_factory.mktemp("recording")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        device = VerilatorDevice(
            CONFIG, memory_bytes=MEMORY_BYTES, timing=IDEAL, optimize=False, verilog=with_recorder(verilog)
        )
        image = compile_model(CONFIG, random_weights(SHAPE, seed=11))
        step = LockStep(CONFIG, image, device, GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))
        for tokens in ([5], [3]):
            assert step.forward(tokens, logits=True) is not None, step.outcome.first
    recording = read_recording(folder / RECORD, pins_of(verilog))
    assert step.outcome.operators_compared > 30
    assert "1" in recording.values["irq"] and "1" in recording.values["m00_axi_wvalid"], "a pass ran"
    return recording


def test_unknown_bits_reach_no_pin(recording: Recording, tmp_path: Path) -> None:
    """Memories begin unknown; registers have their first values, as flip-flops of an FPGA do. Every write of every memory that has
    a probe, every access of the memory port and of the registers is as under Verilator, whole and in the same cycle.
    """
    source = tmp_path / "design.v"
    source.write_text(with_known_memories(for_icarus(cached_verilog(CONFIG))))
    answers = run_icarus(recording, [source], tmp_path / "icarus")
    assert next(differences(recording, answers), None) is None
    assert any("x" in bits for bits in answers["probe_acc_data"]), "there are unknown bits"
