"""What is looked for on a board: a made-up KV260 has everything, and each test takes one thing away."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hwgen.boards import load_board
from hwgen.contract import CONTRACT_VERSION, contract_hash
from hwgen.registers import MAGIC, Status, register
from hwgen.sw.devices import board_checks
from hwgen.sw.devices.board_checks import BoardSystem, Check, check_board, named_board
from hwgen.sw.devices.virtual_board import hwh_text

BOARD = load_board("kv260")
BASE = 0xA000_0000
PYNQ = "/usr/local/share/pynq-venv/lib/python3.10/site-packages/pynq"
BITSTREAM = "/home/ubuntu/overlay/hwgen.bit"

#: PLL of 1500 MHz, and the clock made of it divided by 6.
CLOCK, PLL = 0xFF5E_00C0, 0xFF5E_0020

#: AFIFM2 to AFIFM5 and AFIFM0 (HP0 to HP3 and HPC0), reads then writes: control (what is not ours is set too), commands issued at a
#: time, priority.
PORTS = {
    0xFD36_0000 + module * 0x1_0000 + offset: value
    for module in (2, 3, 4, 5, 0)
    for offset, value in ((0, 0xF0), (4, 0xF7), (8, 0), (0x14, 0xF0), (0x18, 7), (0x1C, 0))
}

FILES = {
    "/dev/mem": "",
    "/dev/dri/renderD128": "",
    "/proc/device-tree/model": "ZynqMP SMK-K26 Rev1/B/A\0",
    "/proc/meminfo": "MemTotal: 4000000 kB\nCmaTotal:        1024000 kB\nCmaFree:          900000 kB\n",
    "/sys/module/zocl/version": "1",
    "/sys/class/uio/uio0/name": "axi-pmon\n",
    "/sys/class/uio/uio4/name": "fabric\n",
    "/sys/class/fpga_manager/fpga0/state": "operating\n",
    "/usr/lib/libxrt_core.so": "",
    f"{PYNQ}/__init__.py": "",
    f"{PYNQ}/pl_server/global_pl_state.json": json.dumps({"bitfile_name": BITSTREAM, "active_name": "", "timestamp": ""}),
}


@dataclass
class Made:
    """A board on disk, and its registers."""

    root: Path
    system: BoardSystem
    words: dict[int, int]

    def write(self, name: str, text: str) -> None:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def remove(self, name: str) -> None:
        (self.root / name.lstrip("/")).unlink()

    def change(self, **fields: Any) -> None:
        self.system = replace(self.system, **fields)

    def checks(self, needed: int = 0) -> dict[str, Check]:
        return {check.name: check for check in check_board(BOARD, self.system, needed=needed)}

    def set_register(self, name: str, value: int) -> None:
        self.words[BASE + register(BOARD.config, name).offset] = value


@pytest.fixture
def made(tmp_path: Path) -> Made:
    words = {CLOCK: 1 << 24 | 1 << 16 | 6 << 8, PLL: 90 << 8 | 1 << 16} | PORTS
    system = BoardSystem(
        root=tmp_path,
        environment={"BOARD": "KV260", "XILINX_XRT": "/usr", "PATH": "/usr/bin:/usr/local/share/pynq-venv/bin"},
        python=(3, 10),
        user=0,
        installed={"pynq": "3.0.1"}.get,
        module_directory={"pynq": tmp_path / PYNQ.lstrip("/")}.get,
        word=words.__getitem__,
    )
    board = Made(tmp_path, system, words)
    for name, text in FILES.items():
        board.write(name, text)
    board.write("/usr/local/share/pynq-venv/bin/xclbinutil", "")
    (tmp_path / "usr/local/share/pynq-venv/bin/xclbinutil").chmod(0o755)
    board.write(BITSTREAM.replace(".bit", ".hwh"), hwh_text(BOARD, base_address=BASE, leds_address=0xA100_0000))
    expected = contract_hash(BOARD.config)
    for name, value in {
        "MAGIC": MAGIC, "VERSION": CONTRACT_VERSION, "HASH_HIGH": expected >> 32, "HASH_LOW": expected & 0xFFFF_FFFF, "STATUS": 0,
    }.items():
        board.set_register(name, value)
    return board


def test_a_board_with_everything(made: Made) -> None:
    checks = made.checks(needed=800 << 20)
    assert [c.name for c in checks.values() if not c.ok] == []
    assert list(checks) == [
        "python", "pynq", "xrt", "xclbinutil", "permissions", "board", "zocl", "uio", "fpga manager", "memory", "overlay", "clock",
        "memory ports", "leftover pass",
    ]
    assert checks["memory"].found == "1000 MiB contiguous, 878 MiB free, the model needs 800 MiB"
    assert checks["clock"].found == "249.997 MHz by registers, the build is made for 250 MHz"
    assert checks["memory ports"].found == "5 of 128 bits, 8 commands each way, best effort"
    assert checks["uio"].found == "uio4" and checks["overlay"].found == BITSTREAM
    assert set(checks["clock"].to_dict()) == {"name", "ok", "found", "fix", "optional"}


#: Name of the failure, what breaks it, name of the check, what is found, what is to be done.
FAILURES: dict[str, tuple[Callable[[Made], None], str, str, str]] = {
    "old Python": (lambda m: m.change(python=(3, 8)), "python", "3.8", "Python 3.10 or newer"),
    "no PYNQ": (lambda m: m.change(installed=lambda name: None), "pynq", "not found", "/etc/profile.d/pynq_venv.sh"),
    "old PYNQ": (lambda m: m.change(installed=lambda name: "2.7.0"), "pynq", "2.7.0", "3.0.1, 3.1.2 and 4.0.0"),
    "PYNQ of an image": (lambda m: m.change(installed=lambda name: "4.0.0"), "pynq", "without /proc", "Kria boards have 3.0.1"),
    "no pyxrt": (lambda m: m.change(installed=lambda name: "4.0.0"), "xrt", "no pyxrt", "PYNQ image"),
    "sudo dropped XRT": (lambda m: m.system.environment.pop("XILINX_XRT"), "xrt", "XILINX_XRT is not set", "sudo alone"),
    "no XRT": (lambda m: m.remove("/usr/lib/libxrt_core.so"), "xrt", "/usr/lib/libxrt_core.so does not exist", "install.sh"),
    "no xclbinutil": (lambda m: m.remove("/usr/local/share/pynq-venv/bin/xclbinutil"), "xclbinutil", "not on PATH", "Kria-PYNQ"),
    "no root": (lambda m: m.change(user=1000), "permissions", "user 1000", "sudo -i"),
    "no /dev/mem": (lambda m: m.remove("/dev/mem"), "permissions", "no /dev/mem", "no container"),
    "no name": (lambda m: m.system.environment.pop("BOARD"), "board", "SMK-K26", "export BOARD=kv260"),
    "another board": (lambda m: m.write("/proc/device-tree/chosen/pynq_board", "ZCU104\0"), "board", "ZCU104", "--board zcu104"),
    "no zocl": (lambda m: (m.root / "sys/module/zocl").rename(m.root / "elsewhere"), "zocl", "not loaded", "modprobe"),
    "no render node": (lambda m: m.remove("/dev/dri/renderD128"), "zocl", "no /dev/dri/renderD", "device tree"),
    "no FPGA manager": (lambda m: m.remove("/sys/class/fpga_manager/fpga0/state"), "fpga manager", "does not exist", "Kria image"),
    "no CMA": (lambda m: m.write("/proc/meminfo", "MemTotal: 1 kB\n"), "memory", "no contiguous memory", "cma=1000M"),
    "overlay of others": (
        lambda m: m.remove(BITSTREAM.replace(".bit", ".hwh")), "overlay", "no hwgen accelerator", "load the bitstream",
    ),
    "fabric not configured": (
        lambda m: m.write("/sys/class/fpga_manager/fpga0/state", "unknown\n"), "overlay", "not say operating", "load the bitstream",
    ),
    "another design": (lambda m: m.set_register("MAGIC", 7), "overlay", "reads 0x00000007", "load the bitstream"),
    "older hwgen": (lambda m: m.set_register("VERSION", 1), "overlay", "contract version 1", "same version of hwgen"),
    "another build": (lambda m: m.set_register("HASH_LOW", 1), "overlay", "contract hash", "--config"),
    "slow clock": (
        lambda m: m.words.update({CLOCK: 1 << 24 | 1 << 16 | 15 << 8}), "clock", "99.999 MHz by registers", "fclk0_mhz = 250",
    ),
    "narrow port": (
        lambda m: m.words.update({0xFD39_0000: 0xF2}), "memory ports", "S_AXI_HP1_FPD, reads: data width, static priority: 0x2 at",
        "hwgen selftest --board kv260",
    ),
    "few commands": (
        lambda m: m.words.update({0xFD36_0018: 3, 0xFD36_001C: 2}), "memory ports",
        "S_AXI_HPC0_FPD, writes: commands issued at a time, less one: 0x3 at 0xfd360018, not 0x7; and 1 more", "--overlay FILE.bit",
    ),
    "leftover pass": (lambda m: m.set_register("STATUS", Status.BUSY), "leftover pass", "a pass is running", "without --attach"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_one_thing_is_wrong(made: Made, failure: str) -> None:
    spoil, name, found, fix = FAILURES[failure]
    spoil(made)
    check = made.checks()[name]
    assert not check.ok and not check.optional
    assert found in check.found and fix in check.fix


def test_nothing_is_loaded(made: Made) -> None:
    """No failure: `hwgen run` loads it. The fabric, which may be that of others, is not touched, and its clock is only told."""
    made.remove(f"{PYNQ}/pl_server/global_pl_state.json")
    for address in [a for a in made.words if a >= BASE and a < BASE + 0x10_0000]:
        del made.words[address]
    made.words[CLOCK] = 1 << 24 | 1 << 16 | 15 << 8
    checks = made.checks()
    assert not checks["overlay"].ok and checks["overlay"].optional and "--overlay" in checks["overlay"].fix
    assert not checks["clock"].ok and checks["clock"].optional and "leftover pass" not in checks


def test_interrupts_may_be_missing(made: Made) -> None:
    made.write("/sys/class/uio/uio4/name", "something\n")
    assert not made.checks()["uio"].ok and made.checks()["uio"].optional


def test_the_clock_as_the_kernel_knows_it(made: Made) -> None:
    """Where registers cannot be read, as without root."""

    def no_way(address: int) -> int:
        raise PermissionError("/dev/mem")

    made.remove(f"{PYNQ}/pl_server/global_pl_state.json")
    made.change(word=no_way)
    assert made.checks()["clock"].found.startswith("neither") and not made.checks()["clock"].ok
    made.write("/sys/kernel/debug/clk/clk_summary", (
        "   clock                enable_cnt  prepare_cnt  protect_cnt        rate   accuracy phase\n"
        "             pl0_ref                  1        1        0    99999001          0     0  50000\n"
    ))
    assert made.checks()["clock"].found == "99.999 MHz by clk_summary, the build is made for 250 MHz"


@pytest.mark.parametrize(
    ("needed", "free", "fix"),
    [
        (950 << 20, 900000, "shut notebooks"),
        (1_300_000_000, 900000, "cma=1272M"),
        (1_950_000_000, 900000, "cannot give that much"),
        (0, 0, "shut notebooks"),
    ],
)
def test_too_little_memory(made: Made, needed: int, free: int, fix: str) -> None:
    made.write("/proc/meminfo", f"CmaTotal:        1024000 kB\nCmaFree:          {free} kB\n")
    check = made.checks(needed)["memory"]
    assert not check.ok and fix in check.fix


def test_the_name_in_the_device_tree_comes_first(made: Made) -> None:
    assert named_board(made.system) == "KV260"
    made.write("/proc/device-tree/chosen/pynq_board", "ZCU104\0")
    assert named_board(made.system) == "ZCU104"


def test_registers_through_dev_mem(tmp_path: Path) -> None:
    """A file stands for it; a word is read in the page where it lies."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "mem").write_bytes(bytes(0x1FF0) + (0x1234_5678).to_bytes(4, "little") + bytes(12))
    assert BoardSystem(root=tmp_path).read_word(0x1FF0) == 0x1234_5678
    with pytest.raises(OSError):
        BoardSystem(root=tmp_path / "nowhere").read_word(0)


