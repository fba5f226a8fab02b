"""Fabric clocks in the words of a processing system's parameters, as hand-off files carry them and PYNQ reads them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["PLL_MHZ", "clock_parameters"]

#: PLL that the fabric clocks are divided from, MHz: the usual setting of the board presets.
PLL_MHZ = {"zynq_ultra_ps_e": 1500.0, "processing_system7": 1000.0}

#: Names of a clock's enable, divisors and source, and the source.
_NAMES = {
    "zynq_ultra_ps_e": ("PSU__FPGA_PL{}_ENABLE", "PSU__CRL_APB__PL{}_REF_CTRL__DIVISOR0", "PSU__CRL_APB__PL{}_REF_CTRL__DIVISOR1",
                        "PSU__CRL_APB__PL{}_REF_CTRL__SRCSEL", "IOPLL"),
    "processing_system7": ("PCW_FPGA_FCLK{}_ENABLE", "PCW_FCLK{}_PERIPHERAL_DIVISOR0", "PCW_FCLK{}_PERIPHERAL_DIVISOR1",
                           "PCW_FCLK{}_PERIPHERAL_CLKSRC", "IO PLL"),
}


def clock_parameters(processor: str, divisors: Sequence[tuple[int, int]]) -> dict[str, str]:
    """Parameters of the fabric clocks with these pairs of divisors; clock 0 is on, the others are off."""
    enable, first, second, source, pll = _NAMES[processor]
    values: dict[str, str] = {}
    for i, (one, two) in enumerate(divisors):
        values |= {enable.format(i): str(int(i == 0)), first.format(i): str(one), second.format(i): str(two), source.format(i): pll}
    return values
