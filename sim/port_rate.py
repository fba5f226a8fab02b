"""What the memory ports of a board sustain, measured on the memory model: `python -m hwgen.sim.port_rate [--write] BOARD ...`

Prints the share of one word a port and cycle that streaming readers get, for every idle latency and traffic of the
processor of the grid. With `--write` it goes to `boards/BOARD/port_rates.json`, which `hwgen estimate` reads.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from ..config import BuildConfig
from .dram import DramTiming
from .toolchain import find_compiler, run
from .verilate import MEMORY_SOURCES, cached, memory_model_identity

_SOURCE = "port_rate.cpp"
_FLAGS = ("-std=gnu++17", "-march=native", "-O2", "-fPIC", "-shared")
_SPAN = 1 << 30
STREAM_WORDS = 65_536
"""Of each port in one stream: a matrix of some megabytes."""
STREAMS = 8
"""Streams whose mean is the rate. Each has its ports' planes elsewhere, at random: how they meet in the banks decides."""


@cache
def _library() -> Callable[..., float]:
    here = Path(__file__).parent
    compiler, version = find_compiler()
    identity = json.dumps([version, _FLAGS, memory_model_identity(), (here / _SOURCE).read_text()])
    sources = [str(here / name) for name in (_SOURCE, *MEMORY_SOURCES)]

    def build(directory: Path) -> None:
        run([compiler, *_FLAGS, f"-I{here}", *sources, "-o", "libport_rate.so"], directory)

    path = cached(f"port_rate-{hashlib.sha256(identity.encode()).hexdigest()[:24]}", "libport_rate.so", build)
    function = ctypes.CDLL(str(path)).port_rate
    u32, u64, pointer = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
    function.restype, function.argtypes = ctypes.c_double, [pointer, u32, u32, pointer, u64, u32, u32, u64, u64]
    return function


def stream_rate(config: BuildConfig, timing: DramTiming, bases: list[int], words: int = STREAM_WORDS) -> float:
    """Words that every port of `config` delivers in a cycle while it streams from `bases`, byte addresses below 1 GiB less the
    stream: at most 1. Bursts, their number in flight and the ring are those of the configuration.
    """
    assert len(bases) == config.ports
    addresses = (ctypes.c_uint64 * len(bases))(*bases)
    return float(_library()(
        ctypes.byref(timing.as_struct()), config.ports, config.port_bytes, addresses, _SPAN,
        config.burst, config.outstanding, config.ring_beats, words,
    ))


def port_rate(config: BuildConfig, timing: DramTiming) -> float:
    """The mean of `stream_rate` over `STREAMS` streams at random addresses."""
    rng = np.random.default_rng(1)
    pages = (_SPAN - (STREAM_WORDS + config.ring_beats) * config.port_bytes) // 4096
    planes = rng.integers(0, pages, (STREAMS, config.ports)) * 4096
    return float(np.mean([stream_rate(config, timing, [int(base) for base in stream]) for stream in planes]))
