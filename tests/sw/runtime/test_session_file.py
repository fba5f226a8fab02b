from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwgen.boards import load_board
from hwgen.descriptors import Opcode
from hwgen.errors import HwgenError
from hwgen.golden.machine import GoldenMachine
from hwgen.golden.operation import decoded
from hwgen.golden.registers import Run
from hwgen.sw.cli.main import main
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.constants import ArrayRows
from hwgen.sw.compiler.image import Image
from hwgen.sw.compiler.image_file import load_image, save_image
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.generation import Generation
from hwgen.sw.runtime.kv_arrays import KvArrays, pack_pages, unpack_pages, with_cache_tokens
from hwgen.sw.runtime.llm import LLM
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.session_file import load_session, save_session
from hwgen.sw.runtime.vector_tokens import VectorToken
from hwgen.weights import ModelWeights, random_weights

from ..conftest import CONFIG, SHAPE

MEMORY = 1 << 22


@pytest.fixture(scope="module")
def image(weights: ModelWeights) -> Image:
    return with_cache_tokens(compile_model(CONFIG, weights), 2 * SHAPE.max_context)


def new_engine(image: Image) -> Engine:
    return Engine(GoldenDevice(CONFIG, memory_bytes=MEMORY), image)


@pytest.fixture
def engine(image: Image) -> Engine:
    return new_engine(image)


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, SHAPE.vocab, length)]


def logits_after(engine: Engine, session: Session, tokens: list[int]) -> np.ndarray:
    engine.prefill(session, tokens, write_logits=True)
    return engine.logits().view(np.uint32)


# ---- arrays ------------------------------------------------------------------------------------------------------
def test_arrays_are_what_the_machine_reads(engine: Engine) -> None:
    session = Session()
    engine.prefill(session, prompt(41))
    kv = unpack_pages(engine.image, engine.pages.read(session.pages), 41)
    machine = engine.device.machine  # type: ignore[attr-defined]
    assert isinstance(machine, GoldenMachine)
    machine.registers.pages[: len(session.pages)] = map(engine.pages.frame, session.pages)
    reads = [d for d in engine.image.descriptors if d.opcode is Opcode.ATTENTION]
    assert [d.layer for d in reads] == list(range(SHAPE.layers))
    for d in reads:
        elements = np.zeros((2, SHAPE.kv_heads, 3, CONFIG.kv_block, SHAPE.head_dim), np.int8)
        scales = np.zeros(elements.shape[:-1], np.uint16)
        machine._cache_blocks(decoded(d.pack(), 1, 1)[0], Run(41, 1, 0, 0), elements, scales)
        np.testing.assert_array_equal(kv.elements[:, d.layer], elements.reshape(2, SHAPE.kv_heads, -1, SHAPE.head_dim)[:, :, :41])
        np.testing.assert_array_equal(kv.scales[:, d.layer], scales.reshape(2, SHAPE.kv_heads, -1)[:, :, :41])
    assert np.abs(kv.elements).max() == 127 and kv.scales.all()


@pytest.mark.parametrize("positions", [0, 1, 15, 16, 17, 64])
def test_arrays_come_back(image: Image, positions: int) -> None:
    rng = np.random.default_rng(positions)
    shape = (2, SHAPE.layers, SHAPE.kv_heads, positions)
    kv = KvArrays(rng.integers(-127, 128, (*shape, SHAPE.head_dim), np.int8), rng.integers(0, 1 << 16, shape, np.uint16))
    back = unpack_pages(image, pack_pages(image, kv), positions)
    np.testing.assert_array_equal(back.elements, kv.elements)
    np.testing.assert_array_equal(back.scales, kv.scales)


def test_cache_smaller_than_a_context(image: Image) -> None:
    assert with_cache_tokens(image, 130).pages == 9
    with pytest.raises(HwgenError, match="63 tokens is smaller than the context of 64"):
        with_cache_tokens(image, 63)


