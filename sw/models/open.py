"""Any model by shipped or added name, directory or GGUF file, of any family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...errors import HwgenError
from .config_json import read_config, read_generation, token_ids
from .decisions import decisions_of_directory, describe_kinds, method_of
from .families import family_of_config, grouped_family
from .four_bits import OnTheFly, as_stored
from .grouped_llama import is_grouped
from .key_centers import read_centers
from .library import added_path, find_model
from .model import Decision, Model, ModelFiles, check_tokens
from .tensors import TensorSet
from .tokenizer_files import load_tokenizer

__all__ = ["IMAGE_SUFFIX", "open_files", "open_model"]

#: What the name of a compiled model ends with.
IMAGE_SUFFIX = ".hwimage"

#: What to say when a model with the matrices of one engine is given where those of the other are wanted.
_WRONG_ENGINE = {
    "ternary": ("is a ternary model; this command takes llama models", "give a llama checkpoint or GGUF file"),
    "grouped": (
        "is a ternary model with scales of groups; this command takes others", "give a llama or BitNet checkpoint or GGUF file",
    ),
    "int4": ("is a llama model; a ternary one is wanted", "give a BitNet checkpoint or GGUF file"),
}


def open_directory(path: Path) -> ModelFiles:
    """A checkpoint directory with its tokenizer."""
    config, generation = read_config(path), read_generation(path)
    family = family_of_config(config)
    shape = family.loader().read_shape(config)
    stop = token_ids(generation.get("eos_token_id", config.get("eos_token_id")))
    tokenizer = load_tokenizer(path)
    check_tokens(tokenizer, stop, shape.vocab, str(path))
    tensors = TensorSet(path)
    if family.engine == "int4" and config.get("quantization_config") is None and is_grouped(tensors):
        family = grouped_family(family) or family
    loader = family.loader()
    stored = method_of(config)
    return ModelFiles(
        name=path.name, path=path, family=family, shape=shape, tokenizer=tokenizer, stop_tokens=stop,
        format=f"safetensors, {stored or describe_kinds(tensors.kind(n) for n in tensors.names() if len(tensors.shape(n)) == 2)}",
        bytes=tensors.bytes, decisions=decisions_of_directory(path, config, generation, family, shape, tokenizer, stop, stored),
        read=lambda progress, keep: loader.load_weights(path, config, shape, family.layer, progress, keep),
    )


def open_files(name: str | Path) -> ModelFiles:
    """A model by name or path, looked at but not read. A path goes before a shipped name, a shipped name before an added one.
    What can be known without reading weights is refused here, for every command alike.
    """
    files = _open_files(name)
    if files.centers is None:
        return files
    read_centers(files.centers, files.shape)
    return replace(files, decisions=(*files.decisions, Decision("key_centers", files.centers.name, "a file beside the weights")))


def _open_files(name: str | Path) -> ModelFiles:
    path = Path(name)
    try:
        file, known = path if path.is_file() else None, path.exists()
    except OSError as error:  # a text that is no name at all
        raise HwgenError(
            "checkpoint", f"{str(name)[:40]!r}... is no model: {error.strerror}", "give the name of a model, a directory or a file"
        ) from error
    if not known and path.name == str(name):
        file = added_path(str(name))
    if file is None or file.is_dir():
        files = open_directory(file or find_model(name))
        return files if file is None else replace(files, name=str(name))
    if file.suffix == IMAGE_SUFFIX:
        raise HwgenError(
            "checkpoint", f"{file} is a compiled model; this command needs the one it was compiled from",
            "give the checkpoint or GGUF file",
        )
    if file.suffix.lower() != ".gguf":
        raise HwgenError(
            "checkpoint", f"{file} is a file, but no .gguf file", "give a GGUF file, or the directory that holds config.json"
        )
    from .gguf import open_gguf

    return open_gguf(file, None if file == path else str(name))


def open_model(
    name: str | Path, progress: Callable[[str], None] = lambda text: None, *, engine: str | None = None,
    quantized: bool = False,
) -> Model:
    """A model with its weights (:func:`open_files`). ``engine``: refuse one whose matrices are not for this one. ``quantized``:
    float matrices are made 4-bit while they are read, so that the machine can take the model; ``progress`` hears how, and what
    that costs.
    """
    quantizer = OnTheFly(progress=progress)
    model = open_files(name).load(progress, quantizer if quantized else as_stored)
    quantizer.report()
    if engine is not None and model.weights.engine != engine:
        what, fix = _WRONG_ENGINE[model.weights.engine]
        raise HwgenError("architecture", f"{model.name} {what}", fix)
    return model
