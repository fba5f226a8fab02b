"""The hand-off, read back by PYNQ's own parser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwgen.config import BuildConfig
from hwgen.fabric_clocks import PLL_MHZ
from hwgen.registers import WINDOW_BYTES, register_map
from hwgen.sw.devices.virtual_board import hwh_text, write_overlay
from hwgen.vlnv import VLNV
from tests.virtual_board import BOARD, require_pynq

require_pynq()


def parse(path: Path) -> Any:
    from pynqmetadata.frontends import Metadata
    from pynqmetadata.views.runtime import RuntimeMetadataParser

    return RuntimeMetadataParser(Metadata(input=str(path)))


@pytest.mark.parametrize(
    ("part", "family"),
    [("xck26-sfvc784-2LV-c", "zynq_ultra_ps_e"), ("", "zynq_ultra_ps_e"), ("xc7z020clg400-1", "processing_system7")],
)
@pytest.mark.parametrize("config", [BuildConfig(clock_mhz=200.0), BOARD.config], ids=["default", "small"])
def test_read_back(tmp_path: Path, part: str, family: str, config: BuildConfig) -> None:
    board = replace(BOARD, part=part, config=config)
    path = tmp_path / "a.hwh"
    path.write_text(hwh_text(board, base_address=0xA000_0000, leds_address=0xA100_0000))
    parser = parse(path)
    assert parser.family_ps == family
    ip = parser.ip_dict["accelerator"]
    assert (ip["type"], ip["phys_addr"], ip["addr_range"]) == (VLNV, 0xA000_0000, WINDOW_BYTES)
    assert "gpio" in parser.ip_dict["axi_gpio_leds"]["type"]
    found = ip["registers"]
    for row in register_map(config):
        for i in range(row.count):
            register = found.pop(row.name if row.count == 1 else f"{row.name}_{i}")
            assert (register["address_offset"], register["size"]) == (row.offset + i * row.step, 32)
            fields = {n: (f["bit_offset"], f["bit_width"]) for n, f in register["fields"].items()}
            assert fields == {f.name: (f.first, f.width) for f in row.fields}
    assert not found
    clocks = {i: dict(parser.clock_dict[i]) for i in range(4)}
    assert [clocks[i]["enable"] for i in range(4)] == [1, 0, 0, 0]
    assert clocks[0]["divisor0"] * clocks[0]["divisor1"] == round(PLL_MHZ[family] / config.clock_mhz)
    assert clocks[0].get("frequency", config.clock_mhz) == config.clock_mhz  # pynqmetadata 0.1 has the divisors alone


def test_overlay_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = (write_overlay(BOARD, tmp_path / name) for name in "ab")
    for suffix in (".bit", ".hwh"):
        assert first.with_suffix(suffix).read_bytes() == second.with_suffix(suffix).read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["small.bit", "small.hwh"]
    slower = write_overlay(replace(BOARD, config=replace(BOARD.config, clock_mhz=100.0)), tmp_path / "c")
    assert slower.read_bytes() != first.read_bytes()  # PYNQ keeps the hand-off's metadata by the bitstream's hash
