"""What is in an image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwgen.sw.compiler.constants import Constants

__all__ = ["content"]


def content(constants: Constants) -> npt.NDArray[np.uint8]:
    """Every byte of the constants of an image."""
    data = np.empty(constants.bytes, np.uint8)
    with constants.reading() as read:
        read(data)
    return data
