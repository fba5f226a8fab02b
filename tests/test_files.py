from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hwgen.files import cache_directory, data_directory, locked, replacing, write_whole


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "very" / "deep" / "a.json"
    write_whole(path, "ä")
    assert path.read_bytes() == b"\xc3\xa4"
    with replacing(path) as part:
        part.write_bytes(b"new")
        assert path.read_bytes() == b"\xc3\xa4" and part.parent == path.parent
    assert path.read_bytes() == b"new" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("durable", [False, True])
def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path, durable=durable) as part:
        part.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with replacing(path) as one, replacing(path) as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]  # the outer block ends last


def test_the_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    with replacing(tmp_path / "a", durable=True) as part:
        part.write_bytes(b"x")
    assert calls == ["fsync", "replace", "fsync"]
    calls.clear()
    with replacing(tmp_path / "a") as part:
        part.write_bytes(b"y")
    assert calls == ["replace"], "nobody waits for a disk who did not ask for it"


def test_a_lock_keeps_other_processes_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    run = [sys.executable, "-c", code, str(path)]
    with locked(path):
        assert subprocess.run(run, capture_output=True).returncode == 1
    assert subprocess.run(run).returncode == 0


@pytest.mark.parametrize(("directory", "kind", "default"), [
    (cache_directory, "CACHE", ".cache/hwgen"), (data_directory, "DATA", ".local/share/hwgen"),
])
def test_where_files_are_kept(monkeypatch: pytest.MonkeyPatch, directory: Callable[[], Path], kind: str, default: str) -> None:
    for name in (f"HWGEN_{kind}", f"XDG_{kind}_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert directory() == Path.home() / default
    monkeypatch.setenv(f"XDG_{kind}_HOME", "/x")
    assert directory() == Path("/x/hwgen")
    monkeypatch.setenv(f"HWGEN_{kind}", "/y")
    assert directory() == Path("/y")
