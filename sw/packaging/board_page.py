"""Tables of the supported boards, from their data, with the checks that need no synthesis run again for each.

``python -m hwgen.sw.packaging.board_page`` prints the sections of ``docs/boards.md``; ``--write docs/boards.md`` puts them there.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

from ...boards import Board, board_names, load_board
from ...published import PUBLISHED
from ...sim.board_timing import USUAL
from ..analysis.area_accepted import accepted_path, load_accepted
from ..analysis.area_model import CEILINGS, estimate_resources
from ..analysis.estimate import calibration_of
from ..analysis.explore import model_shape, time_passes
from ..analysis.outside_cores import outside_resources
from ..analysis.search_space import Workload
from .checks import run_scripts
from .placing import MANIFEST
from .steps import steps_of

__all__ = ["configuration_table", "sections", "support_table"]

_FAMILIES = {"zynq_ultra_ps_e": "Zynq UltraScale+", "processing_system7": "Zynq-7000"}


def scripts_outcome(board: Board) -> str:
    """What the recording model says of the board's core description and scripts; the Verilog plays no part in it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / MANIFEST).write_text("{}", encoding="utf-8")
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


#: Models whose speed the table tells.
_MODELS = ("bitnet-0.73b", "stories")

#: Tokens of the prompt whose first answer is timed.
_PROMPT = 128

_FIELDS = ("groups", "lanes", "rows", "beat_vectors", "builders", "query_lanes", "kv_block", "chunk", "ring_beats", "panel_rows")

_HEADINGS = {"lut": "LUT", "ff": "FF", "bram36": "BRAM36", "uram": "URAM", "dsp": "DSP"}


def speed(board: Board, model: str) -> str:
    """Estimated tokens a second and time to the first token; of published shapes, those that the board was chosen for."""
    if model in PUBLISHED and model not in board.chosen_by.split():
        return "–"
    work = Workload(shape=model_shape(model), prompt=_PROMPT)
    decode, prompt = time_passes(board.config, work, calibration_of(board, USUAL))
    hertz = board.config.clock_mhz * 1e6
    rate = hertz / decode
    return f"{rate:,.0f} tok/s, {prompt / hertz:.3f} s" if rate >= 100 else f"{rate:.1f} tok/s, {prompt / hertz:.2f} s"


def use_of(board: Board) -> list[str]:
    """Resources as accepted and of AMD's cores around them, with their share of the device; those of the closed form, marked ~,
    where none are accepted yet.
    """
    path = accepted_path(board, board.name)
    about = not path.exists()
    modelled = {kind: round(value) for kind, value in estimate_resources(board.config).total.items()}
    inside = modelled if about else load_accepted(path, board)["total"]
    outside = outside_resources(board)
    total = {kind: inside[kind] + outside[kind] for kind in CEILINGS}
    return [
        f"{'~' * about}{total[kind]:,} ({total[kind] / board.available[kind]:.0%})" if board.available[kind] else "–"
        for kind in CEILINGS
    ]


def configuration_table() -> str:
    """Markdown: the default configuration of every board, what it takes and how fast the models say it is."""
    boards = [board for board in map(load_board, board_names()) if board.platform]
    lines = [
        f"| board | {' | '.join(f'`{name}`' for name in _FIELDS)} |",
        "|---" * (1 + len(_FIELDS)) + "|",
        *(f"| `{b.name}` | {' | '.join(f'{getattr(b.config, name):,}' for name in _FIELDS)} |" for b in boards),
        "",
        f"| board | {' | '.join(_HEADINGS[kind] for kind in CEILINGS)} | {' | '.join(f'`{model}`' for model in _MODELS)} |",
        "|---" * (1 + len(CEILINGS) + len(_MODELS)) + "|",
        *(f"| `{b.name}` | {' | '.join([*use_of(b), *(speed(b, model) for model in _MODELS)])} |" for b in boards),
        f"| planning ceiling | {' | '.join(f'{share:.0%}' for share in CEILINGS.values())} |" + " |" * len(_MODELS),
        "",
        *(f"* `{b.name}`: `{b.chosen_by}`" for b in boards),
    ]
    return "\n".join([*lines, ""])


def sections() -> dict[str, str]:
    """Contents of the marked sections of the page."""
    return {"support": support_table(), "configurations": configuration_table()}


def filled(page: str) -> str:
    """The page with its marked sections printed anew."""
    for name, text in sections().items():
        found = re.search(rf"<!-- {name} -->\n.*?<!-- /{name} -->", page, re.S)
        if found is None:
            raise ValueError(f"the page has no section {name}")
        page = f"{page[: found.start()]}<!-- {name} -->\n{text}<!-- /{name} -->{page[found.end() :]}"
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    page = parser.parse_args().write
    if page is None:
        print("\n".join(sections().values()), end="")
    else:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
