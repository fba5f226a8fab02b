"""Shape of a decoder-only language model: the sizes that the compiler, the golden models and the loader share."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from .rotary import plain_frequencies

__all__ = ["ModelShape", "ACTIVATIONS"]

ACTIVATIONS = ("relu2", "silu")


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes and constants of a BitNet b1.58 decoder (run-time data of the machine, never part of its Verilog).

    Both published layouts are instances: bitnet_b1_58-large (``activation="silu"``, ``kv_heads == heads``) and
    BitNet b1.58 2B4T (``activation="relu2"``, grouped-query attention).
    """

    #: Width of the residual stream, in elements.
    hidden: int
    #: Number of decoder layers.
    layers: int
    #: Number of query heads.
    heads: int
    #: Number of key/value heads; divides ``heads``.
    kv_heads: int
    #: Elements of one head.
    head_dim: int
    #: Width of the feed-forward layer, in elements.
    ffn: int
    #: Number of tokens in the vocabulary.
    vocab: int
    #: Gate function: ``"relu2"`` (squared ReLU) or ``"silu"``.
    activation: str = "relu2"
    #: Longest context, in tokens, that the model was trained for.
    max_context: int = 512
    #: Base of the rotary position embedding.
    rope_theta: float = 10000.0
    #: Divisors of the rotary frequencies, one a pair, where positions are scaled (linear, Llama 3.1); empty: all 1.
    rope_factors: tuple[float, ...] = ()
    #: Factor of rotated queries and keys (YaRN's attention factor).
    rope_scale: float = 1.0
    #: Layers whose queries and keys are not rotated (NoPE), ascending.
    unrotated: tuple[int, ...] = ()
    #: Epsilon inside every RMSNorm.
    rms_eps: float = 1e-5
    #: True where the LM head shares the embedding matrix.
    tied: bool = True

    def __post_init__(self) -> None:
        for name in ("rope_factors", "unrotated"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
        for name in ("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab", "max_context"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads, not {self.heads} and {self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even (rotary pairs), not {self.head_dim!r}")
        if len(self.rope_factors) not in (0, self.head_dim // 2) or not all(0 < f < np.inf for f in self.rope_factors):
            raise ValueError(f"rope_factors must be none or {self.head_dim // 2} above 0, not {self.rope_factors!r}")
        if not 0 < self.rope_scale < np.inf:
            raise ValueError(f"rope_scale must be above 0, not {self.rope_scale!r}")
        if list(self.unrotated) != sorted(set(self.unrotated)) or not all(0 <= i < self.layers for i in self.unrotated):
            raise ValueError(f"unrotated must be ascending layers below {self.layers}, not {self.unrotated!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}")

    def rotary_frequencies(self) -> npt.NDArray[np.float64]:
        """Radians a position of every rotary pair ``[head_dim / 2]``, scaling included."""
        frequency = plain_frequencies(self.rope_theta, self.head_dim)
        return frequency / self.rope_factors if self.rope_factors else frequency

    @property
    def q_rows(self) -> int:
        """Rows of the query projection."""
        return self.heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        """Rows of the key (or value) projection."""
        return self.kv_heads * self.head_dim

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads

    @property
    def linear_weights(self) -> int:
        """Ternary weights of all layers."""
        per_layer = self.hidden * (2 * self.q_rows + 2 * self.kv_rows + 3 * self.ffn)
        return self.layers * per_layer

    def to_dict(self) -> dict[str, object]:
        return asdict(self)
