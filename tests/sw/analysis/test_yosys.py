from __future__ import annotations

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.analysis.yosys import count_resources, ultra_blocks, ultra_rows


def test_resources_of_cells() -> None:
    total = count_resources(
        {
            "LUT6": 3,
            "LUT1": 1,
            "RAM32M16": 2,
            "FDRE": 5,
            "FDSE": 1,
            "RAMB36E2": 1,
            "RAMB18E2": 3,
            "URAM288": 4,
            "DSP48E2": 6,
            "CARRY4": 9,
            "INV": 1,
            "MUXF7": 2,
        }
    )
    assert total == {"lut": 20, "lutram": 16, "ff": 6, "bram36": 2.5, "uram": 4, "dsp": 6}
    with pytest.raises(HwgenError, match="cells of kind LDCE"):
        count_resources({"LDCE": 1})


def test_memories_in_ultra_ram_by_module() -> None:
    memory = '  (* ram_style = "{}" *)\n  reg [{}:0] \\words$1  [{}:0];\n'
    text = "".join(["module \\top.a (clk);\n", memory.format("ultra", 255, 28671), memory.format("ultra", 63, 4096), "endmodule\n",
                    "module top(clk);\n", memory.format("block", 255, 28671), memory.format("ultra", 71, 4095), "endmodule\n"])
    assert ultra_blocks(text) == {"top.a": 28 + 2, "top": 1}
    assert ultra_rows(text) == {"top.a": {"words$1": 2}, "top": {"words$1": 1}}
