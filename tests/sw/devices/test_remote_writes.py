"""How bytes get into a remote buffer: from its start on, behind what is there, or word by word; and how files are read."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.sw.devices.pynq import PynqDevice
from hwgen.sw.devices.pynq_memory import PynqMemory


class Words:
    """PYNQ's MMIO on bytes; what is read may have a sign."""

    def __init__(self, memory: np.ndarray, first: int, size: int) -> None:
        self._words = memory[first : first + size].view("<i4")
        assert self._words.size * 4 == size

    def read(self, offset: int) -> int:
        return int(self._words[offset // 4])

    def write(self, offset: int, value: int) -> None:
        assert 0 <= value < 1 << 32
        self._words[offset // 4] = np.uint32(value).astype(np.int32)


@pytest.mark.parametrize(("start", "size", "way"), [
    (0, 1, "whole"), (0, 4096, "whole"), (4, 4096, "behind"), (3, 4101, "behind"),
    (4, 4, "words"), (5, 7, "words"), (3, 2, "words"), (5, 2, "words"), (7, 4095, "words"), (8, 9, "words"),
])
def test_only_these_bytes_change(start: int, size: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(start + size)
    base, ways = 0x40, []
    memory = rng.integers(0, 256, base + 2 * 4096 + 64).astype(np.uint8)
    expected, data = memory.copy(), rng.integers(0, 256, size).astype(np.uint8)
    expected[base + start : base + start + size] = data

    def send(self: Any, buffer: Any, parts: Any, size: int) -> None:
        whole = np.concatenate([np.asarray(part, np.uint8) for part in parts])
        assert whole.size == size
        memory[base : base + size] = whole
        ways.append("behind" if "received" in ways else "whole")

    def receive(self: Any, buffer: Any, first: int, size: int) -> np.ndarray:
        ways.append("received")
        return memory[base + first : base + first + size].copy()

    monkeypatch.setattr(PynqMemory, "_send", send)
    monkeypatch.setattr(PynqMemory, "_receive", receive)
    names = dict.fromkeys(PynqMemory.__abstractmethods__, lambda self: nullcontext())
    device: Any = type("Device", (PynqMemory,), names)()
    device._target = None
    windows: list[tuple[int, int]] = []

    def mmio(address: int, size: int, device: Any) -> Words:
        windows.append((address - base, size))
        return Words(memory, address, size)

    device._pynq = SimpleNamespace(MMIO=mmio)
    device._write_remote(SimpleNamespace(device_address=base), start, data)
    assert np.array_equal(memory, expected) and (ways or ["words"])[-1] == way
    words = (start + size + 3) // 4 * 4 - start // 4 * 4
    assert way != "words" or (windows, device.synchronised_bytes) == ([(start // 4 * 4, words)], words)


@pytest.mark.parametrize(("remote", "simulated"), [(True, False), (False, True), (False, False)])
def test_files_of_a_board(remote: bool, simulated: bool, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"operating")
    files = {str(tmp_path / "there"): b"operating"}
    target = SimpleNamespace(
        exists_file=lambda path: SimpleNamespace(exists=path in files), read_file=files.__getitem__,
        board=SimpleNamespace(read_file=files.get),
    )
    device: Any = SimpleNamespace(_remote=remote, simulated=simulated, _target=target, _answers=nullcontext)
    read = PynqDevice._read_file
    assert read(device, str(tmp_path / "there")) == b"operating" and read(device, str(tmp_path / "gone")) is None
