"""Pages lie where the page table can say it, or nowhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.compiler.placement import FRAME_BYTES
from hwgen.sw.runtime.pages import PagePool

LIMIT = 64 << 30


@pytest.mark.parametrize(("address", "good"), [
    (0, True), (LIMIT - FRAME_BYTES, True), (LIMIT, False), (FRAME_BYTES + 1, False), (FRAME_BYTES // 2, False),
])
def test_addresses(address: int, good: bool) -> None:
    image: Any = SimpleNamespace(page_bytes=FRAME_BYTES, pages=2, config=SimpleNamespace(kv_block=16))
    device: Any = None
    if good:
        assert PagePool(device, image, [FRAME_BYTES, address]).free == 2
    else:
        with pytest.raises(HwgenError, match=f"lies at 0x{address:x}, which the page table cannot say"):
            PagePool(device, image, [FRAME_BYTES, address])
