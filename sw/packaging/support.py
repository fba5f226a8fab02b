"""Table of the supported boards, from their data, with the checks that need no synthesis run again for each.

``python -m hwgen.sw.packaging.support`` prints the section of ``docs/boards.md``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ...boards import Board, board_names, load_board
from .checks import run_scripts
from .steps import steps_of

__all__ = ["support_table"]

_FAMILIES = {"zynq_ultra_ps_e": "Zynq UltraScale+", "processing_system7": "Zynq-7000"}


def scripts_outcome(board: Board) -> str:
    """What the recording model says of the board's core description and scripts; the Verilog plays no part in it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for step in steps_of(board):
            for file, text in step.make(board, lambda: "").items():
                (directory / file).parent.mkdir(exist_ok=True)
                (directory / file).write_text(text, encoding="utf-8")
        return run_scripts(directory)


def support_table() -> str:
    """Markdown."""
    lines = [
        "| board | part | family | memory | ports used | clock | weight ring | scripts against the model |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for name in board_names():
        board = load_board(name)
        platform, config = board.platform, board.config
        if platform is None:
            continue
        ring = "UltraRAM" if config.ring_memory == "ultra" else "block RAM"
        ports = f"{config.ports} of {len(platform.memory_ports)}, {platform.memory_port_bits} bits"
        lines.append(
            f"| `{name}` | {board.part} | {_FAMILIES[platform.processor]} | {platform.memory_text}, "
            f"{board.memory_bandwidth / 1e9:g} GB/s | {ports} | {config.clock_mhz:g} MHz | {ring} | {scripts_outcome(board)} |"
        )
        notes += [f"* `{name}`: {note}" for note in (f"board files: {platform.board_files}.", *platform.notes)]
    return "\n".join([*lines, "", *notes, ""])


if __name__ == "__main__":
    print(support_table(), end="")
