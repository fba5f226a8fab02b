from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.boards import load_board
from hwgen.published import published_model
from hwgen.sw.analysis.plan import (
    Arrival,
    Costs,
    PlannedEngine,
    Policy,
    Served,
    arrivals_at_rate,
    percentile,
    policies,
    run_plan,
    summary,
)
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.pass_model import PassModel
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine, PassResult, Run
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.jobs import Job
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.scheduler import Scheduler
from hwgen.weights import ModelWeights

from ..cli.calls import call
from ..conftest import CONFIG

#: Doorbells are the clock: each takes one second, in the plan as on golden.
TRACE = (Arrival(0, 20, 6), Arrival(2.5, 3, 9), Arrival(2.5, 33, 3), Arrival(40, 5, 4), Arrival(41, 17, 1), Arrival(400, 9, 3))


@pytest.fixture(scope="module")
def image(weights: ModelWeights) -> Image:
    return with_cache_tokens(compile_model(CONFIG, weights), 64)


def one_second() -> Costs:
    return Costs(lambda tokens, position, wanted: 1.0, 0.0)


def on_golden(image: Image, policy: Policy, arrivals: Sequence[Arrival]) -> tuple[list[list[tuple[int, int]]], list[list[float]]]:
    """Passes of the real scheduler and engine on the golden device in their order, and the seconds of every token."""
    engine = Engine(GoldenDevice(CONFIG, memory_bytes=image.memory_bytes()), image)
    passes: list[list[tuple[int, int]]] = []
    times: list[list[float]] = [[] for _ in arrivals]
    now, run_pass = [0.0], engine.run_pass

    def counted(runs: Sequence[Run], *, write_logits: bool = False) -> PassResult:
        now[0] += 1.0
        return run_pass(runs, write_logits=write_logits)

    engine.run_pass = counted  # type: ignore[method-assign]  # of this engine alone
    jobs: dict[Job, int] = {}

    def observe(shared: Sequence[Job], result: PassResult, prefill: bool, seconds: float) -> None:
        passes.append([(jobs[job], run.tokens) for job, run in zip(shared, result.runs, strict=True)])

    scheduler = Scheduler(
        engine, max_running=policy.sessions, max_waiting=99, time_between_tokens=policy.time_between_tokens, observer=observe
    )
    while True:
        while len(jobs) < len(arrivals) and arrivals[len(jobs)].at <= now[0]:
            number, arrival = len(jobs), arrivals[len(jobs)]
            generation = Generation(engine, [1 + number] * arrival.prompt, arrival.new)
            job = Job(generation, lambda item, number=number: times[number].append(now[0]), lambda error: None)  # type: ignore[misc]
            jobs[job] = number
            scheduler.submit(job)
        if not scheduler.step():
            if len(jobs) == len(arrivals):
                return passes, times
            now[0] = arrivals[len(jobs)].at


@pytest.mark.parametrize("policy", [Policy(1), Policy(3), Policy(3, math.inf), Policy(8, 2.0)])
def test_passes_are_those_of_the_scheduler_on_golden(image: Image, policy: Policy) -> None:
    """The cache holds one context, so that sessions are parked where several run."""
    parked: list[Session] = []
    assert image.context == 64
    expected, times = on_golden(image, policy, TRACE)
    planned = PlannedEngine(image, one_second())
    park = planned.pages.park

    def noted(session: Session) -> None:
        parked.append(session)
        park(session)

    planned.pages.park = noted  # type: ignore[method-assign]  # of this engine alone
    served, (board,) = run_plan([planned], policy, TRACE)
    assert bool(parked) == (policy.sessions > 1)
    assert board.passes == expected and (policy.sessions == 1 or any(len(runs) > 1 for runs in expected))
    assert [s.tokens for s in served] == times
    assert [len(s.tokens) for s in served] == [a.new for a in TRACE]


