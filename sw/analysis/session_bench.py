"""What a restored session saves: ``python -m hwgen.sw.analysis.session_bench``.

Time to the first token of a prompt behind a long history, on the generated hardware under Verilator: with the history computed
anew, and with its session loaded from disk. Weights are random; cycles do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...boards import load_board
from ...config import BuildConfig
from ...errors import HwgenError
from ...rounding import align
from ...shape import ModelShape
from ...weights import random_weights
from ..compiler.compile import compile_model
from ..devices.device import Device
from ..devices.verilator import VerilatorDevice
from ..runtime.engine import Engine
from ..runtime.pages import Session
from ..runtime.session_file import load_session, save_session

__all__ = ["SHAPE", "benchmark", "main"]

#: Proportions of BitNet b1.58 2B4T (four query heads a key/value head, ffn 2.7 times hidden) at a twentieth of its width.
SHAPE = ModelShape(hidden=128, layers=2, heads=4, kv_heads=1, head_dim=32, ffn=346, vocab=2048, max_context=2048)


def benchmark(
    config: BuildConfig,
    shape: ModelShape,
    *,
    history: int = 1024,
    question: int = 8,
    open_device: Callable[[BuildConfig, int], Device] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Cycles to the first token with and without a saved session of ``history`` tokens before ``question`` more."""
    image = compile_model(config, random_weights(shape, seed=0), name="random")
    memory = image.memory_bytes()
    device = VerilatorDevice(config, memory_bytes=memory, progress=progress) if open_device is None else open_device(config, memory)
    engine = Engine(device, image)
    rng = np.random.default_rng(1)
    tokens = [int(t) for t in rng.integers(0, shape.vocab, history + question)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "session"
        session = Session()
        progress(f"computing {history} tokens, then {question}")
        first = engine.prefill(session, tokens[:history])
        saved = save_session(engine, session, path)
        fresh = [*first, *engine.prefill(session, tokens[history:], write_logits=True)]
        logits = engine.logits()
        engine.pages.close(session)
        begin = time.monotonic()
        restored = load_session(engine, path)
        load_s = time.monotonic() - begin
        again = engine.prefill(restored, tokens[history:], write_logits=True)
    if not np.array_equal(logits.view(np.uint32), engine.logits().view(np.uint32)):
        raise HwgenError("device", "the restored session gives other logits than the fresh one", "report this")
    cycles = [sum(r.cycles for r in results) for results in (fresh, again)]
    return {
        "config": config.name,
        "shape": shape.to_dict(),
        "clock_mhz": config.clock_mhz,
        "simulated": True,
        "history_tokens": history,
        "question_tokens": question,
        "fresh": {"cycles": cycles[0], "ttft_s": cycles[0] / (config.clock_mhz * 1e6)},
        "restored": {"cycles": cycles[1], "ttft_s": cycles[1] / (config.clock_mhz * 1e6)},
        "ratio": cycles[0] / max(1, cycles[1]),
        "file_bytes": saved,
        "load_wall_s": load_s,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hwgen.sw.analysis.session_bench", description=__doc__)
    parser.add_argument("--board", default="demo", help="shipped name or path of a board.json")
    parser.add_argument("--history", type=int, default=1024, metavar="N", help="tokens of the saved session")
    parser.add_argument("--question", type=int, default=8, metavar="N", help="tokens of the prompt behind them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    config = load_board(options.board).config
    context = align(options.history + options.question, config.kv_block)
    config = replace(config, max_context=max(config.max_context, context))

    def progress(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    result = benchmark(
        config,
        replace(SHAPE, max_context=config.max_context),
        history=options.history,
        question=options.question,
        progress=progress,
    )
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{options.history} tokens of history, {options.question} of prompt, {result['file_bytes']:,} bytes on disk")
        for name in ("fresh", "restored"):
            cycles, milliseconds = result[name]["cycles"], 1e3 * result[name]["ttft_s"]
            print(f"{name:9} {cycles:>12,} cycles to the first token, {milliseconds:.3f} ms simulated at {config.clock_mhz:g} MHz")
        print(f"ratio     {result['ratio']:.1f}   (reading the file took {result['load_wall_s']:.3f} s of this machine)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
