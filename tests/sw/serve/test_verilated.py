"""The generated hardware behind the server: story model, board ``demo``."""

from __future__ import annotations

from hwgen.sw.runtime.llm import LLM
from hwgen.sw.serve.service import Limits, Service

from .conftest import Running, serving


def test_streaming_chat_on_generated_hardware() -> None:
    """Needs the simulator of the demo board, which is compiled once and cached."""
    expected = LLM("stories", "golden").generate("One day, a cat", max_new_tokens=10).text
    with serving(Service(LLM("stories", "verilator", cache_tokens=1024), limits=Limits(sessions=2))) as running:
        assert running.http.get("/machine/trace").json() is None  # somebody looks: the passes that follow are traced
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
        assert round(times["answer"]["seconds"] * 1e6 * times["clock_mhz"]) == cycles
        check_machine(running)


def check_machine(running: Running) -> None:
    """What the page draws of the last traced pass is what its counters say."""
    state, trace = running.http.get("/machine").json(), running.http.get("/machine/trace").json()
    last, machine = state["last"], state["machine"]
    assert machine["simulated"] and machine["device"] == "verilator"
    assert sum(last["counters"][name] for name in machine["engine_counters"]) == last["cycles"] > 10_000
    unit_of = {name: unit for unit, names in machine["units"].items() for name in names}
    work: dict[str, int] = {}
    before: dict[str, int] = {}
    for name, start, end, layer, tokens, *levels in trace["operators"]:
        assert 0 <= before.get(unit_of[name], 0) <= start < end <= trace["cycles"]
        assert 1 <= tokens <= machine["chunk"] and 0 <= layer <= 6 and all(0 <= level <= machine["ring_beats"] for level in levels)
        before[unit_of[name]] = end
        work[name.lower()] = work.get(name.lower(), 0) + end - start
    assert len(trace["operators"]) == trace["executed"]
    assert set(work) == {name for name, cycles in last["operator_cycles"].items() if cycles}
    assert sum(trace["port_words"]) > 0 and len(trace["port_words"]) == machine["ports"]