def test_requests_go_where_least_is_to_do(image: Image) -> None:
    engines = [PlannedEngine(image, one_second()) for _ in range(3)]
    arrivals = [*[Arrival(0, 4, 5)] * 3, Arrival(1.5, 4, 2), Arrival(90, 4, 1)]
    served, boards = run_plan(engines, Policy(2), arrivals)
    assert [s.board for s in served] == [0, 1, 2, 0, 0]
    assert [b.busy for b in boards] == [8, 5, 5]
    assert served[0].first == 1 and served[1].gaps == [1] * 4


def test_what_cannot_be_answered_is_refused(image: Image) -> None:
    arrivals = [Arrival(0, 65, 1), Arrival(0, 4, 2), Arrival(0.5, 4, 2), Arrival(0.6, 4, 2)]
    result = summary(*run_plan([PlannedEngine(image, one_second())], Policy(1), arrivals, waiting=1))
    assert result["answered"] == 2 and result["refused"] == 2 and "longer than the context" in result["refusal"]
    assert result["first_token_s"] == {"p50": 1.0, "p95": 2.5, "p99": 2.5} and result["tok_s"] == 4 / 4 and result["busy"] == 1


def test_costs_between_positions() -> None:
    costs = Costs(lambda tokens, position, wanted: sum(tokens) + position + 1000 * wanted, 0.5)
    assert costs.of([(300, 2)], 1) == 1302.5 and costs.of([(0, 1), (600, 4)], 2) == 2305.5


def test_percentile_and_rate() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.95, 0.99)] == [50, 95, 99] and percentile([7], 0.5) == 7
    arrivals = arrivals_at_rate(4.0, 4000, 3, 5, seed=1)
    assert arrivals == arrivals_at_rate(4.0, 4000, 3, 5, seed=1) != arrivals_at_rate(4.0, 4000, 3, 5, seed=2)
    assert arrivals[-1].at == pytest.approx(1000, rel=0.05) and {(a.prompt, a.new) for a in arrivals} == {(3, 5)}
    assert set(policies(8, 1.1)) == {"one-by-one", "shared", "whole prompts"}
    assert Served(Arrival(1, 1, 1), 0, [3.0, 5.0]).gaps == [2.0]


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One request alone: the sum of its passes, which the pass model gives."""
    trace, picture = tmp_path / "trace.csv", tmp_path / "plan.svg"
    trace.write_text("# seconds,prompt,new\n0.5,30,3\n")
    code, result = call(
        capsys, "plan", "--shape", "smollm2-135m", "--trace", str(trace), "--policy", "one-by-one", "--host-ms", "2",
        "--context", "512", "--plot", str(picture),
    )
    assert code == 0 and result["estimated"] is True and picture.stat().st_size > 5000
    config = load_board("kv260").for_engine("int4").config
    model = PassModel(config, replace(published_model("smollm2-135m").shape, max_context=512), engine="int4")
    chunks = [(min(model.chunk, 30 - first), first) for first in range(0, 30, model.chunk)]
    cycles = sum(model.run(tokens, first, wanted=int(tokens + first == 30)).cycles for tokens, first in chunks)
    found = result["policies"]["one-by-one"]
    assert found["first_token_s"]["p50"] == pytest.approx(cycles / config.clock_mhz / 1e6 + 0.002 * len(chunks), rel=0.03)
    assert found["passes"] == len(chunks) + 2 and found["answered"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "nan"], "--rate must be"),
        (["--boards", "0"], "--boards must be at least 1"),
        (["--policy", "magic"], "'magic' is unknown"),
        (["--trace", "no-such.csv"], "cannot be read"),
    ],
)
def test_doors(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, result = call(capsys, "plan", *arguments)
    assert code == 2 and message in result["error"]["message"]


@pytest.mark.parametrize("line", ["1,2", "x,2,3", "-1,2,3", "0,0,3", "inf,1,1"])
def test_bad_trace(capsys: pytest.CaptureFixture[str], line: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(line)
    code, result = call(capsys, "plan", "--trace", str(tmp_path / "t.csv"))
    assert code == 2 and f"request 1: {line}" in result["error"]["message"]
