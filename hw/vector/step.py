"""What travels down the pipeline of the vector unit beside the data, and when it arrives where."""

from __future__ import annotations

from amaranth.lib import data, enum
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..float.add import FloatAdd
from ..float.convert import FloatToInt
from ..float.multiply import FloatMul
from ..interfaces import SCRATCH_LATENCY, index_bits
from .sigmoid import Sigmoid

__all__ = [
    "CHAIN_GAP", "CHAIN_SUM", "FIRST_PRODUCT", "GATE", "HELD", "Kind", "OPERANDS", "QUANTIZED", "SECOND_PRODUCT",
    "SHORT_SUM", "Step", "Strobes", "Tag", "place_bits",
]

# Cycles after the one in which a step's address is on the memory bus.

#: The memory's data is in the hold registers.
HELD = SCRATCH_LATENCY + 1
#: Operands of the first multiplier (short steps: of both) are in their registers.
OPERANDS = HELD + 1
#: The first product (short steps: both).
FIRST_PRODUCT = OPERANDS + FloatMul.latency
#: The sum of a short step, behind the adder's operand registers.
SHORT_SUM = FIRST_PRODUCT + 1 + FloatAdd.latency
#: The sigmoid of the first product, or what else it is multiplied by, is in the gate register.
GATE = FIRST_PRODUCT + Sigmoid.latency + 1
#: The second product of a chained step, behind the multiplier's operand registers.
SECOND_PRODUCT = GATE + 1 + FloatMul.latency
#: The sum of a chained step.
CHAIN_SUM = SECOND_PRODUCT + 1 + FloatAdd.latency
#: The second product as int8 or e4m3.
QUANTIZED = SECOND_PRODUCT + FloatToInt.latency

#: Idle cycles between a chained step and a short one after it: they share the second multiplier.
CHAIN_GAP = GATE + 1 - OPERANDS


class Kind(enum.Enum, shape=2):  # type: ignore[call-arg]  # amaranth has no type information
    """What a vector belongs to."""

    TOKEN = 0
    QUERY = 1
    KEY = 2
    VALUE = 3


def place_bits(config: BuildConfig) -> int:
    """Bits of `Tag`'s ``place``."""
    return max(index_bits(config.max_group), index_bits(config.tokens), index_bits(config.chunk))


def Strobes() -> data.StructLayout:
    """At most one is set. Short steps use both multipliers side by side, chained ones in series.

    ``sum`` (short): scratch * param to the maximum, scratch squared to the column sums. ``rotate`` (short): one half
    of a rotary pair, to the maximum and back to the scratch. ``quantize`` (chained): scratch * param * factor to
    int8 or e4m3. ``store`` (chained): the same product as it is, back to the scratch. ``drain`` (chained): accumulators to the
    scratch.
    """
    return data.StructLayout({"sum": 1, "rotate": 1, "quantize": 1, "store": 1, "drain": 1})


def Tag(config: BuildConfig) -> data.StructLayout:
    """Addresses and names of one vector.

    ``source``, ``target`` scratch addresses; with ``quantize``, ``target`` is the vector of the token or head.
    ``param`` parameter address; with ``drain``, that of a later step (see `DrainSteps`). ``first``, ``last`` vector of a
    token or head; ``final`` of the operator. ``second`` half of a rotary pair. ``place``: token among the active ones
    (TOKEN), head slot (QUERY), bank (KEY, VALUE). ``kv_head`` of a head; ``index`` of its factor.
    """
    scratch = index_bits(config.scratch_vectors)
    return data.StructLayout({
        "source": scratch,
        "target": max(scratch, index_bits(max(config.max_inputs, config.max_head_dim) // config.width)),
        "param": index_bits(config.param_vectors),
        "first": 1,
        "last": 1,
        "final": 1,
        "second": 1,
        "kind": Kind,
        "place": place_bits(config),
        "kv_head": index_bits(config.max_kv_heads),
        "index": bits_for(config.max_heads + 2 * config.max_kv_heads - 1),
    })


def Step(config: BuildConfig) -> data.StructLayout:
    """One vector on its way through the lanes."""
    return data.StructLayout({"strobes": Strobes(), "tag": Tag(config)})
