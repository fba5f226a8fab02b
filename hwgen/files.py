"""Files that appear under their names complete or not at all, and where hwgen keeps what it has made before."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["cache_directory", "data_directory", "locked", "replacing", "write_whole"]


def cache_directory() -> Path:
    """Where what takes long to make is kept: `$HWGEN_CACHE`, else `$XDG_CACHE_HOME/hwgen`, else `~/.cache/hwgen`."""
    return _directory("HWGEN_CACHE", "XDG_CACHE_HOME", ".cache")


def data_directory() -> Path:
    """Where added models are kept: `$HWGEN_DATA`, else `$XDG_DATA_HOME/hwgen`, else `~/.local/share/hwgen`."""
    return _directory("HWGEN_DATA", "XDG_DATA_HOME", ".local/share")


def _directory(variable: str, base: str, default: str) -> Path:
    if variable in os.environ:
        return Path(os.environ[variable])
    return Path(os.environ.get(base) or Path.home() / default) / "hwgen"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time in blocks of the same ``path``; the file stays."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """The path of a new file beside ``path``, to be written in the block; it takes the name when the block ends, and is removed
    when the block fails. ``durable``: content and name are on the disk then.
    """
    part = path.with_name(f"{path.name}.{os.urandom(6).hex()}.part")
    try:
        yield part
        if durable:
            _to_disk(part)
        os.replace(part, path)
        if durable:
            _to_disk(path.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file by new content, text as UTF-8, as :func:`replacing` does. Its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
