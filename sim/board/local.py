"""The virtual board in process: a :class:`pynq.pl_server.device.Device`, for ``Overlay(..., device=...)``."""

from __future__ import annotations

import ctypes
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from pynq.buffer import PynqBuffer
from pynq.pl_server.device import Device
from pynq.pl_server.embedded_device import bit2bin
from pynqmetadata.frontends import Metadata
from pynqmetadata.views.runtime import RuntimeMetadataParser

from .board import VirtualBoard

__all__ = ["SimulatedDevice"]


class SimulatedDevice(Device):
    """PYNQ's view of a board in this process.

    A buffer is memory of the host that flush and invalidate copy to and from the board, over exactly the bytes they are
    asked for: too wide a flush overwrites what the accelerator wrote, too narrow a one leaves it with old data.
    """

    def __init__(self, board: VirtualBoard) -> None:
        super().__init__("hwgen-virtual-board")
        self.board = board
        self.arch = board.arch
        self.name = board.name
        self.capabilities = {"REGISTER_RW": True}

    # ---- registers -----------------------------------------------------------------------------------------------
    def read_registers(self, address: int, size: int) -> bytes:
        return b"".join(self.board.read_word(address + i).to_bytes(4, "little") for i in range(0, size, 4))

    def write_registers(self, address: int, data: Any) -> None:
        raw = bytes(data)
        for i in range(0, len(raw), 4):
            self.board.write_word(address + i, int.from_bytes(raw[i : i + 4], "little"))

    # ---- memory --------------------------------------------------------------------------------------------------
    def allocate(self, shape: Any, dtype: Any, **options: object) -> Any:
        count = math.prod(shape) if isinstance(shape, tuple) else int(shape)
        size = count * np.dtype(dtype).itemsize
        with self.board.lock:
            address = self.board.contiguous.allocate(size)
        store = np.zeros(max(1, size), np.uint8)
        weakref.finalize(store, self._free, address)
        return PynqBuffer(shape, dtype, buffer=store, device=self, device_address=address, bo=address, coherent=False)

    def _free(self, address: int) -> None:
        with self.board.lock:
            self.board.contiguous.free(address)

    def flush(self, address: int, offset: int, pointer: int, size: int) -> None:
        self.board.memory(address + offset, size)[:] = np.frombuffer(ctypes.string_at(pointer, size), np.uint8)

    def invalidate(self, address: int, offset: int, pointer: int, size: int) -> None:
        ctypes.memmove(pointer, self.board.memory(address + offset, size).tobytes(), size)

    # ---- bitstreams ----------------------------------------------------------------------------------------------
    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        return RuntimeMetadataParser(Metadata(input=str(Path(bitfile_name).with_suffix(".hwh"))))

    def download(self, bitstream: Any, parser: Any = None) -> None:
        self.board.load_bitstream(bit2bin(Path(bitstream.bitfile_name).read_bytes()))
        self.post_download(bitstream, parser, self.name)

    def gen_cache(self, bitstream: Any, parser: Any = None) -> None:
        """Nothing is cached in process."""
