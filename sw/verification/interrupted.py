"""A pass that ends before its program does: stopped, reset, failed by the memory or by a damaged program. It ends in a defined
state, says what happened, and leaves the next pass as it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...descriptors import DESCRIPTOR_BYTES
from ...errors import HwgenError
from ..devices.device import DeviceTimeout, StopFailed
from ..runtime.engine import Engine, Run

if TYPE_CHECKING:
    from ..devices.verilator import VerilatorDevice

__all__ = ["Fault", "Interruption", "interrupt"]

#: Length of a reset, in cycles.
RESET_CYCLES = 8

#: Cycles behind which every memory has answered.
ANSWER_CYCLES = 4000


@dataclass(frozen=True)
class Fault:
    """An answer of the memory that fails."""

    port: int
    #: A response to a write, else a read word.
    write: bool
    #: Answers of that kind that come before it.
    after: int
    #: 2 SLVERR, 3 DECERR.
    response: int


@dataclass(frozen=True)
class Interruption:
    """What happens to a pass; at most one of these."""

    #: Stopped so many cycles behind its doorbell.
    stop: int | None = None
    #: The machine is reset so many cycles behind it.
    reset: int | None = None
    fault: Fault | None = None
    #: A bit of the program that is wrong.
    damaged: int | None = None


def interrupt(engine: Engine, device: VerilatorDevice, runs: Sequence[Run], what: Interruption) -> tuple[str, str]:
    """Run a pass that is interrupted: how it ended ("done", "stopped", "failed" or "reset"), and what was wrong about that, empty
    if nothing. The sessions are left as they were.
    """
    accelerator, fault = device.accelerator, what.fault
    if what.damaged is not None:
        _flip(engine, what.damaged)
    engine.start(runs, write_logits=True)
    if fault is not None:
        accelerator.fail_answer(fault.port % engine.config.ports, fault.response, write=fault.write, after=fault.after)
    try:
        if what.reset is not None:
            return "reset", _reset(engine, device, what.reset)
        if what.stop is not None:
            accelerator.tick(what.stop)
            device.stop()
        engine.finish(runs)
        return "done", "a damaged program was run" if what.damaged is not None else ""
    except (DeviceTimeout, StopFailed) as error:
        return "failed", f"after a stop or a failed answer: {error.message}"
    except HwgenError as error:
        return _told(engine, what, error.message)
    finally:
        if fault is not None:
            accelerator.fail_answer(fault.port % engine.config.ports, fault.response, write=fault.write, after=None)
        if what.damaged is not None:
            _flip(engine, what.damaged)
        for run in runs:
            del run.session.tokens[len(run.session.tokens) - len(run.tokens) :]


def _damaged_bit(engine: Engine, bit: int) -> int:
    return bit % (8 * DESCRIPTOR_BYTES * len(engine.image.descriptors))


def _flip(engine: Engine, bit: int) -> None:
    """Another value of a bit of the program in memory."""
    bit = _damaged_bit(engine, bit)
    address = engine.memory.program() + bit // 8
    engine.device.write(address, engine.device.read(address, 1) ^ np.uint8(1 << bit % 8))


def _reset(engine: Engine, device: VerilatorDevice, cycles: int) -> str:
    """Reset in a pass, and what is wrong behind it. A write that is cut off is dropped by the ports, which the driver of a board
    resets. Behind an even number of cycles answers that are owed come before the next pass, and are counted; else in it.
    """
    accelerator = device.accelerator
    accelerator.tick(cycles)
    if any(port.writes_outstanding for port in accelerator.port_statistics()):
        accelerator.drop_outstanding()
    before = sum(port.read_beats for port in accelerator.port_statistics())
    accelerator.reset(RESET_CYCLES)
    engine.set_registers()
    if cycles % 2:
        return ""
    accelerator.tick(ANSWER_CYCLES)
    came = sum(port.read_beats for port in accelerator.port_statistics()) - before
    told = engine._read("UNASKED")
    # Those that come while it lasts, nobody counts.
    right = 0 <= came - told <= RESET_CYCLES * engine.config.ports
    return "" if right else f"{told} words are counted as nobody's behind a reset, {came} came"


def _told(engine: Engine, what: Interruption, message: str) -> tuple[str, str]:
    """How a pass ended that the host refuses, by its message, and what is wrong about that."""
    if "was stopped" in message:
        return "stopped", "" if what.stop is not None else f"nobody asked for it: {message}"
    last = len(engine.image.descriptors) - 1
    failed = re.fullmatch(r"memory port (\d+) answered a (\w+) with response (\d) at operator (\d+)", message)
    if failed and what.fault is not None:
        told = (int(failed[1]), failed[2] == "write", int(failed[3]))
        expected = (what.fault.port % engine.config.ports, what.fault.write, what.fault.response)
        right = told == expected and int(failed[4]) <= last
    else:
        damaged = re.fullmatch(r"the (?:first descriptor|descriptor behind operator (\d+)) is damaged: .*", message)
        place = 0 if what.damaged is None else _damaged_bit(engine, what.damaged) // (8 * DESCRIPTOR_BYTES)
        right = damaged is not None and what.damaged is not None and int(damaged[1] or -1) < max(place, 1)
    return "failed", "" if right else f"{what} is reported as: {message}"
