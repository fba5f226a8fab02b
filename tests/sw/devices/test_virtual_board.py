"""The hand-off, read back by PYNQ's own parser."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.fabric_clocks import PLL_MHZ
from hwgen.registers import WINDOW_BYTES, register_map
from hwgen.sw.devices.virtual_board import hwh_text, virtual_board, write_overlay
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


def used_ports(board: Any) -> dict[str, str]:
    """Parameters of memory ports in a hand-off."""
    text = hwh_text(board, base_address=0, leds_address=0x1_0000)
    return dict(re.findall(r'<PARAMETER NAME="(\w*(?:USE__?S_AXI|SAXIGP\d__DATA|S_AXI_HP\d_DATA)\w*)" VALUE="(\w+)"', text))


def test_ports_of_a_hand_off() -> None:
    """Those of the board in its order, or the first of the family; only ports that have the width of the build."""
    kv260, z2 = load_board("kv260"), load_board("pynq-z2")
    found = used_ports(kv260)
    assert kv260.platform is not None and kv260.platform.memory_ports[4] == "S_AXI_HPC0_FPD" and kv260.config.ports == 5
    assert {name: found[f"PSU__USE__S_AXI_GP{name}"] for name in range(6)} == {0: "1", 1: "0", 2: "1", 3: "1", 4: "1", 5: "1"}
    widths = {name: value for name, value in found.items() if name.endswith("WIDTH")}
    assert widths == {f"PSU__SAXIGP{n}__DATA_WIDTH": "128" for n in (0, 2, 3, 4, 5)}
    found = used_ports(z2)
    assert {n: found[f"PCW_USE_S_AXI_HP{n}"] for n in range(4)} == {0: "1", 1: "1", 2: "0", 3: "0"}
    assert {n: v for n, v in found.items() if n.endswith("WIDTH")} == {f"PCW_S_AXI_HP{n}_DATA_WIDTH": "64" for n in (0, 1)}
    wide = replace(z2, config=replace(z2.config, port_bits=128, beat_bytes=16))
    assert set(used_ports(wide).values()) == {"0"}, "its ports have 64 bits"
    narrow = replace(kv260.config, ports=2, beat_bytes=32, kv_block=16, chunk=16, builders=1, rows=4)
    plain = replace(kv260, platform=None, config=narrow)
    assert [used_ports(plain)[f"PSU__USE__S_AXI_GP{n}"] for n in range(6)] == ["1", "1", "0", "0", "0", "0"]


def test_clocks_and_addresses_of_a_hand_off() -> None:
    text = hwh_text(load_board("kv260"), base_address=0xA000_0000, leds_address=0xA100_0000)
    for name, base, high in (("accelerator", 0xA000_0000, 0xA001_FFFF), ("axi_gpio_leds", 0xA100_0000, 0xA100_FFFF)):
        block = "registers" if name == "accelerator" else "Reg"
        place = f'ADDRESSBLOCK="{block}" INSTANCE="{name}" MEMTYPE="REGISTER" BASEVALUE="0x{base:X}" HIGHVALUE="0x{high:X}"'
        assert f"<MEMRANGE {place} " in text
    assert 'NAME="PSU__CRL_APB__PL0_REF_CTRL__DIVISOR0" VALUE="6"' in text and 'VALUE="250.0"' in text
    assert 'ARCH="zynquplus" NAME="kv260_simulated"' in text and f'RANGE="{WINDOW_BYTES}"' in text
    for name, kind in (("accelerator", "accelerator"), ("axi_gpio_leds", "axi_gpio"), ("zynq_ultra_ps_e_0", "zynq_ultra_ps_e")):
        assert re.search(rf'FULLNAME="/{name}" INSTANCE="{name}" MODTYPE="{kind}" ', text)
    assert set(re.findall(r"PL(\d)_REF_CTRL__DIVISOR0", text)) == {"0", "1", "2", "3"}, "there are four"
    fast = replace(BOARD, config=replace(BOARD.config, clock_mhz=4000.0))
    assert 'PL0_REF_CTRL__DIVISOR0" VALUE="1"' in hwh_text(fast, base_address=0, leds_address=0), "no divisor is 0"


@pytest.mark.parametrize(("name", "arch"), [("pynq-z2", "armv7l"), ("kv260", "aarch64"), ("demo", "aarch64")])
def test_a_virtual_board_has_the_processor_of_the_real_one(name: str, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around an accelerator of that build, which gets what is asked for."""
    asked: list[object] = []

    def device(config: BuildConfig, **options: Any) -> Any:
        asked.append((config, options))
        return SimpleNamespace(accelerator="simulated")

    monkeypatch.setattr("hwgen.sw.devices.verilator.VerilatorDevice", device)
    monkeypatch.setattr("hwgen.sim.board.board.VirtualBoard", lambda *given, **options: (given, options))
    board = load_board(name)
    made: Any = virtual_board(board, 4096, None, seed=3)
    assert made == (("simulated", board.config), {"board": name, "arch": arch})
    assert asked == [(board.config, {"memory_bytes": 4096, "progress": None, "seed": 3})]
