"""Quantisers: from float or 4-bit llama weights to the INT4 matrices of the machine."""

__all__ = ["RECIPES"]

#: Name -> what it does.
RECIPES = {
    "exact-q4_1": "takes 4-bit blocks as they are",
    "rtn": "rounds to nearest in groups",
    "fireq": "scales channels and rotary pairs, then rounds to nearest",
    "gptq": "moves rounding errors to later columns",
    "fireq-gptq": "scales as fireq, rounds as gptq",
}
