"""Text of the top module: ports by name, determinism, what must not be in it. Behaviour is tested in tests/sw."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hwgen.config import BuildConfig
from hwgen.hw.accelerator import TOP, Accelerator, generate
from hwgen.probes import probes
from hwgen.registers import WINDOW_BYTES

SMALL = BuildConfig(
    ports=1, beat_bytes=16, groups=1, lanes=1, rows=4, kv_block=8, chunk=2, builders=7, query_lanes=1, ring_beats=512,
    scratch_vectors=64, param_vectors=64, max_inputs=64, panel_rows=64, max_heads=2, max_kv_heads=1, max_head_dim=8,
    max_query=16, max_context=32, trace_entries=8, topk=2, probe=True,
)

READ = {"araddr": 40, "arid": 1, "arlen": 8, "arsize": 3, "arburst": 2, "arvalid": 1, "rready": 1}
READ_IN = {"arready": 1, "rdata": 128, "rid": 1, "rresp": 2, "rlast": 1, "rvalid": 1}
WRITE = {"awaddr": 40, "awid": 1, "awlen": 8, "awsize": 3, "awburst": 2, "awvalid": 1,
         "wdata": 128, "wstrb": 16, "wlast": 1, "wvalid": 1, "bready": 1}
WRITE_IN = {"awready": 1, "wready": 1, "bid": 1, "bresp": 2, "bvalid": 1}
LITE_ADDRESS = (WINDOW_BYTES - 1).bit_length()
LITE_IN = {"awaddr": LITE_ADDRESS, "awvalid": 1, "wdata": 32, "wstrb": 4, "wvalid": 1, "bready": 1,
           "araddr": LITE_ADDRESS, "arvalid": 1, "rready": 1}
LITE = {"awready": 1, "wready": 1, "bresp": 2, "bvalid": 1, "arready": 1, "rdata": 32, "rresp": 2, "rvalid": 1}


@pytest.fixture(scope="module")
def text() -> str:
    return generate(SMALL)


def top_ports(text: str) -> dict[str, tuple[str, int]]:
    body = text[text.index(f"module {TOP}(") :]
    body = body[: body.index("endmodule")]
    found = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", body, re.MULTILINE)
    return {name: (direction, int(high or 0) + 1) for direction, high, name in found}


def test_ports(text: str) -> None:
    expected = {"clk": ("input", 1), "rst": ("input", 1), "irq": ("output", 1)}
    expected |= {f"m00_axi_{n}": ("output", w) for n, w in (READ | WRITE).items()}
    expected |= {f"m00_axi_{n}": ("input", w) for n, w in (READ_IN | WRITE_IN).items()}
    expected |= {f"s_axi_{n}": ("output", w) for n, w in LITE.items()}
    expected |= {f"s_axi_{n}": ("input", w) for n, w in LITE_IN.items()}
    expected |= {"probe_retire_valid": ("output", 1), "probe_retire_index": ("output", 32)}
    for probe in probes(SMALL):
        expected[f"probe_{probe.name}_valid"] = ("output", probe.lanes)
        expected[f"probe_{probe.name}_addr"] = ("output", max(1, (probe.depth - 1).bit_length()))
        expected[f"probe_{probe.name}_data"] = ("output", probe.lanes * probe.word_bits)
    assert top_ports(text) == expected


def test_every_port_has_its_own_names() -> None:
    config = replace(SMALL, ports=4, beat_bytes=64, kv_block=32, rows=16, builders=1, max_head_dim=32, max_query=32, probe=False)
    names = Accelerator(config).ports()
    assert {name[:7] for name in names if name.startswith("m")} == {f"m{p:02d}_axi" for p in range(4)}
    assert not [name for name in names if name.startswith("probe")]


def test_text_is_reproducible_and_clean(text: str) -> None:
    assert generate(SMALL) == text
    assert ".py" not in text, "source locations"
    assert not re.search(r"initial begin\n *\S+ ?\[\d+\] =", text), "initial contents of memories"
    assert 'ram_style = "ultra"' in text