def test_a_pynq_z2_as_it_boots(made: Made) -> None:
    """128 MiB by its kernel. bitnet-0.73b with the short-list head takes 233 MiB at context 512, and 276 at 1024, for which no such
    board was ever booted.
    """
    made.write("/proc/meminfo", "MemTotal: 510000 kB\nCmaTotal: 131072 kB\nCmaFree: 120000 kB\n")
    made.change(word=lambda address: 0)

    def memory(needed: int) -> Check:
        return {check.name: check for check in check_board(load_board("pynq-z2"), made.system, needed=needed << 20)}["memory"]

    check = memory(233)
    assert not check.ok and check.found == "128 MiB contiguous, 117 MiB free, the model needs 233 MiB"
    assert check.fix == 'boot with cma=268M: echo "bootargs=$(cat /proc/cmdline) cma=268M" >> /boot/uEnv.txt as root, then reboot'
    assert "cannot give that much (cma=298M at most)" in memory(276).fix


def test_numbers_are_compared_by_value(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they come from registers: equal numbers, and other objects."""
    monkeypatch.setattr(board_checks, "CONTRACT_VERSION", 1000)
    made.set_register("VERSION", int("1000"))
    made.set_register("MAGIC", int(str(MAGIC)))
    assert made.checks()["overlay"].ok
    made.set_register("VERSION", 1001)
    assert made.checks()["overlay"].found == "contract version 1001, this hwgen has 1000"


def test_registers_that_cannot_be_read(made: Made) -> None:
    first = register(BOARD.config, "MAGIC").offset + BASE

    def word(address: int) -> int:
        if address == first:
            raise OSError(5, "Input/output error")
        return made.words[address]

    made.change(word=word)
    check = made.checks()["overlay"]
    assert not check.ok and "registers cannot be read: [Errno 5]" in check.found and check.fix


@pytest.mark.parametrize(("name", "check"), [("STATUS", "leftover pass"), (None, "memory ports")])
def test_a_check_that_cannot_look_has_failed(made: Made, name: str | None, check: str) -> None:
    """A register of the accelerator, or that of a port."""
    broken = BASE + register(BOARD.config, name).offset if name else 0xFD39_0000

    def word(address: int) -> int:
        if address == broken:
            raise OSError(5, "Input/output error")
        return made.words[address]

    made.change(word=word)
    checks = made.checks()
    assert [name for name, found in checks.items() if not found.ok] == [check]
    assert (checks[check].found, checks[check].optional) == ("[Errno 5] Input/output error", False)


def test_what_pynq_says_that_it_has_loaded(made: Made) -> None:
    """A torn file is passed over; an accelerator of another version is not ours; the address is that of the accelerator."""
    made.write(f"{PYNQ}/pl_server/global_pl_state_0.json", "{")
    made.remove(f"{PYNQ}/pl_server/global_pl_state.json")
    made.write(f"{PYNQ}/pl_server/global_pl_state_1.json", json.dumps({"bitfile_name": BITSTREAM}))
    path = BITSTREAM.replace(".bit", ".hwh")
    text = (made.root / path.lstrip("/")).read_text()
    made.write(path, text.replace("<MEMRANGE ", '<MEMRANGE INSTANCE="another" BASEVALUE="0x1000" /><MEMRANGE ', 1))
    assert all(check.ok for check in made.checks().values())
    made.write(path, text.replace("hwgen:accelerator:1.0", "hwgen:accelerator:2.0"))
    checks = made.checks()
    assert checks["overlay"].found == f"{BITSTREAM} has hwgen:hwgen:accelerator:2.0"
    assert checks["clock"].optional and not {"memory ports", "leftover pass"} & set(checks)


def test_nothing_is_read_of_an_overlay_that_does_not_answer(made: Made) -> None:
    """Its clock is told only, its ports and passes are not looked for."""
    made.set_register("MAGIC", 7)
    checks = made.checks()
    assert not checks["overlay"].ok and checks["clock"].optional and not {"memory ports", "leftover pass"} & set(checks)


def test_builds_of_ones_own(made: Made) -> None:
    """Another name for the same board, and a build for no board at all."""
    own = {check.name: check for check in check_board(replace(BOARD, name="mine"), made.system)}
    assert own["board"].ok and own["overlay"].ok
    plain = {check.name: check for check in check_board(replace(BOARD, name="mine", platform=None), made.system)}
    assert not plain["board"].ok and plain["clock"].ok and "memory ports" not in plain and plain["leftover pass"].ok
