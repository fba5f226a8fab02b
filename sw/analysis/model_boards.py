"""Which boards hold a model, and at what estimated rate: sizes alone decide."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...boards import Board, board_names, load_board
from ...decoder import DecoderLayer
from ...errors import HwgenError
from ...shape import ModelShape
from ...sim.board_timing import USUAL
from ..compiler.compile import plan_image
from ..compiler.pass_model import PassModel
from ..models.random_model import RandomModel
from .estimate import calibration_of

__all__ = ["CONTEXT", "model_boards"]

#: Tokens of context that the memory must have room for, and at which a token is estimated.
CONTEXT = 512

#: Of the memory below 4 GiB, the part that Linux could be made to set aside on a KV260 with 2048 MB there (cma=1900M).
_LARGEST_CMA = 1900 / 2048


def _contiguous(board: Board) -> int:
    """Contiguous bytes that a board can have at most."""
    assert board.platform is not None
    return int(max(m.bytes for m in board.platform.memory if m.base < 1 << 32) * _LARGEST_CMA)


def model_boards(shape: ModelShape, layer: DecoderLayer, engine: str, group: int = 32) -> list[dict[str, Any]]:
    """A row for every shipped board: whether it holds the model at :data:`CONTEXT`, why not, and tokens a second (estimated)."""
    rows = []
    for name in board_names():
        board = load_board(name)
        if board.platform is None:
            continue
        row: dict[str, Any] = {"board": name, "holds": False, "tok_s": None, "contiguous_bytes": None, "why": ""}
        rows.append(row)
        try:
            board = board.for_engine(engine)
            small = replace(shape, max_context=min(CONTEXT, shape.max_context))
            weights: Any = RandomModel(small, layer, engine, group=group)
            image = plan_image(board.config, weights)
            row["contiguous_bytes"] = image.contiguous_bytes
            if image.contiguous_bytes > _contiguous(board):
                row["why"] = f"{image.contiguous_bytes / 1e6:,.0f} MB of contiguous memory, {_contiguous(board) / 1e6:,.0f} at most"
                continue
            model = PassModel(board.config, small, engine=engine, calibration=calibration_of(board, USUAL))
            cycles = model.run(1, min(CONTEXT, image.context) - 1).cycles
            row |= {"holds": True, "tok_s": board.config.clock_mhz * 1e6 / cycles}
        except HwgenError as error:
            row["why"] = error.message
    return rows
