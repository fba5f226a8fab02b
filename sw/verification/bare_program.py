"""Programs that no compiler made: a few operators, run for what they read, where it comes from and how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...descriptors import DESCRIPTOR_BYTES, PROGRAM_PADDING, Descriptor, pack_program
from ...errors import HwgenError
from ...registers import ERROR_PORT, ERROR_RESPONSE, ERROR_WRITE, RUN_TOKENS, Control, PassFlag, Status, register_map
from ...rounding import align
from ..devices.device import Device

__all__ = ["BarePass", "BareProgram"]

#: Seconds of the device's own time after which a pass counts as hung: those that ask for no more read some kilobytes.
TIMEOUT = 0.02

#: Alignment of program and data, in bytes.
ALIGNMENT = 4096


@dataclass(frozen=True)
class BarePass:
    """What a pass counted; times are 0 on the golden device."""

    #: From doorbell to completion.
    cycles: int
    #: Beats that entered the ring.
    beats: int
    #: Data words that each port brought.
    port_words: tuple[int, ...]


class BareProgram:
    """Memory for programs of up to ``operators`` operators and ``data_bytes`` beside them, on a device that nothing else uses."""

    def __init__(self, device: Device, operators: int, data_bytes: int) -> None:
        self.device = device
        self._rows = {row.name: row for row in register_map(device.config)}
        self._room = align((operators + PROGRAM_PADDING) * DESCRIPTOR_BYTES, ALIGNMENT)
        #: Addresses of the program and of the data.
        self.start = device.allocate(self._room + data_bytes)
        self.data = self.start + self._room

    def read_register(self, name: str, index: int = 0) -> int:
        row = self._rows[name]
        return self.device.read_register(row.offset + index * row.step)

    def write_register(self, name: str, value: int, index: int = 0) -> None:
        row = self._rows[name]
        self.device.write_register(row.offset + index * row.step, value)

    def load(self, descriptors: Sequence[Descriptor]) -> None:
        """Write the operators that :meth:`run` runs."""
        packed = pack_program(descriptors)
        if len(packed) > self._room:
            raise ValueError(f"descriptors must be fewer than {self._room // DESCRIPTOR_BYTES}, not {len(descriptors)}")
        self.device.write(self.start, np.frombuffer(packed, np.uint8))

    def run(self, ports: int, logits: int | None = None, timeout: float = TIMEOUT) -> BarePass:
        """One pass of one token at position 0 that may read through ``ports`` (a bit each); ``logits``: where DRAIN writes
        them. :class:`HwgenError` for a pass that ends with an error of a port, or does not end.
        """
        addresses = {"PROGRAM": self.start, "LOGITS": logits or 0}
        for name, address in addresses.items():
            self.write_register(f"{name}_LOW", address & 0xFFFFFFFF)
            self.write_register(f"{name}_HIGH", address >> 32)
        wanted = logits is not None
        for name, *values in (
            ("RUN", 0, RUN_TOKENS.put(1)), ("RUNS", 1), ("COUNT", 1), ("WANT", 0), ("WANTED", int(wanted)),
            ("PASS", int(PassFlag.WRITE_LOGITS) if wanted else 0), ("PORT_ENABLE", ports), ("INTERRUPT", 1),
        ):
            for index, value in enumerate(values):
                self.write_register(name, value, index)
        self.write_register("CONTROL", Control.ACKNOWLEDGE)
        self.write_register("CONTROL", Control.START)
        try:
            self.device.wait(timeout)
        except BaseException:
            self.device.stop()
            raise
        status = Status(self.read_register("STATUS"))
        self.write_register("CONTROL", Control.ACKNOWLEDGE)
        if Status.ERROR in status:
            error = self.read_register("ERROR")
            way = "write" if ERROR_WRITE.extract(error) else "read"
            raise HwgenError(
                "device", f"memory port {ERROR_PORT.extract(error)} answered a {way} with response {ERROR_RESPONSE.extract(error)}",
                "check that the design enables every memory port, and load the bitstream again",
            )
        words = tuple(self.read_register("COUNT_PORT_BUSY", port) for port in range(self.device.config.ports))
        return BarePass(self.read_register("COUNT_CYCLES"), self.read_register("COUNT_STREAM_BEATS"), words)

    def write(self, offset: int, data: npt.NDArray[np.uint8]) -> None:
        """Copy bytes to ``offset`` of the data."""
        self.device.write(self.data + offset, data)
