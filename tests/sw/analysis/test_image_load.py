"""What opening an image file takes, on a small one."""

from __future__ import annotations

from pathlib import Path

from hwgen.boards import load_board
from hwgen.sw.analysis.image_load import describe, measure
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image_file import save_image
from hwgen.weights import ModelWeights

from ..conftest import CONFIG


def test_of_a_small_image(weights: ModelWeights, tmp_path: Path) -> None:
    path = tmp_path / "small.hwimage"
    image = compile_model(CONFIG, weights)
    save_image(path, image, None, load_board("demo"), "exact")
    found = measure(path, pairs=1)
    assert found["constants_bytes"] == image.constants.bytes and found["file_bytes"] == path.stat().st_size
    assert 1e6 < found["beside_bytes"] < 200e6  # Python and numpy
    lines = describe({"shape": "small", "board": "demo", "write_s": 0.1, **found})
    assert "memory beside the buffers" in lines[-1]
