"""``hwgen bench``: where the cycles of a model of published size go, simulated, or on a board."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ...boards import Board
from ...errors import HwgenError
from ...published import published_model
from ..compiler.image_file import CompiledModel, is_image_file
from ..devices.device import Device
from ..devices.open import open_device
from .kv_budget import add_kv_budget, kv_budget_of
from .kv_cache import add_kv
from .memory import add_memory, memory_conditions
from .options import (
    add_board,
    add_device,
    add_head,
    add_waves,
    add_workload,
    at_least,
    configured_board,
    device_options,
    opened_model,
    sequences_of,
    waves_of,
)
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen bench --board kv260 --shape bitnet-0.73b --prompt 128 --decode 4"

#: Board of a bench that says no other.
BOARD = "kv260"

#: What is compared with golden.
CHECKS = ("none", "outputs", "full")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_workload(parser)
    add_head(parser, None)
    add_kv(parser)
    add_kv_budget(parser)
    add_memory(parser)
    parser.add_argument(
        "--timeline", type=Path, metavar="DIR", help="write a Perfetto trace and pictures of the first passes there"
    )
    parser.add_argument("--layers", type=int, default=0, metavar="L", help="a quick look at the first L layers; 0 is all")
    parser.add_argument(
        "--check", choices=CHECKS, help="what is compared with golden, bit for bit (outputs if not given; on a board nothing)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and prompt")
    add_waves(parser)
    add_device(parser, "verilator")
    parser.add_argument(
        "--image", type=Path, metavar="M.hwimage", help="with --device pynq: a compiled model in place of random weights"
    )
    parser.add_argument(
        "--simulated", type=Path, metavar="FILE", help="with --device pynq: output of `hwgen bench --json`, to be shown beside"
    )
    add_board(parser, None, BOARD)


def read_model(options: argparse.Namespace, output: Output) -> tuple[CompiledModel | None, Board]:
    """The compiled model of ``--image``, and the board of that or of ``--board``."""
    if options.image is None:
        options.board = options.board or BOARD
        return None, configured_board(options, published_model(options.shape).engine)
    if not is_image_file(options.image):
        raise HwgenError("usage", f"--image {options.image} is not a compiled model", "give the .hwimage of hwgen compile")
    if options.layers:
        raise HwgenError("usage", "--layers is for random weights, a compiled model has all of its own", "leave it out")
    options.model = options.image
    model, board = opened_model(options, output)
    assert isinstance(model, CompiledModel)
    if options.head not in (None, model.head):
        raise HwgenError("usage", f"{model.path} has the {model.head} head, not {options.head}", "leave --head out")
    return model, board


def run(options: argparse.Namespace, output: Output) -> Result:
    from ..analysis.bench import BenchPlan, describe_bench, run_bench

    on_board = options.device == "pynq"
    if options.device not in ("verilator", "pynq"):
        raise HwgenError("usage", f"--device {options.device} counts no cycles", "use verilator or pynq")
    if not on_board and (options.image or options.simulated):
        raise HwgenError("usage", "--image and --simulated are for a board", "add --device pynq")
    compiled, board = read_model(options, output)
    prompt = at_least(options, "prompt", 0)
    plan = BenchPlan(
        shape=options.shape,
        prompt=prompt,
        decode=at_least(options, "decode", 0),
        layers=at_least(options, "layers", 0) or None,
        cached=at_least(options, "cached", 0),
        sequences=sequences_of(options, prompt),
        check=options.check or ("none" if on_board else "outputs"),
        head=options.head or (compiled.head if compiled else "exact"),
        kv=options.kv or (compiled.image.kv if compiled else "k8v8"),
        kv_budget=kv_budget_of(options, board.config),
        timeline=options.timeline,
        waves=waves_of(options),
        seed=options.seed,
        memory=memory_conditions(options, board.name),
    )
    if plan.prompt + plan.decode == 0:
        raise HwgenError("usage", "nothing to run: --prompt and --decode are both 0", "give one of them")
    if on_board:
        if plan.sequences > 1:
            raise HwgenError("usage", "--sequences are of the simulator so far", "leave it out, or bench without --device pynq")
        return run_on_board(options, plan, board, compiled, output)
    device_options(options, board)
    result = run_bench(board, plan, output.progress)
    for line in describe_bench(result):
        output.show(line)
    return (1 if result["mismatches"] else 0), result


def run_on_board(options: argparse.Namespace, plan: Any, board: Board, compiled: CompiledModel | None, output: Output) -> Result:
    from ..analysis.board_bench import describe_board_bench, read_simulated, run_board_bench

    if plan.check != "none":
        fix = "leave it out; `hwgen selftest` compares the answers of a board"
        raise HwgenError("usage", f"--check {plan.check} takes the golden model", fix)
    simulated = None if options.simulated is None else read_simulated(options.simulated)
    places = device_options(options, board)

    def opened(memory_bytes: int) -> Device:
        return open_device("pynq", board.config, memory_bytes=memory_bytes, progress=output.progress, **places)

    result = run_board_bench(board, plan, opened, compiled=compiled, simulated=simulated, progress=output.progress)
    for line in describe_board_bench(result):
        output.show(line)
    return 0, result
