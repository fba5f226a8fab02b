"""What a decoder layer computes, as data: the compiler, the golden model and the loaders walk it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from .shape import ModelShape

__all__ = ["BITNET", "LLAMA", "QWEN2", "QWEN3", "Combine", "DecoderLayer", "Stage", "Values"]


class Values(Enum):
    """Vectors of a token that stages read and write. Attention works between `HEADS` and `ATTENDED`."""

    #: Residual stream ``[hidden]``.
    RESIDUAL = "x"
    #: Queries, keys and values, one behind the other.
    HEADS = "qkv"
    #: Attention output ``[heads * head_dim]``.
    ATTENDED = "a"
    #: Feed-forward product ``[ffn]``.
    PRODUCT = "g"

    def size(self, shape: ModelShape) -> int:
        """Elements."""
        sizes = {"x": shape.hidden, "qkv": shape.q_rows + 2 * shape.kv_rows, "a": shape.q_rows, "g": shape.ffn}
        return sizes[self.value]


class Combine(Enum):
    """How results get to where they belong: as they are, through the gate function, times or plus what is there."""

    STORE = "store"
    ACTIVATE = "activation"
    MULTIPLY = "multiply"
    ADD = "add"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Matrices over the same quantised inputs."""

    #: Name of its panels.
    name: str
    #: Matrix names, one above the other.
    matrices: tuple[str, ...]
    reads: Values
    writes: Values
    combine: Combine
    #: Name of the gain of the norm in front; None where the inputs are only quantised.
    norm: str | None = None
    #: Names of the vectors that are added to the results, one a matrix, or none.
    biases: tuple[str, ...] = ()
    #: Names of the gains of the norms of query and of key heads, in front of their rotation, or none.
    head_norms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.head_norms) not in (0, 2) or (self.head_norms and self.writes is not Values.HEADS):
            raise ValueError(f"head norms of {self.name} must be none, or two where heads are written, not {self.head_norms}")
        if len(self.biases) not in (0, len(self.matrices)):
            raise ValueError(f"biases of {self.name} must be none or {len(self.matrices)}, not {len(self.biases)}")


@dataclass(frozen=True)
class DecoderLayer:
    """A decoder layer: its stages in order. Attention follows the one that writes `Values.HEADS`."""

    name: str
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages or self.stages[0].norm is None or self.stages[0].reads is not Values.RESIDUAL:
            raise ValueError(f"stages of {self.name} must begin with a norm of the residual stream")

    @cached_property
    def inputs(self) -> tuple[tuple[Stage, ...], ...]:
        """Stages that follow each other, by common inputs: each group is normed or quantised once."""
        groups: list[tuple[Stage, ...]] = []
        for stage in self.stages:
            before = groups[-1][-1] if groups else None
            if before and (before.reads, before.norm) == (stage.reads, stage.norm) and before.writes is not stage.reads:
                groups[-1] += (stage,)
            else:
                groups.append((stage,))
        return tuple(groups)

    def matrices(self, shape: ModelShape) -> dict[str, tuple[int, int]]:
        """``{name: (rows, inputs)}`` of the matrices."""
        rows = {"q": shape.q_rows, "k": shape.kv_rows, "v": shape.kv_rows}
        return {
            name: (rows[name] if stage.writes is Values.HEADS else stage.writes.size(shape), stage.reads.size(shape))
            for stage in self.stages for name in stage.matrices
        }

    def norms(self, shape: ModelShape) -> dict[str, int]:
        """``{name: elements}`` of the norm gains."""
        gains: dict[str, int] = {}
        for stage in self.stages:
            if stage.norm is not None:
                gains[stage.norm] = stage.reads.size(shape)
            gains |= dict.fromkeys(stage.head_norms, shape.head_dim)
        return gains

    def biases(self, shape: ModelShape) -> dict[str, int]:
        """``{name: elements}`` of the biases, which stand beside the matrices of their stage."""
        rows = self.matrices(shape)
        return {bias: rows[matrix][0] for matrix, bias in self.bias_of.items()}

    @property
    def bias_of(self) -> dict[str, str]:
        """``{matrix: bias}``."""
        return {matrix: bias for stage in self.stages for matrix, bias in zip(stage.matrices, stage.biases, strict=False)}

    @property
    def head_norms(self) -> tuple[str, ...]:
        """Gains of the norms of query and of key heads, or none."""
        return next((stage.head_norms for stage in self.stages if stage.writes is Values.HEADS), ())


def _decoder(
    name: str, attention_norm: str | None = None, ffn_norm: str | None = None, biases: tuple[str, ...] = (),
    head_norms: tuple[str, ...] = (),
) -> DecoderLayer:
    """Attention and a gated feed-forward layer, with the norms in front of the output and the down projection."""
    before, after, x, g = "input_layernorm", "post_attention_layernorm", Values.RESIDUAL, Values.PRODUCT
    return DecoderLayer(name, (
        Stage(
            name="qkv", matrices=("q", "k", "v"), reads=x, norm=before, combine=Combine.STORE, writes=Values.HEADS, biases=biases,
            head_norms=head_norms,
        ),
        Stage(name="o", matrices=("o",), reads=Values.ATTENDED, norm=attention_norm, combine=Combine.ADD, writes=x),
        Stage(name="gate", matrices=("gate",), reads=x, norm=after, combine=Combine.ACTIVATE, writes=g),
        Stage(name="up", matrices=("up",), reads=x, norm=after, combine=Combine.MULTIPLY, writes=g),
        Stage(name="down", matrices=("down",), reads=g, norm=ffn_norm, combine=Combine.ADD, writes=x),
    ))


#: BitNet b1.58, with sub-norms. Names of matrices and norms are Hugging Face's without ``_proj`` and ``.weight``.
BITNET = _decoder("bitnet", "attn_sub_norm", "ffn_sub_norm")

#: Llama: no sub-norms.
LLAMA = _decoder("llama")

#: Qwen 2 and 2.5: biases of queries, keys and values.
QWEN2 = _decoder("qwen2", biases=("q_bias", "k_bias", "v_bias"))

#: Qwen 3: norms of query and key heads.
QWEN3 = _decoder("qwen3", head_norms=("q_norm", "k_norm"))
