"""An image in the memory of a device: its buffers, filled once, and what the host writes there before a pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..compiler.image import Image, Places
from ..devices.device import Device
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

    def write_rows(self, tokens: Sequence[int]) -> None:
        """Put the embedding of the tokens of a pass, or what stands in its place, where its first operator reads it. No pass may be
        running.
        """
        rows = self._image.rows([0 if isinstance(token, VectorToken) else token for token in tokens])
        for row, token in zip(rows, tokens, strict=True):
            if isinstance(token, VectorToken):
                row[: token.bits.nbytes] = token.bits.view(np.uint8)
        self._device.write(self._rows, rows)
