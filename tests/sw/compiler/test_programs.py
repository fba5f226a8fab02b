"""Programs in memory, and which of them a pass needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hwgen.boards import load_board
from hwgen.sw.compiler.image import Places
from hwgen.sw.compiler.image_file import load_image, save_image
from hwgen.sw.compiler.programs import is_needed, pack_slices, unpack_slices
from hwgen.sw.runtime.kv_arrays import with_cache_tokens

from ..runtime.interposed import golden_engine, interposed, poison, undisturbed
from .test_slices import PASSES, image_of


def test_in_memory(tmp_path: Path) -> None:
    image = image_of("short list")
    assert image.sliced is not None
    data, offsets = pack_slices(image.sliced)
    assert image.buffers()["programs"] == [image.program_bytes + len(data)] and len(offsets) == 1 + len(image.sliced.slices)
    again = unpack_slices(data)
    assert [[replace(d, tag=0) for d in part] for part in again.slices] == [list(part) for part in image.sliced.slices]
    save_image(tmp_path / "a.hwimage", image, None, load_board("demo"), "shortlist")
    loaded = load_image(tmp_path / "a.hwimage").image
    places = Places((0x5000,), 0x700000, 0x900000)
    assert loaded.programs(places) == image.programs(places)
    engine = golden_engine(with_cache_tokens(loaded, 64))
    got = interposed(engine, PASSES, [1], None, lambda number: True, poison)
    want = undisturbed(golden_engine(image), PASSES, [1], got.boundaries, lambda number: True)
    assert (got.prompt, got.beside) == (want.prompt, want.beside)


def test_is_needed() -> None:
    image = image_of("round by round")
    assert image.sliced is not None
    needed = [sum(is_needed(part, tokens, False) for part in image.sliced.slices) for tokens in range(1, 7)]
    assert needed[0] == needed[1] < needed[2] == needed[3] < needed[4] == needed[5]
    assert sum(is_needed(part, 6, True) for part in image.sliced.slices) == needed[5] + 1 == len(image.sliced.slices)
