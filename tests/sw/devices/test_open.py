from __future__ import annotations

import pytest

from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.sw.devices.open import open_device


def test_unknown_device() -> None:
    with pytest.raises(HwgenError, match="'toaster' is unknown"):
        open_device("toaster", BuildConfig())


@pytest.mark.parametrize(("name", "module", "kind"), [
    ("golden", "golden", "GoldenDevice"), ("verilator", "verilator", "VerilatorDevice"), ("pynq", "pynq", "PynqDevice"),
])
def test_devices_by_name(name: str, module: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by its own name, and by no other; options go to its constructor."""
    config, made = BuildConfig(), list[object]()
    for other in ("golden.GoldenDevice", "verilator.VerilatorDevice", "pynq.PynqDevice"):
        monkeypatch.setattr(f"hwgen.sw.devices.{other}", lambda c, o=other, **options: made.append((o, c, options)))
    spelt = "".join(list(name))  # equal to the name that is known, and another object
    assert open_device(spelt, config, memory_bytes=7) is None and made == [(f"{module}.{kind}", config, {"memory_bytes": 7})]
    for unknown in ("gold", "z", "a", "", "pynqs", "verilato"):
        with pytest.raises(HwgenError, match=f"'{unknown}' is unknown") as caught:
            open_device(unknown, config)
    assert caught.value.fix == "use one of: golden, verilator, pynq" and len(made) == 1
