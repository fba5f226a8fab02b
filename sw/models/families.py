"""Families of models: a row each. What a row names is imported when it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ...decoder import BITNET, LLAMA, QWEN2, QWEN3, DecoderLayer
from ...errors import HwgenError
from ...formats import Float
from ...shape import ACTIVATIONS, ModelShape
from ...weights import LayerWeights, Matrix, ModelWeights
from .config_json import unsupported
from .four_bits import Keep, as_stored

if TYPE_CHECKING:
    from .gguf_file import GgufFile

__all__ = ["FAMILIES", "Family", "Loader", "family_of_config", "family_of_gguf", "grouped_family"]


class Loader(Protocol):
    """What the module of a family has."""

    def read_shape(self, config: dict[str, Any]) -> ModelShape:
        """Shape from the fields of ``config.json``; an option that the machine does not have is refused."""

    def load_weights(
        self, directory: Path, config: dict[str, Any], shape: ModelShape, layer: DecoderLayer, progress: Callable[[str], None],
        keep: Keep = as_stored,
    ) -> ModelWeights:
        """Weights of a checkpoint in Hugging Face layout, for layers ``layer``. ``keep`` says what becomes of its matrices."""

    def gguf_matrix(self, file: GgufFile, name: str, place: str, shape: ModelShape) -> Matrix:
        """Matrix ``name`` of a layer, which the file has at ``place``."""

    def assemble(
        self, shape: ModelShape, layers: list[LayerWeights], norm: Float, embedding: Float, head: Float | None, *,
        layer: DecoderLayer,
    ) -> ModelWeights:
        """The model of parts as a file has them."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A row of :data:`FAMILIES`."""

    #: What a layer computes; its name is that of the family.
    layer: DecoderLayer
    #: ``model_type`` of ``config.json``.
    model_types: tuple[str, ...]
    #: Linear engine for its checkpoints: "ternary", "grouped" or "int4".
    engine: str
    #: ``quant_method`` that its checkpoints have, where others of these types are of another row. Of those of engine "grouped" the
    #: weights themselves say it.
    quantization: str | None = None
    #: What a name in ``architectures`` begins with, in small letters, that decides whatever ``model_type`` is.
    architecture: str | None = None
    #: Its GGUF architectures, each with the gate function of files that do not name theirs.
    gguf: Mapping[str, str]
    #: Gate functions that its checkpoints may name.
    activations: tuple[str, ...]
    #: Module that loads it, a :class:`Loader`.
    module: str
    #: Float reference: module of :mod:`hwgen.golden` and what makes it of weights.
    reference: tuple[str, str]
    #: Tokens of a window in which it is scored at most, None for the whole context, and windows that are scored at a time.
    window: int | None
    batch: int

    @property
    def name(self) -> str:
        return self.layer.name

    def loader(self) -> Loader:
        """The module that loads it."""
        return cast(Loader, import_module(f".{self.module}", __package__))

    def float_reference(self, weights: ModelWeights) -> Callable[[Any], Any]:
        """``tokens [batch, length] -> logits [batch, length, vocab]`` in float; needs torch."""
        module, name = self.reference
        make: Callable[[ModelWeights], Callable[[Any], Any]] = getattr(import_module(f"...golden.{module}", __package__), name)
        return make(weights)


#: Module and ``quant_method`` of llamas by the engine of their matrices.
_LLAMAS = {"int4": ("llama", None), "ternary": ("ternary_llama", "bitnet"), "grouped": ("grouped_llama", "groups")}


def _llama(layer: DecoderLayer, *model_types: str, engine: str = "int4", gguf: tuple[str, ...] = ()) -> Family:
    """Layers of a llama with float or 4-bit matrices, or with ternary ones, whose activations the float reference rounds, too."""
    module, quantization = _LLAMAS[engine]
    return Family(
        layer=layer, engine=engine, quantization=quantization, model_types=model_types,
        gguf=dict.fromkeys(gguf, "silu"), activations=("silu",), module=module,
        reference=("float_llama", "FloatLlama"), window=512, batch=1,
    )


#: In the order in which they are asked. bitnet_b1_58-large calls itself a llama and tells the truth in its architecture.
FAMILIES = (
    Family(
        layer=BITNET, engine="ternary", model_types=("bitnet", "bitnet_b1_58"), architecture="bitnet", activations=ACTIVATIONS,
        gguf={"bitnet": "silu", "bitnet-b1.58": "relu2", "bitnet-25": "relu2"}, module="bitnet",
        reference=("float_bitnet", "float_model"), window=None, batch=4,
    ),
    _llama(LLAMA, "llama", "mistral", engine="ternary", gguf=("llama",)),
    _llama(QWEN2, "qwen2", engine="ternary", gguf=("qwen2",)),
    _llama(QWEN3, "qwen3", engine="ternary", gguf=("qwen3",)),
    _llama(LLAMA, "llama", "mistral", engine="grouped", gguf=("llama",)),
    _llama(QWEN2, "qwen2", engine="grouped", gguf=("qwen2",)),
    _llama(QWEN3, "qwen3", engine="grouped", gguf=("qwen3",)),
    _llama(LLAMA, "llama", "mistral", "smollm3", "phi3", "granite", gguf=("llama", "smollm3", "phi3", "granite")),
    _llama(QWEN2, "qwen2", gguf=("qwen2",)),
    _llama(QWEN3, "qwen3", gguf=("qwen3",)),
)

#: ``model_type`` of models that people ask for and the machine does not have, with what is missing.
MISSING = {
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), "its GELU, norms behind the matrices and sliding windows"),
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "phimoe"), "its experts"),
}


def family_of_config(config: dict[str, Any]) -> Family:
    """The family that ``config.json`` describes."""
    kind, named_classes = config.get("model_type"), config.get("architectures") or []
    if not isinstance(named_classes, list):
        raise unsupported("architectures", named_classes, "a list of names")
    architectures = [str(a).lower() for a in named_classes]
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    for family in FAMILIES:
        named = family.architecture is not None and any(a.startswith(family.architecture) for a in architectures)
        if named or (kind in family.model_types and family.quantization in (None, method)):
            return family
    if isinstance(kind, str) and kind in MISSING:
        raise HwgenError(
            "architecture", f"config.json: model_type is {kind!r}, and the machine has not {MISSING[kind]}",
            "choose a model of another family: docs/models.md lists them",
        )
    supported = ", ".join(dict.fromkeys(repr(name) for family in FAMILIES for name in family.model_types))
    raise unsupported("model_type", kind, f"{supported} (or an architecture BitNetForCausalLM)")


def grouped_family(family: Family) -> Family | None:
    """The family of the same layers and files with ternary matrices and scales of groups, or None."""
    rows = [f for f in FAMILIES if f.engine == "grouped" and f.layer is family.layer]
    return next((f for f in rows if set(f.model_types) <= set(family.model_types)), None)


def family_of_gguf(architecture: str, engine: str = "int4") -> Family | None:
    """The family of a GGUF architecture with matrices for ``engine``, or the only one, or None."""
    rows = [f for f in FAMILIES if architecture in f.gguf]
    return next((f for f in rows if f.engine == engine or len(rows) == 1), None)
