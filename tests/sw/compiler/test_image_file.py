"""Image files: the same model as compiled in place, and one line about each that is not."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwgen.boards import Board, load_board
from hwgen.contract import CONTRACT_VERSION, contract_hash
from hwgen.errors import HwgenError
from hwgen.key_centers import KeyCenters
from hwgen.sw.compiler.compile import compile_model, plan_image
from hwgen.sw.compiler.constants import ArrayConstants
from hwgen.sw.compiler.image import Image, Places
from hwgen.sw.compiler.image_file import PREAMBLE, CompiledModel, check_same_build, load_image, save_image
from hwgen.sw.models.open import open_model
from hwgen.sw.models.random_model import sized_model
from hwgen.sw.progress import Ticker
from hwgen.sw.runtime.llm import LLM
from hwgen.weights import ModelWeights

from ..conftest import CONFIG, SHAPE
from .content import content

BOARD: Board = replace(load_board("demo"), name="small", config=CONFIG)


@pytest.fixture(scope="module")
def image(weights: ModelWeights) -> Image:
    return compile_model(CONFIG, weights, name="small")


@pytest.fixture(scope="module")
def saved(image: Image, chat_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "small.hwimage"
    size, model_hash = save_image(path, image, open_model(chat_directory), BOARD, "exact")
    assert path.stat().st_size == size and model_hash == image.model_hash
    assert list(path.parent.iterdir()) == [path]
    return path


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    path = tmp_path / "copy.hwimage"
    path.write_bytes(saved.read_bytes())
    return path


def test_everything_comes_back(image: Image, saved: Path, chat_directory: Path) -> None:
    compiled, model = load_image(saved), open_model(chat_directory)
    loaded, places = compiled.image, Places((4096,), 8192)
    assert (compiled.name, compiled.board, compiled.part, compiled.head) == ("small", "small", "", "exact")
    for name in ("config", "shape", "symbols", "row_bytes", "chunk", "context", "page_bytes", "pages", "model_hash", "kv"):
        assert getattr(loaded, name) == getattr(image, name), name
    assert loaded.program(places) == image.program(places) and loaded.buffers() == image.buffers()
    np.testing.assert_array_equal(content(loaded.constants), content(image.constants))
    tokens = [7, 0, SHAPE.vocab - 1]
    np.testing.assert_array_equal(loaded.rows(tokens), image.rows(tokens))
    text = "Once upon a time"
    assert compiled.stop_tokens == model.stop_tokens and compiled.tokenizer.encode(text) == model.tokenizer.encode(text)
    assert compiled.tokenizer.encode_chat(text) == model.tokenizer.encode_chat(text)


def test_sections_are_aligned(saved: Path) -> None:
    header, _ = header_of(saved)
    assert all(section[0] % 4096 == 0 for section in header["sections"].values())
    assert header["contract_hash"] == f"{contract_hash(CONFIG):016x}"


def test_answers_are_those_of_the_checkpoint(saved: Path, chat_directory: Path) -> None:
    pytest.importorskip("torch", reason="the golden model needs torch")
    fresh = LLM(chat_directory, "golden", CONFIG).generate("the cat", max_new_tokens=6)
    from_file = LLM(str(saved), "golden").generate("the cat", max_new_tokens=6)
    assert from_file.text == fresh.text and from_file.generation.tokens == fresh.generation.tokens
    with pytest.raises(HwgenError, match=r"compiled for small .build 'small'., not for build 'demo'") as caught:
        LLM(str(saved), "golden", "demo")
    assert caught.value.kind == "contract"
    with pytest.raises(HwgenError, match="compiled with the exact head, not shortlist"):
        LLM(str(saved), "golden", head="shortlist")


def test_a_board_needs_neither_torch_nor_amaranth(saved: Path) -> None:
    """Everything up to the device: what a board install has is enough to open an image."""
    code = f"""
import sys
for name in ("torch", "amaranth", "cocotb", "safetensors", "gguf"):
    sys.modules[name] = None
