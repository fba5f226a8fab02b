"""An image in the memory of a device: its buffers, filled once, and what the host writes there before a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from ...errors import HwgenError
from ...rounding import ceil_div
from ..compiler.image import Image, Places
from ..devices.device import Bytes, Device
from .vector_tokens import VectorToken

__all__ = ["ImageMemory"]


class ImageMemory:
    """Buffers of an image on a device, a buffer for everything that is synchronised on its own."""

    def __init__(self, device: Device, image: Image) -> None:
        self._device, self._image = device, image
        sizes = image.buffers()
        constants, (rows,), (program,), (self.logits,) = (
            tuple(map(device.allocate, sizes[name])) for name in ("constants", "rows", "program", "logits")
        )
        #: Address of every KV page.
        self.pages: list[int] = []
        for size in sizes["pages"]:
            start = device.allocate(size)
            self.pages += range(start, start + size, image.page_bytes)
        with image.constants.reading() as read:
            for address, size in zip(constants, sizes["constants"], strict=True):
                device.fill(address, size, read)
        self._rows, self._places = rows, Places(constants, rows)
        device.write(program, np.frombuffer(image.program(self._places), np.uint8))
        #: Address of the program of a pass, and of those that end early, by their layers.
        self._programs: dict[int | None, int] = {None: program}

    def program(self, layers: int | None = None) -> int:
        """Address of the program of a pass, or of one that ends with keys and values of the first ``layers`` layers: a few
        kilobytes, which are asked for when they are first needed.
        """
        if layers not in self._programs:
            content = np.frombuffer(self._image.program(self._places, layers), np.uint8)
            self._programs[layers] = self._device.allocate(content.size)
            self._device.write(self._programs[layers], content)
        return self._programs[layers]

    @cached_property
    def loop_program(self) -> int | None:
        """Address of the program that finds the embedding of a token by its id, written when it is first asked for; None where
        there is no room for these embeddings.
        """
        image, device = self._image, self._device
        if not image.loop_buffers:
            return None
        size = image.loop_buffers[0]
        try:
            table, program = map(device.allocate, image.loop_buffers)
        except HwgenError:  # the memory of the device is full
            return None
        device.fill(table, size, self._fill_table())
        device.write(program, np.frombuffer(image.program(Places(self._places.constants, table)), np.uint8))
        return program

    def _fill_table(self) -> Callable[[Bytes], None]:
        """What fills one window after the other with the embeddings of all tokens."""
        at, width = 0, self._image.row_bytes

        def fill(window: Bytes) -> None:
            nonlocal at
            first = at // width
            rows = self._image.rows(range(first, ceil_div(at + window.size, width))).reshape(-1)
            window[:] = rows[at - first * width :][: window.size]
            at += window.size

        return fill

    def write_rows(self, tokens: Sequence[int]) -> None:
        """Put the embedding of the tokens of a pass, or what stands in its place, where its first operator reads it. No pass may be
        running.
        """
        if min(tokens) >= 0:
            self._device.write(self._rows, self._image.rows(tokens))
            return
        rows = self._image.rows([max(0, token) for token in tokens]).copy()
        for row, token in zip(rows, tokens, strict=True):
            if isinstance(token, VectorToken):
                row[: token.bits.nbytes] = token.bits.view(np.uint8)
        self._device.write(self._rows, rows)
