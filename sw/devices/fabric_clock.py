"""The frequency of fabric clock 0, from the registers that make it and from what the kernel believes.

PYNQ writes the registers behind the kernel's back, so the two can differ: the registers are right.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["fabric_mhz", "kernel_mhz"]

#: Reference clocks of the processing systems, MHz; PYNQ takes the same.
ULTRASCALE_MHZ, ZYNQ_MHZ = 33.333, 50.0

#: Control register of clock 0, and of the PLL that each value of its source field names.
_ULTRASCALE_CLOCK, _ULTRASCALE_PLLS = 0xFF5E_00C0, {0: 0xFF5E_0020, 2: 0xFF5E_0030, 3: 0xFD1A_002C}
_ZYNQ_CLOCK, _ZYNQ_PLLS = 0xF800_0170, {0: 0xF800_0108, 1: 0xF800_0108, 2: 0xF800_0100, 3: 0xF800_0104}


def fabric_mhz(family: str, read: Callable[[int], int]) -> float | None:
    """MHz of clock 0 by its registers; ``read`` gives the word at an address. 0 where the clock is off, None where its source is
    none that is known.
    """
    if family == "processing_system7":
        control = read(_ZYNQ_CLOCK)
        pll = read(_ZYNQ_PLLS[control >> 4 & 3])
        divisor = (control >> 8 & 63) * (control >> 20 & 63)
        return ZYNQ_MHZ * (pll >> 12 & 127) / divisor if divisor else None
    control = read(_ULTRASCALE_CLOCK)
    if not control >> 24 & 1:
        return 0.0
    if control & 7 not in _ULTRASCALE_PLLS:
        return None
    pll = read(_ULTRASCALE_PLLS[control & 7])
    divisor = (control >> 8 & 63) * (control >> 16 & 63) * (1 + (pll >> 16 & 1))
    return ULTRASCALE_MHZ * (pll >> 8 & 127) / divisor if divisor else None


def kernel_mhz(summary: str) -> float | None:
    """MHz of clock 0 in the text of ``/sys/kernel/debug/clk/clk_summary``; None where it has no such clock."""
    found = re.search(r"^\s*(?:pl0_ref|fclk0)\s+\d+\s+\d+\s+\d+\s+(\d+)", summary, re.MULTILINE)
    return int(found[1]) / 1e6 if found else None
