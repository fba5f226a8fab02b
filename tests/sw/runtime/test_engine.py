from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.golden.decoder import GoldenModel
from hwgen.registers import register, register_map
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.device import Allocator, DeviceTimeout
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.sampling import Sampling
from hwgen.weights import ModelWeights

from ..conftest import CONFIG, SHAPE

MEMORY = 1 << 22


@pytest.fixture(scope="module")
def image(weights: ModelWeights) -> Image:
    return compile_model(CONFIG, weights)


@pytest.fixture
def engine(image: Image) -> Engine:
    return Engine(GoldenDevice(CONFIG, memory_bytes=MEMORY), image)


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, SHAPE.vocab, length)]


@pytest.mark.parametrize("length", [1, CONFIG.chunk - 1, CONFIG.chunk, CONFIG.chunk + 1, 37, SHAPE.max_context])
def test_logits_are_those_of_the_golden_model(engine: Engine, weights: ModelWeights, length: int) -> None:
    tokens = prompt(length)
    results = engine.prefill(Session(), tokens, write_logits=True)
    expected = GoldenModel(weights, CONFIG).logits(torch.tensor([tokens]))[0, -1].numpy()
    logits = engine.logits()
    np.testing.assert_array_equal(logits.view(np.uint32), expected.view(np.uint32))
    best = results[-1].candidates
    assert best[0].token == int(logits.argmax()) and best[0].logit == logits.max()
    assert [c.logit for c in best] == sorted(logits.tolist(), reverse=True)[: CONFIG.topk]
    assert [r.tokens for r in results[:-1]] == [CONFIG.chunk] * (len(results) - 1) and sum(
        r.tokens for r in results
    ) == length
    assert all(not r.candidates for r in results[:-1])


def test_sessions_share_the_cache(engine: Engine) -> None:
    """Two interleaved sequences give the tokens that each gives alone."""

    def alone(tokens: list[int]) -> list[int]:
        generation = Generation(engine, tokens, 9)
        out = [item.token for item in generation]
        engine.pages.close(generation.session)
        return out

    first, second = prompt(13, 1), prompt(5, 2)
    expected = alone(first), alone(second)
    sessions = Session(), Session()
    latest = [engine.prefill(s, p)[-1].candidates[0].token for s, p in zip(sessions, (first, second), strict=True)]
    outputs: tuple[list[int], list[int]] = ([], [])
    for _ in range(9):
        for i, session in enumerate(sessions):
            outputs[i].append(latest[i])
            latest[i] = engine.forward(session, [latest[i]]).candidates[0].token
    assert outputs == expected
    assert not set(sessions[0].pages) & set(sessions[1].pages)


def test_tokens_of_prompt_and_answer_are_counted(engine: Engine) -> None:
    generation = Generation(engine, prompt(13), 9)
    assert len(list(generation)) == 9
    assert generation.prefill.tokens == 13 and generation.decode.tokens == 8  # the first token comes with the prompt
    engine.pages.close(generation.session)


def test_pages_run_out_and_come_back(engine: Engine) -> None:
    full = Session()
    engine.prefill(full, prompt(SHAPE.max_context))
    with pytest.raises(HwgenError, match="0 are free"):
        engine.forward(Session(), [1])
    engine.pages.close(full)
    assert engine.forward(Session(), [1]).candidates


def test_prompt_longer_than_the_context(engine: Engine) -> None:
    with pytest.raises(HwgenError, match=r"65 tokens are longer than the context of 64") as caught:
        engine.prefill(Session(), prompt(65))
    assert caught.value.kind == "context"
    with pytest.raises(HwgenError, match="no tokens"):
        engine.prefill(Session(), [])
    with pytest.raises(HwgenError, match="outside the vocabulary"):
        engine.forward(Session(), [SHAPE.vocab])
    with pytest.raises(ValueError, match="1 to 8 tokens, not 9"):
        engine.forward(Session(), prompt(9))


def test_image_of_another_contract(image: Image) -> None:
    other = replace(CONFIG, ring_beats=2048)
    with pytest.raises(HwgenError, match="contract hash") as caught:
        Engine(GoldenDevice(other, memory_bytes=MEMORY), image)
    assert caught.value.kind == "contract"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MAGIC", 0, "no hwgen accelerator"),
        ("VERSION", 99, "contract version 99"),
        ("HASH_LOW", 5, "contract hash"),
        ("HASH_HIGH", 5, "hash"),
    ],
)
def test_device_of_another_contract(image: Image, name: str, value: int, message: str) -> None:
    device = GoldenDevice(CONFIG, memory_bytes=MEMORY)
    read, offset = device.read_register, register(CONFIG, name).offset
    device.read_register = lambda at: value if at == offset else read(at)  # type: ignore[method-assign]
    with pytest.raises(HwgenError, match=message):
        Engine(device, image)


