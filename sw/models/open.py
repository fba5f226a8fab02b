"""Any model by shipped or added name, directory or GGUF file, of either family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import HwgenError
from .bitnet import LoadedModel, find_model, load_model, read_config
from .library import added_file
from .llama import LoadedLlama, is_llama, load_llama

__all__ = ["open_llama", "open_model", "open_ternary"]


def open_model(name: str | Path, progress: Callable[[str], None] = lambda text: None) -> LoadedModel | LoadedLlama:
    """A ternary or a llama model. A path goes before a shipped name, a shipped name before an added one."""
    path = Path(name)
    file = path if path.is_file() else None
    if file is None and not path.exists() and path.name == str(name):
        file = added_file(str(name))
    if file is not None:
        if file.suffix.lower() != ".gguf":
            raise HwgenError(
                "checkpoint", f"{file} is a file, but no .gguf file", "give a GGUF file, or the directory that holds config.json"
            )
        from .gguf import load_gguf

        return load_gguf(file, progress, None if file == path else str(name))
    directory = find_model(name)
    return load_llama(directory, progress) if is_llama(read_config(directory)) else load_model(directory, progress)


def open_llama(name: str | Path, progress: Callable[[str], None] = lambda text: None) -> LoadedLlama:
    """A model of the llama family; a ternary one is refused."""
    model = open_model(name, progress)
    if not isinstance(model, LoadedLlama):
        raise HwgenError(
            "architecture",
            f"{model.name} is a ternary model; this command takes llama models",
            "give a llama checkpoint or GGUF file",
        )
    return model


def open_ternary(name: str | Path, progress: Callable[[str], None] = lambda text: None) -> LoadedModel:
    """A ternary model; one of the llama family is refused."""
    model = open_model(name, progress)
    if not isinstance(model, LoadedModel):
        raise HwgenError(
            "architecture", f"{model.name} is a llama model; a ternary one is wanted", "give a BitNet checkpoint or GGUF file"
        )
    return model
