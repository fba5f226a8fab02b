"""What PYNQ's exceptions mean, without PYNQ."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.devices.pynq_library import active_device, import_pynq, missing_library


@pytest.mark.parametrize(("error", "message"), [
    (NameError("name 'pyxrt' is not defined"), "this Python has no pyxrt"),
    (AttributeError("'NoneType' object has no attribute 'xclProbe'"), "XILINX_XRT is not set"),
    (PermissionError(13, "Permission denied", "/dev/mem"), "PYNQ needs root: .*/dev/mem"),
    (RuntimeError("Root permissions required."), "PYNQ needs root: Root permissions required"),
    (FileNotFoundError(2, "No such file or directory", "/dev/mem"), "this kernel shows no registers: .*/dev/mem"),
    (OSError("/usr/lib/libxrt_core.so: cannot open shared object file"), "a library of the board is missing: .*libxrt_core"),
    (ImportError("libxrt_core.so.2: cannot open shared object file"), "a library of the board is missing: .*libxrt_core"),
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


@pytest.mark.parametrize(("text", "message"), [
    ("import pyxrt", "PYNQ cannot reach the board: this Python has no pyxrt"),
    ("import grpc_of_another_version", "needs a Python package that is missing: grpc_of_another_version"),
    ("import xrt_of_another_version", "needs a Python package that is missing: xrt_of_another_version"),
    ("import zlib_of_another_version", "needs a Python package that is missing: zlib_of_another_version"),
    ("raise OSError('libxrt_core.so.2: cannot open')", "a library of the board is missing: libxrt_core"),
    ("raise ImportError('libxrt_core.so.2: cannot open shared object file')", "a library of the board is missing: libxrt_core"),
    ("raise ImportError('libxrt_core.so.2: cannot open', name='_xrt')", "a library of the board is missing: libxrt_core"),
    ("from math import of_another_version", "PYNQ cannot reach the board: ImportError: cannot import name 'of_another_version'"),
    ("raise KeyError('toaster')", "PYNQ cannot reach the board: KeyError: 'toaster'"),
    ("raise ValueError", "PYNQ cannot reach the board: ValueError: ValueError"),
    ("raise ValueError('two\\nlines')", "PYNQ cannot reach the board: ValueError: two$"),
    ("import warnings; warnings.warn('no device'); word = 7", ""),
])
def test_importing_it(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of that name that does so; of its warnings nobody hears."""
    (tmp_path / "pynq.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("pynq", "pyxrt"):
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        if not message:
            assert import_pynq().word == 7 and not heard
            return
        with pytest.raises(HwgenError) as caught:
            import_pynq()
    assert re.search(message, caught.value.message) and caught.value.fix


def test_warnings_that_there_is_no_device_are_not_heard() -> None:
    class Device:
        @property
        def active_device(self) -> object:
            warnings.warn("no device", UserWarning, stacklevel=1)
            return "it"

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert active_device(SimpleNamespace(Device=Device())) == "it" and not heard
