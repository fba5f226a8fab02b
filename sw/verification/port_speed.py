"""Bandwidth and latency of the memory ports as the machine counts them, by programs that only fetch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ...config import BuildConfig
from ...descriptors import Descriptor, Fetch, Opcode
from ..devices.device import Device
from .bare_program import BareProgram

__all__ = ["PortSpeed", "describe_speeds", "measure_ports", "memory_preset", "port_sets"]

#: Cycles of the machine itself between the doorbell of a pass with one fetch and its end, beyond those of an empty pass and the
#: latency of the memory: descriptor, dispatcher, port, ring and loader. Counted on board `demo`, where that latency is known.
OWN_CYCLES = 17

#: Passes of which the shortest says how long one fetch takes: refresh and other masters come between.
TRIES = 5


@dataclass(frozen=True)
class PortSpeed:
    """What a set of ports did."""

    ports: tuple[int, ...]
    #: Beats that entered the ring in a cycle, and bytes a second at the clock of the build.
    beats_per_cycle: float
    bytes_per_s: float
    #: Idle latency from read address to first word.
    latency_ns: float
    #: Words that each port of the build brought.
    port_words: tuple[int, ...]


def port_sets(ports: int) -> list[tuple[int, ...]]:
    """Every port alone, every pair, all but one, and all."""
    every = tuple(range(ports))
    pairs = [(a, b) for a in every for b in every[a + 1 :]]
    without = [tuple(p for p in every if p != left) for left in every]
    return sorted({(p,) for p in every} | set(pairs) | {s for s in without if s} | {every}, key=lambda s: (len(s), s))


def measure_ports(
    device: Device, segment_bytes: int, segments: int, progress: Callable[[str], None] = lambda text: None
) -> list[PortSpeed]:
    """Every set of :func:`port_sets`, reading ``segments`` times the same ``segment_bytes``."""
    c = device.config
    program = BareProgram(device, segments, segment_bytes)

    def fetch(address: int, beats: int) -> Descriptor:
        return Descriptor(
            opcode=Opcode.PARAM, fetch=Fetch.STREAM, stream_address=address, stream_beats=beats, vectors=1, token_count=1
        )

    beats = segment_bytes // c.beat_bytes // c.groups * c.groups
    seconds = 20 * segments * segment_bytes / (c.port_bytes * c.clock_mhz * 1e6)
    found = []
    for ports in port_sets(c.ports):
        progress(f"speed of ports {', '.join(map(str, ports))}")
        mask = sum(1 << port for port in ports)

        def shortest(descriptors: list[Descriptor], mask: int = mask) -> int:
            program.load(descriptors)
            return min(program.run(mask).cycles for _ in range(TRIES))

        # the row of the memory that the program has just opened
        empty, one = shortest([]), shortest([fetch(program.start, c.groups)])
        program.load([fetch(program.data, beats)] * segments)
        long = program.run(mask, timeout=max(1.0, seconds))
        rate = (long.beats - c.groups) / max(1, long.cycles - one)
        latency = max(0, one - empty - OWN_CYCLES)
        found.append(PortSpeed(
            ports, round(rate, 4), round(rate * c.beat_bytes * c.clock_mhz * 1e6), round(latency * 1e3 / c.clock_mhz, 1),
            long.port_words,
        ))
    return found


def memory_preset(config: BuildConfig, board: str, speeds: list[PortSpeed], simulated: bool) -> dict[str, Any]:
    """What `--memory FILE` of `hwgen estimate` and `hwgen bench` takes."""
    every = speeds[-1]
    return {
        "board": board, "clock_mhz": config.clock_mhz, "simulated": simulated, "latency_ns": min(s.latency_ns for s in speeds),
        "port_rate": min(1.0, every.beats_per_cycle), "sets": [asdict(speed) for speed in speeds],
    }


def describe_speeds(speeds: list[PortSpeed]) -> list[str]:
    """For people, a line a set."""
    return [
        f"  ports {','.join(map(str, s.ports)):12} {s.bytes_per_s / 1e9:7.3f} GB/s, {s.beats_per_cycle:6.1%} of a beat a cycle, "
        f"latency {s.latency_ns:g} ns"
        for s in speeds
    ]
