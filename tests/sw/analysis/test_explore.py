from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwgen.boards import board_names, load_board
from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.published import PUBLISHED
from hwgen.shape import ModelShape
from hwgen.sim.board_timing import USUAL
from hwgen.sim.port_rate import tabled_port_rate
from hwgen.sw.analysis import explore as search
from hwgen.sw.analysis.area_model import CEILINGS, estimate_resources
from hwgen.sw.analysis.estimate import calibration_of, estimate_model
from hwgen.sw.analysis.search_space import Workload, build_of, point_of
from hwgen.sw.cli.main import main
from hwgen.sw.cli.options import configured_board
from hwgen.sw.compiler.pass_model import Calibration

KV260 = load_board("kv260")
# Two layers are more than the ring holds, so that the next ones take as long as the third.
SMALL = ModelShape(hidden=1024, layers=6, heads=8, kv_heads=4, head_dim=128, ffn=2816, vocab=2048, max_context=512)
WORK = Workload(shape=SMALL, prompt=40)
#: Configurations of a search: where it begins, and neighbours of what it found there.
LIMIT = 32


class InPlace(Executor):
    """Runs everything in the caller."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@pytest.fixture(scope="module")
def found() -> search.Exploration:
    return search.explore(KV260, WORK, executor=InPlace(), limit=LIMIT)


def test_every_configuration_is_legal_and_below_the_ceilings(found: search.Exploration) -> None:
    assert 1 < found.evaluated <= LIMIT
    for candidate in found.front:
        assert BuildConfig.from_dict(candidate.config.to_dict()) == candidate.config
        for kind, share in CEILINGS.items():
            assert estimate_resources(candidate.config).total[kind] <= share * KV260.available[kind]
        given = ("ports", "port_bits", "beat_bytes", "clock_mhz", "max_context")
        assert all(getattr(candidate.config, name) == getattr(KV260.config, name) for name in given)


def test_front_figures_are_those_of_the_whole_estimate(found: search.Exploration) -> None:
    for candidate in found.front[:2] + found.front[-1:]:
        whole = estimate_model(candidate.config, SMALL, WORK.prompt, 1, calibration=calibration_of(KV260, USUAL))
        hertz = candidate.config.clock_mhz * 1e6
        assert candidate.decode_tok_s == pytest.approx(hertz / whole.decode[0].cycles, rel=0.01)
        assert candidate.ttft_s == pytest.approx(sum(p.cycles for p in whole.prefill) / hertz, rel=0.01)


@pytest.mark.parametrize("changes", [{}, {"lanes": 1, "chunk": 2}, {"groups": 1, "lanes": 4, "chunk": 16}], ids=str)
def test_a_few_layers_and_rows_tell_the_rest(changes: dict[str, int]) -> None:
    shape = PUBLISHED["bitnet-0.73b"].shape
    config = replace(KV260.config, **changes)
    decode, prompt = search.time_passes(config, Workload(shape=shape, prompt=70), Calibration())
    whole = estimate_model(config, shape, 70, 1)
    assert decode == pytest.approx(whole.decode[0].cycles, rel=0.01)
    assert prompt == pytest.approx(sum(p.cycles for p in whole.prefill), rel=0.01)


def test_new_tokens_choose_their_blocks() -> None:
    """As `estimate` times them: two and three layers tell the rest."""
    shape = replace(PUBLISHED["bitnet-0.73b"].shape, max_context=2048)
    work = Workload(shape=shape, prompt=1537, kv_budget=16)
    config = replace(KV260.config, kv_budget=16)
    decode, prompt = search.time_passes(config, work, Calibration())
    whole = [estimate_model(config, shape, 0, 1, cached=1537, kv_budget=budget).decode[0].cycles for budget in (0, 16)]
    assert decode == pytest.approx(whole[1], rel=0.01) and decode < 0.85 * whole[0]
    assert prompt == pytest.approx(search.time_passes(KV260.config, replace(work, kv_budget=0), Calibration())[1])


def candidate(decode: float, ttft: float, lut: float) -> search.Candidate:
    resources = {"lut": lut, "ff": 0.0, "bram36": 0.0, "uram": 0.0, "dsp": 0.0}
    return search.Candidate(config=KV260.config, decode_tok_s=decode, ttft_s=ttft, resources=resources)


def test_front_has_what_nothing_dominates() -> None:
    best, twin = candidate(80, 0.1, 8e4), candidate(80, 0.1, 8.001e4)
    frugal, worse = candidate(40, 0.2, 2e4), candidate(39, 0.3, 3e4)
    assert search.pareto_front([worse, twin, best, frugal]) == [best, frugal]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([(79, 0.1, 9e4)], 1),  # 100 tokens: 1.45 s before 1.366 s
        ([(70, 0.1, 1e4)], 0),
        ([(80, 0.2015, 7e4)], 1),  # as soon, smaller
        ([(80, 0.1995, 9e4)], 0),  # as soon, larger
    ],
)
def test_choice(others: list[tuple[float, float, float]], expected: int) -> None:
    candidates = [candidate(80, 0.2, 8e4), *(candidate(*other) for other in others)]
    assert search.choose(candidates, 100) is candidates[expected]


def test_a_prompt_alone_decides_where_nothing_follows() -> None:
    candidates = [candidate(80, 0.2, 8e4), candidate(10, 0.1, 9e4)]
    assert [search.choose(candidates, n) for n in (0, 100)] == candidates[::-1]


def test_result_does_not_depend_on_the_workers(found: search.Exploration) -> None:
    with ThreadPoolExecutor(3) as pool:
        again = search.explore(KV260, WORK, executor=pool, limit=LIMIT)
    assert again == found


def test_a_cache_of_four_bits_takes_a_build_that_has_it() -> None:
    """It is timed as such, also where the board's own build has none; two and three layers tell the rest."""
    plain = replace(KV260, config=replace(KV260.config, int4_kv=False))
    for board, kv, has in ((plain, "k8v8", False), (plain, "k4v4", True), (plain, "k8v4", True), (KV260, "k8v8", True)):
        config = build_of(board, replace(WORK, kv=kv), point_of(board.config))
        assert config is not None and config.int4_kv == has
    work = Workload(shape=PUBLISHED["bitnet-0.73b"].shape, prompt=4000)
    cycles = {kv: search.time_passes(KV260.config, replace(work, kv=kv), Calibration())[0] for kv in ("k8v8", "k8v4", "k4v4")}
    assert cycles["k4v4"] < 0.9 * cycles["k8v4"] < 0.81 * cycles["k8v8"]
    # Layers and rows of the head are told by a few of them, as in `test_a_few_layers_and_rows_tell_the_rest`.
    whole = estimate_model(KV260.config, work.shape, 0, 1, cached=4000, kv="k4v4").decode[0].cycles
    assert cycles["k4v4"] == pytest.approx(whole, rel=0.01)


