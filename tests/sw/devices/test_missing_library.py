"""What PYNQ's exceptions mean, without PYNQ."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.devices.pynq_library import active_device, missing_library


@pytest.mark.parametrize(("error", "message"), [
    (NameError("name 'pyxrt' is not defined"), "this Python has no pyxrt"),
    (AttributeError("'NoneType' object has no attribute 'xclProbe'"), "XILINX_XRT is not set"),
    (PermissionError(13, "Permission denied", "/dev/mem"), "PYNQ needs root: .*/dev/mem"),
    (RuntimeError("Root permissions required."), "PYNQ needs root: Root permissions required"),
    (FileNotFoundError(2, "No such file or directory", "/dev/mem"), "this kernel shows no registers: .*/dev/mem"),
    (OSError("/usr/lib/libxrt_core.so: cannot open shared object file"), "a library of the board is missing: .*libxrt_core"),
    (FileNotFoundError(2, "No such file or directory", "xbutil"), "a library of the board is missing: .*xbutil"),
    (FileNotFoundError(2, "No such file or directory", "xclbinutil"), "a library of the board is missing: .*xclbinutil"),
])
def test_what_is_missing(error: Exception, message: str) -> None:
    found = missing_library(error)
    assert found is not None and found.kind == "device" and found.fix
    with pytest.raises(HwgenError, match=message):
        raise found


@pytest.mark.parametrize("error", [
    ValueError("something else"), ValueError("libxrt is no file here"), RuntimeError("/dev/mem"), OSError("notxbutils"),
    OSError(5, "Input/output error"),
])
def test_what_is_something_else(error: Exception) -> None:
    assert missing_library(error) is None


def failing(error: Exception) -> object:
    class Device:
        @property
        def active_device(self) -> object:
            raise error

    return SimpleNamespace(Device=Device())


def test_no_device_is_none_and_another_error_is_told() -> None:
    assert active_device(failing(RuntimeError("No Devices Found"))) is None
    assert active_device(SimpleNamespace(Device=SimpleNamespace(active_device="it"))) == "it"
    for error in (RuntimeError("Others"), KeyError("No Devices Found")):
        with pytest.raises(HwgenError, match=f"PYNQ cannot reach the board: {type(error).__name__}"):
            active_device(failing(error))