def test_memory_error_is_reported(engine: Engine) -> None:
    device = engine.device
    read = device.read_register
    values = {register(CONFIG, "STATUS").offset: 6, register(CONFIG, "ERROR").offset: 0x103}
    device.read_register = lambda at: values.get(at, read(at))  # type: ignore[method-assign]
    with pytest.raises(HwgenError, match="port 1 answered a read with response 3"):
        engine.forward(Session(), [1])


def test_device_without_a_pass_times_out(engine: Engine) -> None:
    with pytest.raises(DeviceTimeout, match="no interrupt"):
        engine.device.wait(1.0)


def test_memory_too_small(image: Image) -> None:
    with pytest.raises(HwgenError, match="bytes left"):
        Engine(GoldenDevice(CONFIG, memory_bytes=1 << 16), image)
    allocator = Allocator(100, 21000)
    assert [allocator.allocate(n) for n in (1, 5000, 4096)] == [4096, 8192, 16384]
    with pytest.raises(ValueError, match="at least 1, not 0"):
        allocator.allocate(0)


# ---- generation --------------------------------------------------------------------------------------------------
def run(engine: Engine, tokens: list[int], count: int, **options: object) -> Generation:
    generation = Generation(engine, tokens, count, **options)  # type: ignore[arg-type]
    for _ in generation:
        pass
    engine.pages.close(generation.session)
    return generation


def test_generation_reasons_to_stop(engine: Engine) -> None:
    varied = Sampling(repetition_penalty=100.0)
    free = run(engine, prompt(11), 12, sampling=varied)
    assert free.stop_reason == "length" and len(set(free.tokens)) == 12
    assert free.prefill.tokens == 11 and free.decode.tokens == 11
    stopped = run(engine, prompt(11), 12, sampling=varied, stop_tokens=(free.tokens[5],))
    assert stopped.stop_reason == "stop" and stopped.tokens == free.tokens[:5]
    full = run(engine, prompt(60), 100)
    assert full.stop_reason == "context" and len(full.tokens) == SHAPE.max_context - 60 + 1


def test_sampling_from_logits(engine: Engine) -> None:
    greedy = run(engine, prompt(11), 8)
    cold = run(engine, prompt(11), 8, sampling=Sampling(temperature=1e-6))
    assert cold.tokens == greedy.tokens
    a, b, c = (run(engine, prompt(11), 16, sampling=Sampling(temperature=30.0, seed=s)).tokens for s in (1, 1, 2))
    assert a == b != c
    penalised = run(engine, prompt(11), 8, sampling=Sampling(repetition_penalty=100.0))
    assert len(set(penalised.tokens)) == 8


def test_every_port_is_used_whatever_was_left(image: Image) -> None:
    device = GoldenDevice(CONFIG, memory_bytes=MEMORY)
    enable = register(CONFIG, "PORT_ENABLE").offset
    device.write_register(enable, 1)
    Engine(device, image)
    assert device.read_register(enable) == 0b11


def test_odd_build(weights: ModelWeights) -> None:
    """One port of a narrow kind, chunk smaller than the lanes, one group."""
    config = BuildConfig(
        name="narrow",
        ports=1,
        beat_bytes=16,
        groups=1,
        lanes=3,
        rows=2,
        builders=14,
        kv_block=8,
        chunk=2,
        max_head_dim=16,
        max_context=64,
        query_lanes=1,
    )
    engine = Engine(GoldenDevice(config, memory_bytes=MEMORY), compile_model(config, weights))
    tokens = prompt(9)
    engine.prefill(Session(), tokens, write_logits=True)
    expected = GoldenModel(weights, config).logits(torch.tensor([tokens]))[0, -1].numpy()
    np.testing.assert_array_equal(engine.logits(), expected)


def test_the_short_list_head_gives_no_logits(weights: ModelWeights) -> None:
    """An answer that would be drawn from them is refused before anything is computed."""
    image = compile_model(CONFIG, weights, head="shortlist")
    engine = Engine(GoldenDevice(CONFIG, memory_bytes=image.memory_bytes()), image)
    with pytest.raises(HwgenError, match="the best candidates, not all logits") as caught:
        next(iter(Generation(engine, prompt(5), 3, Sampling(temperature=0.5))))
    assert "--head exact" in caught.value.fix
    with pytest.raises(ValueError, match="has no logits"):
        engine.logits()
    assert len(list(Generation(engine, prompt(5), 3))) == 3


def test_registers_that_hold_are_written_when_they_change(image: Image) -> None:
    """A pass like the last one writes its position and the doorbell, and reads counters and candidates as blocks."""
    engine = Engine(GoldenDevice(CONFIG, memory_bytes=MEMORY), image)
    names = {r.offset + i * r.step: r.name for r in register_map(CONFIG) for i in range(r.count)}
    written: list[str] = []
    write = engine.device.write_register
    engine.device.write_register = lambda at, value: (written.append(names[at]), write(at, value))[1]  # type: ignore[method-assign,func-returns-value]
    session = Session()
    engine.prefill(session, [1, 2, 3])
    engine.forward(session, [4])
    written.clear()
    engine.forward(session, [5])
    assert written == ["RUN", "CONTROL", "CONTROL"]
