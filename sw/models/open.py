"""Any model by shipped or added name, directory or GGUF file, of any family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import HwgenError
from .config_json import read_config, read_generation, token_ids
from .families import family_of_config
from .four_bits import Keep, OnTheFly, as_stored
from .library import added_file, find_model
from .model import Model, check_tokens
from .tokenizer_files import load_tokenizer

__all__ = ["IMAGE_SUFFIX", "open_model"]

#: What the name of a compiled model ends with.
IMAGE_SUFFIX = ".hwimage"

#: What to say when a model with the matrices of one engine is given where those of the other are wanted.
_WRONG_ENGINE = {
    "ternary": ("is a ternary model; this command takes llama models", "give a llama checkpoint or GGUF file"),
    "int4": ("is a llama model; a ternary one is wanted", "give a BitNet checkpoint or GGUF file"),
}


def load_directory(path: Path, progress: Callable[[str], None] = lambda text: None, keep: Keep = as_stored) -> Model:
    """A checkpoint directory with its tokenizer. ``keep`` says what becomes of its matrices."""
    config, generation = read_config(path), read_generation(path)
    family = family_of_config(config)
    loader = family.loader()
    shape = loader.read_shape(config)  # an unsupported model is refused before anything large is read
    stop = token_ids(generation.get("eos_token_id", config.get("eos_token_id")))
    tokenizer = load_tokenizer(path)
    check_tokens(tokenizer, stop, shape.vocab, str(path))
    weights = loader.load_weights(path, config, shape, progress, keep)
    return Model(name=path.name, path=path, family=family, weights=weights, tokenizer=tokenizer, stop_tokens=stop)


def open_model(
    name: str | Path, progress: Callable[[str], None] = lambda text: None, *, engine: str | None = None,
    quantized: bool = False,
) -> Model:
    """A model. A path goes before a shipped name, a shipped name before an added one. ``engine``: refuse a model whose matrices
    are not for this one. ``quantized``: float matrices are made 4-bit while they are read, so that the machine can take the model;
    ``progress`` hears how, and what that costs.
    """
    quantizer = OnTheFly(progress=progress)
    keep: Keep = quantizer if quantized else as_stored
    path = Path(name)
    file = path if path.is_file() else None
    if file is None and not path.exists() and path.name == str(name):
        file = added_file(str(name))
    if file is None:
        model = load_directory(find_model(name), progress, keep)
    elif file.suffix == IMAGE_SUFFIX:
        raise HwgenError(
            "checkpoint", f"{file} is a compiled model; this command needs the one it was compiled from",
            "give the checkpoint or GGUF file",
        )
    elif file.suffix.lower() != ".gguf":
        raise HwgenError(
            "checkpoint", f"{file} is a file, but no .gguf file", "give a GGUF file, or the directory that holds config.json"
        )
    else:
        from .gguf import load_gguf

        model = load_gguf(file, progress, None if file == path else str(name), keep)
    quantizer.report()
    if engine is not None and model.weights.engine != engine:
        what, fix = _WRONG_ENGINE[model.weights.engine]
        raise HwgenError("architecture", f"{model.name} {what}", fix)
    return model