def test_too_small_a_device_is_refused() -> None:
    board = replace(KV260, available=dict.fromkeys(KV260.available, 100))
    with pytest.raises(HwgenError, match="no configuration"):
        search.explore(board, WORK, executor=InPlace())


def test_a_board_without_device_is_refused() -> None:
    with pytest.raises(HwgenError, match="names no device"):
        search.explore(load_board("demo"), WORK, executor=InPlace())


@pytest.mark.parametrize("name", ["bitnet-2b4t", "stories"])
def test_model_shape(name: str) -> None:
    assert search.model_shape(name).layers > 1


@pytest.mark.parametrize("name", [name for name in board_names() if load_board(name).platform])
def test_every_board_runs_the_models_it_was_chosen_for(name: str) -> None:
    board = load_board(name)
    chosen = board.chosen_by.split()
    assert chosen[:4] == ["hwgen", "explore", "--board", name]
    models = {"stories", *(model for option, model in zip(chosen, chosen[1:], strict=False) if option in ("--model", "--also"))}
    assert "bitnet-0.73b" in models
    for model in models:
        decode, prompt = search.time_passes(board.config, Workload(shape=search.model_shape(model), prompt=20), Calibration())
        assert 0 < decode < prompt
    # What the ports may ask for is what the memory can give: the search counts a beat a cycle.
    assert board.config.beat_bytes * board.config.clock_mhz * 1e6 < board.memory_bandwidth
    assert tabled_port_rate(board, USUAL) >= 0.95


def test_unknown_model() -> None:
    with pytest.raises(HwgenError, match="needs the INT4 engine"):
        search.model_shape("llama-1b")
    with pytest.raises(HwgenError, match="neither a published shape"):
        search.model_shape("nothing-like-it")


def test_command_writes_what_other_commands_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "chosen.json"
    arguments = ["--board", "kv260", "--model", "stories", "--prompt", "20", "--limit", "8", "--workers", "1"]
    arguments += ["--kv-budget", "4", "--kv", "k4v4"]
    assert main(["explore", *arguments, "--out", str(out), "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["kv_budget"] == 4 == result["chosen"]["config"]["kv_budget"]
    assert result["kv"] == "k4v4" and result["chosen"]["config"]["int4_kv"]
    assert {"evaluated", "front", "chosen"} <= set(result) and result["evaluated"] <= 8
    assert all({"config", "decode_tok_s", "ttft_s", "lut"} <= set(row) for row in result["front"])
    assert result["chosen"] in result["front"]
    assert json.loads(out.read_text()) == result["chosen"]["config"]
    board = configured_board(argparse.Namespace(board="kv260", config=out, set=[]))
    assert board.config.to_dict() == result["chosen"]["config"]


def test_config_file_replaces_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    command = ["estimate", "--board", "kv260", "--prompt", "48", "--decode", "0", "--json"]

    def cycles(*more: str) -> int:
        assert main([*command, *more]) == 0
        return int(json.loads(capsys.readouterr().out)["prefill"]["cycles"])

    path.write_text('{"lanes": 3}')
    assert cycles("--config", str(path)) == cycles("--set", "lanes=3") > cycles()
    assert cycles("--config", str(path), "--set", "lanes=6") == cycles()


@pytest.mark.parametrize("text", ["{", "[1]", '{"lane": 3}', '{"lanes": "many"}'])
def test_bad_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    assert main(["estimate", "--board", "kv260", "--config", str(path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "configuration"


def test_drawing(found: search.Exploration, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="drawing is an optional extra")
    path = tmp_path / "front.svg"
    search.draw_front(search.explore_json(KV260, "small", WORK, found), path)
    assert "<svg" in path.read_text()


@pytest.fixture
def scheduler() -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="the cluster extra is not installed")
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "protocol": "tcp://", "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        yield cluster.scheduler_address


def test_dask_gives_the_same(found: search.Exploration, scheduler: str) -> None:
    with search.open_executor(dask=scheduler) as executor:
        assert search.explore(KV260, WORK, executor=executor, limit=LIMIT) == found


def test_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the cluster extra is not installed")
    monkeypatch.setattr(search, "_DASK_TIMEOUT", 1)
    started = time.monotonic()
    with pytest.raises(HwgenError, match="no Dask scheduler"), search.open_executor(dask="tcp://127.0.0.1:9"):
        pass
    assert time.monotonic() - started < 30
