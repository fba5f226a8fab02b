from __future__ import annotations

import pytest

from hwgen.fabric_clocks import PLL_MHZ, clock_parameters
from hwgen.sw.devices.fabric_clock import fabric_mhz, kernel_mhz

ULTRASCALE = {0xFF5E_0020: 90 << 8 | 1 << 16, 0xFF5E_0030: 45 << 8, 0xFD1A_002C: 64 << 8 | 1 << 16}


@pytest.mark.parametrize(
    ("control", "mhz"),
    [
        (1 << 24 | 1 << 16 | 6 << 8, 249.9975),  # I/O PLL: 33.333 * 90 / 2 / 6
        (1 << 24 | 2 << 16 | 5 << 8 | 2, 149.9985),  # RPLL: 33.333 * 45 / 10
        (1 << 24 | 1 << 16 | 4 << 8 | 3, 266.664),  # DPLL: 33.333 * 64 / 2 / 4
        (1 << 16 | 6 << 8, 0.0),  # switched off
        *((1 << 24 | 1 << 16 | 6 << 8 | source, None) for source in (1, 4, 5, 6, 7)),  # sources that there are not
        (1 << 24, None),  # divided by 0
    ],
)
def test_ultrascale(control: int, mhz: float | None) -> None:
    assert fabric_mhz("zynq_ultra_ps_e", (ULTRASCALE | {0xFF5E_00C0: control}).__getitem__) == (
        None if mhz is None else pytest.approx(mhz)
    )


@pytest.mark.parametrize(
    ("control", "mhz"),
    [
        (1 << 20 | 10 << 8, 100.0),  # I/O PLL: 50 * 20 / 10
        (2 << 20 | 4 << 8 | 2 << 4, 168.75),  # ARM PLL: 50 * 27 / 8
        (1 << 20 | 5 << 8 | 3 << 4, 210.0),  # DDR PLL: 50 * 21 / 5
        (0, None),  # divided by 0
    ],
)
def test_zynq(control: int, mhz: float | None) -> None:
    words = {0xF800_0108: 20 << 12, 0xF800_0100: 27 << 12, 0xF800_0104: 21 << 12, 0xF800_0170: control}
    assert fabric_mhz("processing_system7", words.__getitem__) == (None if mhz is None else pytest.approx(mhz))


def test_the_kernels_table() -> None:
    line = "                {}                  1        1        0    {}          0     0  50000\n"
    assert kernel_mhz(line.format("pl1_ref", 7) + line.format("pl0_ref", 249997500)) == 249.9975
    assert kernel_mhz(line.format("fclk0", 100000000)) == 100.0
    assert kernel_mhz(line.format("pl1_ref", 7)) is None and kernel_mhz("") is None


def test_a_clock_in_parameters() -> None:
    """250 MHz of the UltraScale+, 100 MHz of the Zynq-7000: PLLs of the board presets, as the hand-off file has them."""
    assert PLL_MHZ == {"zynq_ultra_ps_e": 1500.0, "processing_system7": 1000.0}
    assert clock_parameters("processing_system7", [(5, 2), (1, 1)]) == {
        "PCW_FPGA_FCLK0_ENABLE": "1", "PCW_FCLK0_PERIPHERAL_DIVISOR0": "5", "PCW_FCLK0_PERIPHERAL_DIVISOR1": "2",
        "PCW_FCLK0_PERIPHERAL_CLKSRC": "IO PLL", "PCW_FPGA_FCLK1_ENABLE": "0", "PCW_FCLK1_PERIPHERAL_DIVISOR0": "1",
        "PCW_FCLK1_PERIPHERAL_DIVISOR1": "1", "PCW_FCLK1_PERIPHERAL_CLKSRC": "IO PLL",
    }
