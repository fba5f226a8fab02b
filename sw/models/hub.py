"""Models of the Hugging Face hub: which files of a repository a model is, fetched with resume and checked by their hashes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ...files import cache_directory
from ...packages import needs
from .key_centers import CENTERS
from .library import adding, check_name, row_of

__all__ = ["MODEL_FILES", "add_from_hub", "is_hub_name"]

#: Files beside the weights that say something about a model, below its directory.
MODEL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "model.safetensors.index.json",
    CENTERS,
)

_NAME = re.compile(r"[\w.-]+/[\w.-]+")

_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)


def is_hub_name(name: str) -> bool:
    """Whether a name is of the form OWNER/REPOSITORY, perhaps with a file behind it."""
    return _NAME.fullmatch("/".join(name.split("/")[:2])) is not None and not Path(name).exists()


def _split(name: str) -> tuple[str, str | None]:
    """Repository, and the GGUF file in it that is meant."""
    owner, repository, *rest = name.split("/")
    return f"{owner}/{repository}", "/".join(rest) or None


def _chosen(repository: str, names: list[str], wanted: str | None) -> list[str]:
    """Files of a repository that make up one model."""
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    if wanted is None and "config.json" in names and any(name.endswith(".safetensors") for name in names):
        weights = [name for name in names if name.endswith(".safetensors") and "/" not in name]
        if "model.safetensors" in weights:
            weights = ["model.safetensors"]
        more = [name for name in names if name in MODEL_FILES or name.startswith("additional_chat_templates/")]
        return [*weights, *more]
    stems = sorted({_PART.sub(".gguf", name) for name in ggufs})
    matching = [stem for stem in stems if wanted is None or _PART.sub(".gguf", wanted) in (stem, Path(stem).name)]
    if len(matching) != 1:
        some = ", ".join(stems[:8]) + (", ..." if len(stems) > 8 else "")
        what = f"has {len(stems)} GGUF files" if stems else "has neither safetensors nor GGUF"
        what = f"has no file {wanted}" if wanted else what
        fix = f"name one of them: hwgen model add {repository}/{stems[0]}" if stems else "choose another repository"
        raise HwgenError("model", f"{repository} on the hub {what}{': ' + some if stems else ''}", fix)
    return [name for name in ggufs if _PART.sub(".gguf", name) == matching[0]]


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def add_from_hub(
    hub_name: str, name: str, revision: str | None = None, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Fetches the model ``hub_name`` (OWNER/REPOSITORY or OWNER/REPOSITORY/FILE.gguf) as ``name``. What an attempt that broke off
    has fetched is kept under the cache directory and used again. The answer is its row in the library.
    """
    with needs("fetching models from the Hugging Face hub", "hwgen[hub]"):
        import huggingface_hub
    check_name(name)
    endpoint = os.environ.get("HF_ENDPOINT")
    repository, wanted = _split(hub_name)
    try:
        api = huggingface_hub.HfApi(endpoint=endpoint)
        about = api.model_info(repository, revision=revision, files_metadata=True)
        siblings = {s.rfilename: s for s in about.siblings or ()}
        files = _chosen(repository, sorted(siblings), wanted)
        staging = cache_directory() / "hub" / repository.replace("/", "--") / str(about.sha)
        fetched: dict[str, Path] = {}
        for file in files:
            progress(f"fetching {file} ({siblings[file].size or 0:,} bytes)")
            fetched[file] = Path(
                huggingface_hub.hf_hub_download(repository, file, revision=about.sha, local_dir=staging, endpoint=endpoint)
            )
        hashes = {file: _checked(path, siblings[file]) for file, path in fetched.items()}
    except HwgenError:
        raise
    except Exception as error:  # the library's own, its transport's, and the system's
        raise HwgenError(
            "model", f"{repository} cannot be fetched from the hub ({_one_line(error)})",
            "check the network and the name (a repository with a licence to agree to wants HF_TOKEN); "
            "or download the files elsewhere and give their directory",
        ) from error
    row = {
        "licence": getattr(about.card_data, "license", None) or "unknown", "description": f"{repository} on the Hugging Face hub",
        "bytes": sum(path.stat().st_size for path in fetched.values()), "source": f"{repository}@{about.sha}", "sha256": hashes,
    }
    with adding(name, 0, row) as ready:
        for file, path in fetched.items():
            (ready / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, ready / file)
    shutil.rmtree(staging, ignore_errors=True)
    return row_of(name)


def _checked(path: Path, sibling: Any) -> str:
    """The SHA-256 of a fetched file, which must be that which the hub says, where it says one."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    expected = sibling.lfs.sha256 if sibling.lfs else None
    if expected and digest.hexdigest() != expected:
        path.unlink()
        raise HwgenError(
            "model", f"{sibling.rfilename} has SHA-256 {digest.hexdigest()}, the hub says {expected}",
            "try again; if it stays, something on the way changes the file",
        )
    return digest.hexdigest()