# ---- round trip --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("length", [1, 8, 16, 37, SHAPE.max_context - 5])
def test_restored_session_continues_bit_for_bit(engine: Engine, image: Image, tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.session"
    session = Session()
    engine.prefill(session, prompt(length))
    saved = save_session(engine, session, path)
    assert saved == path.stat().st_size and list(tmp_path.iterdir()) == [path]
    other = new_engine(image)
    held = Session()
    other.forward(held, [1])  # so that the pages are others
    restored = load_session(other, path)
    other.pages.close(held)
    assert restored.tokens == session.tokens == prompt(length) and restored.exact
    assert restored.pages != session.pages
    more = prompt(5, seed=9)
    np.testing.assert_array_equal(logits_after(other, restored, more), logits_after(engine, session, more))
    other.pages.close(restored)
    assert other.pages.free == image.pages


def test_answer_goes_on_after_a_restart(engine: Engine, image: Image, tmp_path: Path) -> None:
    """Two turns with a save between them are the two turns without; the last token of the answer is not lost."""

    def turn(engine: Engine, session: Session, tokens: list[int]) -> list[int]:
        generation = Generation(engine, tokens, 6, session=session)
        return [item.token for item in generation]

    session = Session()
    first = turn(engine, session, prompt(11))
    assert session.pending == first[-1:] and session.tokens == prompt(11) + first[:-1]
    save_session(engine, session, tmp_path / "s")
    expected = turn(engine, session, prompt(4, 1))
    other = new_engine(image)
    restored = load_session(other, tmp_path / "s")
    assert turn(other, restored, prompt(4, 1)) == expected
    assert restored.tokens == session.tokens == prompt(11) + first + prompt(4, 1) + expected[:-1]


def test_what_was_said_is_for_its_owner(engine: Engine, tmp_path: Path) -> None:
    """Whatever new files of this process are otherwise for, and whoever could read the file that was there."""
    path, before = tmp_path / "s", os.umask(0)
    try:
        path.touch(0o666)
        save_session(engine, Session(), path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_vector_anywhere_is_refused(engine: Engine, tmp_path: Path, place: int) -> None:
    session = Session()
    session.pending = [5, 6]
    session.pending.insert(place, VectorToken(np.zeros(SHAPE.hidden, np.uint16)))
    with pytest.raises(HwgenError, match="vectors in place of tokens cannot be saved"):
        save_session(engine, session, tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_four_bits(engine: Engine, tmp_path: Path) -> None:
    session = Session()
    engine.prefill(session, prompt(50))
    exact, small = (save_session(engine, session, tmp_path / str(bits), kv_bits=bits) for bits in (8, 4))
    elements = 2 * SHAPE.layers * SHAPE.kv_heads * 50 * SHAPE.head_dim
    headers = [int.from_bytes((tmp_path / str(bits)).read_bytes()[:8], "little") for bits in (8, 4)]
    assert (exact - headers[0]) - (small - headers[1]) == elements // 2
    before = unpack_pages(engine.image, engine.pages.read(session.pages), 50)
    restored = load_session(engine, tmp_path / "4")
    after = unpack_pages(engine.image, engine.pages.read(restored.pages), 50)
    np.testing.assert_array_equal(after.scales, before.scales)
    difference = np.abs(after.elements.astype(int) - before.elements)
    assert 0 < difference.max() <= 10  # half of 127 / 7, rounded
    assert set(np.unique(after.elements)) <= {round(127 * q / 7) for q in range(-7, 8)}
    assert np.array_equal(np.abs(after.elements) == 127, np.abs(before.elements) > 127 * 6.5 / 7)
    assert not restored.exact  # nobody may take rounded pages for what the machine computes
    with pytest.raises(HwgenError, match="8 or 4, not 5"):
        save_session(engine, session, tmp_path / "5", kv_bits=5)


def test_nothing_of_other_sessions_is_saved(engine: Engine, tmp_path: Path) -> None:
    """Stale bytes of a page are not written out."""
    used, fresh = Session(), Session()
    engine.prefill(used, prompt(64, 5))
    engine.pages.close(used)
    engine.prefill(fresh, prompt(3))
    save_session(engine, fresh, tmp_path / "a")
    other = new_engine(engine.image)
    session = Session()
    other.prefill(session, prompt(3))
    save_session(other, session, tmp_path / "b")
    assert len((tmp_path / "a").read_bytes()) == len((tmp_path / "b").read_bytes())
    restored = [load_session(e, tmp_path / "a") for e in (engine, other)]
    contents = [e.pages.read(s.pages) for e, s in zip((engine, other), restored, strict=True)]
    np.testing.assert_array_equal(contents[0], contents[1])
    np.testing.assert_array_equal(contents[0], pack_pages(engine.image, unpack_pages(engine.image, contents[0], 3)))


# ---- refusals ----------------------------------------------------------------------------------------------------
@pytest.fixture
def saved(engine: Engine, tmp_path: Path) -> Path:
    session = Session()
    engine.prefill(session, prompt(19))
    save_session(engine, session, tmp_path / "good")
    engine.pages.close(session)
    return tmp_path / "good"


def test_any_flipped_bit_is_noticed(engine: Engine, saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(0)
    places = [*range(header), *(int(i) for i in rng.integers(header, len(content), 200)), len(content) - 1]
    bad = tmp_path / "bad"
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        bad.write_bytes(damaged)
        with pytest.raises(HwgenError) as caught:
            load_session(engine, bad)
        assert caught.value.kind == "session", place
        assert engine.pages.free == engine.image.pages
    assert load_session(engine, saved).position == 19


def test_cut_short_is_noticed(engine: Engine, saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    for length in [0, 1, 7, 8, 9, 200, len(content) // 2, len(content) - 1]:
        (tmp_path / "bad").write_bytes(content[:length])
        with pytest.raises(HwgenError, match="damaged"):
            load_session(engine, tmp_path / "bad")
    (tmp_path / "bad").write_bytes(content + b"x")
    with pytest.raises(HwgenError, match="checksum"):
        load_session(engine, tmp_path / "bad")
    with pytest.raises(HwgenError, match="cannot be read"):
        load_session(engine, tmp_path / "none")


def test_a_file_of_an_earlier_format_is_refused(engine: Engine, saved: Path, tmp_path: Path) -> None:
    """One line, before anything of its content is looked at."""
    old = tmp_path / "old.session"
    old.write_bytes(saved.read_bytes().replace(b"hwgen-session-5", b"hwgen-session-4"))
    with pytest.raises(HwgenError, match="^.*old.session has format 'hwgen-session-4', 'hwgen-session-5' expected") as caught:
        load_session(engine, old)
    assert caught.value.kind == "session" and engine.pages.free == engine.image.pages


def test_other_weights_and_other_builds(image: Image, saved: Path) -> None:
    other = Engine(GoldenDevice(CONFIG, memory_bytes=MEMORY), compile_model(CONFIG, random_weights(SHAPE, seed=4)))
    with pytest.raises(HwgenError, match="belongs to other weights") as caught:
        load_session(other, saved)
    assert caught.value.kind == "session"
    config = replace(CONFIG, ring_beats=2 * CONFIG.ring_beats)
    other = Engine(GoldenDevice(config, memory_bytes=MEMORY), compile_model(config, random_weights(SHAPE, seed=3)))
    with pytest.raises(HwgenError, match="contract hash") as caught:
        load_session(other, saved)
    assert caught.value.kind == "contract"


def test_model_hash_is_the_same_for_a_loaded_image(image: Image, tmp_path: Path) -> None:
    """A file states it, as it was written; a larger cache changes nothing of the weights."""
    save_image(tmp_path / "a.hwimage", image, None, load_board("demo"), "exact")
    loaded = load_image(tmp_path / "a.hwimage").image
    unstated = replace(loaded, stored_hash=None)
    assert len({i.model_hash for i in (image, loaded, unstated, with_cache_tokens(image, 192))}) == 1
    assert replace(image, embedding=ArrayRows(image.embedding.gather(range(SHAPE.vocab)) ^ 1)).model_hash != image.model_hash


def test_no_pages_left(engine: Engine, saved: Path) -> None:
    full = [Session(), Session()]
    for session in full:
        engine.prefill(session, prompt(SHAPE.max_context))
    with pytest.raises(HwgenError, match="needs 2 KV pages, 0 are free"):
        load_session(engine, saved)
    engine.pages.close(full[0])
    assert load_session(engine, saved).position == 19


# ---- full disks --------------------------------------------------------------------------------------------------
def check_only_the_old_file(engine: Engine, session: Session, saved: Path, content: bytes) -> None:
    """What a failed save leaves behind."""
    assert list(saved.parent.iterdir()) == [saved] and saved.read_bytes() == content
    assert load_session(engine, saved).position == 19
    assert session.position == 40 and engine.forward(session, [1]).candidates  # goes on


def test_file_that_cannot_grow(engine: Engine, saved: Path) -> None:
    """The system ends the write in the middle."""
    content = saved.read_bytes()
    session = Session()
    engine.prefill(session, prompt(40))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, limits[1]))
    try:
        with pytest.raises(HwgenError, match="cannot be written: File too large") as caught:
            save_session(engine, session, saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.kind == "session"
    check_only_the_old_file(engine, session, saved, content)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_disk_that_is_full_later(engine: Engine, saved: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    content = saved.read_bytes()
    session = Session()
    engine.prefill(session, prompt(40))

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(HwgenError, match="No space left"):
            save_session(engine, session, saved)
    check_only_the_old_file(engine, session, saved, content)


KILLED = """
import os, resource, signal, sys
from pathlib import Path
from hwgen.sw.runtime.session_file import _write
path, step = Path(sys.argv[1]), sys.argv[2]
content = path.read_bytes()
if step == "write":  # the system kills whoever writes beyond the limit
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, len(content) // 2))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
else:
    setattr(os, step, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
_write(path, content)
"""


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_killed_while_saving(engine: Engine, saved: Path, step: str) -> None:
    """The file is still the old one, and half of a new one is taken for no session."""
    content = saved.read_bytes()
    result = subprocess.run([sys.executable, "-c", KILLED, str(saved), step])
    assert result.returncode == -(signal.SIGXFSZ if step == "write" else signal.SIGKILL)
    assert saved.read_bytes() == content and load_session(engine, saved).position == 19
    (part,) = (path for path in saved.parent.iterdir() if path != saved)
    assert part.suffix == ".part" and part.stat().st_size == len(content) // (2 if step == "write" else 1)
    if step == "write":
        with pytest.raises(HwgenError, match="damaged"):
            load_session(engine, part)


FULL_DISK = """
import sys
from pathlib import Path
import numpy as np
from hwgen.errors import HwgenError
from hwgen.sw.runtime.session_file import _write
disk = Path(sys.argv[1])
old = b"old" * 1000
_write(disk / "s", old)
try:
    _write(disk / "s", bytes(200_000))
except HwgenError as error:
    print(error)
assert [p.name for p in disk.iterdir()] == ["s"] and (disk / "s").read_bytes() == old
"""


def test_full_file_system(tmp_path: Path) -> None:
    """A file system of 64 KiB in a name space of its own."""
    private = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*private, "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a file system in a name space")
    script = f'mount -t tmpfs -o size=64k none "$1" && exec "{sys.executable}" -c "$2" "$1"'
    result = subprocess.run([*private, "sh", "-c", script, "sh", str(tmp_path), FULL_DISK], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "cannot be written: No space left on device" in result.stdout


# ---- command line ------------------------------------------------------------------------------------------------
def test_run_continues_a_session(capsys: pytest.CaptureFixture[str], model_directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "cat.session"

    def run(prompt: str, *more: str) -> list[int]:
        arguments = ["run", str(model_directory), "--device", "golden", "--set", f"max_context={CONFIG.max_context}"]
        assert main([*arguments, "--prompt", prompt, "--max-new-tokens", "4", "--json", *more]) == 0
        return list(json.loads(capsys.readouterr().out)["tokens"])

    said = [run(text, "--session", str(path)) for text in ("the cat", " sat", " sat")]
    llm = LLM(model_directory, "golden", CONFIG)
    session = Session()
    for text, tokens in zip(("the cat", " sat", " sat"), said, strict=True):
        answer = llm.generate(text, max_new_tokens=4, session=session)
        assert answer.text is not None and answer.generation.tokens == tokens
    assert llm.load_session(path).tokens == session.tokens
    run("x", "--session", str(path), "--kv-bits", "4")
    smaller = path.stat().st_size
    run("x", "--session", str(path))
    assert smaller < path.stat().st_size
