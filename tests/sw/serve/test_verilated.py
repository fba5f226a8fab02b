"""The generated hardware behind the server: story model, board ``demo``."""

from __future__ import annotations

from hwgen.sw.runtime.llm import LLM
from hwgen.sw.serve.service import Limits, Service

from .conftest import serving


def test_streaming_chat_on_generated_hardware() -> None:
    """Needs the simulator of the demo board, which is compiled once and cached."""
    expected = LLM("stories", "golden").generate("One day, a cat", max_new_tokens=10).text
    with serving(Service(LLM("stories", "verilator", cache_tokens=1024), limits=Limits(sessions=2))) as running:
        chunks = running.client.chat.completions.create(
            model="stories", messages=[{"role": "user", "content": "One day, a cat"}], max_tokens=10, stream=True,
            stream_options={"include_usage": True},
        )
        *chunks, last = chunks
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert "".join(pieces) == expected and len(pieces) > 5
        cycles = running.service.metrics.registry.get_sample_value("hwgen_cycles_total", {"phase": "decode"})
        assert cycles is not None and cycles > 9 * 10_000
        assert last.model_extra is not None
        times = last.model_extra["timings"]
        assert times["time"] == "simulated" and times["answer"]["tokens"] == 9 and 0 < times["answer"]["port_utilisation"] < 1
        assert times["answer"]["seconds"] * 1e6 * times["clock_mhz"] == cycles
