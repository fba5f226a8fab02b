"""What the golden model answered, by digest: a machine without torch is compared with it.

`python -m hwgen.sw.verification.recorded_answers` writes `recorded_answers.json` anew, for the configurations of all shipped
boards. Of a configuration, answers depend on tokens of a pass and on keys of a block alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...boards import board_names, load_board
from ...config import BuildConfig
from ...decoder import LLAMA
from ...errors import HwgenError
from ...files import write_whole
from ...shape import ModelShape
from ...weights import ModelWeights, random_weights
from ..compiler.compile import compile_model
from ..compiler.image import Image
from ..devices.device import Device
from ..models.open import open_model
from ..runtime.engine import Engine
from ..runtime.generation import Generation
from ..runtime.kv_arrays import unpack_pages
from ..runtime.pages import Session

__all__ = ["ANSWER_KEYS", "answer_key", "answers_of", "engines_of", "expected_answers", "model_image"]

PATH = Path(__file__).with_name("recorded_answers.json")

#: Tokens of the story.
NEW_TOKENS = 16

#: Small enough for every build with an INT4 engine.
INT4_SHAPE = ModelShape(
    hidden=64, layers=2, heads=2, kv_heads=1, head_dim=32, ffn=96, vocab=260, activation="silu", max_context=64, tied=True
)

#: What each digest was computed by, for people.
ANSWER_KEYS = {
    "first layer": "EMBED, PARAM, ROTARY, NORM, LINEAR, DRAIN, ROPE or KV_WRITE",
    "other layers": "ATTENTION, or DRAIN with a gate, a product or a sum",
    "logits": "NORM, LINEAR or DRAIN of the head",
    "cached": "ATTENTION to cached keys and values",
    "story": "anything above, in passes of one token",
}


def engines_of(config: BuildConfig) -> list[str]:
    """The engines of a build, each with a model of its own."""
    return [name for name, there in (("ternary", config.has_ternary), ("int4", config.has_int4)) if there]


@cache
def _weights(engine: str) -> ModelWeights:
    if engine == "ternary":
        return open_model("stories").weights
    return random_weights(INT4_SHAPE, seed=5, layer=LLAMA, engine="int4")


@cache
def model_image(config: BuildConfig, engine: str) -> Image:
    """The model that runs on an engine: the shipped stories, or a small random one."""
    return compile_model(config, _weights(engine), name="stories" if engine == "ternary" else "random")


def answer_key(image: Image, engine: str) -> str:
    return f"{engine}, passes of {image.chunk}, blocks of {image.config.kv_block}"


def _digest(*arrays: npt.NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def answers_of(device: Device, engine: str) -> dict[str, str]:
    """The digests of a device, by the names of :data:`ANSWER_KEYS`: a whole pass, one behind it, and a story."""
    image = model_image(device.config, engine)
    runs = Engine(device, image)
    session = Session()
    found: dict[str, str] = {}
    prompt = [(37 * i + 5) % image.shape.vocab for i in range(image.chunk + 3)]
    for name, part in (("logits", prompt[: image.chunk]), ("cached", prompt[image.chunk :])):
        runs.forward(session, part, write_logits=True)
        kv = unpack_pages(image, runs.pages.read(session.pages), session.position)
        if name == "logits":
            found["first layer"] = _digest(kv.elements[:, 0], kv.scales[:, 0])
            found["other layers"] = _digest(kv.elements[:, 1:], kv.scales[:, 1:])
            found[name] = _digest(runs.logits())
        else:
            found[name] = _digest(kv.elements, kv.scales, runs.logits())
    runs.pages.close(session)
    story = [item.token for item in Generation(runs, prompt[:4], NEW_TOKENS)]
    found["story"] = _digest(np.array(story, np.int64))
    return found


def expected_answers(config: BuildConfig, engine: str) -> dict[str, str] | None:
    """The recorded digests; None where none were recorded for such a configuration."""
    recorded: dict[str, dict[str, str]] = json.loads(PATH.read_text(encoding="utf-8"))
    return recorded.get(answer_key(model_image(config, engine), engine))


def shipped_configurations() -> Iterable[tuple[BuildConfig, str]]:
    """Every shipped board with each engine that it has a configuration for."""
    for name in board_names():
        board = load_board(name)
        for engine in ("ternary", "int4"):
            try:
                yield board.for_engine(engine).config, engine
            except HwgenError:
                continue


def record(progress: Callable[[str], None]) -> None:
    """Compute and write every answer with the golden model."""
    from ..devices.golden import GoldenDevice

    found: dict[str, dict[str, str]] = {}
    for config, engine in shipped_configurations():
        image = model_image(config, engine)
        key = answer_key(image, engine)
        if key not in found:
            progress(key)
            found[key] = answers_of(GoldenDevice(config, memory_bytes=image.memory_bytes()), engine)
    write_whole(PATH, json.dumps(dict(sorted(found.items())), indent=1) + "\n")


if __name__ == "__main__":
    record(print)
