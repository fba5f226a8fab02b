from __future__ import annotations

import numpy as np
import pytest

from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.sw.analysis import session_bench as session_benchmark
from hwgen.sw.analysis.session_bench import benchmark
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.pages import Session

from ..conftest import CONFIG, SHAPE


def open_golden(config: BuildConfig, memory_bytes: int) -> GoldenDevice:
    return GoldenDevice(config, memory_bytes=memory_bytes)


def test_report() -> None:
    """On the golden device, which counts no cycles: the figures of the hardware are in docs/runtime.md."""
    result = benchmark(CONFIG, SHAPE, history=24, question=3, open_device=open_golden)
    assert result["history_tokens"] == 24 and result["question_tokens"] == 3
    assert result["fresh"] == result["restored"] == {"cycles": 0, "ttft_s": 0.0}
    assert result["file_bytes"] > 2 * SHAPE.layers * 24 * SHAPE.head_dim and result["simulated"]


def test_wrong_logits_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    load = session_benchmark.load_session

    def load_wrong(engine: Engine, path: object) -> Session:
        session = load(engine, path)  # type: ignore[arg-type]
        engine.pages.write(session.pages[:1], np.zeros((1, engine.image.page_bytes), np.uint8))
        return session

    monkeypatch.setattr(session_benchmark, "load_session", load_wrong)
    with pytest.raises(HwgenError, match="other logits"):
        benchmark(CONFIG, SHAPE, history=24, question=3, open_device=open_golden)
