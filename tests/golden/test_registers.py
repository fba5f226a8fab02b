"""Register window of the functional model."""

from __future__ import annotations

import pytest

from hwgen.config import BuildConfig
from hwgen.contract import CONTRACT_VERSION, contract_hash
from hwgen.golden.registers import RegisterWindow
from hwgen.registers import MAGIC, WINDOW_BYTES, Control, Status, register, register_map

CONFIG = BuildConfig()


def offset(name: str) -> int:
    return register(CONFIG, name).offset


def test_identity() -> None:
    window = RegisterWindow(CONFIG)
    assert window.read(0) == MAGIC and window.read(offset("VERSION")) == CONTRACT_VERSION
    assert window.read(offset("HASH_HIGH")) << 32 | window.read(offset("HASH_LOW")) == contract_hash(CONFIG)


def test_access_rules() -> None:
    window = RegisterWindow(CONFIG)
    for row in register_map(CONFIG):
        if row.name in ("CONTROL",):
            continue
        last = row.offset + (row.count - 1) * row.step
        before = window.read(last)
        assert not window.write(last, 3)
        assert window.read(last) == {"rw": 1 if row.name == "INTERRUPT" else 3, "ro": before, "wo": 0}[row.access]
    assert window.token_ids[-1] == window.pages[-1] == 3


def test_enabled_ports() -> None:
    window = RegisterWindow(CONFIG)
    assert window.read(offset("PORT_ENABLE")) == window.port_enable == (1 << CONFIG.ports) - 1
    window.write(offset("PORT_ENABLE"), 0xFFFF_FFF1)
    assert window.read(offset("PORT_ENABLE")) == window.port_enable == 1


def test_doorbell_status_and_interrupt() -> None:
    window = RegisterWindow(CONFIG)
    window.write(offset("INTERRUPT"), 1)
    assert window.write(offset("CONTROL"), 1)
    window.begin()
    assert window.read(offset("STATUS")) == Status.BUSY and not window.irq
    assert not window.write(offset("CONTROL"), 1)  # ignored while busy
    window.end()
    assert window.read(offset("STATUS")) == Status.DONE and window.irq
    assert not window.write(offset("CONTROL"), 2)
    assert window.read(offset("STATUS")) == 0 and not window.irq


def test_stop() -> None:
    window = RegisterWindow(CONFIG)
    window.write(offset("INTERRUPT"), 1)
    assert not window.write(offset("CONTROL"), Control.STOP) and window.read(offset("STATUS")) == 0
    assert window.write(offset("CONTROL"), Control.START | Control.STOP)
    window.begin()
    assert not window.write(offset("CONTROL"), Control.START | Control.STOP)
    assert window.read(offset("STATUS")) == Status.DONE | Status.STOPPED and window.irq
    window.write(offset("CONTROL"), Control.ACKNOWLEDGE)
    assert window.read(offset("STATUS")) == Status.STOPPED and not window.irq
    window.begin()
    assert window.read(offset("STATUS")) == Status.BUSY and window.read(offset("UNASKED")) == 0


def test_addresses_and_holes() -> None:
    window = RegisterWindow(CONFIG)
    window.write(offset("PROGRAM_HIGH"), 0x12)
    window.write(offset("PROGRAM_LOW"), 0x1_3456_7890)
    assert window.program == 0x12_3456_7890
    assert window.read(0x3FFC) == 0
    for bad in (2, -4, WINDOW_BYTES):
        with pytest.raises(ValueError, match=f"offset must be a multiple of 4 below 0x{WINDOW_BYTES:x}"):
            window.read(bad)
