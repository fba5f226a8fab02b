from __future__ import annotations

import pytest

from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.sw.devices.open import open_device


def test_unknown_device() -> None:
    with pytest.raises(HwgenError, match="'toaster' is unknown"):
        open_device("toaster", BuildConfig())
