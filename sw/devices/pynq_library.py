"""PYNQ, and the libraries of a board below it: what is missing there is one line that says what to do."""

from __future__ import annotations

import re
import warnings
from typing import Any

from ...errors import HwgenError
from ...packages import needs

__all__ = ["ENTER", "WORD", "active_device", "import_pynq", "missing_library"]

#: How to get into the environment that an image of a board brings; it says where XRT is, too.
ENTER = "enter the board's own environment as root (sudo -i, then source /etc/profile.d/pynq_venv.sh)"

#: Mask of a register's value: PYNQ 3.1 gives the words of a remote board with a sign.
WORD = 0xFFFF_FFFF

_INSTALL = "run install.sh of Kria-PYNQ on a Kria board, or use a PYNQ image of the board (docs/boards.md)"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def missing_library(error: Exception) -> HwgenError | None:
    """What an exception of PYNQ means where a library, a device file or a right is missing on this board; None for others."""
    text = _first_line(error)
    if "pyxrt" in text:
        return HwgenError(
            "device",
            "PYNQ cannot reach the board: this Python has no pyxrt, the library of XRT that PYNQ 3.1 and newer need",
            f"such PYNQ runs in its own images; Kria boards have 3.0.1: {ENTER}",
        )
    if "'NoneType' object has no attribute 'xcl" in text:
        return HwgenError(
            "device",
            "PYNQ cannot reach the board: XILINX_XRT is not set, so PYNQ has not loaded XRT",
            f"{ENTER}; sudo alone drops it",
        )
    if isinstance(error, PermissionError) or "Root permissions required" in text:
        return HwgenError("device", f"PYNQ needs root: {text}", ENTER)
    if isinstance(error, OSError) and "/dev/mem" in text:
        return HwgenError(
            "device", f"this kernel shows no registers: {text}", "use the kernel of a PYNQ or Kria image, and no container"
        )
    if isinstance(error, (OSError, ImportError)) and re.search(r"\blibxrt|\bxbutil\b|\bxclbinutil\b", text):
        return HwgenError("device", f"a library of the board is missing: {text}", f"{_INSTALL}; then {ENTER}")
    return None


def _explain(error: Exception) -> HwgenError:
    return missing_library(error) or HwgenError(
        "device",
        f"PYNQ cannot reach the board: {type(error).__name__}: {_first_line(error)}",
        f"hwgen doctor --board says more; {ENTER}",
    )


def import_pynq() -> Any:
    """The module ``pynq``; :class:`HwgenError` where it, or a library that it loads with itself, is missing."""
    with warnings.catch_warnings(), needs("a PYNQ board", "hwgen[pynq]"):
        warnings.simplefilter("ignore")  # about the order of its own imports, and that there is no device
        try:
            import pynq
        except ModuleNotFoundError as error:
            if error.name == "pyxrt":
                raise _explain(error) from error
            raise
        except Exception as error:  # PYNQ runs much on import, and libraries of a board end in every kind of exception there
            raise _explain(error) from error
    return pynq


def active_device(pynq: Any) -> Any | None:
    """PYNQ's active device; None where PYNQ finds none, :class:`HwgenError` where it finds a board that it cannot open."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no device
            return pynq.Device.active_device
    except Exception as error:  # likewise: without a library of the board it is a NameError, for instance
        if isinstance(error, RuntimeError) and str(error) == "No Devices Found":
            return None
        raise _explain(error) from error
