"""What was decided about a model when it was opened, and from which field or file: for people, and for ``hwgen model show``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...shape import ModelShape
from .families import Family
from .model import Decision
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .gguf_file import GgufFile

__all__ = ["decisions_of_directory", "decisions_of_gguf", "describe_kinds", "method_of"]

#: Part of a shape -> fields of config.json that say it, and those of a GGUF file behind the name of the architecture.
_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "hidden": (("hidden_size",), ("embedding_length",)),
    "layers": (("num_hidden_layers",), ("block_count",)),
    "heads": (("num_attention_heads",), ("attention.head_count",)),
    "kv_heads": (("num_key_value_heads",), ("attention.head_count_kv",)),
    "head_dim": (("head_dim",), ("attention.key_length",)),
    "ffn": (("intermediate_size",), ("feed_forward_length",)),
    "vocab": (("vocab_size",), ()),
    "activation": (("hidden_act",), ("hidden_activation",)),
    "max_context": (("max_position_embeddings",), ("context_length",)),
    "rope_theta": (("rope_theta", "rope_parameters"), ("rope.freq_base",)),
    "rope_factors": (("rope_scaling", "rope_parameters"), ("rope.scaling.factor", "rope.scale_linear")),
    "rms_eps": (("rms_norm_eps",), ("attention.layer_norm_rms_epsilon",)),
    "tied": (("tie_word_embeddings",), ()),
}

#: What stands for a field that is absent.
_ABSENT = {
    "head_dim": "hidden / heads", "kv_heads": "as many as heads", "rope_factors": "no scaling",
    "activation": "what the architecture means", "rope_theta": "what the architecture means",
}


def describe_kinds(kinds: Iterable[str]) -> str:
    """Types of tensors for people, the most frequent first."""
    return " + ".join(kind for kind, _ in Counter(kinds).most_common()) or "no matrices"


def method_of(config: Mapping[str, Any]) -> str:
    """``quant_method`` of a checkpoint, empty without one."""
    options = config.get("quantization_config")
    return str(options.get("quant_method", "bitnet")) if isinstance(options, dict) and options else ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _says(value: Any, name: str) -> bool:
    """Whether a field, or an object of rotary options, says part ``name`` of a shape."""
    if not isinstance(value, dict):
        return value is not None
    return "rope_theta" in value if name == "rope_theta" else "factor" in value or "factors" in value


def _last(tokenizer: Tokenizer, stop: tuple[int, ...], stop_source: str, kind: str, template_source: str) -> list[Decision]:
    template = "none" if tokenizer.chat_template is None else f"{len(tokenizer.chat_template)} characters"
    begin = None if tokenizer.begin is None else tokenizer.token(tokenizer.begin)
    return [
        Decision("tokenizer", f"{tokenizer.size} tokens", kind), Decision("begin_token", begin, kind),
        Decision("stop_tokens", {str(token): tokenizer.token(token) for token in stop}, stop_source),
        Decision("chat_template", template, template_source),
    ]


def decisions_of_directory(
    path: Path, config: Mapping[str, Any], generation: Mapping[str, Any], family: Family, shape: ModelShape, tokenizer: Tokenizer,
    stop: tuple[int, ...], stored: str,
) -> tuple[Decision, ...]:
    """Of a checkpoint in Hugging Face layout."""
    found = [Decision("family", family.name, "config.json: model_type, architectures")]
    for name, value in shape.to_dict().items():
        said = [field for field in _FIELDS.get(name, ((name,), ()))[0] if _says(config.get(field), name)]
        default = _ABSENT.get(name, "default of the class in transformers")
        found.append(Decision(name, _plain(value), f"config.json: {', '.join(said)}" if said else f"absent: {default}"))
    source = "config.json: quantization_config" if stored else "absent: no quantization_config"
    found.append(Decision("matrices", stored or "floats", source))
    where = "generation_config.json" if "eos_token_id" in generation else "config.json"
    jinja = (path / "chat_template.jinja").exists()
    kind = "tokenizer.json" if (path / "tokenizer.json").exists() else "tokenizer.model"
    template = "chat_template.jinja" if jinja else "tokenizer_config.json: chat_template"
    return (*found, *_last(tokenizer, stop, f"{where}: eos_token_id", kind, template))


def decisions_of_gguf(
    file: GgufFile, arch: str, family: Family, shape: ModelShape, tokenizer: Tokenizer, stop: tuple[int, ...]
) -> tuple[Decision, ...]:
    """Of a GGUF file."""
    found = [Decision("family", family.name, "general.architecture")]
    tensors = {"vocab": "rows of token_embd.weight", "tied": f"output.weight is {'' if 'output.weight' in file else 'not '}there"}
    for name, value in shape.to_dict().items():
        said = [f"{arch}.{field}" for field in _FIELDS.get(name, ((), ()))[1] if file.get(f"{arch}.{field}") is not None]
        if name == "rope_factors" and "rope_freqs.weight" in file:
            said.append("rope_freqs.weight")
        source = tensors.get(name) or ", ".join(said) or f"absent: {_ABSENT.get(name, 'default of llama.cpp')}"
        found.append(Decision(name, _plain(value), source))
    kinds = Counter(file.kind(name) for name in file.names() if len(file.shape(name)) == 2)
    found.append(Decision("matrices", dict(kinds), "types of the tensors"))
    kind = f"tokenizer.ggml.model {file.get('tokenizer.ggml.model')!r}, pre {file.get('tokenizer.ggml.pre')!r}"
    return (*found, *_last(tokenizer, stop, "tokenizer.ggml.*_token_id and control tokens", kind, "tokenizer.chat_template"))
