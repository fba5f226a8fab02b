"""The hand-off as PYNQ's own reader sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwgen.boards import load_board
from hwgen.memory_ports import afi_settings, design_settings
from hwgen.registers import WINDOW_BYTES, register_map
from hwgen.sw.packaging.handoff import divisors, hwh_text, split_part
from hwgen.vlnv import VLNV

from .builds import BOARDS


def runtime_view(name: str, directory: Path) -> Any:
    pytest.importorskip("pynqmetadata", reason="pip install pynqmetadata")
    from pynqmetadata.frontends import Metadata
    from pynqmetadata.views.runtime.runtime_metadata_parser import RuntimeMetadataParser

    path = directory / "hwgen.hwh"
    path.write_text(hwh_text(load_board(name)))
    return RuntimeMetadataParser(Metadata(input=str(path)))


@pytest.mark.parametrize("name", BOARDS)
def test_pynq_finds_everything(name: str, tmp_path: Path) -> None:
    board = load_board(name)
    platform = board.platform
    assert platform is not None
    view = runtime_view(name, tmp_path)
    assert view.family_ps == platform.processor
    core = view.ip_dict["accelerator"]
    assert core["type"] == VLNV
    assert (core["phys_addr"], core["addr_range"]) == (platform.registers, WINDOW_BYTES)
    assert view.ip_dict["interrupts"]["phys_addr"] == platform.interrupt_controller
    assert core["interrupts"]["irq"]["controller"] == "interrupts"
    assert view.interrupt_pins["accelerator/irq"] == {"controller": "interrupts", "index": 0, "fullpath": "accelerator/irq"}
    assert list(view.interrupt_controllers) == ["interrupts"]
    assert view.clock_dict[0]["enable"] == 1 and [view.clock_dict[i]["enable"] for i in (1, 2, 3)] == [0, 0, 0]
    access = {"ro": "read-only", "rw": "read-write", "wo": "write-only"}
    expected = {
        (r.name if r.count == 1 else f"{r.name}_{i}"): {
            "address_offset": r.offset + i * r.step,
            "size": 32,
            "access": access[r.access],
            "description": r.description,
            "fields": {
                f.name: {"bit_offset": f.first, "bit_width": f.width, "access": access[r.access], "description": f.description}
                for f in r.fields
            },
        }
        for r in register_map(board.config)
        for i in range(r.count)
    }
    assert core["registers"] == expected
    ports = afi_settings(platform.processor, platform.memory_ports[: board.config.ports], platform.memory_port_bits)
    assert set(design_settings(view.family_ps, view.ip_dict[view.ps_name]["parameters"])) == set(ports)


def test_port_widths_and_clock_of_zynq_ultrascale(tmp_path: Path) -> None:
    view = runtime_view("kv260", tmp_path)
    parameters = {name: p.value for name, p in view.ps.parameters.items()}
    assert [parameters[f"C_SAXIGP{i}_DATA_WIDTH"] for i in (2, 3, 4, 5)] == ["128"] * 4
    assert parameters["C_MAXIGP0_DATA_WIDTH"] == "32"
    assert view.clock_dict[0]["frequency"] == load_board("kv260").config.clock_mhz


@pytest.mark.parametrize("name", BOARDS)
def test_clocks_can_be_divided(name: str) -> None:
    """The clock of every board is one that its processing system can make."""
    board = load_board(name)
    assert board.platform is not None
    first, second, actual = divisors(board.platform.processor, board.config.clock_mhz)
    assert 1 <= first < 64 and 1 <= second < 64
    assert actual == board.config.clock_mhz


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("xck26-sfvc784-2LV-c", ("xck26", "sfvc784", "-2LV-c")),
        ("xczu48dr-ffvg1517-2-e", ("xczu48dr", "ffvg1517", "-2-e")),
        ("xc7z020clg400-1", ("xc7z020", "clg400", "-1")),
    ],
)
def test_parts(part: str, expected: tuple[str, str, str]) -> None:
    assert split_part(part) == expected
