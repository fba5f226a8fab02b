"""Whether the fabric really runs at the frequency of the build: by the registers that make the clock, and by its own count."""

from __future__ import annotations

from typing import Any

from ...boards import Board
from ...descriptors import Descriptor, Fetch, Opcode
from ..devices.device import Device
from ..devices.fabric_clock import fabric_mhz
from .bare_program import BareProgram

__all__ = ["CLOCK_BYTES", "check_clock"]

#: Part of the frequency by which the registers may differ from the build: dividers give 249.997 MHz for 250.
REGISTER_TOLERANCE = 0.005

#: Part by which the count of cycles may differ from the clock of the host, whose looks at it are good to 1%.
MEASURED_TOLERANCE = 0.03

#: What a Kria board's fabric clock is when no overlay sets it, MHz.
KRIA_DEFAULT = 99.999

#: Seconds that the pass takes in which cycles are counted, at the clock of the build and one word of a port a cycle.
PASS_SECONDS = 0.3

#: Bytes that are read again and again meanwhile.
SEGMENT_BYTES = 4 << 20

#: Memory that this takes, the program included.
CLOCK_BYTES = SEGMENT_BYTES + (1 << 20)


def check_clock(device: Device, board: Board) -> tuple[str, dict[str, Any], str]:
    """What was found, everything measured (empty where there is no clock), and what to do (empty where all is well)."""
    read = getattr(device, "read_word", None)
    if read is None:
        return "there is no clock to look at", {}, ""
    built = board.config.clock_mhz
    found = fabric_mhz(board.platform.processor if board.platform else "zynq_ultra_ps_e", read)
    data: dict[str, Any] = {"built_mhz": built, "register_mhz": found, "measured_mhz": None}
    fix = (
        f"let PYNQ load the overlay (without --attach), which sets the clock, or set it: pynq.Clocks.fclk0_mhz = {built:g}; an app "
        "of xmutil needs assigned-clock-rates in its device tree; or build for the clock that the board has"
    )
    if found is not None and abs(found - built) > REGISTER_TOLERANCE * built:
        named = ", the clock of a Kria board that no overlay has set" if abs(found - KRIA_DEFAULT) < 0.1 else ""
        return f"the registers make a fabric clock of {found:.3f} MHz{named}, the build is made for {built:g} MHz", data, fix
    text = "registers say nothing" if found is None else f"{found:.3f} MHz by registers (within {REGISTER_TOLERANCE:.1%})"
    if device.simulated:
        return f"{text}, the build is made for {built:g} MHz; simulated, so not timed", data, ""
    measured = measure(device)
    data["measured_mhz"] = measured
    if measured is None:
        return f"{text}; the host was too busy to time it", data, ""
    if abs(measured - built) > MEASURED_TOLERANCE * built:
        return f"the fabric counts {measured:.1f} million cycles a second, the build is made for {built:g} MHz", data, fix
    counted = f"{measured:.1f} MHz by its count (within {MEASURED_TOLERANCE:.0%})"
    return f"{text}, {counted}, the build is made for {built:g} MHz", data, ""


def measure(device: Device) -> float | None:
    """Cycles counted in a long pass against the clock of the host, in MHz; None where the host took too long to look."""
    c = device.config
    segments = max(1, round(PASS_SECONDS * c.clock_mhz * 1e6 * c.beat_bytes / SEGMENT_BYTES))
    program = BareProgram(device, segments, SEGMENT_BYTES)
    beats = SEGMENT_BYTES // c.beat_bytes // c.groups * c.groups
    program.load([Descriptor(
        opcode=Opcode.PARAM, fetch=Fetch.STREAM, stream_address=program.data, stream_beats=beats, vectors=1, token_count=1,
    )] * segments)
    program.run((1 << c.ports) - 1, timeout=60.0)
    mhz: float | None = getattr(device, "measured_mhz", None)
    return mhz
