"""Around the load of a bitstream: what runs in the fabric is stopped before, the memory ports forget it afterwards, and they are
set to what the design needs.

Nothing says what a fabric holds but the record of whoever loaded it, and a read of an address where nothing is can stop a Zynq for
good. So registers are read only where PYNQ's own record says that an accelerator of ours is loaded, and nothing contradicts it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...config import BuildConfig
from ...memory_ports import design_settings
from ...registers import MAGIC, WINDOW_BYTES, register
from ...vlnv import VLNV
from .device import StopFailed
from .pass_stop import PassStop

__all__ = ["FPGA_MANAGER", "loaded_accelerator", "reset_ports", "set_ports", "stop_left_over", "unasked_answers"]

#: State and flags of Linux's FPGA manager.
FPGA_MANAGER = Path("/sys/class/fpga_manager/fpga0")

#: Overlays of the device tree, one directory each: other loaders (xmutil, fpgautil) make one with every design.
TREE_OVERLAYS = Path("/sys/kernel/config/device-tree/overlays")

#: Register RST_FPD_TOP of CRF_APB, and its bits AFI_FM0_RESET to AFI_FM5_RESET: the ports HPC0, HPC1 and HP0 to HP3 of a Zynq
#: UltraScale+ (UG1087; the PMU firmware's pm_reset.c and the psu_afi_config() that Vivado writes use them so). The Zynq-7000 has no
#: such reset: the bits FPGA_AXDS0_RST and following of its FPGA_RST_CTRL are reserved in production silicon.
RST_FPD_TOP = 0xFD1A_0100
AFI_RESETS = 0x3F << 7

#: Seconds in which memory answers whatever the fabric of before asked for.
ANSWER_SECONDS = 1e-3


def _base_address(handoff: Path) -> int | None:
    """Where a hand-off has the registers of an accelerator of ours; None where it has none."""
    root = ElementTree.parse(handoff).getroot()
    kind = VLNV.rpartition(":")[0] + ":"
    names = {module.get("INSTANCE") for module in root.iter("MODULE") if module.get("VLNV", "").startswith(kind)}
    bases = [int(str(place.get("BASEVALUE")), 0) for place in root.iter("MEMRANGE") if place.get("INSTANCE") in names]
    return bases[0] if bases else None


def loaded_accelerator() -> int | None:
    """Address of the registers of the accelerator in the fabric of this machine. None where PYNQ's record does not say that there
    is one: nothing was loaded since power-up, the record is of another design, or its files or the fabric may have changed since.
    """
    from pynq.pl_server import global_state

    try:
        state = (FPGA_MANAGER / "state").read_text().strip()
        flags = (FPGA_MANAGER / "flags").read_text().strip()
        # PYNQ's own test of a fabric that was configured by the boot loader: its record is older than that
        if state != "operating" or flags.startswith("100"):
            return None
        records = sorted(Path(global_state.STATE_DIR).glob("global_pl_state*.json"), key=lambda path: path.stat().st_mtime)
        if not records:
            return None
        written = records[-1].stat().st_mtime
        handoff = Path(json.loads(records[-1].read_text())["bitfile_name"]).with_suffix(".hwh")
        others = TREE_OVERLAYS.iterdir() if TREE_OVERLAYS.is_dir() else ()
        if any(path.stat().st_mtime > written for path in (handoff, *others)):
            return None
        return _base_address(handoff)
    except (OSError, ValueError, KeyError, ElementTree.ParseError):
        return None


def _registers(pynq: Any, target: Any) -> Any | None:
    """The registers of the accelerator in the fabric of this machine, if there is one."""
    base = loaded_accelerator()
    if base is None:
        return None
    mmio = pynq.MMIO(base, WINDOW_BYTES, device=target)
    return mmio if int(mmio.read(register(BuildConfig(), "MAGIC").offset)) == MAGIC else None


def unasked_answers(pynq: Any) -> int | None:
    """The count UNASKED of the accelerator in the fabric of this machine; None where there is none, or no way to it."""
    if loaded_accelerator() is None:
        return None
    try:
        mmio = _registers(pynq, pynq.Device.active_device)
        return None if mmio is None else int(mmio.read(register(BuildConfig(), "UNASKED").offset))
    except (OSError, RuntimeError):  # not root
        return None


def stop_left_over(pynq: Any, target: Any) -> str:
    """Stop the pass that a host before us left in the fabric of this machine. What was found, for people; empty where no pass runs.

    A machine that does not stop is no error here: loading a bitstream over it is the cure.
    """
    mmio = _registers(pynq, target)
    if mmio is None:
        return ""
    stop = PassStop(mmio)
    if not stop.is_busy:
        return ""
    try:
        stop()
        return "stopped the pass of an earlier host"
    except StopFailed as error:
        return f"the pass of an earlier host goes on until the bitstream is loaded ({error.message})"


def reset_ports(pynq: Any, target: Any, parser: Any) -> None:
    """Reset the FIFOs of the memory ports after a load, while the new fabric asks for nothing: answers to the fabric of before are
    dropped, and a write that it left without its data. The ports' widths, which this resets too, are set again.
    """
    if target.arch != "aarch64":
        return
    time.sleep(ANSWER_SECONDS)
    resets = pynq.MMIO(RST_FPD_TOP, 4, device=target)
    others = int(resets.read(0)) & ~AFI_RESETS
    resets.write(0, others | AFI_RESETS)
    resets.write(0, others)
    if hasattr(target, "set_axi_port_width"):
        target.set_axi_port_width(parser)


def set_ports(pynq: Any, target: Any, parser: Any) -> None:
    """Set the FIFOs of the design's memory ports: data width, commands in flight, priority. Nothing may be in flight. ``parser``:
    PYNQ's, of the design's hand-off. What else is in these registers is left as it is.
    """
    for field in design_settings(parser.family_ps, parser.ip_dict[parser.ps_name]["parameters"]):
        register_of_port = pynq.MMIO(field.address, 4, device=target)
        before = int(register_of_port.read(0))
        if before & field.mask != field.value:
            register_of_port.write(0, before & ~field.mask | field.value)