from hwgen.sw.cli import chat, compile, run, serve
from hwgen.sw.compiler.image_file import load_image
from pathlib import Path
model = load_image(Path({str(saved)!r}))
from hwgen import LLM
print(model.tokenizer.encode("the cat")[:0], model.image.rows([1]).shape[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[] 1\n", done.stderr


def test_without_a_tokenizer(image: Image, tmp_path: Path) -> None:
    save_image(tmp_path / "a.hwimage", image, None, BOARD, "exact")
    compiled = load_image(tmp_path / "a.hwimage")
    with pytest.raises(HwgenError, match="has no tokenizer"):
        _ = compiled.tokenizer


# ---- files that are refused --------------------------------------------------------------------------------------
def header_of(path: Path) -> tuple[dict[str, object], int]:  # type: ignore[type-arg]
    data = path.read_bytes()
    length = int.from_bytes(data[8:16], "little")
    return json.loads(data[PREAMBLE : PREAMBLE + length]), length


def rewrite(path: Path, **changes: object) -> None:
    """Change fields of the header, with the right checksum."""
    header, length = header_of(path)
    content = json.dumps({**header, **changes}).encode().ljust(length)
    data = bytearray(path.read_bytes())
    data[16:20] = zlib.crc32(content).to_bytes(4, "little")
    data[PREAMBLE : PREAMBLE + length] = content
    path.write_bytes(data)


def add_to_checksum(path: Path, number: int) -> None:
    data = bytearray(path.read_bytes())
    data[16:20] = (int.from_bytes(data[16:20], "little") + number).to_bytes(4, "little")
    path.write_bytes(data)


def other_checksum(path: Path, number: int) -> list[object]:
    """What the header says of the checksums, with another one for them."""
    start, blocks, checksum = header_of(path)[0]["checksums"]  # type: ignore[misc]
    return [start, blocks, f"{int(checksum, 16) + number:08x}"]


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def load_all(path: Path) -> None:
    compiled: CompiledModel = load_image(path)
    content(compiled.image.constants)
    compiled.image.rows([2])


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda path: path.write_bytes(b"something else"), "model", "is not an image that hwgen compile wrote"),
        (lambda path: path.write_bytes(b"GARBAGE!" + path.read_bytes()[8:]), "model", "is not an image that hwgen compile wrote"),
        (lambda path: path.write_bytes(b"HWIMAGE1" + path.read_bytes()[8:]), "model", "is not an image that hwgen compile wrote"),
        (lambda path: add_to_checksum(path, 1), "model", "damaged: the checksum of its header"),
        (lambda path: add_to_checksum(path, -1), "model", "damaged: the checksum of its header"),
        (lambda path: rewrite(path, checksums=other_checksum(path, 1)), "model", "damaged: the checksum of its checksums"),
        (lambda path: rewrite(path, checksums=other_checksum(path, -1)), "model", "damaged: the checksum of its checksums"),
        (lambda path: path.write_bytes(path.read_bytes() + b"0"), "model", r"is cut short: [\d,]+ bytes of [\d,]+"),
        (lambda path: rewrite(path, contract_version=CONTRACT_VERSION - 1), "contract", f"contract version {CONTRACT_VERSION - 1}"),
        (lambda path: path.unlink(), "model", "cannot be read: No such file"),
        (lambda path: flip(path, 100), "model", "damaged: the checksum of its header"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "model", r"is cut short: [\d,]+ bytes of [\d,]+"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "model", "damaged: the checksum of its header"),
        (lambda path: rewrite(path, contract_version=CONTRACT_VERSION + 1), "contract", f"contract version {CONTRACT_VERSION + 1}"),
        (lambda path: rewrite(path, contract_hash="0123456789abcdef"), "contract", "contract hash 0123456789abcdef"),
        (lambda path: rewrite(path, config={**CONFIG.to_dict(), "lanes": 3.5}), "contract", "a configuration that this hwgen"),
    ],
)
def test_files_that_are_refused(copy: Path, change: Callable[[Path], None], kind: str, message: str) -> None:
    change(copy)
    with pytest.raises(HwgenError, match=message) as caught:
        load_all(copy)
    assert caught.value.kind == kind and caught.value.fix and "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["program", "tokenizer", "constants", "embedding", "checksums"])
def test_a_wrong_bit_in_any_section(copy: Path, name: str) -> None:
    header, _ = header_of(copy)
    places = {**header["sections"], "checksums": header["checksums"]}  # type: ignore[dict-item]
    offset = places[name][0]
    if name == "embedding":
        offset += 2 * places[name][2] + 1  # row 2
    flip(copy, offset)
    with pytest.raises(HwgenError, match="is damaged: .*checksum") as caught:
        load_all(copy)
    assert caught.value.kind == "model"


def test_a_row_that_is_damaged_later_is_not_computed_with(copy: Path) -> None:
    compiled = load_image(copy)
    compiled.image.rows([2, 3])
    section = header_of(copy)[0]["sections"]["embedding"]  # type: ignore[index]
    with copy.open("r+b") as file:
        file.seek(section[0] + 3 * section[2])
        file.write(b"\xff\xfe")
    compiled.image.rows([2])
    with pytest.raises(HwgenError, match="is damaged"):
        compiled.image.rows([2, 3])


