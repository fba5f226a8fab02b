"""The simulator's tests share one small DMA design, compiled once for each way in which it is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwgen.sim.accelerator import SimulatedAccelerator
from hwgen.sim.verilate import build_library

from .dma_engine import ID_BITS, PROBES, dma_verilog

PUBLIC = ("araddr", "to_respond", "fifo", "busy")


@pytest.fixture(scope="session")
def dma_library() -> Path:
    """Four ports of 128 bits."""
    return build_library(
        dma_verilog(4, 128), top="dma", ports=4, port_bits=128, id_bits=ID_BITS, probes=PROBES, optimize=False
    )


@pytest.fixture(scope="session")
def public_library() -> Path:
    """One port of 32 bits, with registers that faults may be injected into."""
    return build_library(
        dma_verilog(1, 32), top="dma", ports=1, port_bits=32, id_bits=ID_BITS, public=PUBLIC, probes=PROBES, optimize=False
    )


@pytest.fixture
def dma(dma_library: Path) -> SimulatedAccelerator:
    return SimulatedAccelerator(dma_library, memory_bytes=1 << 28)
