"""Contiguous memory of a PYNQ board: buffers, what the host writes and reads there, and the cache maintenance that takes."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ...errors import HwgenError
from ...rounding import align, ceil_div
from .device import WINDOW, Bytes, windows
from .pass_stop import Holdings
from .pynq_library import WORD, missing_library

__all__ = ["PynqMemory", "boot_advice", "cma_limit", "cma_wanted", "contiguous_advice"]

#: Bytes of a cache line, the unit of cache maintenance.
LINE = 64

#: PYNQ's remote protocol counts the bytes of a buffer in 32 bits with a sign.
REMOTE_LIMIT = (1 << 31) - 1

#: Bytes that are better written with everything before them in a remote buffer than word by word.
REMOTE_BLOCK = 4096

#: Contiguous memory must lie in the lower 2 GiB of a Zynq UltraScale+, and Linux needs some of that itself. A KV260 boots with
#: cma=1900M and not with 2048M (measured by others); this keeps 50 MB more, since other boards were not tried.
LOW_MEMORY, KEPT_BY_LINUX = 2 << 30, 200 << 20

#: What `cma=` should be above what buffers take: drivers of display and network take from the same memory.
SPARE_CMA = 32 << 20


def cma_wanted(size: int) -> int:
    """Value of ``cma=`` in MiB for buffers of ``size`` bytes."""
    return ceil_div(size + SPARE_CMA, 4 << 20) * 4


def cma_limit(installed: int) -> int:
    """The largest ``cma=`` in MiB that a board with ``installed`` bytes of memory should be asked for."""
    return max(0, min(installed, LOW_MEMORY) - KEPT_BY_LINUX) >> 20


def boot_advice(wanted: int, seven: bool) -> str:
    """How a board gets ``wanted`` MiB of contiguous memory at its next boot; ``seven``: a Zynq-7000. U-Boot of PYNQ's images takes
    the kernel's whole command line from /boot/uEnv.txt where that names one; without, their kernel reserves 128 MiB.
    """
    image = f'echo "bootargs=$(cat /proc/cmdline) cma={wanted}M" >> /boot/uEnv.txt as root'
    if seven:
        return f"boot with cma={wanted}M: {image}, then reboot"
    return f"boot with cma={wanted}M: on Kria in /etc/default/flash-kernel, then sudo flash-kernel; else {image}; then reboot"


def contiguous_advice(size: int, installed: int | None, area: int | None = None, seven: bool = False) -> str:
    """What to do where ``size`` contiguous bytes are needed on a board with ``installed`` bytes of memory, ``area`` of them
    contiguous (None: unknown); ``seven``: a Zynq-7000.
    """
    wanted = cma_wanted(size)
    if area is not None and size <= area:
        return "end other programs that hold buffers (on a board sudo systemctl restart jupyter), or reboot"
    if installed is not None and cma_limit(installed) < wanted:
        return (
            f"such a board can give about {cma_limit(installed)} MiB: compile with a shorter --context, keep fewer tokens "
            "(--cache-tokens), or use a smaller model"
        )
    return f"{boot_advice(wanted, seven)}; a smaller model or context needs less"


class PynqMemory(ABC):
    """The part of a device on PYNQ that has its memory.

    XRT, below PYNQ, walks whole buffers whatever part of them is to be flushed or invalidated, so what is small and often used
    belongs in a buffer of its own.
    """

    _pynq: Any
    _target: Any
    _remote: bool
    _where: str
    #: The buffers, by address.
    _holdings: Holdings

    def __init__(self) -> None:
        #: Addresses of the buffers, ascending.
        self._starts: list[int] = []
        #: Bytes that cache maintenance has walked, whole buffers as XRT does; of a remote board, bytes that were moved.
        self.synchronised_bytes = 0

    @abstractmethod
    def _answers(self) -> AbstractContextManager[None]:
        """Says in our own words what a remote or virtual board reports."""

    @abstractmethod
    def _is_lost(self, error: Exception) -> bool:
        """Whether the board answers no more."""

    @abstractmethod
    def _lost(self, error: Any) -> HwgenError:
        """What to raise then."""

    @abstractmethod
    def _read_file(self, path: str) -> bytes | None:
        """A file of the board; None where there is none."""

    # ---- how much ------------------------------------------------------------------------------------------------
    def _memory_row(self, name: str) -> int | None:
        """Bytes of a row of /proc/meminfo, as far as the board says."""
        text = self._read_file("/proc/meminfo") or b""
        found = re.search(rf"^{name}:\s+(\d+) kB".encode(), text, re.MULTILINE)
        return 1024 * int(found[1]) if found else None

    def _no_memory(self, size: int, reason: str) -> HwgenError:
        free = self._memory_row("CmaFree")
        known = "" if free is None else f", {free >> 20} MiB are free"
        return HwgenError(
            "device",
            f"{self._where} cannot give {ceil_div(size, 1 << 20)} MiB of contiguous memory{known}"
            + (f" ({reason})" if reason else ""),
            contiguous_advice(size, self._memory_row("MemTotal"), self._memory_row("CmaTotal"), self._target.arch == "armv7l"),
        )

    def _check_memory(self, size: int) -> None:
        free = self._memory_row("CmaFree")
        if free is not None and free < size:
            raise self._no_memory(size, "")

    # ---- buffers -------------------------------------------------------------------------------------------------
    def allocate(self, size: int) -> int:
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size!r}")
        rounded = align(size, 4096)
        if self._remote and rounded > REMOTE_LIMIT:
            raise HwgenError(
                "device", f"{size} bytes are more than PYNQ's remote protocol can allocate (2 GiB)", "run hwgen on the board itself"
            )
        try:
            buffer = self._pynq.allocate((rounded,), "u1", target=self._target, cacheable=1)
            if self._remote and not buffer.buffer_id:  # how the service says that it has no memory
                raise MemoryError
            address = int(buffer.device_address)
        except HwgenError:
            raise
        except Exception as error:
            if self._is_lost(error):
                raise self._lost(error) from error
            missing = missing_library(error)
            if missing is not None:
                raise missing from error
            # every kind of PYNQ device reports this in its own way
            raise self._no_memory(size, str(error).splitlines()[0] if str(error) else "") from error
        if not address or address % 4096:
            raise HwgenError("device", f"the board gave a buffer at address 0x{address:x}", "load the bitstream again")
        self._holdings.buffers[address] = buffer
        insort(self._starts, address)
        return address

    def _find(self, address: int, size: int) -> tuple[Any, int]:
        """The buffer that holds these bytes, and where in it they are."""
        at = bisect_right(self._starts, address)
        if at:
            base = self._starts[at - 1]
            buffer = self._holdings.buffers[base]
            if address + size <= base + buffer.nbytes:
                return buffer, address - base
        raise HwgenError(
            "device", f"bytes 0x{address:x} to 0x{address + size:x} lie in no buffer of this device", "allocate them first"
        )

    def close(self) -> None:
        """Stop the machine and give every buffer back. The end of the interpreter does so too, for a device that is still open.

        :class:`StopFailed` when the machine does not stop: the buffers are then kept while this process lives.
        """
        self.clear()

    def clear(self) -> None:
        self._starts.clear()
        with self._answers():
            self._holdings.release()

    # ---- content -------------------------------------------------------------------------------------------------
    def _flush(self, buffer: Any, low: int, high: int) -> None:
        buffer[low:high].flush()
        self.synchronised_bytes += buffer.nbytes

    def _invalidate(self, buffer: Any, low: int, high: int) -> None:
        buffer[low:high].invalidate()
        self.synchronised_bytes += buffer.nbytes

    def fill(self, address: int, size: int, read: Callable[[Bytes], None]) -> None:
        buffer, start = self._find(address, size)
        if start:
            raise ValueError(f"address must be that of a buffer, not 0x{address:x}")
        if self._remote:
            self._send(buffer, self._fresh_windows(size, read), size)
            return
        for window in windows(buffer[:size].view(np.ndarray)):
            read(window)
        with self._answers():
            self._flush(buffer, 0, buffer.nbytes)

    @staticmethod
    def _fresh_windows(size: int, read: Callable[[Bytes], None]) -> Iterator[Bytes]:
        for first in range(0, size, WINDOW):
            window = np.empty(min(WINDOW, size - first), np.uint8)
            read(window)
            yield window

    def write(self, address: int, data: Bytes) -> None:
        flat = data.reshape(-1)
        if not flat.size:
            return
        buffer, start = self._find(address, flat.size)
        if self._remote:
            self._write_remote(buffer, start, flat)
            return
        end = start + flat.size
        with self._answers():
            low, high = start // LINE * LINE, align(end, LINE)
            for edge, outside in ((low, start > low), (high - LINE, end < high)):
                if outside:  # the rest of the line may be newer in memory than in the cache
                    self._invalidate(buffer, edge, edge + LINE)
            buffer[start:end] = flat
            self._flush(buffer, low, high)

    def read(self, address: int, size: int) -> Bytes:
        return self.view(address, size).copy()

    def view(self, address: int, size: int) -> Bytes:
        buffer, start = self._find(address, size)
        with self._answers():
            if self._remote:
                return self._receive(buffer, start, size)
            self._invalidate(buffer, start // LINE * LINE, align(start + size, LINE))
            data: Bytes = buffer[start : start + size].view(np.ndarray)
            return data

    # ---- across the network --------------------------------------------------------------------------------------
    def _receive(self, buffer: Any, start: int, size: int) -> Bytes:
        from .pynq_remote import read_buffer

        self.synchronised_bytes += start + size
        return read_buffer(buffer, start, size)

    def _send(self, buffer: Any, parts: Iterable[Bytes], size: int) -> None:
        """Replace the beginning of a remote buffer."""
        from .pynq_remote import write_buffer

        with self._answers():
            write_buffer(buffer, parts, size)
        self.synchronised_bytes += size

    def _write_remote(self, buffer: Any, start: int, flat: Bytes) -> None:
        """The service stores from the start of a buffer on; a few bytes elsewhere go word by word."""
        if not start:
            self._send(buffer, [flat], flat.size)
        elif flat.size >= REMOTE_BLOCK:
            with self._answers():
                before = self._receive(buffer, 0, start)
            self._send(buffer, [before, flat], start + flat.size)
        else:
            with self._answers():
                self._write_words(buffer, start, flat)

    def _write_words(self, buffer: Any, start: int, flat: Bytes) -> None:
        first, last = start // 4 * 4, align(start + flat.size, 4)
        memory = self._pynq.MMIO(int(buffer.device_address) + first, last - first, device=self._target)
        words = bytearray(last - first)
        for edge in {0, last - first - 4}:
            words[edge : edge + 4] = (int(memory.read(edge)) & WORD).to_bytes(4, "little")
        words[start - first : start - first + flat.size] = flat.tobytes()
        for offset in range(0, len(words), 4):
            memory.write(offset, int.from_bytes(words[offset : offset + 4], "little"))
        self.synchronised_bytes += len(words)