def test_a_file_that_shrinks_while_it_is_read(copy: Path) -> None:
    compiled = load_image(copy)
    with copy.open("r+b") as file:
        file.truncate(8192)
    with pytest.raises(HwgenError, match="was cut short while it was read"):
        content(compiled.image.constants)
    with pytest.raises(HwgenError, match="is damaged"):
        compiled.image.rows([2])


def test_what_is_added_to_keys_comes_back(weights: ModelWeights, tmp_path: Path) -> None:
    config = replace(CONFIG, int4_kv=True)
    rng = np.random.default_rng(1)
    size = SHAPE.layers, SHAPE.kv_rows
    centers = KeyCenters(*(rng.normal(0, 1, size).astype(np.float32) for _ in range(2)))
    image = compile_model(config, replace(weights, kv="k4v4", key_centers=centers))
    save_image(tmp_path / "a.hwimage", image, None, replace(BOARD, config=config), "exact")
    loaded = load_image(tmp_path / "a.hwimage").image
    assert loaded.kv == "k4v4" and image.key_rows is not None and image.key_rows.shape == size and image.key_rows.any()
    np.testing.assert_array_equal(loaded.key_rows, image.key_rows)
    np.testing.assert_array_equal(content(loaded.constants), content(image.constants))


def test_a_table_of_many_checksums(tmp_path: Path) -> None:
    """One a row of the embedding, more than four KiB of them in all: the sections begin behind their end."""
    shape = replace(SHAPE, vocab=8000)
    image = plan_image(CONFIG, sized_model(shape, "ternary"))  # type: ignore[arg-type]  # a random model has what compilers use
    save_image(tmp_path / "a.hwimage", image, None, BOARD, "exact")
    start, blocks, _ = header_of(tmp_path / "a.hwimage")[0]["checksums"]  # type: ignore[misc]
    first = min(section[0] for section in header_of(tmp_path / "a.hwimage")[0]["sections"].values())  # type: ignore[attr-defined]  # a dictionary of JSON
    assert start + 4 * blocks <= first < start + 4 * blocks + 4096 and blocks >= 8000
    loaded = load_image(tmp_path / "a.hwimage").image
    tokens = [0, 1, 4095, 4096, 7999]
    np.testing.assert_array_equal(loaded.rows(tokens), image.rows(tokens))


def test_another_build_is_refused_whichever_hash_is_larger(saved: Path) -> None:
    compiled, other = load_image(saved), replace(CONFIG, topk=4)
    check_same_build(compiled, replace(CONFIG, name="other", clock_mhz=1.0))
    swapped = replace(compiled, image=replace(compiled.image, config=other))
    for image, config in ((compiled, other), (swapped, CONFIG)):
        with pytest.raises(HwgenError, match=r"was compiled for small \(build 'small'\), not for build 'small'"):
            check_same_build(image, config)


def test_constants_of_many_windows(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine MiB and three bytes: every byte comes back, and progress is told in MiB."""
    said = list[str]()
    monkeypatch.setattr(Ticker, "tick", lambda self, text: said.append(text))
    data = np.random.default_rng(1).integers(0, 256, (9 << 20) + 3, dtype=np.uint8)
    large = replace(image, constants=ArrayConstants(data))
    save_image(tmp_path / "a.hwimage", large, None, BOARD, "exact")
    assert said == [f"{done} of 9 MiB written" for done in (0, 4, 8)]
    loaded = load_image(tmp_path / "a.hwimage").image
    assert np.array_equal(content(loaded.constants), data) and loaded.model_hash == large.model_hash


# ---- memory ------------------------------------------------------------------------------------------------------
def test_neither_writing_nor_reading_holds_a_copy(tmp_path: Path) -> None:
    """The constants pass through windows; of a file, the embedding stays where it is."""
    shape = replace(SHAPE, hidden=512, ffn=1024, layers=70, vocab=600)
    config = replace(CONFIG, max_inputs=1024, scratch_vectors=8192, param_vectors=2048)
    image = plan_image(config, sized_model(shape, "ternary"))  # type: ignore[arg-type]  # a random model has what compilers use
    path, size = tmp_path / "large.hwimage", image.constants.bytes
    assert size > 18e6
    tracemalloc.start()
    try:
        save_image(path, image, None, BOARD, "exact")
        assert tracemalloc.get_traced_memory()[1] < 9 << 20 < size
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        compiled = load_image(path)
        window = np.empty(1 << 20, np.uint8)
        with compiled.image.constants.reading() as read:
            for first in range(0, size, window.size):
                read(window[: size - first])
        # most of it are descriptors, larger ones in Python 3.10
        assert tracemalloc.get_traced_memory()[1] - before < 9 << 20 < size
    finally:
        tracemalloc.stop()
